"""The README's Python runs as it stands there."""

import re
import tomllib
from pathlib import Path

import torch

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_training_loop_of_the_readme_learns():
    """The block is run as printed, with a loader and an optimiser; its loss falls."""
    (block,) = re.findall(r"```python\n(from diffusers import DDPMScheduler.*?)```", README, re.S)
    torch.manual_seed(0)
    x0 = torch.where(torch.arange(8) % 2 == 0, 1.0, -1.0).expand(32, 1, 8, 8)
    setup, loop = block.split("for step, x0", 1)
    names: dict = {"loader": [x0] * 30}
    exec(setup, names)
    names["optimizer"] = torch.optim.AdamW(names["unet"].parameters(), lr=2e-3)
    denoiser, seen = names["denoiser"], []
    objective = names["objective"]

    def recorded(*args, **kwargs):
        for loss in objective(*args, **kwargs):
            seen.append(float(loss.detach()))
            yield loss

    names["objective"] = recorded
    before = [value.clone() for value in denoiser.parameters()]
    exec("for step, x0" + loop, names)
    assert len(seen) == 30
    assert sum(seen[-10:]) < 0.8 * sum(seen[:10])
    assert any(not torch.equal(a, b) for a, b in zip(before, denoiser.parameters(), strict=True))


def test_the_loop_of_adts_page_runs():
    """As printed, on tiny networks: both players move, nothing else does."""
    from sparring.adversarial.backbones import LabelBackbone
    from sparring.diffusion.denoiser import Denoiser
    from sparring.diffusion.schedules import schedule_from_config
    from support import tiny_unet

    page = (Path(__file__).parents[1] / "docs/how_to/adt.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    torch.manual_seed(0)
    denoiser = Denoiser(tiny_unet(), schedule_from_config({"_class_name": "DDPMScheduler"}), "v")
    backbone = LabelBackbone(1, 10, [1, 2])
    before = [one.clone() for one in [*denoiser.parameters(), *backbone.parameters()]]
    names: dict = {
        "denoiser": denoiser,
        "backbone": backbone,
        "augment": ["translation"],
        "loader": [torch.rand(4, 1, 8, 8) * 2 - 1] * 3,
    }
    exec(block, names)
    after = [*denoiser.parameters(), *backbone.parameters()]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    n = len(list(denoiser.parameters()))
    assert all(moved[:n])
    assert not any(moved[n:])
    assert float(names["rival"].network.centre.detach()) != 0.5


def test_the_readme_is_one_to_be_read():
    assert len(README.splitlines()) <= 90
    assert "make test " in README


def test_the_tutorials_name_every_objective_and_the_pages_every_command():
    from sparring import commands
    from sparring.objectives import OBJECTIVES

    docs = Path(__file__).parents[1] / "docs"
    loop = (docs / "tutorials/your_loop.md").read_text()
    for name in OBJECTIVES:
        assert f"`{name}`" in loop, name
    pages = README + "".join(page.read_text() for page in docs.rglob("*.md"))
    for command in commands.names():
        assert f"sparring {command}" in pages, command


def test_every_dependency_is_accounted_for():
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    page = (root / "docs/reference/safety.md").read_text()
    table = page[page.index("## Dependencies") :]
    extras = project["optional-dependencies"].values()
    for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        name = re.split(r"[<>=!\[; ]", line)[0]
        assert re.search(rf"\b{re.escape(name)}\b", table), name
