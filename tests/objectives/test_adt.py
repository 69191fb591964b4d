"""Adversarial diffusion tuning: its gradients against ordinary autograd through the same rollout."""

from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from support import tiny_unet
from text_to_image import unet
from torch import Tensor, nn

from sparring.denoiser import Denoiser
from sparring.discriminators import READINGS, Discriminator, Heads, ImageEye, LatentEye
from sparring.objectives import ADT
from sparring.objectives.adt import ADTDraws
from sparring.randomness import StepRandom
from sparring.sampling.schedulers import make_scheduler, spoken_kind
from sparring.schedules import FlowSchedule, schedule_from_config

B = 3
SD = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


class Convolutions(nn.Module):
    """A frozen backbone with two maps."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.channels = [6, 8]
        self.a, self.b = nn.Conv2d(n_in, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.a(x).tanh()
        return [first, self.b(first).tanh()]


def discriminator(n_in: int, reading: str = "patches", **words: Any) -> Discriminator:
    eye = ImageEye(Convolutions(n_in), ["color", "translation"])
    torch.manual_seed(8)
    return Discriminator(eye, Heads(eye.channels, reading, 12), **words)


def sd3() -> nn.Module:
    torch.manual_seed(2)
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16,
        pooled_projection_dim=12, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip
    with torch.no_grad():  # its last layers start at zero, where there is no gradient to compare
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return network.eval()


def condition(name: str, rows: int, seed: int) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=rng)

    if name == "sd":
        return {"encoder_hidden_states": some(5, 16)}
    if name == "sdxl":
        sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).repeat(rows, 1)
        added = {"text_embeds": some(12), "time_ids": sizes}
        return {"encoder_hidden_states": some(5, 24), "added_cond_kwargs": added}
    if name == "sd3":
        return {"encoder_hidden_states": some(5, 16), "pooled_projections": some(12)}
    return {}


def model(name: str) -> tuple[Denoiser, dict[str, Any]]:
    """A tiny denoiser with a null condition, and the config of its scheduler."""
    if name == "unconditional":
        return Denoiser(tiny_unet().eval(), schedule_from_config(SD), "v"), SD
    if name == "sd3":
        null = condition(name, 1, 9)
        return Denoiser(sd3(), FlowSchedule(3.0), "flow", null_condition=null), FLOW
    words = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    network = (
        unet(16)
        if name == "sd"
        else unet(24, projection_class_embeddings_input_dim=6 * 8 + 12, **words)
    )
    null = condition(name, 1, 9)
    return Denoiser(network, schedule_from_config(SD), "eps", null_condition=null), SD


def case(
    name: str, sampler: str | None = None, rival: Discriminator | None = None, **words: Any
) -> tuple[ADT, Denoiser, Discriminator, ADTDraws]:
    """An objective, its players and a step's draws."""
    denoiser, config = model(name)
    rival = rival or discriminator(1 if name == "unconditional" else 4)
    if sampler is not None:
        scheduler = make_scheduler(sampler, config, denoiser.kind)
        words |= {"scheduler": scheduler, "spoken": spoken_kind(scheduler)}
    objective = ADT(denoiser.schedule, num_inference_steps=6, weight=0.7, **words)
    objective.set_up(denoiser, rival)
    shape = (1, 8, 8) if name == "unconditional" else (4, 8, 8)
    x0 = torch.rand(B, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = {"x0": x0, "cond": condition(name, B, 3)}
    step = words.get("warmup_batches", 0) + words.get("discriminator_steps", 1) - 1
    return objective, denoiser, rival, objective.draw(batch, StepRandom(0, step, B), 1)


def nets(denoiser: Denoiser, rival: Discriminator) -> dict[str, Any]:
    return {"model": denoiser, "discriminator": rival}


def learn(objective: ADT, denoiser: Denoiser, rival: Discriminator, s: ADTDraws) -> dict[str, Any]:
    """Gradients of the model's turn, as the loop takes it, and the sum of each term."""
    denoiser.zero_grad()
    turn = next(objective.turns(nets(denoiser, rival), s))
    assert turn.player == "model"
    terms: dict[str, Any] = {}
    for part in turn.parts:
        own = part()
        torch.stack(list(own.values())).sum(0).mean().backward()
        for key, value in own.items():
            terms[key] = terms.get(key, 0) + value.detach()
    return terms


def gradients(denoiser: Denoiser) -> Tensor:
    found = [one.grad for one in denoiser.network.parameters() if one.requires_grad]
    return torch.cat([one.flatten() for one in found if one is not None])


def by_autograd(objective: ADT, denoiser: Denoiser, rival: Discriminator, s: ADTDraws) -> Tensor:
    """The adversarial loss with the whole rollout in one graph, the sampler's steps included."""
    denoiser.zero_grad()
    answer, path = objective.guided(denoiser, s.told), objective.path
    walk = path.walk(s.start, path.begin(s.start, s.x0, s.noise), s.generators)
    for call in range(s.start, path.n_calls):
        trained = call in s.trained
        x_t = walk.x_t if objective.input_grad and trained else walk.x_t.detach()
        with torch.set_grad_enabled(trained):
            output = answer(x_t, path.times[call])
        walk.step(output)
    eye, (a, b) = rival.eye, s.looks
    with torch.no_grad():
        real, again = eye(s.x0, b, s.told), eye(s.x0, a, s.told)
    loss = rival.generator_loss(eye(walk.x_t, a, s.told), real, again)
    (objective.weight * loss.mean()).backward()
    return gradients(denoiser)


def fresh(s: ADTDraws, seeds: range = range(B)) -> ADTDraws:
    """The same draws, generators rewound."""
    s.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return s


CASES: list[tuple[str, str | None, dict[str, Any]]] = [
    ("unconditional", None, {}),
    ("unconditional", "heun", {"n_trained": 5}),
    ("sd", None, {"guidance_scale": 3.0}),
    ("sd", None, {"guidance_scale": 3.0, "cfg_grad": "cond_only", "trained": "random"}),
    ("sd", "ddpm", {"guidance_scale": 3.0, "trained": "last"}),
    ("sd", "dpmsolver++", {"guidance_scale": 3.0}),
    ("sd", "unipc", {"guidance_scale": 3.0}),
    ("sd", "euler", {"guidance_scale": 3.0}),
    ("sdxl", None, {"guidance_scale": 3.0}),
    ("sd3", None, {"guidance_scale": 3.0}),
    ("sd3", "flow_heun", {"guidance_scale": 3.0}),
]


@pytest.mark.parametrize("input_grad", [False, True])
@pytest.mark.parametrize(("name", "sampler", "words"), CASES)
def test_the_backward_pass_in_parts_is_autograd_through_the_rollout(
    name: str, sampler: str | None, words: dict[str, Any], input_grad: bool
) -> None:
    words = {"n_trained": 3, "start": "noise", "diffusion_weight": 0.0, **words}
    if input_grad:
        words["n_trained"] = 99
    objective, denoiser, rival, s = case(
        name, sampler, input_grad=input_grad, **{**words, "diffusion_weight": 1e-30}
    )
    expected = by_autograd(objective, denoiser, rival, fresh(s))
    learn(objective, denoiser, rival, fresh(s))
    found = gradients(denoiser)
    assert len(s.trained) == min(words["n_trained"], objective.path.n_calls)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
