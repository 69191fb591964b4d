r"""How often each image comes in training: clean ones more often, where they are few.

    often = sparring.how_often(columns, (1, 8, 8), schedule)         # of `sparring export`
    sampler = WeightedRandomSampler(often, len(often))               # of torch.utils.data

An image is needed at every noise level at which it teaches. A clean one teaches everywhere, and
where few are clean nobody else does at low noise.

Source: ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.trust.trusted import known
from ..diffusion.randomness import StepRandom
from ..diffusion.schedules import Schedule
from .own_noise import EASE, teaching_levels
from .times import Times, Uniform

FEW = 200.0  # images that are enough at a noise level
N_TIMES = 4096  # times of which it is known how often an image is wanted


def how_often(
    columns: Mapping[str, Any],
    sample_shape: Sequence[int],
    schedule: Schedule,
    few: float = FEW,
) -> Tensor:
    """How often each image of a set has to come where times are uniform, for anybody's own loader.

    Args:
        columns: What `sparring export` has written, by the column's name, as for
            `sparring.trusted`: of all images, (n,) numbers each.
        sample_shape: (C, H, W) of the images.
        schedule: The noise schedule that is trained with.
        few: So many images are enough at a noise level.

    Returns:
        Shares of the rows, (n,), float64; 0 for images that never teach, unless none does.

    Raises:
        ValueError: as `sparring.trusted`.
    """
    height, width = sample_shape[-2:]
    level = teaching_levels(known(columns, sample_shape), height, width, EASE)
    return shares(level, ratios(schedule, Uniform(schedule)), few)


def ratios(schedule: Schedule, times: Times) -> Tensor:
    """sigma_t / alpha_t at times as they are drawn, (N_TIMES,)."""
    t, _ = times.draw(StepRandom(0, 0, N_TIMES))
    return schedule.ratio(t)


def shares(level: Tensor, ratio: Tensor, few: float) -> Tensor:
    r"""How often each image has to come so that all who teach at a noise take equal turns there.

        share_i = mean over noises s of 1{level_i < s} / max(n(s), few),   n(s) = #{level_j < s}

    and what is left, where fewer than `few` teach, in equal parts for all. Where few images are
    clean these come several times as often as the others, which are wanted at high noise only.

    Args:
        level: Noise that each image has to exceed to teach, (n,), infinite for never.
        ratio: sigma_t / alpha_t as they are drawn, (m,).
        few: So many images are enough at a noise.

    Returns:
        Shares of the rows, (n,), float64, which sum to 1 but for what those had that never teach.
    """
    level, s = level.double(), ratio.double().sort().values
    n_teaching = torch.searchsorted(level.sort().values, s)
    turn = torch.where(n_teaching > 0, 1 / n_teaching.clamp(min=few), 0.0)
    from_there_on = torch.cat([turn.flip(0).cumsum(0).flip(0), turn.new_zeros(1)])
    share = from_there_on[torch.searchsorted(s, level, right=True)] / len(s)
    share = share + (1 - share.sum()).clamp(min=0) / len(level)
    teaches = level < torch.inf
    return torch.where(teaches | ~teaches.any(), share, 0.0)
