"""The documentation: its lines, its generated pages, and the examples of how one adds something."""

import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "docs/generate"))
import api_reference  # type: ignore
import cli_reference  # type: ignore
import config_reference  # type: ignore

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


def test_files_that_pages_name_exist():
    pattern = r"\b(?:src|tests|recipes|benchmarks|configs)/[\w/]+\.(?:py|json|md|yaml)\b"
    named = {
        (str(page.relative_to(ROOT)), name)
        for page in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
        for name in re.findall(pattern, page.read_text())
    }
    assert sorted(one for one in named if not (ROOT / one[1]).is_file()) == []


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


@pytest.mark.parametrize("written", [config_reference, cli_reference, api_reference])
def test_nothing_is_undocumented(written):
    """Every key of a config, every command and option, every name that users import."""
    assert written.undocumented() == []


def test_the_reference_of_configs_says_type_default_and_meaning():
    from sparring.objectives import OBJECTIVES

    page = config_reference.page()
    for name in OBJECTIVES:
        assert f"### `objective.name: {name}`" in page
    for row in (
        "| `training.train_batch_size` | whole number ≥ 1 | `128` | "
        "Samples per process and micro-batch. |",
        "| `contamination.sigma` | number >= 0, or `[low, high]` | `0.1` | "
        "Standard deviation, [0, 1] scale; a number or [low, high]. |",
        "| `objective.max_norm` | number ≥ 0 | `0.1` | Radius of the L2 ball per element,",
    ):
        assert row in page, row


def test_a_key_without_a_meaning_is_found():
    class Method:
        """Something.

        Args:
            told, retold: Both are
                explained.
        """

        def __init__(self, *, told: int = 1, retold: int = 2, untold: int = 3) -> None: ...

    keys = config_reference.of_options(Method, config_reference.options_of(Method), "objective")
    assert [key.meaning for key in keys] == ["Both are explained.", "Both are explained.", ""]
