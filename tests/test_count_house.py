"""recipes/count_house.py counts what it says."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
import count_house  # type: ignore

EIGHT = "a, b, c, d, e, f, g, h"


def test_the_counts_of_a_small_house(tmp_path):
    for room in ("objectives", "training", "sampling"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("")
    (tmp_path / "cli.py").write_text("x = 1\n" * 401)
    loop = "def train(a):\n    def inner(b):\n        return b\n    return inner(a)\n"
    (tmp_path / "training" / "loop.py").write_text(loop)
    constructor = f"class Mine:\n    def __init__(self, {EIGHT}): ...\n"
    (tmp_path / "objectives" / "mine.py").write_text(
        f"{constructor}def found({EIGHT}, *, i): ...\n"
    )
    (tmp_path / "sampling" / "mine.py").write_text(
        f"{constructor}class Euler(Scheduler):\n    def step(self, {EIGHT}): ...\n"
        "def short(a, b, c, d, e, f, g): ...\n"
    )
    assert count_house.counts(tmp_path) == {
        "lines": 401 + 4 + 3 + 5,
        "files": 7,
        "modules_at_the_top": 1,
        "rooms": 3,
        "loop_lines": 4,
        "long_signatures": {"objectives/mine.py:found": 9, "sampling/mine.py:__init__": 8},
        "long_files": {"cli.py": 401},
    }
