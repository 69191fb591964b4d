"""What this program itself has written below a folder of images: it is no data.

People work in the folder of their images, so runs and samples come to lie among them, and the next
start would learn from what the last one drew. Torch is not imported here.
"""

import os
import re

SAMPLING = "sampling.json"  # beside the images of `sparring sample`: how they were drawn
SHEETS = frozenset(("grid.png", "sweep.png", "scatter.png"))  # many of them on one picture
NUMBERED = re.compile(r"\d{5,}\.png")  # the samples themselves
_OF_A_LOCK = re.compile(r"\d+\.(held|released)")
_OF_A_RUN = ("checkpoints", "metrics.jsonl", "config.yaml")


def made_here(folder: str) -> str | None:
    """What a folder is, if this program made it: "run" or "set of samples"; None for any other. A
    run has its lock, or run.json beside its checkpoints, log or settings (a copy may lack the lock,
    which is hidden). Its whole tree is its own: grids, samples, pictures of the data."""
    lock = os.path.join(folder, ".lock")
    if os.path.isdir(lock) and any(_OF_A_LOCK.fullmatch(name) for name in os.listdir(lock)):
        return "run"
    if os.path.isfile(os.path.join(folder, "run.json")) and any(
        os.path.exists(os.path.join(folder, name)) for name in _OF_A_RUN
    ):
        return "run"
    return "set of samples" if os.path.isfile(os.path.join(folder, SAMPLING)) else None
