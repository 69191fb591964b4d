r"""diffusers' samplers, built from the schedule a model was trained with.

Three families share nothing but the interface: VP (DDPM's betas), flow matching and EDM. A name
below stands for one diffusers class per family it exists in; any class name of diffusers works too,
and a class of the user's own file.

What is chosen here, and why:

- The betas are handed over number by number (`trained_betas`): values a config leaves at their
  defaults are not carried over between classes, and the defaults differ (Heun's betas are not
  DDPM's).
- `timestep_spacing` is "trailing" with `steps_offset` 0, whatever the class's default and the
  training config say. It starts at T - 1, where training ends, visits only integer times, and is
  the one spacing that works for every class up to n = T: with "linspace" DDIM's steps and grid
  disagree, and with "leading" DPM++ and UniPC start ever further from pure noise as n grows
  (Lin et al. 2024 recommend it too).
- `clip_sample` is false unless asked for (DDIM's and DDPM's own default is true, which ruins
  anything outside [-1, 1]); `sample` asks for it on images.
- A zero terminal SNR is carried over. Samplers that divide by alpha start at sigma/alpha = 2^12,
  as in diffusers, but on a table that falls towards it: diffusers floors the last entry only, so
  that sigma goes 4096, 15406, 7668, ... and Euler's spread comes out 3.7 times too large.
- DDIM goes to the next time of its grid. diffusers' own goes back T // n, which is elsewhere when
  n does not divide T: at n = 300 the spread of a Gaussian comes out 6 % too large, not 1 % small.
"""

import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from ..diffusion.denoiser import Denoiser
from ..diffusion.parametrization import DIFFUSERS_KINDS
from ..diffusion.schedules import (
    EDMSchedule,
    FlowSchedule,
    Schedule,
    VPSchedule,
    betas_for,
    betas_of,
    schedule_from_config,
)
from ..support.errors import UserError, did_you_mean
from ..support.user_code import load_from_file
from .consistency import ConsistencyScheduler
from .settings import Sampling

NAMES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "ddim": {"vp": ("GridDDIMScheduler", {})},
    "consistency": {family: ("ConsistencyScheduler", {}) for family in ("vp", "flow", "edm")},
    "lcm": {"vp": ("LCMScheduler", {})},
    "ddpm": {"vp": ("DDPMScheduler", {})},
    "euler": {"vp": ("EulerDiscreteScheduler", {})},
    "euler_ancestral": {"vp": ("EulerAncestralDiscreteScheduler", {})},
    "heun": {"vp": ("HeunDiscreteScheduler", {})},
    "dpm2": {"vp": ("KDPM2DiscreteScheduler", {})},
    "dpm2_ancestral": {"vp": ("KDPM2AncestralDiscreteScheduler", {})},
    "lms": {"vp": ("LMSDiscreteScheduler", {})},
    "pndm": {"vp": ("PNDMScheduler", {"skip_prk_steps": True})},
    "deis": {"vp": ("DEISMultistepScheduler", {})},
    "dpmsolver++": {
        "vp": ("DPMSolverMultistepScheduler", {}),
        "flow": ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}),
        "edm": ("EDMDPMSolverMultistepScheduler", {}),
    },
    "dpmsolver++_sde": {
        "vp": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"})
    },
    "unipc": {
        "vp": ("UniPCMultistepScheduler", {}),
        "flow": ("UniPCMultistepScheduler", {"use_flow_sigmas": True}),
    },
    "flow_euler": {"flow": ("FlowMatchEulerDiscreteScheduler", {})},
    "flow_heun": {"flow": ("FlowMatchHeunDiscreteScheduler", {})},
    "euler_edm": {"edm": ("EDMEulerScheduler", {})},
}
"""Name -> family -> (diffusers class, options)."""

_CONSISTENCY = {"ddim": "consistency", "lcm": "lcm"}
"""Boundary of a consistency model -> the sampler it is made for."""
DEFAULTS = {"vp": "ddim", "flow": "flow_euler", "edm": "euler_edm"}

# these classes know epsilon and v_prediction only; an x0-model speaks v to them (see `sample`)
_NO_X0 = (
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "PNDMScheduler",
)
# these keep abar = 0 as it is
_EXACT_AT_ZERO = (
    "GridDDIMScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "LCMScheduler",
    "TCDScheduler",
)
# these round the times of noise levels that are none of the table's
_CUTS_TIMES = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
_OWN_LEVELS = (
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
)
_FINEST_FLOW = 1000
"""A flow's times are no table: the grid of a multistep sampler ends at 1 / 1000 for any T."""
_WORDS = {kind: word for word, kind in DIFFUSERS_KINDS.items()}


class GridDDIMScheduler(DDIMScheduler):
    """DDIM whose step ends at the next time of its grid, also where n does not divide T.

    Bit for bit diffusers' DDIM where n divides T. It runs the same step on the respaced process:
    a table of n entries, of which every one is visited (Nichol & Dhariwal 2021, section 4).

    With a `last_time` the grid goes from T - 1 to there and the last step is to the x0 that the
    model sees there: what happens at lower noise is left out. A `power` p above 1 makes it denser
    towards the data: t = last_time + (T - 1 - last_time) u^p, u from 1 to 0 in even steps.
    """

    last_time: int | None = None
    power: float = 1.0

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        n = num_inference_steps
        if self.last_time is not None or self.power != 1:
            first, last = self.config["num_train_timesteps"] - 1, self.last_time or 0
            if n > first - last + 1:
                raise ValueError(f"{n} steps do not fit between the times {first} and {last}")
            u = torch.linspace(1, 0, n, dtype=torch.float64)
            times = (last + (first - last) * u**self.power).round().long()
            rest = last + torch.arange(n).flip(0)  # no time twice
            self.timesteps = torch.maximum(times, rest).to(self.timesteps.device)
        own = {
            "num_train_timesteps": n,
            "trained_betas": [0.5] * n,
            "rescale_betas_zero_snr": False,
        }
        self._respaced = DDIMScheduler(**{**_arguments(self.config), **own})
        self._respaced.set_timesteps(n)
        self._respaced.alphas_cumprod = self.alphas_cumprod[self.timesteps.cpu().flip(0)]

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Any = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        index = int((self.timesteps == timestep).nonzero()[0])
        return self._respaced.step(
            model_output,
            len(self.timesteps) - 1 - index,
            sample,
            eta,
            use_clipped_model_output,
            generator,
            variance_noise,
            return_dict,
        )


@functools.cache
def _with_exact_times(cls: type) -> type:
    """A multistep sampler whose network is told the time at which its noise level lies.

    diffusers cuts these times to integers where the levels are not a table's own: flow, Karras',
    exponential and beta levels. The sampler then believes another noise than the network does, by
    up to 1 / T of a flow, and of two levels at one time it takes the wrong one.
    """

    class Exact(cls):
        schedule: Schedule

        def set_timesteps(self, *args: Any, **words: Any) -> None:
            super().set_timesteps(*args, **words)
            sigmas = self.sigmas[:-1].double()
            if isinstance(self.schedule, FlowSchedule):
                times = sigmas * self.schedule.n_train_timesteps
            else:
                times = self.schedule.time_of_ratio(sigmas)
            self.timesteps = times.float().to(self.timesteps.device)

    Exact.__name__ = Exact.__qualname__ = cls.__name__
    return Exact


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def family_of(schedule: Schedule) -> str:
    """ "vp", "flow" or "edm"."""
    if isinstance(schedule, VPSchedule):
        return "vp"
    return "flow" if isinstance(schedule, FlowSchedule) else "edm"


def default_sampler(denoiser: Denoiser) -> str:
    """The name of the sampler that a model is sampled with when nobody says."""
    if denoiser.boundary is not None:
        return _CONSISTENCY[denoiser.boundary]
    return DEFAULTS[family_of(denoiser.schedule)]


def make_scheduler(
    sampling: Sampling,
    train_scheduler_config: Mapping[str, Any],
    kind: str,
    *,
    learned_variance: bool = False,
    boundary: str | None = None,
) -> Any:
    """A diffusers scheduler that samples what was trained with `train_scheduler_config`.

    Args:
        sampling: Its `scheduler` is a name or None; clip_sample clips to the config's
            clip_sample_range (1 by default), which ddim, ddpm and heun can.
        train_scheduler_config: Config of the training scheduler, or scheduler_config.json's.
        kind: What the model predicts: eps, x0, v, flow, edm, edm_v.
        learned_variance: Let DDPM use the model's learned range of variance.
        boundary: Of a consistency model, see `Jump`; None for a diffusion model.

    Raises:
        UserError: for a name that is unknown or belongs to another family than the schedule.
        ValueError: for clip_sample with a class that cannot, or an option the class lacks.
    """
    schedule = schedule_from_config(train_scheduler_config)
    family = family_of(schedule)
    name, clip_sample = sampling.scheduler, bool(sampling.clip_sample)
    options = sampling.scheduler_options or {}
    if name is None and boundary is not None:
        name = _CONSISTENCY[boundary]
    own_grid = sampling.stop_ratio is not None or sampling.grid_power != 1
    if name == "consistency":
        if boundary is None:
            raise UserError("sampler consistency needs a consistency model; this one diffuses")
        if own_grid or options:
            raise ValueError("sampler consistency takes ratios and clip_sample, nothing else")
        return ConsistencyScheduler(
            dict(train_scheduler_config), boundary, sampling.ratios, clip_sample
        )
    if sampling.ratios is not None:
        raise ValueError(
            f"ratios go with the sampler consistency, not with {name or 'the default'}"
        )
    cls, chosen = _find(name, family)
    accepted = _parameters(cls)
    if clip_sample and "clip_sample" not in accepted:
        raise ValueError(
            f"sampler {name} cannot clip: choose ddim, ddpm or heun, or leave clip_sample out"
        )
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise ValueError(f"{cls.__name__} has no option {', '.join(unknown)}")
    values = {"vp": _vp_values, "flow": _flow_values, "edm": _edm_values}[family](
        train_scheduler_config, schedule, cls
    )
    values |= {"clip_sample": clip_sample, "timestep_spacing": "trailing", "steps_offset": 0}
    if family != "edm":
        values["prediction_type"] = _spoken(cls.__name__, kind, family)
    if cls.__name__.startswith("DDPM"):
        fixed = train_scheduler_config.get("variance_type") or "fixed_small"
        fixed = "fixed_small" if "learned" in fixed else fixed
        values["variance_type"] = "learned_range" if learned_variance else fixed
    known = {key: value for key, value in values.items() if key in accepted}
    words = {**known, **chosen, **options}
    if cls.__name__ in _CUTS_TIMES and any(words.get(one) for one in _OWN_LEVELS):
        cls = _with_exact_times(cls)
        scheduler: Any = cls(**words)
        scheduler.schedule = schedule
    else:
        scheduler = cls(**words)
    if own_grid:
        stop = sampling.stop_ratio
        if not isinstance(scheduler, GridDDIMScheduler):
            word = "grid_power" if stop is None else "stop_ratio"
            raise ValueError(f"{word} goes with ddim, not with {name or cls.__name__}")
        scheduler.power = sampling.grid_power
        scheduler.last_time = None if stop is None else _time_at(schedule, stop)
    return scheduler


def spoken_kind(scheduler: Any) -> str | None:
    """The kind of output a scheduler's step expects; None where it takes the model's own (EDM)."""
    config = scheduler.config
    if type(scheduler).__name__.startswith("FlowMatch"):
        return "flow"
    if "sigma_data" in config:
        return None
    return DIFFUSERS_KINDS[config.get("prediction_type", "epsilon")]


def _time_at(schedule: Schedule, ratio: float) -> int:
    assert isinstance(schedule, VPSchedule)
    lowest, highest = (
        float(schedule.ratio(torch.tensor(t))) for t in (0, schedule.n_train_timesteps - 1)
    )
    if not lowest <= ratio < highest:
        raise ValueError(f"stop_ratio must lie in [{lowest:.3g}, {highest:.3g}), got {ratio}")
    return int(schedule.time_of_ratio(torch.tensor(ratio, dtype=torch.float64)).round())


def _find(name: str | None, family: str) -> tuple[type, dict[str, Any]]:
    name = DEFAULTS[family] if name is None else name
    if name not in NAMES:
        return _own_class(name) if ".py:" in name else _class_of_diffusers(name), {}
    if family not in NAMES[name]:
        fitting = ", ".join(known for known, families in NAMES.items() if family in families)
        raise UserError(
            f"sampler {name!r} does not go with this model's {family} schedule; "
            f"choose one of {fitting}"
        )
    class_name, chosen = NAMES[name][family]
    cls = GridDDIMScheduler if name == "ddim" else getattr(diffusers, class_name)
    return cls, chosen


def name_in_files(name: str) -> str:
    """A sampler's name as part of a file's: `path/to/fast.py:Fast` is `fast-Fast`."""
    file, _, cls = name.rpartition(":")
    return f"{Path(file).stem}-{cls}" if file.endswith(".py") else name


def _own_class(name: str) -> type:
    cls = load_from_file(name, "sampler")
    missing = [one for one in ("set_timesteps", "step", "config") if not hasattr(cls, one)]
    if not isinstance(cls, type) or missing:
        raise UserError(
            f"sampler {name} is no scheduler as of diffusers"
            + (f": it has no {', '.join(missing)}" if missing else "")
        )
    return cls


def _class_of_diffusers(name: str) -> type:
    cls: Any = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    try:
        is_one = isinstance(cls, type) and hasattr(cls, "step")
    except ImportError as error:  # diffusers' own stand-in for a class that needs more
        raise UserError(f"sampler {name}: {' '.join(str(error).split())}") from error
    if not is_one:
        known = [*NAMES, "a scheduler class of diffusers"]
        raise UserError(f"unknown sampler {name!r}{did_you_mean(name, known)}")
    return cls


def _spoken(class_name: str, kind: str, family: str) -> str:
    if family == "flow":
        return "flow_prediction"
    kind = _spoken_vp(kind)
    return "v_prediction" if kind == "x0" and class_name in _NO_X0 else _WORDS[kind]


def _spoken_vp(kind: str) -> str:
    # no VP scheduler knows flow words: such a model speaks v to it, which is defined at every t
    return "v" if kind == "flow" else kind


def _vp_values(config: Mapping[str, Any], schedule: Schedule, cls: type) -> dict[str, Any]:
    assert isinstance(schedule, VPSchedule)
    if "trained_betas" not in _parameters(cls):
        raise UserError("this sampler takes no betas, so it cannot follow a DDPM-type schedule")
    values = {
        "num_train_timesteps": schedule.n_train_timesteps,
        "clip_sample_range": config.get("clip_sample_range") or 1.0,
        "trained_betas": betas_of(config),
        # of LCM: the grid that its steps are taken from cannot be finer than the table
        "original_inference_steps": min(50, schedule.n_train_timesteps),
    }
    if schedule.zero_terminal_snr and cls.__name__ in _EXACT_AT_ZERO:
        values["rescale_betas_zero_snr"] = True  # from zero to zero again where it is already
    elif schedule.zero_terminal_snr:
        steps_left = torch.arange(schedule.n_train_timesteps).flip(0).clamp(max=9)
        floor = 2.0**-24 * 1.1 ** steps_left.double()
        values["trained_betas"] = betas_for(schedule.alphas_cumprod.maximum(floor))
    return values


def _flow_values(config: Mapping[str, Any], schedule: Schedule, cls: type) -> dict[str, Any]:
    assert isinstance(schedule, FlowSchedule)
    if not {"shift", "use_flow_sigmas"} & set(_parameters(cls)):
        raise UserError("this sampler cannot follow a flow schedule; try flow_euler")
    n_times = schedule.n_train_timesteps
    if cls.__name__ in _CUTS_TIMES:
        n_times = max(n_times, _FINEST_FLOW)
    return {
        "num_train_timesteps": n_times,
        "shift": schedule.shift,
        "flow_shift": schedule.shift,
        "use_flow_sigmas": True,
    }


def _edm_values(config: Mapping[str, Any], schedule: Schedule, cls: type) -> dict[str, Any]:
    assert isinstance(schedule, EDMSchedule)
    if "sigma_data" not in _parameters(cls):
        raise UserError("this sampler knows no EDM preconditioning; try euler_edm")
    return {
        "num_train_timesteps": schedule.n_train_timesteps,
        "sigma_data": schedule.sigma_data,
        "sigma_min": schedule.sigma_min,
        "sigma_max": schedule.sigma_max,
        "prediction_type": config.get("prediction_type") or "epsilon",
        "sigma_schedule": config.get("sigma_schedule") or "karras",
        "rho": config.get("rho") or 7.0,
        "final_sigmas_type": config.get("final_sigmas_type") or "zero",
    }


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls.__init__).parameters
