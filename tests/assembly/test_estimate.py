"""What a dry run foretells, against known sizes and against what really happens."""

import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sparring.adversarial.discriminators import Discriminator, Heads
from sparring.adversarial.eyes import LatentEye
from sparring.assembly.build import build_objective
from sparring.assembly.estimate import KNOWN, _build, _count, _saved, estimate, memory_from_scratch
from sparring.commands.train.dry_run import dry_run_text
from sparring.config.read import resolve
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import StepRandom
from sparring.diffusion.schedules import schedule_from_config
from sparring.objectives import ADT, OBJECTIVES
from text_to_image import stable_diffusion, unet

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": 859_520_964,
    "stabilityai/stable-diffusion-xl-base-1.0": 2_567_463_684,
    "stabilityai/stable-diffusion-3-medium-diffusers": 2_028_328_000,
}


def lines(name: str, words: Sequence[str] = ()) -> list[str]:
    config = resolve(CONFIGS / name, words)
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    return estimate(config, build_objective(config, schedule))


@pytest.mark.parametrize("name", KNOWN)
def test_the_known_networks_have_their_published_size(name: str) -> None:
    with FakeTensorMode():
        assert _count(_build(KNOWN[name]["network"])) == SIZES[name]
        assert _count(_build(KNOWN[name]["vae"])) == pytest.approx(83.7e6, rel=0.003)


def test_what_autograd_keeps_is_counted_on_fake_tensors_as_on_real_ones() -> None:
    def kept() -> int:
        network: Any = unet(16)
        x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
        t = torch.zeros(2)
        return _saved(lambda: network(x, t, encoder_hidden_states=text, return_dict=False)[0])

    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = kept()
    assert fake == kept()
    assert fake > 50_000


def test_what_is_kept_is_no_weight_and_whole_where_it_is_seen_in_part() -> None:
    x = torch.randn(7, 10, requires_grad=True)
    layer = torch.nn.Linear(10, 20)
    assert _saved(lambda: layer(x)) == 70  # x, for the weights' gradient
    layer.requires_grad_(False)
    assert _saved(lambda: layer(x)) == 0

    def gated() -> Tensor:
        a, b = (2 * x).chunk(2, dim=1)  # halves of one tensor
        return a * b

    assert _saved(gated) == 70


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_network_calls_are_those_that_are_made(guidance: float) -> None:
    """Mean over the start steps of the calls of a tiny U-Net, by kind."""
    words = [f"objective.guidance_scale={guidance}", "objective.num_inference_steps=6"]
    words += ["objective.scheduler=null", "objective.n_trained=2"]
    (line, *_) = lines("adt_sd15.yaml", words)
    assert "3.5 in rollouts and 1.83 trained to a step" in line
    denoiser = Denoiser(
        unet(16), schedule_from_config({"_class_name": "DDPMScheduler"}),
        null_condition={"encoder_hidden_states": torch.zeros(1, 5, 16)},
    )  # fmt: skip
    calls = {"rolled": 0, "trained": 0}
    denoiser.network.register_forward_hook(
        lambda *_: calls.update(
            {(key := "trained" if torch.is_grad_enabled() else "rolled"): calls[key] + 1}
        )
    )
    copied = Denoiser(unet(16), denoiser.schedule)
    eye = LatentEye(copied)
    told = {"encoder_hidden_states": torch.zeros(1, 5, 16)}
    channels = eye.channels_of(torch.zeros(1, 4, 8, 8), told)
    objective = ADT(denoiser.schedule, num_inference_steps=6, n_trained=2, guidance_scale=guidance)
    rival = Discriminator(eye, Heads(channels, width=4))
    objective.set_up(denoiser, rival)
    seen = {}
    for batch in range(40):
        x0 = torch.zeros(1, 4, 8, 8)
        s = objective.draw({"x0": x0, "cond": told}, StepRandom(0, batch, 1), 1)
        if s.start in seen:
            continue
        before = dict(calls)
        turn = next(objective.turns({"model": denoiser, "discriminator": rival}, s))
        for part in turn.parts:
            part()
        seen[s.start] = {key: calls[key] - before[key] for key in calls}
    assert len(seen) == 6
    each = 2 if guidance != 1 else 1
    assert sum(one["rolled"] for one in seen.values()) / 6 == pytest.approx(3.5 * each)
    assert sum(one["trained"] - 1 for one in seen.values()) / 6 == pytest.approx(11 / 6 * each)


@pytest.mark.parametrize(
    ("words", "plain_steps"),
    [
        # a pass forward is 1/3 of a plain step, forward and backward are 1
        (["guidance_scale=1"], (6 + 3 * 11 / 6 + 3) / 3),
        (["guidance_scale=3"], (2 * (6 + 3 * 11 / 6) + 3) / 3),
        (["guidance_scale=3", "cfg_grad=cond_only"], (2 * 6 + (3 + 1) * 11 / 6 + 3) / 3),
        (["guidance_scale=1", "discriminator_steps=2"], (2 * 6 + 3 * 11 / 6 + 3) / 3),
        (["guidance_scale=1", "diffusion_weight=0"], (6 + 3 * 11 / 6) / 3),
    ],
)
def test_a_step_in_plain_steps(words: list[str], plain_steps: float) -> None:
    """Heun makes 11 calls of 6 steps and begins with 11, 9, ..., 1 left: 6 on average."""
    words = ["scheduler=heun", "num_inference_steps=6", "n_trained=2", *words]
    (line, *_) = lines("adt_sd15.yaml", [f"objective.{one}" for one in words])
    assert f"as much as {plain_steps:.3g} plain steps" in line


def gigabytes(words: list[str]) -> float:
    line = lines("adt_sd15.yaml", words)[-1]
    return float(line.split("about ")[1].split(" GB")[0])


def test_memory_follows_what_is_asked_for() -> None:
    text = dry_run_text(resolve(CONFIGS / "adt_sd15.yaml"))
    assert "# network calls 25.5 in rollouts and 4.8 trained" in text
    assert "# memory        about 4 GB" in text
    small = gigabytes([])
    assert gigabytes(["training.gradient_checkpointing=false"]) > 2 * small
    # gradients, two moments, the average and the weights themselves, 4 bytes each
    assert gigabytes(["model.lora=null"]) > 20 * 859_520_964 / 1e9


def test_a_pipeline_in_a_folder_is_read_and_an_unknown_one_is_not(tmp_path: Path) -> None:
    folder = stable_diffusion(tmp_path)
    where = f"model.pretrained_model_name_or_path={folder}"
    words = [where, "data.resolution=16", "model.lora=null"]
    assert "about 0 GB" in lines("text_to_image.yaml", words)[0]
    unknown = "model.pretrained_model_name_or_path=somebody/something"
    assert "unknown" in lines("adt_sd15.yaml", [unknown])[-1]
    assert lines("digits.yaml") == []


@dataclass(eq=False)
class Box:
    """A saved tensor; unlike a tensor it may be watched."""

    x: Tensor


class Alive:
    """The most bytes at once that autograd keeps for the way back."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self.n_holders: dict[int, int] = {}

    def pack(self, x: Tensor) -> Any:
        if isinstance(x if x._base is None else x._base, torch.nn.Parameter):
            return x
        held = x.untyped_storage()
        box = Box(x)
        self.hold(held._cdata, held.nbytes(), 1)
        weakref.finalize(box, self.hold, held._cdata, held.nbytes(), -1)
        return box

    def hold(self, key: int, n_bytes: int, change: int) -> None:
        before = self.n_holders.get(key, 0)
        self.n_holders[key] = before + change
        self.now += n_bytes * ((before + change > 0) - (before > 0))
        self.peak = max(self.peak, self.now)

    def unpack(self, box: Any) -> Tensor:
        return box if isinstance(box, Tensor) else box.x


def digits_unet() -> torch.nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
        layers_per_block=1, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip


def alive(name: str, **fields: Any) -> tuple[int, float]:
    """The peak of a step with 16 rows, and what the objective says of its graphs."""
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    objective = OBJECTIVES[name](schedule, **fields)
    nets = {role: Denoiser(digits_unet(), schedule) for role in ("model", "ema", "teacher")}
    nets["ema"].requires_grad_(False), nets["teacher"].requires_grad_(False)
    peak, rng = Alive(), StepRandom(0, 5, 16)
    with torch.autograd.graph.saved_tensors_hooks(peak.pack, peak.unpack):
        s = objective.draw({"x0": torch.randn(16, 1, 8, 8), "cond": {}}, rng, 10**6)
        for turn in objective.turns(nets, s):
            for part in turn.parts:
                torch.stack(list(part().values())).sum(0).mean().backward()
    return peak.peak, objective.n_graphs


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("smoothing_adversarial", {}),
        ("smoothing_random", {"fraction": 0.5}),
        ("invariance", {}),
        ("detail", {"noise": 0.3, "window": 100.0, "start_step": 0, "fraction": 0.5}),
        ("dro", {}),
        ("dro_pgd", {}),
        ("huber", {}),
        ("consistency_training", {}),
        ("consistency_distillation", {}),
    ],
)
def test_graphs_that_are_alive_at_once_are_as_many_as_the_objective_says(
    name: str, fields: dict[str, Any]
) -> None:
    plain, one = alive("plain")
    peak, n_graphs = alive(name, **fields)
    assert one == 1
    assert peak / plain == pytest.approx(n_graphs, rel=0.02)


def test_memory_of_a_network_from_scratch_is_what_a_step_keeps() -> None:
    config = resolve(CONFIGS / "digits.yaml", ["training.train_batch_size=16"])
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    with torch.device("meta"):
        network = digits_unet()
    plain, _ = alive("plain")
    said = memory_from_scratch(config, network, (1, 8, 8), OBJECTIVES["plain"](schedule))
    n = _count(network)
    words = re.findall(r"([\d.]+) MB", said)
    assert float(words[-1]) == pytest.approx(plain / 1e6, rel=0.05, abs=0.6)
    assert float(words[1]) == pytest.approx(4 * n / 1e6, abs=0.5)
    assert float(words[2]) == pytest.approx(16 * n / 1e6, abs=0.5)
    double = memory_from_scratch(
        config, network, (1, 8, 8), OBJECTIVES["smoothing_random"](schedule)
    )
    assert float(re.findall(r"([\d.]+) MB", double)[-1]) == pytest.approx(
        2 * plain / 1e6, rel=0.05, abs=0.6
    )


def test_a_network_without_memory_has_none_whatever_was_loaded_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """transformers replaces linspace while it loads, and `torch.device` may look just then."""
    from torch.utils._device import _device_constructors

    from sparring.models.networks import MLP

    _device_constructors.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "linspace", lambda *args, **kwargs: None)
        with torch.device("meta"):
            torch.empty(1)
    try:
        with torch.device("meta"):
            assert MLP(3).frequencies.device.type == "meta"
    finally:
        _device_constructors.cache_clear()
    assert MLP(3).frequencies.device.type == "cpu"
