"""The documentation: its lines, and the examples of how one adds something."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def prose(page):
    """(number, line) of what is no code, no table and no line that holds a web address."""
    is_code = False
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if re.match(r"\s*(```|~~~)", line):
            is_code = not is_code
        elif not is_code and not line.startswith("|") and "://" not in line:
            yield number, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_of_prose_end_at_100_characters(page):
    assert [(number, line) for number, line in prose(page) if len(line) > 100] == []


def test_the_method_of_the_how_to_is_a_method():
    from sparring.diffusion.denoiser import Denoiser
    from sparring.diffusion.schedules import schedule_from_config
    from sparring.objectives import OBJECTIVES
    from support import tiny_unet

    page = (ROOT / "docs/how_to/add_your_own.md").read_text()
    (block,) = re.findall(r"```python\n([^`]*class Scaled.*?)```", page, re.S)
    names: dict = {}
    exec(block, names)
    denoiser = Denoiser(tiny_unet(), schedule_from_config({"_class_name": "DDPMScheduler"}))
    x0 = torch.rand(4, 1, 8, 8) * 2 - 1
    (plain,) = OBJECTIVES["plain"](denoiser.schedule)(denoiser, x0, step=0)
    (scaled,) = names["Scaled"](denoiser.schedule, strength=3.0)(denoiser, x0, step=0)
    torch.testing.assert_close(scaled, 3 * plain)
