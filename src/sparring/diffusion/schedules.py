r"""Schedules are functions of t: x_t = alpha(t) x0 + sigma(t) eps.

t is time as the model receives it, and t grows with the noise:

- `VPSchedule`: integer t in 0..T-1, alpha = sqrt(abar_t), sigma = sqrt(1 - abar_t) (DDPM family);
- `FlowSchedule`: t in (0, T], sigma = t / T, alpha = 1 - sigma (rectified flow, SD3);
- `EDMSchedule`: t = ln(sigma) / 4, alpha = 1 (Karras et al. 2022).

`schedule_from_config` reads any of them off a diffusers scheduler's config.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .noising import on_device, wide
from .parametrization import DIFFUSERS_KINDS, column

# keeps ln(sigma/alpha) finite where the terminal SNR is zero
_TINY_ABAR = 2.0**-40


class Schedule(ABC):
    """alpha and sigma as functions of t. Immutable; results have t's shape and device, and are
    float64 on the CPU and float32 elsewhere (`noising.wide`)."""

    n_train_timesteps: int

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at t, shape of t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at t, shape of t."""

    @abstractmethod
    def times(self, u: Tensor) -> Tensor:
        """Training times for u uniform in [0, 1): uniform in t (EDM: in ln sigma), shape of u."""

    @abstractmethod
    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        """The t at which sigma/alpha equals `ratio`, clamped to the schedule's range."""

    def ratio(self, t: Tensor) -> Tensor:
        """Noise level of the sample in data units, sigma/alpha, shape of t."""
        return self.sigma(t) / self.alpha(t)

    def input_scale(self, sigma: Tensor) -> Tensor | float:
        """What x_t is multiplied by before it enters the network (1 but for EDM)."""
        return 1.0

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t), each shaped (B, 1, ...) with the dtype and device of `like`."""
        t = on_device(t, like.device)
        alpha, sigma = self.alpha(t).to(like.dtype), self.sigma(t).to(like.dtype)
        return column(alpha, like), column(sigma, like)


class VPSchedule(Schedule):
    """The variance-preserving table of the DDPM family: `alphas_cumprod` is abar_t, t = 0..T-1.
    Between integers, ln(sigma/alpha) is interpolated linearly, as diffusers does in `_sigma_to_t`.
    Raises ValueError for fewer than two times, or abar that leaves [0, 1] or does not fall."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        self.alphas_cumprod = alphas_cumprod.detach().to("cpu", torch.float64)
        abar = self.alphas_cumprod
        if len(abar) < 2:
            raise ValueError(f"num_train_timesteps must be at least 2, got {len(abar)}")
        in_range = bool(((abar >= 0) & (abar < 1)).all())  # false for NaN too
        if not in_range or not (abar[1:] < abar[:-1]).all():
            advice = "change beta_start, beta_end or trained_betas"
            raise ValueError(f"betas must lie in (0, 1) and the signal fall each time: {advice}")
        self.n_train_timesteps = len(alphas_cumprod)
        self.zero_terminal_snr = bool(abar[-1] == 0)  # the last step holds no signal at all
        self._tables = {
            "alpha": abar.sqrt(),
            "sigma": (1 - abar).sqrt(),
            "log_ratio": (1 / abar.clamp(min=_TINY_ABAR) - 1).log() / 2,
        }
        self._on_device: dict[tuple[str, torch.device], Tensor] = {}

    def alpha(self, t: Tensor) -> Tensor:
        return self._lookup(t, "alpha")

    def sigma(self, t: Tensor) -> Tensor:
        return self._lookup(t, "sigma")

    def times(self, u: Tensor) -> Tensor:
        return (wide(u) * self.n_train_timesteps).long().clamp(max=self.n_train_timesteps - 1)

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        knots = self._table("log_ratio", ratio.device)
        log_ratio = wide(ratio).clamp(min=1e-12).log().clamp(knots[0], knots[-1])
        high = torch.searchsorted(knots, log_ratio).clamp(1, self.n_train_timesteps - 1)
        low = high - 1
        return low + (log_ratio - knots[low]) / (knots[high] - knots[low])

    def _lookup(self, t: Tensor, what: str) -> Tensor:
        low = t.floor().long() if t.is_floating_point() else t
        last = self.n_train_timesteps - 1
        # on a GPU the check would wait for the device, and indexing out of range stops there anyway
        if t.device.type == "cpu" and t.numel() and (low.min() < 0 or low.max() > last):
            raise ValueError(f"t must lie in [0, {last}], got {t.min()} to {t.max()}")
        exact = self._table(what, t.device)[low]
        if not t.is_floating_point():
            return exact
        knots = self._table("log_ratio", t.device)
        high, share = (low + 1).clamp(max=last), wide(t) - low
        ratio = torch.lerp(knots[low], knots[high], share).exp()
        between = 1 / (1 + ratio**2).sqrt() * (1.0 if what == "alpha" else ratio)
        return torch.where(share == 0, exact, between)

    def _table(self, name: str, device: torch.device) -> Tensor:
        if (name, device) not in self._on_device:
            self._on_device[name, device] = on_device(self._tables[name], device)
        return self._on_device[name, device]


class FlowSchedule(Schedule):
    """Rectified flow: sigma = t / T, alpha = 1 - sigma.

    Args:
        shift: Resolution shift of SD3, sigma -> shift sigma / (1 + (shift - 1) sigma), applied to
            the training times and to sampling grids; 1 leaves them uniform.
        n_train_timesteps: T, the scale of the times the network sees.

    Source: Esser et al. 2024, section 5.3.2.
    """

    def __init__(self, shift: float = 1.0, n_train_timesteps: int = 1000) -> None:
        if shift <= 0:
            raise ValueError(f"shift must be > 0, got {shift}")
        self.shift, self.n_train_timesteps = shift, n_train_timesteps

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - self.sigma(t)

    def sigma(self, t: Tensor) -> Tensor:
        return wide(t) / self.n_train_timesteps

    def times(self, u: Tensor) -> Tensor:
        # 1 - u lies in (0, 1]: sigma = 0 is no training time, pure noise is one
        return self.shifted(1 - wide(u)) * self.n_train_timesteps

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        ratio = wide(ratio)
        return ratio / (1 + ratio) * self.n_train_timesteps

    def shifted(self, sigma: Tensor) -> Tensor:
        """sigma after the resolution shift."""
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)


class EDMSchedule(Schedule):
    """Variance exploding with EDM's preconditioning: alpha = 1, t = ln(sigma) / 4.

    Args:
        sigma_data: Standard deviation of the data, in data units.
        sigma_min, sigma_max: Range of the noise scale, in data units.

    Source: Karras et al. 2022, table 1.
    """

    def __init__(
        self,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        n_train_timesteps: int = 1000,
    ) -> None:
        if not 0 < sigma_min < sigma_max or sigma_data <= 0:
            got = f"{sigma_min}, {sigma_max}, {sigma_data}"
            raise ValueError(f"EDM needs 0 < sigma_min < sigma_max and sigma_data > 0, got {got}")
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, sigma_min, sigma_max
        self.n_train_timesteps = n_train_timesteps

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(wide(t))

    def sigma(self, t: Tensor) -> Tensor:
        return (4 * wide(t)).exp()

    def times(self, u: Tensor) -> Tensor:
        ends = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64).log() / 4
        low, high = on_device(ends, u.device)
        return low + (high - low) * wide(u)

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return wide(ratio).clamp(self.sigma_min, self.sigma_max).log() / 4

    def input_scale(self, sigma: Tensor) -> Tensor:
        return 1 / (sigma**2 + self.sigma_data**2).sqrt()


_UNUSED_OF_FLOW = (
    "shift_terminal", "invert_sigmas", "stochastic_sampling", "use_karras_sigmas",
    "use_exponential_sigmas", "use_beta_sigmas",
)  # fmt: skip
"""Options of diffusers' flow schedulers that neither training nor sampling here follow."""


def schedule_from_config(config: Mapping[str, Any]) -> Schedule:
    """The schedule of a diffusers scheduler, from its `.config`, or scheduler_config.json's words.

    Only what defines the noise is read: the betas (or `trained_betas`), the flow shift, or EDM's
    sigmas. Raises ValueError if the config belongs to no schedule of these three families, holds a
    text for a number, or pairs eps-prediction with a zero terminal SNR.
    """
    check_numbers(config)
    n_steps = config.get("num_train_timesteps", 1000)
    if _is_flow(config):
        if config.get("use_dynamic_shifting"):
            raise ValueError("dynamic shifting depends on the image size: set shift and use that")
        unused = [word for word in _UNUSED_OF_FLOW if config.get(word)]
        if unused and _class_name(config).startswith("FlowMatch"):
            raise ValueError(
                f"{unused[0]} changes how a flow is sampled, and sparring would sample without: "
                "leave it out"
            )
        return FlowSchedule(config.get("shift", config.get("flow_shift", 1.0)), n_steps)
    if _is_edm(config):
        names = ("sigma_data", "sigma_min", "sigma_max")
        own = {name: config[name] for name in names if name in config}
        return EDMSchedule(**own, n_train_timesteps=n_steps)
    is_table = {"beta_schedule", "beta_start", "trained_betas"} & set(config)
    if not is_table and not config.get("_class_name"):
        raise ValueError("this scheduler config holds neither betas, nor a flow shift, nor EDM")
    schedule = VPSchedule(_alphas_cumprod(config))
    if schedule.zero_terminal_snr and kind_from_config(config) == "eps":
        raise ValueError(
            "a schedule with zero terminal SNR cannot be used with prediction_type=epsilon: "
            "at the last step the noise says nothing about x0; use v_prediction or sample"
        )
    return schedule


def config_from_schedule(schedule: Schedule, kind: str) -> dict[str, Any]:
    """A training scheduler's config for a schedule that came without one."""
    if isinstance(schedule, VPSchedule):
        name, words = "DDPMScheduler", {kind: word for word, kind in DIFFUSERS_KINDS.items()}
        own = {
            "trained_betas": betas_for(schedule.alphas_cumprod),
            "prediction_type": words["v" if kind == "flow" else kind],  # no VP scheduler says flow
        }
    elif isinstance(schedule, FlowSchedule):
        name, own = "FlowMatchEulerDiscreteScheduler", {"shift": schedule.shift}
    elif isinstance(schedule, EDMSchedule):
        name, words = "EDMEulerScheduler", ("sigma_data", "sigma_min", "sigma_max")
        own = {word: getattr(schedule, word) for word in words}
        own["prediction_type"] = "v_prediction" if kind == "edm_v" else "epsilon"
    else:
        raise ValueError(f"no scheduler of diffusers follows {type(schedule).__name__}")
    return {"_class_name": name, "num_train_timesteps": schedule.n_train_timesteps, **own}


def kind_from_config(config: Mapping[str, Any]) -> str:
    """The parametrisation a diffusers scheduler config stands for: eps, x0, v, flow, edm, edm_v."""
    if _is_edm(config):
        return "edm_v" if config.get("prediction_type") == "v_prediction" else "edm"
    if _is_flow(config):
        return "flow"
    word = config.get("prediction_type", "epsilon")
    if word not in DIFFUSERS_KINDS:
        known = ", ".join(DIFFUSERS_KINDS)
        raise ValueError(f"prediction_type must be one of {known}, got {word!r}")
    return DIFFUSERS_KINDS[word]


def check_numbers(config: Mapping[str, Any]) -> None:
    """Refuse what torch would refuse in fifteen lines, or take as another number."""
    numbers = ("beta_start", "beta_end", "shift", "sigma_data", "sigma_min", "sigma_max")
    for name in ("num_train_timesteps", *numbers):
        value, kinds = config.get(name), (int, float) if name in numbers else int
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            wanted = "a number" if name in numbers else "a whole number"
            raise ValueError(f"{name} must be {wanted}, got {value!r:.60}")


def betas_of(config: Mapping[str, Any]) -> list[float]:
    """The betas of a config before any rescaling, as diffusers makes them."""
    n_steps = config.get("num_train_timesteps") or 1000
    return _table_of({**config, "rescale_betas_zero_snr": None}, n_steps).betas.tolist()


def betas_for(alphas_cumprod: Tensor) -> list[float]:
    """beta_t = 1 - abar_t / abar_{t-1}, whose running product is abar again."""
    abar = alphas_cumprod.double()
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    return (1 - abar / before).tolist()


def _class_name(config: Mapping[str, Any]) -> str:
    return str(config.get("_class_name", ""))


def _is_edm(config: Mapping[str, Any]) -> bool:
    return "sigma_data" in config or _class_name(config).startswith("EDM")


def _is_flow(config: Mapping[str, Any]) -> bool:
    return (
        _class_name(config).startswith("FlowMatch")
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
        or ("shift" in config and "beta_schedule" not in config)
    )


def _table_of(config: Mapping[str, Any], n_steps: int) -> Any:
    """DDPMScheduler, which knows every beta schedule of diffusers; the rest is not read."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    words = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    chosen = {word: config[word] for word in words if config.get(word) is not None}
    return DDPMScheduler(num_train_timesteps=n_steps, **chosen)


def _alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    n_steps = config.get("num_train_timesteps", 1000)
    if config.get("trained_betas") is not None:
        n_betas = len(config["trained_betas"])
        if config.get("num_train_timesteps", n_betas) != n_betas:
            unlike = f"{n_betas} numbers and num_train_timesteps is {n_steps}"
            raise ValueError(f"trained_betas are {unlike}: set it to {n_betas}")
        n_steps = n_betas
    try:
        return _table_of(config, n_steps).alphas_cumprod
    except NotImplementedError as error:
        raise ValueError(f"unknown beta_schedule {config.get('beta_schedule')!r}") from error
