"""What a discriminator looks through: a frozen network whose feature maps it reads.

An eye draws its looks beforehand (`draw`), says what is looked at of samples and of the data
(`prepare`, `real`), and gives feature maps of that under a look.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Denoiser, unwrapped
from ..diffusion.noising import add_noise, precise
from ..diffusion.randomness import StepRandom
from ..models.latents import unscaled
from .augmentations import POLICIES, USUAL, Look, augment, draw_looks

Maps = list[Tensor]


class ImageEye(nn.Module):
    """Sees images: decoded if they are latents, augmented, through a frozen backbone.

    Args:
        backbone: Images (B, C, H, W) in about [-1, 1] -> feature maps; has `channels`, theirs.
        policy: Augmentations, of `augmentations.POLICIES`.
        shared: Whether both images of a pair are moved alike, as where places are compared; the
            colours always differ.
        vae: The decoder of a latent model, frozen; None for a model of images.
        reconstructed: Whether the real image also went through the decoder.

    Raises:
        ValueError: for an unknown augmentation.
    """

    def __init__(
        self,
        backbone: Any,
        policy: Sequence[str] = USUAL,
        *,
        shared: bool = True,
        vae: Any = None,
        reconstructed: bool = False,
    ) -> None:
        super().__init__()
        if unknown := [name for name in policy if name not in POLICIES]:
            raise ValueError(f"augment must be of {', '.join(POLICIES)}, got {unknown[0]!r}")
        self.channels: list[int] = backbone.channels
        self.backbone, self.policy, self.shared = backbone, tuple(policy), shared
        self.vae, self.reconstructed = vae, reconstructed
        self.requires_grad_(False).eval()

    def draw(self, rng: StepRandom, like: Tensor) -> tuple[Look, Look]:
        """Two looks at the own rows; `like` is a sample of the model, (B, *)."""
        return draw_looks(rng, shared=self.shared)

    def prepare(self, x: Tensor) -> Tensor:
        """What is looked at of the model's samples, differentiable: images are not clamped."""
        if self.vae is None:
            return x
        return self.vae.decode(unscaled(self.vae, x.to(self.vae.dtype))).sample.float()

    @torch.no_grad()
    def real(self, x0: Tensor, image: Tensor) -> Tensor:
        """What is looked at of the data: x0 as the model sees it, `image` as it was read."""
        if self.vae is None:
            return x0
        return self.prepare(x0) if self.reconstructed else image

    def forward(self, seen: Tensor, look: Look, condition: dict[str, Any]) -> Maps:
        """Feature maps of what `prepare` or `real` gave, under a look; reads no condition."""
        return self.backbone(augment(seen, look, self.policy))


class LatentEye(nn.Module):
    """Sees samples of the model as the model itself does: no decoder, no other network.

    A copy of the denoiser as it was before training, frozen, reads x + noise at a drawn time; the
    outputs of its blocks are the feature maps: of a U-Net the down blocks and the middle one, of a
    transformer its blocks; None for all. The two looks share the time and differ in the noise.
    Raises ValueError for blocks that the network does not have.

    Source: after LADD (Sauer et al. 2024), of a transformer with logit-normal noise.
    """

    def __init__(self, denoiser: Denoiser, blocks: Sequence[int] | None = None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.requires_grad_(False).eval()
        network: Any = unwrapped(denoiser.network)
        found = _blocks(network)
        self._chosen = list(range(len(found)) if blocks is None else blocks)
        if not self._chosen or not set(self._chosen) <= set(range(len(found))):
            raise ValueError(f"blocks must be of 0 to {len(found) - 1}, got {blocks}")
        self._seen: dict[int, Tensor] = {}
        for number in self._chosen:
            found[number].register_forward_hook(self._catch(number))

    def _catch(self, number: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            # a down block answers (hidden, skips), a joint transformer block (text, image)
            if isinstance(output, tuple):
                output = output[-1] if "Transformer" in type(module).__name__ else output[0]
            self._seen[number] = output

        return hook

    def channels_of(self, x0: Tensor, condition: dict[str, Any]) -> list[int]:
        """Of the feature maps, by looking once."""
        look = torch.zeros(len(x0)), torch.zeros_like(x0)
        held = next(self.denoiser.parameters())
        reduced = held.dtype == torch.bfloat16  # the inputs are float32, as in training
        with torch.no_grad(), torch.autocast(held.device.type, torch.bfloat16, enabled=reduced):
            return [one.shape[1] for one in self(x0, look, condition)]

    def draw(self, rng: StepRandom, like: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """(u, eps) of both looks: one time, two noises."""
        u = rng.uniform("eye time")
        return tuple((u, rng.normal(f"eye {name}", like.shape[1:])) for name in ("a", "b"))

    def prepare(self, x: Tensor) -> Tensor:
        return x

    def real(self, x0: Tensor, image: Tensor) -> Tensor:
        return x0

    def forward(self, seen: Tensor, look: tuple[Tensor, Tensor], condition: dict[str, Any]) -> Maps:
        """Feature maps of x + noise, (B, C_i, h_i, w_i) each."""
        u, eps = look
        t = self.denoiser.schedule.times(u.to(seen.device))
        x_t = add_noise(seen, eps.to(seen), *self.denoiser.schedule.at(t, like=seen))
        self.denoiser(x_t, t, **condition)
        maps = [_as_map(self._seen[number], seen) for number in self._chosen]
        self._seen.clear()  # they would keep their graph
        return maps


def _blocks(network: Any) -> list[nn.Module]:
    if hasattr(network, "down_blocks"):
        middle = [] if network.mid_block is None else [network.mid_block]
        return [*network.down_blocks, *middle]
    if hasattr(network, "transformer_blocks"):
        return list(network.transformer_blocks)
    raise ValueError(f"{type(network).__name__} has neither down_blocks nor transformer_blocks")


def _as_map(hidden: Tensor, x: Tensor) -> Tensor:
    """Tokens (B, N, C) as a map in the proportions of x; maps as they are."""
    if hidden.ndim == 4:
        return precise(hidden)
    height = round((hidden.shape[1] * x.shape[2] / x.shape[3]) ** 0.5)
    return precise(hidden).transpose(1, 2).unflatten(2, (height, -1))
