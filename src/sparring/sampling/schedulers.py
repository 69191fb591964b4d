r"""diffusers' samplers, built from the schedule a model was trained with.

A name of `samplers` stands for one class per family of schedules: VP (DDPM's betas), flow matching
and EDM. Any class name of diffusers works too, and a class of the user's own file.

What is chosen here, and why:

- The betas are handed over number by number (`trained_betas`): defaults are not carried over
  between classes, and they differ (Heun's betas are not DDPM's).
- `timestep_spacing` is "trailing" with `steps_offset` 0. It starts at T - 1, where training ends,
  visits only integer times, and is the one spacing that works for every class up to n = T: with
  "linspace" DDIM's steps and grid disagree, and with "leading" DPM++ and UniPC start ever further
  from pure noise as n grows (Lin et al. 2024 recommend it too).
- `clip_sample` is false unless asked for (DDIM's and DDPM's own default is true, which ruins
  anything outside [-1, 1]); `sample` asks for it on images.
- A zero terminal SNR is carried over. Samplers that divide by alpha start at sigma/alpha = 2^12,
  as in diffusers, but on a table that falls towards it: diffusers floors the last entry only, so
  that sigma goes 4096, 15406, 7668, ... and Euler's spread comes out 3.7 times too large.
- DDIM goes to the next time of its grid. diffusers' own goes back T // n, which is elsewhere when
  n does not divide T: at n = 300 the spread of a Gaussian comes out 6 % too large, not 1 % small.
"""

import functools
import importlib
import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch

from ..diffusion.denoiser import Denoiser
from ..diffusion.parametrization import DIFFUSERS_KINDS
from ..diffusion.schedules import (
    FlowSchedule,
    Schedule,
    VPSchedule,
    betas_for,
    betas_of,
    schedule_from_config,
)
from ..support.errors import UserError, did_you_mean
from ..support.user_code import load_from_file
from . import samplers
from .settings import Sampling

_CONSISTENCY = {"ddim": "consistency", "lcm": "lcm"}  # boundary of a consistency model -> sampler
OF_FEW = ("stop_ratio", "grid_power", "ratios")  # settings that few samplers take
DEFAULTS = {"vp": "ddim", "flow": "flow_euler", "edm": "euler_edm"}

# Classes of diffusers without the word Scheduler, and what is made of them.
# They know epsilon and v_prediction only; an x0-model speaks v to them (see `sample`).
_NO_X0 = ("EulerAncestralDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "PNDM")
# They keep abar = 0 as it is.
_EXACT_AT_ZERO = ("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "LCM", "TCD")
# They round the times of noise levels that are none of the table's.
_MULTISTEP = ("DEISMultistep", "DPMSolverMultistep", "UniPCMultistep")
_CUTS_TIMES = (*_MULTISTEP, "DPMSolverSinglestep", "SASolver")
_OWN_LEVELS = ("flow_sigmas", "karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")
_FINEST_FLOW = 1000  # a flow's grid of a multistep sampler ends at 1 / 1000 for any T
_WORDS = {kind: word for word, kind in DIFFUSERS_KINDS.items()}


@functools.cache
def _with_exact_times(cls: type) -> type:
    """A multistep sampler whose network is told the time at which its noise level lies.
    diffusers cuts these times to integers where the levels are not a table's own: the network
    believes another noise, and of two levels at one time the sampler takes the wrong one."""

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
    name, options = sampling.scheduler, sampling.scheduler_options or {}
    if name is None:
        name = DEFAULTS[family] if boundary is None else _CONSISTENCY[boundary]
    cls, chosen = _find(name, family)
    accepted = _parameters(cls)
    if sampling.clip_sample and "clip_sample" not in accepted:
        advice = "choose ddim, ddpm or heun, or sampling.clip_sample=false"
        raise ValueError(f"sampler {name} cannot clip: {advice}")
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise ValueError(f"{cls.__name__} has no option {', '.join(unknown)}")
    settings = getattr(cls, "settings", ())
    for key in OF_FEW:
        if getattr(sampling, key) != getattr(Sampling, key) and key not in _takes(cls):
            own = [one for one in samplers.names() if one not in samplers.OF_DIFFUSERS]
            takers = [one for one in own if key in _takes(_class_in_file(one))]
            raise ValueError(f"{key} is a setting of {' and '.join(takers)}, not of {name}")
    values: dict[str, Any] = {
        "train_scheduler_config": dict(train_scheduler_config),
        "boundary": boundary,
        "ratios": sampling.ratios,
        "clip_sample": bool(sampling.clip_sample),
        "timestep_spacing": "trailing",
        "steps_offset": 0,
    }
    if "train_scheduler_config" not in accepted:
        values |= _of_schedule(train_scheduler_config, schedule, cls)
    if family != "edm":
        values["prediction_type"] = _spoken(cls, kind, family)
    if cls.__name__.startswith("DDPM"):
        fixed = train_scheduler_config.get("variance_type") or "fixed_small"
        fixed = "fixed_small" if "learned" in fixed else fixed
        values["variance_type"] = "learned_range" if learned_variance else fixed
    known = {key: value for key, value in values.items() if key in accepted}
    words = {**known, **chosen, **options}
    own_levels = any(words.get(f"use_{one}") for one in _OWN_LEVELS)
    cuts_times = own_levels and _is_any(cls, _CUTS_TIMES)
    scheduler: Any = (_with_exact_times(cls) if cuts_times else cls)(**words)
    if cuts_times or settings:
        scheduler.schedule = schedule
    for key in settings:
        setattr(scheduler, key, getattr(sampling, key))
    return scheduler


def spoken_kind(scheduler: Any) -> str | None:
    """The kind of output a scheduler's step expects; None where it takes the model's own (EDM)."""
    config = scheduler.config
    if type(scheduler).__name__.startswith("FlowMatch"):
        return "flow"
    if "sigma_data" in config:
        return None
    return DIFFUSERS_KINDS[config.get("prediction_type", "epsilon")]


def _find(name: str, family: str) -> tuple[type, dict[str, Any]]:
    """The class that goes by the name in this family, and what its constructor is told."""
    if name not in samplers.names():
        return _own_class(name) if ".py:" in name else _class_of_diffusers(name), {}
    if family not in families_of(name):
        fitting = ", ".join(one for one in samplers.names() if family in families_of(one))
        unlike = f"sampler {name!r} does not go with this model's {family} schedule"
        raise UserError(f"{unlike}; choose one of {fitting}")
    if name in samplers.OF_DIFFUSERS:
        class_name, chosen = samplers.OF_DIFFUSERS[name][family]
        return getattr(diffusers, class_name), chosen
    return _class_in_file(name), {}


def families_of(name: str) -> Collection[str]:
    """Families of the schedules that a sampler of ours follows."""
    of_diffusers = samplers.OF_DIFFUSERS.get(name)
    return _class_in_file(name).families if of_diffusers is None else of_diffusers


def _class_in_file(name: str) -> Any:
    """The one class of a file of the room `samplers`."""
    module = importlib.import_module(f"{samplers.__name__}.{name}")
    (found,) = (
        each
        for each in vars(module).values()
        if inspect.isclass(each) and hasattr(each, "step") and each.__module__ == module.__name__
    )
    return found


def name_in_files(name: str) -> str:
    """A sampler's name as part of a file's: `path/to/fast.py:Fast` is `fast-Fast`."""
    file, _, cls = name.rpartition(":")
    return f"{Path(file).stem}-{cls}" if file.endswith(".py") else name


def _own_class(name: str) -> type:
    cls = load_from_file(name, "sampler")
    missing = [one for one in ("set_timesteps", "step", "config") if not hasattr(cls, one)]
    if not isinstance(cls, type) or missing:
        why = f": it has no {', '.join(missing)}" if missing else ""
        raise UserError(f"sampler {name} is no scheduler as of diffusers{why}")
    return cls


def _class_of_diffusers(name: str) -> type:
    cls: Any = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    try:
        is_one = isinstance(cls, type) and hasattr(cls, "step")
    except ImportError as error:  # diffusers' own stand-in for a class that needs more
        raise UserError(f"sampler {name}: {' '.join(str(error).split())}") from error
    if not is_one:
        known = [*samplers.names(), "a scheduler class of diffusers"]
        raise UserError(f"unknown sampler {name!r}{did_you_mean(name, known)}")
    return cls


def _spoken(cls: type, kind: str, family: str) -> str:
    if family == "flow":
        return "flow_prediction"
    # no VP scheduler knows flow words: such a model speaks v to it, which is defined at every t
    speaks_v = kind == "flow" or (kind == "x0" and _is_any(cls, _NO_X0))
    return _WORDS["v" if speaks_v else kind]


def _of_schedule(config: Mapping[str, Any], schedule: Schedule, cls: type) -> dict[str, Any]:
    """What a class of diffusers is told of the schedule that the model was trained with."""
    accepted, n_steps = _parameters(cls), schedule.n_train_timesteps
    if isinstance(schedule, VPSchedule):
        return _of_table(config, schedule, cls)
    if isinstance(schedule, FlowSchedule):
        if not {"shift", "use_flow_sigmas"} & set(accepted):
            raise UserError("this sampler cannot follow a flow schedule; try flow_euler")
        n_steps = max(n_steps, _FINEST_FLOW * _is_any(cls, _CUTS_TIMES))
        shifts = dict.fromkeys(("shift", "flow_shift"), schedule.shift)
        return {"num_train_timesteps": n_steps, **shifts, "use_flow_sigmas": True}
    if "sigma_data" not in accepted:
        raise UserError("this sampler knows no EDM preconditioning; try euler_edm")
    return {
        "num_train_timesteps": n_steps,
        **{word: getattr(schedule, word) for word in ("sigma_data", "sigma_min", "sigma_max")},
        "prediction_type": config.get("prediction_type") or "epsilon",
        "sigma_schedule": config.get("sigma_schedule") or "karras",
        "rho": config.get("rho") or 7.0,
        "final_sigmas_type": config.get("final_sigmas_type") or "zero",
    }


def _of_table(config: Mapping[str, Any], schedule: VPSchedule, cls: type) -> dict[str, Any]:
    if "trained_betas" not in _parameters(cls):
        raise UserError("this sampler takes no betas, so it cannot follow a DDPM-type schedule")
    values = {
        "num_train_timesteps": schedule.n_train_timesteps,
        "clip_sample_range": config.get("clip_sample_range") or 1.0,
        "trained_betas": betas_of(config),
        # of LCM: the grid that its steps are taken from cannot be finer than the table
        "original_inference_steps": min(50, schedule.n_train_timesteps),
    }
    if schedule.zero_terminal_snr and _is_any(cls, _EXACT_AT_ZERO):
        values["rescale_betas_zero_snr"] = True  # from zero to zero again where it is already
    elif schedule.zero_terminal_snr:
        steps_left = torch.arange(schedule.n_train_timesteps).flip(0).clamp(max=9)
        floor = 2.0**-24 * 1.1 ** steps_left.double()
        values["trained_betas"] = betas_for(schedule.alphas_cumprod.maximum(floor))
    return values


def _takes(cls: type) -> set[str]:
    return {*_parameters(cls), *getattr(cls, "settings", ())}


def _is_any(cls: type, names: Collection[str]) -> bool:
    """Whether a class, or one that it is made of, has one of these names."""
    return any(one.__name__.removesuffix("Scheduler") in names for one in cls.__mro__)


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls.__init__).parameters
