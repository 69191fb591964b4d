"""The smallest runs there are: an MLP on 3-dimensional points, a few milliseconds a step."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.adversarial.discriminators import Discriminator, Heads
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import StepRandom
from sparring.diffusion.schedules import Schedule, schedule_from_config
from sparring.models.networks import MLP
from sparring.objectives import OBJECTIVES, TIMES, Objective
from sparring.training import Feed, Hooks, Trained, TrainSettings, latest_checkpoint, train
from sparring.training.checkpoint import Checkpoint

TIMED = ("seconds", "images_per_second")  # what no two runs have in common


class Points(torch.utils.data.Dataset):
    """Seeded points; `bad` ones are not numbers."""

    name, is_image, sample_shape, num_classes = "points", False, (3,), None

    def __init__(self, n: int = 100, bad: tuple[int, ...] = ()) -> None:
        self.points = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
        self.points[list(bad)] = torch.nan

    def __len__(self) -> int:
        return len(self.points)

    def __getitems__(self, keys: list[Any]) -> dict[str, Any]:
        index = torch.tensor([key[0] for key in keys])
        return {"x0": self.points[index], "index": index, "unreadable": []}

    def fingerprint(self) -> str:
        return f"points-{len(self)}"


def vp_schedule(n_train_timesteps: int = 1000) -> Schedule:
    return schedule_from_config(
        {"_class_name": "DDPMScheduler", "num_train_timesteps": n_train_timesteps}
    )


def tiny_denoiser(dropout: float = 0.0, seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(MLP(3, width=16, n_blocks=1, dropout=dropout), vp_schedule())


class PointsEye(torch.nn.Module):
    """Looks at points through a random layer, from two sides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layer = torch.nn.Linear(3, 6).requires_grad_(False)

    def draw(self, rng: StepRandom, like: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (0.1 * rng.normal(name, like.shape[1:]) for name in ("a", "b"))
        return first.to(like), second.to(like)

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def real(self, x0: Tensor, image: Tensor) -> Tensor:
        return x0

    def forward(self, seen: Tensor, look: Tensor, condition: dict[str, Any]) -> list[Tensor]:
        return [self.layer(seen + look).tanh()[:, :, None, None]]


def tiny_discriminator(seed: int = 0) -> Discriminator:
    eye = PointsEye()
    torch.manual_seed(seed)
    return Discriminator(eye, Heads([6], "patches", 8))


def make_objective(name: str = "plain", times: str = "uniform", **fields: Any) -> Objective:
    schedule = vp_schedule()
    if name == "detail":  # at work from the first step
        fields = {"noise": 0.3, "window": 0.5, "start_step": 0, **fields}
    if name == "adt":
        fields = {"num_inference_steps": 5, "n_trained": 2, "weight": 1.0, **fields}
    return OBJECTIVES[name](schedule, TIMES[times](schedule), **fields)


def tiny_settings(**changes: Any) -> TrainSettings:
    quick = {
        "train_batch_size": 8,
        "max_train_steps": 12,
        "learning_rate": 1e-2,
        "log_every_steps": 5,
        "checkpointing_steps": None,
        "validation_steps": None,
        "report_to": "none",
        "mixed_precision": "no",
    }
    return TrainSettings(**(quick | changes))


def run(run_dir: Path, objective: Objective | None = None, **changes: Any) -> dict[str, Any]:
    """One run; what is no setting goes to the objects of `train`."""
    dropout, data = changes.pop("dropout", 0.0), changes.pop("data", None) or Points()
    hooks, feed = (
        {name: changes.pop(name) for name in names if name in changes}
        for names in (
            ("sample_fn", "evaluate_fn", "save_fn"),
            ("random_flip", "n_workers", "condition_fn"),
        )
    )
    denoiser = changes.pop("denoiser", None) or tiny_denoiser(dropout)
    objective = objective or make_objective()
    teacher, rival = changes.pop("teacher", None), changes.pop("discriminator", None)
    rival = (rival or tiny_discriminator()) if objective.needs_discriminator else None
    trained, config = Trained(denoiser, objective, teacher, rival), changes.pop("config", None)
    settings = tiny_settings(**changes)
    return train(trained, Feed(data, **feed), settings, run_dir, Hooks(**hooks), config)


def outcome(run_dir: Path) -> dict[str, Any]:
    """All that two equal runs have in common: weights, average, moments, counts, log."""
    folder = latest_checkpoint(run_dir)
    assert folder is not None
    checkpoint = Checkpoint(folder)
    names = [path.stem for path in folder.glob("*.safetensors")]
    state = checkpoint.state
    progress = {key: value for key, value in state["progress"].items() if key != "seconds"}
    return {
        "tensors": {name: checkpoint.tensors(name) for name in names},
        "progress": progress,
        "window": state["window"]["values"],
        "players": state["players"],
        "metrics": metrics(run_dir),
        "torch": json.loads((folder / "random-0.json").read_text())["torch"],
    }


def metrics(run_dir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal to the bit."""
    assert one.keys() == other.keys()
    for file, tensors in one["tensors"].items():
        assert tensors.keys() == other["tensors"][file].keys()
        for name, value in tensors.items():
            assert torch.equal(value, other["tensors"][file][name]), f"{file}: {name}"
    for name in one.keys() - {"tensors"}:
        assert one[name] == other[name], name
