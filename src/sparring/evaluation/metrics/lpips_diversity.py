"""How much samples differ from each other by LPIPS: 0 where all are alike. Noise raises it too."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...data.base import Dataset
from ...diffusion.randomness import generator
from ..networks.extractors import checksum, image_batches
from ..networks.lpips import LPIPS, MIN_SIDE
from ..resampling import interval
from .base import Batch, Comparison, Figure, Metric, given

MAX_PAIRS = 1000
BATCH_SIZE = 32


class LpipsDiversity(Metric):
    """Of the first 2,000 samples, where LPIPS has weights."""

    looks_at, needs, place = "images", ("lpips",), 90
    figures = (
        Figure("lpips_diversity", "LPIPS diversity", "between samples; noise raises it too"),
    )

    def look(self, batch: Batch) -> dict[str, Tensor]:
        return {"lpips_images": batch.images[: max(0, 2 * MAX_PAIRS - batch.first)]}

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        data, seed = against.reference.dataset, against.reference.settings.seed
        return diversity_figures(seen["lpips_images"], data, given(against.lpips), seed)

    def protocol(self, against: Comparison) -> dict[str, Any]:
        network = given(against.lpips)
        resize = f"bilinear to at least {MIN_SIDE} pixels"
        return {"lpips": f"{network.name}, {checksum(network)}, {resize}"}


def diversity_figures(
    samples01: Tensor, reference: Dataset, network: LPIPS, seed: int = 0
) -> dict[str, Any]:
    """`lpips_diversity` of samples beside that of at most 2,000 reference images."""
    random = generator("cpu", seed, "reference pairs")
    rows = torch.randperm(len(reference), generator=random)[: 2 * MAX_PAIRS].tolist()
    real = torch.cat([images for images, _ in image_batches(reference, rows)])
    floor = lpips_diversity(real, network, seed)["lpips_diversity"]
    return lpips_diversity(samples01, network, seed) | {"lpips_diversity_of_reference": floor}


def lpips_diversity(samples01: Tensor, network: LPIPS, seed: int = 0) -> dict[str, Any]:
    r"""Mean LPIPS over random pairs of samples, and its 95 % interval.

    Each sample (N, C, H, W), N >= 4, clipped to [0, 1], is in one pair at most, so that the
    distances are independent and their spread gives the interval; at most 1,000 pairs. Compare it
    with that of real images.

    Source: Zhu et al., "Toward multimodal image-to-image translation", 2017, section 5.2, on
    pairs of independent samples.
    """
    order = torch.randperm(len(samples01), generator=generator("cpu", seed, "pairs"))
    n = min(len(order) // 2, MAX_PAIRS)
    if n < 2:
        raise ValueError(f"needs at least 4 samples, got {len(samples01)}")
    device = network.get_buffer("shift").device
    distances = []
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for rows in order[: 2 * n].view(2, n).split(BATCH_SIZE, dim=1):
            x, y = (samples01[part].float().clamp(0, 1).to(device) for part in rows)
            distances.append(network(x, y).cpu().double())
    of_pairs = torch.cat(distances)
    mean = of_pairs.mean().item()
    return {
        "lpips_diversity": mean,
        "lpips_diversity_interval": interval(mean, of_pairs, size=1, n=n),
    }
