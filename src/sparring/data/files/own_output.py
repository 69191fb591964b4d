"""What this program itself has written below a folder of images: it is no data.

People work in the folder of their images, so runs and samples come to lie among them, and the next
start would learn from what the last one drew.
"""

import os
import re
from collections.abc import Mapping, Sequence

SAMPLING = "sampling.json"
"""Beside the images of `sparring sample`: how they were drawn."""
SHEETS = frozenset(("grid.png", "sweep.png", "scatter.png"))
"""What `sparring sample` draws beside the samples: many of them on one picture."""
NUMBERED = re.compile(r"\d{5,}\.png")
"""The samples themselves."""
_OF_A_LOCK = re.compile(r"\d+\.(held|released)")
_OF_A_RUN = ("checkpoints", "metrics.jsonl", "config.yaml")


def made_here(folder: str) -> str | None:
    """What a folder is, if this program made it: "run" or "set of samples"; None for any other.

    A run has its lock, or run.json beside its checkpoints, log or settings (a copy may lack the
    lock, which is hidden). Its whole tree is its own: grids, samples, pictures of the data.
    """
    lock = os.path.join(folder, ".lock")
    if os.path.isdir(lock) and any(_OF_A_LOCK.fullmatch(name) for name in os.listdir(lock)):
        return "run"
    if os.path.isfile(os.path.join(folder, "run.json")) and any(
        os.path.exists(os.path.join(folder, name)) for name in _OF_A_RUN
    ):
        return "run"
    return "set of samples" if os.path.isfile(os.path.join(folder, SAMPLING)) else None


def without_own(place: str, folders: Sequence[str], left_out: dict[str, str]) -> list[str]:
    """The folders in a place without those this program made, which are noted with what they are.

    Args:
        place: Where they lie.
        folders: Their names.
        left_out: What each is, by its path; added to.
    """
    kept = []
    for name in folders:
        path = os.path.join(place, name)
        what = made_here(path)
        if what is None:
            kept.append(name)
        else:
            left_out[path] = what
    return kept


def without_sheets(place: str, files: Sequence[str], left_out: dict[str, str]) -> list[str]:
    """The files in a place without the pictures of many samples, if the place is one of samples."""
    if SAMPLING not in files:
        return list(files)
    left_out |= {os.path.join(place, name): "sheet of samples" for name in SHEETS & set(files)}
    return [name for name in files if name not in SHEETS]


def remark_on(left_out: Mapping[str, str]) -> list[str]:
    """What is said about what was left out, a sentence or none."""
    found = [f"{path} (a {what})" for path, what in sorted(left_out.items())]
    if not found:
        return []
    named = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return [
        f"what sparring itself has written into the data is left out: {named}; a folder of it is "
        "read if data.train_data_dir names it"
    ]
