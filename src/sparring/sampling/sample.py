r"""Sampling: a diffusers scheduler drives a `Denoiser` from noise to data.

Sample i follows from (seed, i): its initial noise and the noise of stochastic steps come from a
generator of its own, on the CPU, so neither the batch size nor the device changes it (a network may
round differently for another batch size). torch's global random state is not touched.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..diffusion.denoiser import Denoiser, evaluation_mode
from ..diffusion.guidance import guidance_dim, guidance_embedding
from ..diffusion.randomness import generator
from ..diffusion.schedules import FlowSchedule, VPSchedule
from .known_answer import check_sampler
from .schedulers import config_from_schedule, default_sampler, make_scheduler
from .steps import Move, OnStep, Steps, dtype_of, integrate

if TYPE_CHECKING:
    from ..models.pretrained import Model


def sample(
    model: "Model | Denoiser",
    n: int,
    *,
    scheduler: Any = None,
    num_inference_steps: int = 50,
    seed: int = 0,
    guidance_scale: float = 1.0,
    class_labels: Tensor | int | None = None,
    condition: Mapping[str, Any] | None = None,
    prompts: Sequence[str] | None = None,
    eps_scale: float = 1.0,
    eta: float = 0.0,
    clip_sample: bool | None = None,
    batch_size: int = 256,
    first: int = 0,
    device: torch.device | str | None = None,
    sample_shape: tuple[int, ...] | None = None,
    scheduler_config: Mapping[str, Any] | None = None,
    on_batch: Callable[[int], None] | None = None,
    on_step: OnStep | None = None,
    move: Move | None = None,
    **options: Any,
) -> Tensor:
    """Draw n samples.

    Args:
        model: What `sparring.load` returns, or a `Denoiser` with `sample_shape`.
        n: Number of samples.
        scheduler: A name of `schedulers.NAMES` (ddim, ddpm, euler, heun, dpmsolver++, unipc,
            flow_euler, euler_edm, ...), a class name of diffusers, a scheduler object, which is
            used as it is, or None for the default of the model's schedule (of a consistency
            model consistency, or lcm).
        num_inference_steps: Steps of the sampler (Heun calls the model twice a step).
        seed: Sample i follows from (seed, i).
        guidance_scale: w of classifier-free guidance, output = null + w (conditional - null);
            1 is none. Needs a condition and the denoiser's null condition; a network with a
            guidance embedding is told the scale instead.
        class_labels: One class for all, or (n,). None for a class-conditional model: sample i gets
            class i mod num_classes (of the classes that it was trained on).
        condition: Further arguments of the network, (n, ...) each, or (1, ...) for all alike, such
            as encoder_hidden_states.
        prompts: Of a text-to-image model: sample i shows prompt i mod their number. None: the empty
            prompt, unless `condition` says more.
        eps_scale: The estimate of the noise is divided by this; a little above 1 corrects exposure
            bias (ADM-ES, Ning et al. 2024, eq. 9). Not for flow models.
        eta: Noise of DDIM's steps, 0 deterministic, 1 as much as DDPM.
        clip_sample: Clip the estimate of x0 to [-1, 1] in each step. None: true for images of
            eps-, x0- and v-models where the sampler can, false otherwise. DDIM's step then takes
            the noise that goes with the clipped x0, as OpenAI's code does and diffusers' pipelines
            by default do not: with a noise of another x0 the step leaves the path.
        batch_size: Samples per call of the network; changes speed and memory only.
        first: Number of the first sample: those from `first` on of a longer list. What comes by
            row (class_labels, condition) is theirs alone.
        device: Where to run; None: where the model is. The model is moved there.
        sample_shape: Shape of one sample; needed with a bare `Denoiser`.
        scheduler_config: The training scheduler's config; with a bare `Denoiser` it is made from
            its schedule when not given.
        on_batch: Called with the number of samples done, for a progress bar.
        on_step: See `integrate`; called for each batch in turn.
        move: See `integrate`; called for each batch in turn. The way in for attacks
            (`trajectory_attacks`).
        options: Passed to `make_scheduler`: stop_ratio, grid_power, ratios,
            use_karras_sigmas...

    Returns:
        Samples (n, *sample_shape) on the device, in the range of the training data ([-1, 1] for
        images), float32 (float64 for a float64 network); nothing is clipped at the end. Those of a
        latent model are latents: `sparring.models.latents.decode(model.vae, samples)` makes images.

    Raises:
        UserError: for an unknown sampler, one of another family, or one that would draw a Gaussian
            with a known answer wrongly (`known_answer`).
        ValueError: for arguments out of range or that do not go with the model.
    """
    bare = isinstance(model, Denoiser)
    denoiser = model if isinstance(model, Denoiser) else model.denoiser
    shape = sample_shape if sample_shape is not None else (None if bare else model.sample_shape)
    if shape is None:
        raise ValueError("a bare Denoiser does not know its data: pass sample_shape")
    if n < 1 or batch_size < 1:
        raise ValueError(f"n and batch_size must be >= 1, got {n} and {batch_size}")
    _check(denoiser, num_inference_steps, eps_scale, guidance_scale)
    if scheduler_config is None:
        scheduler_config = (
            config_from_schedule(denoiser.schedule, denoiser.kind)
            if bare
            else model.scheduler_config
        )
    if scheduler is None or isinstance(scheduler, str):
        if clip_sample is None:
            clip_sample = _clips(scheduler, scheduler_config, model, shape)
        options = {"clip_sample": clip_sample, **options}
        build = _maker(scheduler, scheduler_config, denoiser, options)
        build()  # refuses names and options that do not go together
        boundary = denoiser.boundary
        check_sampler(
            scheduler, scheduler_config, denoiser.kind, num_inference_steps,
            boundary=boundary, **options,
        )  # fmt: skip
    elif options or clip_sample is not None:
        raise ValueError("a scheduler object is used as it is: leave out its options")
    else:
        build = _copier(scheduler)

    condition = dict(condition or {})
    absent = () if bare else model.absent_classes
    labels = _labels(class_labels, n, None if bare else model.num_classes, first, absent)
    if labels is not None:
        condition["class_labels"] = labels
    text = _text(model, prompts, condition)
    if guidance_scale != 1.0 and not condition and text is None:
        raise ValueError("guidance_scale needs a condition (class_labels or condition)")

    dim = guidance_dim(denoiser.network)
    told = None if dim is None else guidance_embedding(torch.tensor([guidance_scale]), dim)

    device = torch.device(device) if device is not None else device_of(denoiser)
    denoiser.to(device)
    done = []
    with evaluation_mode(denoiser), torch.no_grad():
        for start in range(0, n, batch_size):
            rows = range(start, min(n, start + batch_size))
            generators = [generator("cpu", seed, "sample", first + i) for i in rows]
            noise = torch.stack([torch.randn(shape, generator=own) for own in generators])
            steps = build()
            steps.set_timesteps(num_inference_steps, device=device)
            x = noise.to(device, sample_dtype(denoiser)) * getattr(steps, "init_noise_sigma", 1.0)
            own_condition = _rows(condition, rows, n, device)
            if text is not None:
                own_condition |= text.to(device)(_in_turn(prompts or [""], rows, first))
            scale = guidance_scale
            if told is not None:  # the network does in one call what guidance does in two
                own_condition["timestep_cond"] = told.to(x).expand(len(x), -1)
                scale = 1.0
            x = integrate(
                denoiser, steps, x, own_condition, generators, scale, eps_scale, eta,
                on_step, move, rows,
            )  # fmt: skip
            done.append(x)
            if on_batch is not None:
                on_batch(rows.stop)
    return torch.cat(done)


def describe_sampling(
    model: "Model",
    *,
    scheduler: str | None = None,
    num_inference_steps: int = 50,
    seed: int = 0,
    guidance_scale: float = 1.0,
    eps_scale: float = 1.0,
    eta: float = 0.0,
    clip_sample: bool | None = None,
    batch_size: int = 256,
    prompts: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What `sample` does with these arguments, for protocols: nothing is left to a default."""
    if clip_sample is None:
        clip_sample = _clips(scheduler, model.scheduler_config, model, model.sample_shape)
    kind = model.denoiser.kind
    steps = make_scheduler(
        scheduler,
        model.scheduler_config,
        kind,
        clip_sample=clip_sample,
        boundary=model.denoiser.boundary,
        **options,
    )
    return {
        "sampler": scheduler or default_sampler(model.denoiser),
        "scheduler": type(steps).__name__,
        "steps": num_inference_steps,
        "timestep_spacing": steps.config.get("timestep_spacing"),
        "clip_sample": clip_sample,
        "guidance_scale": guidance_scale,
        "eps_scale": eps_scale,
        "eta": eta,
        "seed": seed,
        "batch_size": batch_size,
        **({} if model.text is None else {"prompts": list(prompts or [""])}),
        "options": {key: value for key, value in options.items() if key != "timestep_spacing"},
    }


def check_sampling(
    model: "Model",
    *,
    scheduler: str | None = None,
    num_inference_steps: int = 50,
    eps_scale: float = 1.0,
    guidance_scale: float = 1.0,
    eta: float = 0.0,
    clip_sample: bool | None = None,
    **options: Any,
) -> None:
    """What `sample` would refuse of a sampler, before anything is drawn or trained.

    Args:
        model: Whose network is not called, so it may be without memory.
        scheduler: This and the others as `sample` takes them; those that choose no sampler (seed,
            batch_size, prompts, device, n_images) are not looked at.

    Raises:
        UserError, ValueError: as `sample` does.
    """
    others = ("seed", "batch_size", "prompts", "device", "n_images")
    options = {key: value for key, value in options.items() if key not in others}
    denoiser, config = model.denoiser, model.scheduler_config
    _check(denoiser, num_inference_steps, eps_scale, guidance_scale)
    if clip_sample is None:
        clip_sample = _clips(scheduler, config, model, model.sample_shape)
    options["clip_sample"] = clip_sample
    steps = _maker(scheduler, config, denoiser, options)()
    boundary = denoiser.boundary
    check_sampler(
        scheduler, config, denoiser.kind, num_inference_steps, boundary=boundary, **options
    )
    steps.set_timesteps(num_inference_steps)
    Steps(denoiser, steps, eta=eta)


def _check(denoiser: Denoiser, n_steps: int, eps_scale: float, guidance_scale: float) -> None:
    schedule = denoiser.schedule
    if n_steps < 1 or (isinstance(schedule, VPSchedule) and n_steps > schedule.n_train_timesteps):
        most = f" and at most {schedule.n_train_timesteps}" * isinstance(schedule, VPSchedule)
        raise ValueError(f"num_inference_steps must be at least 1{most}, got {n_steps}")
    if eps_scale <= 0 or guidance_scale < 0:
        raise ValueError(
            f"eps_scale must be > 0 and guidance_scale >= 0, got {eps_scale} and {guidance_scale}"
        )
    ends_in_noise = isinstance(schedule, FlowSchedule) or (
        isinstance(schedule, VPSchedule) and schedule.zero_terminal_snr
    )
    if eps_scale != 1.0 and ends_in_noise:
        raise ValueError(
            "eps_scale divides by alpha, which is 0 where this schedule starts: leave it at 1"
        )
    if isinstance(schedule, FlowSchedule) and denoiser.kind == "eps":
        raise ValueError("eps-prediction says nothing of x0 at the start of a flow: use flow or v")


def _maker(
    name: str | None,
    config: Mapping[str, Any],
    denoiser: Denoiser,
    options: Mapping[str, Any],
) -> Callable[[], Any]:
    """Makes fresh schedulers."""
    learned = denoiser.learned_variance
    return lambda: make_scheduler(
        name,
        config,
        denoiser.kind,
        learned_variance=learned,
        boundary=denoiser.boundary,
        **options,
    )


def _clips(
    name: str | None, config: Mapping[str, Any], model: "Model | Denoiser", shape: tuple[int, ...]
) -> bool:
    """Whether x0 is clipped when nobody says: images of eps, x0 and v, where the sampler can."""
    bare = isinstance(model, Denoiser)
    denoiser = model if isinstance(model, Denoiser) else model.denoiser
    is_image = len(shape) == 3 and (bare or model.vae is None)
    if not is_image or denoiser.kind not in ("eps", "x0", "v"):
        return False
    scheduler = make_scheduler(name, config, denoiser.kind, boundary=denoiser.boundary)
    return "clip_sample" in scheduler.config


def _copier(scheduler: Any) -> Callable[[], Any]:
    """A scheduler object's configuration without its state."""
    return lambda: type(scheduler).from_config(scheduler.config)


def _labels(
    class_labels: Tensor | int | None,
    n: int,
    num_classes: int | None,
    first: int,
    absent: Sequence[int] = (),
) -> Tensor | None:
    if class_labels is None:
        if num_classes is None:
            return None
        known = torch.tensor([i for i in range(num_classes) if i not in set(absent)])
        return known[torch.arange(first, first + n) % len(known)]
    labels = torch.as_tensor(class_labels, dtype=torch.long).cpu()
    labels = labels.expand(n) if labels.ndim == 0 else labels
    if labels.shape != (n,):
        raise ValueError(f"class_labels must be one class or ({n},), got {tuple(labels.shape)}")
    if num_classes is not None and not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(f"class_labels must lie in [0, {num_classes - 1}]")
    return labels


def _text(
    model: "Model | Denoiser", prompts: Sequence[str] | None, condition: Mapping[str, Any]
) -> Any:
    """What encodes the prompts; None where a condition takes their place or nothing is asked."""
    text = None if isinstance(model, Denoiser) else model.text
    if prompts is not None and not prompts:
        raise ValueError("prompts must not be empty; None is the empty prompt")
    if prompts is not None and text is None:
        raise ValueError("prompts need a text-to-image model (Stable Diffusion 1.x, 2.x, XL, 3)")
    if prompts is not None and "encoder_hidden_states" in condition:
        raise ValueError("give prompts or a condition of encoder_hidden_states, not both")
    return None if "encoder_hidden_states" in condition else text


def _in_turn(prompts: Sequence[str], rows: range, first: int) -> list[str]:
    return [prompts[(first + i) % len(prompts)] for i in rows]


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
