"""`Denoiser`: any network as an estimate of the data and of the noise, in any parametrisation."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .parametrization import KINDS, Pair, Prediction, column, edm_pair
from .precision import multiplies
from .schedules import EDMSchedule, Schedule, VPSchedule


class Denoiser(nn.Module):
    """A network, its schedule and its parametrisation.

    `denoiser(x_t, t, **condition)` gives a `Prediction`: ask it for `.x0`, `.eps`, `.v`.

    Args:
        network: A diffusers model (UNet2DModel, UNet2DConditionModel, DiT, SD3 and other
            transformers) or a module called as network(x, t, **condition); t keeps its dtype.
        schedule: Says what alpha and sigma are at t.
        kind: What the network predicts: "eps", "x0", "v", "flow", "edm" or "edm_v".
        learned_variance: Whether the output has twice the channels, the second half being the
            learned-range variance (Nichol & Dhariwal 2021).
        null_condition: What an unconditional row is given, by the network's argument names:
            a number (the null class) or a tensor (1, ...), for guidance and label dropout.
        boundary: For a consistency model, how its function is made of the network's answer, see
            `Jump`; None for a diffusion model.
        autocast: The short dtype that the network is called in where the device multiplies it in
            hardware, as it was trained; None: that of its weights. Float64 stays as it is.

    Raises:
        ValueError: for an unknown kind, eps with a zero terminal SNR, or EDM preconditioning on
            another schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        kind: str = "eps",
        *,
        learned_variance: bool = False,
        null_condition: Mapping[str, Any] | None = None,
        boundary: str | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        is_edm = kind in ("edm", "edm_v")
        if kind not in KINDS and not is_edm:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, edm, edm_v, got {kind!r}")
        if is_edm != isinstance(schedule, EDMSchedule):
            raise ValueError("EDM preconditioning and EDMSchedule go together, one needs the other")
        if kind == "eps" and isinstance(schedule, VPSchedule) and schedule.zero_terminal_snr:
            raise ValueError("eps-prediction is undefined at zero terminal SNR; use v or x0")
        self.network, self.schedule, self.kind = network, schedule, kind
        self.learned_variance = learned_variance
        self.null_condition, self.boundary = dict(null_condition or {}), boundary
        self.autocast = autocast
        # read off the bare network once: a compiled or distributed wrapper hides its signature
        self._is_diffusers = "return_dict" in inspect.signature(network.forward).parameters

    def forward(self, x_t: Tensor, t: Tensor, **condition: Any) -> Prediction:
        """What the network says about x_t (B, *) at t (B,), times as the model receives them;
        `condition` are its further arguments, such as class_labels (B,)."""
        alpha, sigma = self.schedule.at(t, like=x_t)
        output = self.output(self.schedule.input_scale(sigma) * x_t, t, **condition)
        variance = None
        if self.learned_variance:
            output, variance = output.chunk(2, dim=1)
        a, b = self.pair(alpha, sigma)
        return Prediction(x_t, output, alpha, sigma, a, b, variance)

    def output(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """The raw output for an input that is scaled already, in x's dtype."""
        short = self.precision(x)
        with nullcontext() if short == x.dtype else torch.autocast(x.device.type, short):
            if self._is_diffusers:
                output = self.network(x, timestep=t, **condition, return_dict=False)[0]
            else:
                output = self.network(x, t, **condition)
        return output.to(x.dtype)

    def precision(self, x: Tensor) -> torch.dtype:
        """The dtype that the network multiplies an input in."""
        if self.autocast is None or x.dtype != torch.float32:
            return x.dtype
        return self.autocast if multiplies(self.autocast, x.device.type) else x.dtype

    def pair(self, alpha: Tensor, sigma: Tensor) -> Pair:
        """The parametrisation's two numbers: output = a x0 + b eps."""
        if isinstance(self.schedule, EDMSchedule):
            a, b = edm_pair(alpha, sigma, self.schedule.sigma_data)
            return (-a, -b) if self.kind == "edm_v" else (a, b)  # diffusers' c_out < 0 for v
        return KINDS[self.kind](alpha, sigma)

    def drop_condition(self, condition: Mapping[str, Any], dropped: Tensor) -> dict[str, Any]:
        """The condition with the null condition in the rows where `dropped` (B,) is true.
        What a nested null condition does not name stays, such as the sizes that XL is told. Raises
        ValueError if the denoiser has no null condition for one of the names."""
        missing = [name for name in condition if name not in self.null_condition]
        if missing:
            raise ValueError(f"no null_condition for {', '.join(missing)}: label dropout needs one")

        def swap(value: Tensor, null: Any) -> Tensor:
            null = torch.as_tensor(null, device=value.device).to(value.dtype)
            return torch.where(column(dropped.to(value.device), value), null, value)

        found: dict[str, Any] = {}
        for name, value in condition.items():
            null = self.null_condition[name]
            found[name] = (
                {key: swap(own, null[key]) if key in null else own for key, own in value.items()}
                if isinstance(value, Mapping)
                else swap(value, null)
            )
        return found

    def bind(
        self, t: Tensor, condition: Mapping[str, Any], rows: Tensor | None = None
    ) -> Callable[[Tensor], Prediction]:
        """The denoiser as a function of x_t alone, for all rows or for the chosen ones."""
        if rows is not None:
            t, condition = t[rows], tree_map(lambda value: value[rows], dict(condition))
        return lambda x_t: self(x_t, t, **condition)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network without the wrappers of torch.compile and of several processes."""
    while hasattr(network, "_orig_mod") or type(network).__name__ == "DistributedDataParallel":
        network = getattr(network, "_orig_mod", None) or network.module  # pyright: ignore
    return network


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside: no weight gradients, under torch.compile neither."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule is in the mode it was in."""
    with dropout_of(module) as switch:
        switch(False)
        yield


@contextmanager
def dropout_of(module: nn.Module) -> Iterator[Callable[[bool], None]]:
    """A switch of dropout and whatever else a network does in training only; it ends as it was."""
    training = [one for one in module.modules() if one.training]

    def switch(on: bool) -> None:
        for one in training:
            one.training = on

    try:
        yield switch
    finally:
        switch(True)


class SharedDropout:
    """Several forward passes with one dropout mask, as if they were one: all start from torch's
    random state at the first; afterwards the generator stands where one pass leaves it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._state: tuple[Tensor, Tensor | None] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        on_gpu = self._device.type == "cuda"
        if self._state is None:
            gpu = torch.cuda.get_rng_state(self._device) if on_gpu else None
            self._state = torch.get_rng_state(), gpu
        else:
            torch.set_rng_state(self._state[0])
            if self._state[1] is not None:
                torch.cuda.set_rng_state(self._state[1], self._device)
        yield
