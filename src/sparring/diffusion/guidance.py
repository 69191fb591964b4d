"""A network that is told the guidance scale, so that one call does what two did."""

from typing import Any

import torch
from torch import Tensor, nn

from .denoiser import unwrapped

DIM = 256  # time_cond_proj_dim of latent consistency models


def guidance_embedding(guidance: Tensor, dim: int) -> Tensor:
    r"""Guidance scales w (B,) as LCM's networks are told them, (B, dim), dim even.

    [sin(1000 (w - 1) f_i), cos(1000 (w - 1) f_i)],  f_i = 10000^{-i / (dim/2 - 1)}

    Source: Luo et al. 2023; diffusers' `get_guidance_scale_embedding`.
    """
    half = dim // 2
    i = torch.arange(half, dtype=torch.float64)  # on the CPU: the angles need it
    angle = 1000 * (guidance.cpu().double() - 1)[:, None] * 10000 ** (-i / (half - 1))
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(guidance)


def guidance_dim(network: nn.Module) -> int | None:
    """time_cond_proj_dim of a network, wrapped or not; None if it is not told the scale."""
    return getattr(getattr(unwrapped(network), "config", None), "time_cond_proj_dim", None)


def with_guidance_embedding(network: nn.Module, dim: int = DIM) -> nn.Module:
    """The same U-Net of diffusers with an input for the guidance scale, which counts for nothing
    yet; `dim` is its time_cond_proj_dim. Raises ValueError if its class has no such input."""
    found: Any = network
    if "time_cond_proj_dim" not in getattr(found, "config", {}):
        raise ValueError(f"{type(network).__name__} cannot be told a guidance scale")
    if found.config["time_cond_proj_dim"] is not None:
        return network
    told = type(found).from_config({**found.config, "time_cond_proj_dim": dim})
    told.load_state_dict({**told.state_dict(), **found.state_dict()})
    # diffusers' script leaves it at random: the student would not start as its teacher
    nn.init.zeros_(told.time_embedding.cond_proj.weight)
    return told.to(next(network.parameters()).dtype)
