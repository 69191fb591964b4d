r"""Images to latents and back, by the autoencoder of a latent diffusion model.

The encoder gives a Gaussian about each image's latent, N(mean, std^2). Training draws from it, as
latent diffusion was trained, and scales the draw to about unit variance:

    z = (mean + std * noise - shift) * scale

with the VAE's `scaling_factor` and `shift_factor` (or `latents_mean` and `latents_std`, where it
has those). The sampler's z goes back through the inverse and the decoder.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..diffusion.randomness import StepRandom
from ..support.cache import TensorCache, fingerprint, key_of
from ..support.errors import UserError

AT_ONCE = 16  # latents in one call of the decoder, which needs far more memory than the denoiser


def side_factor(vae: Any) -> int:
    """Pixels per latent, along a side: 2 for each of the encoder's levels but the first."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def check_multiple(height: int, width: int, factor: int, who: str) -> None:
    """Refuses images whose sides are no multiples of `factor` pixels, with the nearest that are."""
    if height % factor or width % factor:
        below = min(height, width) // factor * factor
        near = f"{below} or {below + factor}" if below else factor
        wanted = f"sides that are multiples of {factor} pixels, the images are {width}x{height}"
        raise UserError(f"{who} takes {wanted}: set data.resolution to {near}")


def latent_shape(vae: Any, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Shape (c, h, w) of the latent of an image (C, H, W); UserError for what cannot be encoded."""
    n_channels, factor = vae.config.in_channels, side_factor(vae)
    if len(image_shape) != 3:
        raise UserError(f"a latent model learns from images, the data are {tuple(image_shape)}")
    channels, height, width = image_shape
    if channels != n_channels:
        why = f"the VAE takes {n_channels} channels, the images have {channels}"
        raise UserError(f"{why}: set data.n_channels={n_channels}")
    check_multiple(height, width, factor, "the VAE")
    return vae.config.latent_channels, height // factor, width // factor


@torch.no_grad()
def posterior(vae: Any, x0: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (B, c, h, w) each, of the latents of images (B, C, H, W).

    The images are in [-1, 1], the latents in the VAE's own units and precision; UserError for one
    without a distribution. Images are encoded one at a time, as kernels may round differently for
    other rows of a batch: so a latent is the same bits in every batch, epoch and process.
    """
    encoded = [vae.encode(image.to(vae.device, vae.dtype)) for image in x0.split(1)]
    if not hasattr(encoded[0], "latent_dist"):
        raise UserError(f"{type(vae).__name__} gives no distribution of latents: use AutoencoderKL")
    found = [one.latent_dist for one in encoded]
    return torch.cat([one.mean for one in found]), torch.cat([one.std for one in found])


def scaled(vae: Any, z: Tensor) -> Tensor:
    """From the VAE's own units to those of the denoiser: (z - shift) * scale."""
    shift, scale = _units(vae, z)
    return (z - shift) * scale


def unscaled(vae: Any, z: Tensor) -> Tensor:
    """From the denoiser's units to those of the VAE: z / scale + shift."""
    shift, scale = _units(vae, z)
    return z / scale + shift


def encode(vae: Any, x0: Tensor, noise: Tensor | None = None) -> Tensor:
    """Latents of images (B, C, H, W) in [-1, 1], in the denoiser's units.

    `noise` is standard normal, (B, c, h, w); None: the distribution's mode.
    """
    mean, std = posterior(vae, x0)
    return scaled(vae, mean if noise is None else mean + std * noise.to(mean))


@torch.no_grad()
def decode(vae: Any, z: Tensor, batch_size: int = AT_ONCE) -> Tensor:
    """Images (B, C, H, W) about [-1, 1], float32 on the CPU, of latents (B, c, h, w)."""
    parts = [unscaled(vae, part.to(vae.device, vae.dtype)) for part in z.split(batch_size)]
    return torch.cat([vae.decode(part).sample.float().cpu() for part in parts])


def _units(vae: Any, z: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """(shift, scale), numbers or (1, c, 1, 1)."""
    config = vae.config
    shift, scale = config.get("shift_factor") or 0.0, config.scaling_factor
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        names = ("latents_mean", "latents_std")
        mean, std = (torch.tensor(config[name]).to(z).view(1, -1, 1, 1) for name in names)
        return mean, scale / std
    return shift, scale


class LatentEncoder:
    """What training sees of a batch of images: their latents, with the noise of its step.

    The VAE is on the device that trains and never learns. With `sample`, latents are drawn from the
    distribution; otherwise its mode is taken. The cache keeps means and standard deviations under
    the pixels' digest, so that each epoch draws anew as it does without.
    """

    def __init__(self, vae: Any, *, sample: bool = True, cache: TensorCache | None = None) -> None:
        self.vae, self.sample, self.cache = vae, sample, cache
        self._fingerprint = None if cache is None else fingerprint(vae)

    def __call__(self, batch: Mapping[str, Any], rng: StepRandom) -> Tensor:
        """Latents (B, c, h, w), in x0's precision.

        The batch has x0 (B, C, H, W) in [-1, 1], mirrored already; with a cache also digest (B
        strings of the images as they were read) and, where some are mirrored, mirrored (B,).
        """
        x0 = batch["x0"]
        mean, std = (one.to(x0) for one in self._posterior(batch))  # the VAE may be less precise
        if self.sample:
            mean = mean + std * rng.normal("latent", mean.shape[1:]).to(mean)
        return scaled(self.vae, mean)

    def _posterior(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        x0 = batch["x0"]
        if self.cache is None:
            return posterior(self.vae, x0)
        mirrored = batch.get("mirrored")
        flips = [False] * len(x0) if mirrored is None else mirrored.tolist()
        images = zip(batch["digest"], flips, strict=True)
        keys = [key_of("latent", self._fingerprint, digest, flip) for digest, flip in images]

        def compute(row: int) -> dict[str, Tensor]:
            mean, std = posterior(self.vae, x0[row : row + 1])
            return {"mean": mean, "std": std}

        kept = self.cache.batch(keys, compute, self.vae.device)
        return kept["mean"], kept["std"]
