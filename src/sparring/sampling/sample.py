r"""Sampling: a diffusers scheduler drives a `Denoiser` from noise to data.

Sample i follows from (seed, i): its initial noise and the noise of stochastic steps come from a
generator of its own, on the CPU, so neither the batch size nor the device changes it (a network may
round differently for another batch size). torch's global random state is not touched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..diffusion.denoiser import evaluation_mode
from ..diffusion.guidance import guidance_dim, guidance_embedding
from ..diffusion.randomness import generator
from ..diffusion.schedules import FlowSchedule, VPSchedule
from ..models.model import Model
from .known_answer import check_sampler
from .schedulers import default_sampler, make_scheduler
from .settings import Sampling
from .steps import Move, Steps, dtype_of, integrate

OF_NAMED = ("clip_sample", "stop_ratio", "grid_power", "ratios", "scheduler_options")
"""Settings that make a scheduler of a name."""


def sample(
    model: Model,
    n: int | range,
    sampling: Sampling | None = None,
    *,
    class_labels: Tensor | int | None = None,
    condition: Mapping[str, Any] | None = None,
    move: Move | None = None,
    **words: Any,
) -> Tensor:
    """Draw samples.

    Args:
        model: What `sparring.load` returns, or `Model.around` a network of one's own.
        n: Number of samples, or their numbers in a longer list: sample(model, range(4, 7)) draws
            the last three of sample(model, 7). What comes by row (class_labels, condition) is
            theirs alone.
        sampling: How they are drawn; None is `Sampling()`.
        class_labels: One class for all, or (n,). None for a class-conditional model: sample i gets
            class i mod num_classes (of the classes that it was trained on).
        condition: Further arguments of the network, (n, ...) each, or (1, ...) for all alike, such
            as encoder_hidden_states.
        move: See `integrate`; called for each batch in turn. Attacks are such (`TrajectoryAttack`).
        words: Fields of `Sampling` that differ from `sampling`: sample(model, 16, seed=1).

    Returns:
        Samples (n, *sample_shape) on the model's device, in the range of the training data
        ([-1, 1] for images), float32 (float64 for a float64 network), not clipped. Those of a
        latent model are latents: `sparring.models.latents.decode(model.vae, samples)` makes images.

    Raises:
        UserError: for an unknown sampler, one of another family, or one that would draw a Gaussian
            with a known answer wrongly (`known_answer`).
        ValueError: for arguments out of range or that do not go with the model.
    """
    sampling = replace(sampling or Sampling(), **words)
    own = range(n) if isinstance(n, int) else n
    if not own or own.step != 1:
        raise ValueError(f"n must be >= 1, or a range of numbers one after the other, got {n}")
    sampling = resolved(model, sampling)
    check_sampling(model, sampling)
    denoiser, prompts, guidance = model.denoiser, sampling.prompts, sampling.guidance_scale
    condition = dict(condition or {})
    labels = _labels(class_labels, own, model)
    if labels is not None:
        condition["class_labels"] = labels
    text = _text(model, prompts, condition)
    if guidance != 1.0 and not condition and text is None:
        raise ValueError("guidance_scale needs a condition (class_labels or condition)")
    embedding, dim = None, guidance_dim(denoiser.network)
    if dim is not None:  # the network does in one call what guidance does in two
        embedding = guidance_embedding(torch.tensor([guidance]), dim)
        sampling = replace(sampling, guidance_scale=1.0)

    device = device_of(denoiser)
    done = []
    with evaluation_mode(denoiser), torch.no_grad():
        for start in range(0, len(own), sampling.batch_size):
            rows = range(start, min(len(own), start + sampling.batch_size))
            generators = [generator("cpu", sampling.seed, "sample", own[i]) for i in rows]
            noise = [torch.randn(model.sample_shape, generator=one) for one in generators]
            scheduler = _scheduler_for(model, sampling)
            scheduler.set_timesteps(sampling.num_inference_steps, device=device)
            x = torch.stack(noise).to(device, sample_dtype(denoiser))
            x = x * getattr(scheduler, "init_noise_sigma", 1.0)
            told = _rows(condition, rows, len(own), device)
            if text is not None:
                shown = prompts or [""]
                told |= text.to(device)([shown[own[i] % len(shown)] for i in rows])
            if embedding is not None:
                told["timestep_cond"] = embedding.to(x).expand(len(x), -1)
            steps = Steps(denoiser, scheduler, sampling, told, generators, rows)
            done.append(integrate(steps, x, move))
    return torch.cat(done)


def describe_sampling(model: Model, sampling: Sampling) -> dict[str, Any]:
    """What `sample` does with these settings, for protocols: nothing is left to a default."""
    sampling = resolved(model, sampling)
    scheduler = _scheduler_for(model, sampling)
    options = {**(sampling.scheduler_options or {})}
    options.pop("timestep_spacing", None)
    same = ("clip_sample", "guidance_scale", "eps_scale", "eta", "seed", "batch_size")
    return {
        "sampler": sampling.scheduler or default_sampler(model.denoiser),
        "scheduler": type(scheduler).__name__,
        "steps": sampling.num_inference_steps,
        "timestep_spacing": scheduler.config.get("timestep_spacing"),
        **{key: getattr(sampling, key) for key in same},
        **({} if model.text is None else {"prompts": list(sampling.prompts or [""])}),
        "options": {key: getattr(sampling, key) for key in OF_NAMED[1:4]} | options,
    }


def check_sampling(model: Model, sampling: Sampling) -> None:
    """Raises what `sample` would raise of a sampler, before anything is drawn or trained. Neither
    the network is called nor looked at what chooses no sampler (seed, batch_size, prompts)."""
    denoiser = model.denoiser
    schedule, n_steps = denoiser.schedule, sampling.num_inference_steps
    most, is_flow = schedule.n_train_timesteps, isinstance(schedule, FlowSchedule)
    if isinstance(schedule, VPSchedule) and n_steps > most:
        raise ValueError(f"num_inference_steps must be at most {most}, got {n_steps}")
    ends_in_noise = is_flow or getattr(schedule, "zero_terminal_snr", False)
    if sampling.eps_scale != 1.0 and ends_in_noise:
        raise ValueError("eps_scale divides by alpha, 0 where this schedule starts: leave it at 1")
    if is_flow and denoiser.kind == "eps":
        raise ValueError("eps-prediction says nothing of x0 at the start of a flow: use flow or v")
    sampling = resolved(model, sampling)
    scheduler = _scheduler_for(model, sampling)  # refuses what does not go together
    if _is_by_name(sampling):
        check_sampler(sampling, model.scheduler_config, denoiser.kind, boundary=denoiser.boundary)
    scheduler.set_timesteps(sampling.num_inference_steps)
    Steps(denoiser, scheduler, sampling)


def resolved(model: Model, sampling: Sampling) -> Sampling:
    """The settings with `clip_sample` decided; see there."""
    if sampling.clip_sample is not None or not _is_by_name(sampling):
        return sampling
    is_image = len(model.sample_shape) == 3 and model.vae is None
    clips = is_image and model.denoiser.kind in ("eps", "x0", "v")
    if clips:
        plain = Sampling(sampling.scheduler, clip_sample=False)
        clips = "clip_sample" in _scheduler_for(model, plain).config
    return replace(sampling, clip_sample=clips)


def _is_by_name(sampling: Sampling) -> bool:
    return sampling.scheduler is None or isinstance(sampling.scheduler, str)


def _scheduler_for(model: Model, sampling: Sampling) -> Any:
    """A fresh scheduler: the named one, or an object's configuration without its state."""
    if _is_by_name(sampling):
        denoiser = model.denoiser
        own = {word: getattr(denoiser, word) for word in ("kind", "learned_variance", "boundary")}
        return make_scheduler(sampling, model.scheduler_config, **own)
    plain = Sampling()
    if any(getattr(sampling, key) != getattr(plain, key) for key in OF_NAMED):
        raise ValueError(f"a scheduler object is used as it is: leave out {', '.join(OF_NAMED)}")
    return type(sampling.scheduler).from_config(sampling.scheduler.config)


def _labels(class_labels: Tensor | int | None, own: range, model: Model) -> Tensor | None:
    num_classes = model.num_classes
    if class_labels is None:
        if num_classes is None:
            return None
        known = torch.tensor([i for i in range(num_classes) if i not in set(model.absent_classes)])
        return known[torch.arange(own.start, own.stop) % len(known)]
    labels = torch.as_tensor(class_labels, dtype=torch.long).cpu()
    labels = labels.expand(len(own)) if labels.ndim == 0 else labels
    if labels.shape != (len(own),):
        shape = tuple(labels.shape)
        raise ValueError(f"class_labels must be one class or ({len(own)},), got {shape}")
    if num_classes is not None and not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(f"class_labels must lie in [0, {num_classes - 1}]")
    return labels


def _text(model: Model, prompts: Sequence[str] | None, condition: Mapping[str, Any]) -> Any:
    """What encodes the prompts; None where a condition takes their place or nothing is asked."""
    if prompts is not None and not prompts:
        raise ValueError("prompts must not be empty; None is the empty prompt")
    if prompts is not None and model.text is None:
        raise ValueError("prompts need a text-to-image model (Stable Diffusion 1.x, 2.x, XL, 3)")
    if prompts is not None and "encoder_hidden_states" in condition:
        raise ValueError("give prompts or a condition of encoder_hidden_states, not both")
    return None if "encoder_hidden_states" in condition else model.text


def _rows(condition: dict[str, Any], rows: range, n: int, device: torch.device) -> dict[str, Any]:
    """The condition of some samples: a slice of what has n rows, a copy of what has one."""

    def take(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if len(value) not in (1, n):
            raise ValueError(f"a condition must have {n} rows or 1, got {len(value)}")
        alike = len(value) == 1
        own = value.expand(len(rows), *value.shape[1:]) if alike else value[rows.start : rows.stop]
        return own.to(device)

    return tree_map(take, condition)


def device_of(module: nn.Module) -> torch.device:
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def sample_dtype(module: nn.Module) -> torch.dtype:
    return torch.float64 if dtype_of(module) == torch.float64 else torch.float32
