"""The README's Python runs as it stands there."""

import re
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


def test_the_readme_names_every_objective_and_command():
    from sparring.cli import main
    from sparring.objectives import OBJECTIVES

    for name in OBJECTIVES:
        assert f"`{name}`" in README, name
    for command in main.commands:
        assert f"sparring {command}" in README or f"make {command}" in README, command
