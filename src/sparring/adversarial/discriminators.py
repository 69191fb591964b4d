r"""Discriminators: who tells a real image from a generated one, by how alike two images are.

A frozen network that has seen many images gives feature maps F_i of what it is shown; small
convolutional heads h_i learn on top of them. The siamese discriminator compares:

    D(u, y) = s (mean over i and places p of cos(z_i(u)_p, z_i(y)_p) - c),     z_i = h_i(F_i(.))

    real pair: the real image under two augmentations     fake pair: the generated and the real one

with a learned scale s and centre c (a cosine alone never reaches the hinge's margin). Its readings:

    "patches"    as above (S1)
    "predictor"  z_i(u) goes through a predictor, z_i(y) takes no gradient (S2, as in SimSiam)
    "pooled"     z_i is averaged over places before the cosine (S3)
    "unpaired"   no comparison: h_i(F_i(u)) is a logit at each place (StyleGAN-T, ADD; the control)

Source: ADT (arXiv 2504.11423) as far as its reviews tell: frozen DINOv2, several blocks,
convolutional heads, a similarity of the generated and the real image. The readings, the heads'
layers, scale and centre are ours.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.denoiser import frozen, unwrapped
from ..diffusion.noising import precise
from ..options.sections import check_options, options_of, section_of
from ..options.value_types import Count, CountOrZero, NotNegative, Place, Positive
from .augmentations import USUAL, Policy
from .eyes import Maps

Reading = Literal["patches", "predictor", "pooled", "unpaired"]
READINGS = get_args(Reading)
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "hinge": (lambda real, fake: F.relu(1 - real) + F.relu(1 + fake), lambda real, fake: -fake),
    "non_saturating": (
        lambda real, fake: F.softplus(-real) + F.softplus(fake),
        lambda real, fake: F.softplus(-fake),
    ),
    "relativistic": (
        lambda real, fake: F.softplus(fake - real),
        lambda real, fake: F.softplus(real - fake),
    ),
}
"""Name -> (the discriminator's loss, the generator's) of the scores of the real and the fake.

Source: hinge: Lim and Ye 2017; non-saturating: Goodfellow et al. 2014; relativistic pairing:
Jolicoeur-Martineau 2018.
"""


class Head(nn.Module):
    """h_i: channels normalised at each place, 1x1, a residual 3x3 of `width` channels, 1x1."""

    def __init__(self, n_in: int, width: int, n_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, width, 1)
        self.around = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, n_out, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, n_in, h, w) -> (B, n_out, h, w)."""
        # backbones have a few channels a hundred times larger than the others
        features = F.layer_norm(features.movedim(1, -1), features.shape[1:2]).movedim(-1, 1)
        hidden = F.leaky_relu(self.first(features), 0.2)
        hidden = hidden + F.leaky_relu(self.around(hidden), 0.2)
        return self.last(hidden)


class Heads(nn.Module):
    """All that learns of a discriminator: a head of `width` on each map of so many channels."""

    def __init__(
        self, channels: Sequence[int], reading: Reading = "patches", width: Count = 64
    ) -> None:
        super().__init__()
        check_options(Heads, {"reading": reading, "width": width})
        self.reading = reading
        n_out = 1 if reading == "unpaired" else width
        self.heads = nn.ModuleList(Head(n_in, width, n_out) for n_in in channels)
        if reading == "predictor":
            self.predictors = nn.ModuleList(Head(width, width, width) for _ in channels)
        if reading != "unpaired":
            self.log_scale = nn.Parameter(torch.tensor(5.0).log())
            self.centre = nn.Parameter(torch.tensor(0.5))

    def forward(self, u: Maps, y: Maps, penalised: bool = False) -> tuple[Tensor, Tensor]:
        """Scores D(u, y), and R1 on what the heads read of u.

        R1 = sum over i of ||d mean(D) / dF_i(u)||^2,   zero if not `penalised`

        Args:
            u: Feature maps of the images to be judged, (B, C_i, h_i, w_i) each.
            y: Those of what they are compared with; not read by "unpaired". With fewer rows than u,
                u is several such batches, one after the other, all compared with y.

        Returns:
            Scores, (B, 1), of "unpaired" (B, n), one at each place of each map, and R1, (B,).

        Source: R1: Mescheder et al. 2018; on head inputs rather than pixels as in ADD (Sauer et
        al. 2023), where a fused attention could not be differentiated twice.
        """
        if not penalised:
            return self._score(u, y), u[0].new_zeros(len(u[0]))
        with torch.autocast(u[0].device.type, enabled=False):  # squares of small gradients
            u = [precise(one.detach()).requires_grad_() for one in u]
            scores = self._score(u, [precise(one) for one in y])
            slopes = torch.autograd.grad(scores.mean(1).sum(), u, create_graph=True)
        return scores, torch.stack([one.flatten(1).square().sum(1) for one in slopes]).sum(0)

    def _score(self, u: Maps, y: Maps) -> Tensor:
        z = [head(one) for head, one in zip(self.heads, u, strict=True)]
        if self.reading == "unpaired":
            return torch.cat([one.flatten(1) for one in z], 1)
        n_batches = len(u[0]) // len(y[0])
        heads = zip(self.heads, y, strict=True)
        against = [head(one).repeat(n_batches, 1, 1, 1) for head, one in heads]
        if self.reading == "predictor":
            z = [predict(one) for predict, one in zip(self.predictors, z, strict=True)]
            against = [one.detach() for one in against]
        if self.reading == "pooled":
            z, against = ([one.mean((2, 3), keepdim=True) for one in own] for own in (z, against))
        pairs = zip(z, against, strict=True)
        alike = [F.cosine_similarity(a, b).flatten(1).mean(1) for a, b in pairs]
        mean = torch.stack(alike, 1).mean(1, keepdim=True)
        return self.log_scale.exp() * (mean - self.centre)


class Discriminator(nn.Module):
    """An eye that is frozen (`ImageEye`, `LatentEye`) and heads that learn on its feature maps.
    `r1` is the weight gamma of the penalty, gamma / 2 R1 of real pairs."""

    def __init__(
        self,
        eye: nn.Module,
        heads: nn.Module,
        *,
        loss: Literal["hinge", "non_saturating", "relativistic"] = "hinge",
        r1: NotNegative = 1e-4,
    ) -> None:
        super().__init__()
        check_options(Discriminator, {"loss": loss, "r1": r1})
        self.eye: Any = eye
        self.network, self.r1, self.relative = heads, r1, loss == "relativistic"
        self._of_discriminator, self._of_generator = LOSSES[loss]

    def generator_loss(self, fake: Maps, real: Maps, real_again: Maps) -> Tensor:
        """What the generator is to lower, (B,); the arguments are those of `loss`.
        The bare heads are asked: they take no gradient and send none to other processes."""
        heads = unwrapped(self.network)
        with frozen(heads):
            score, _ = heads(fake, real)
            of_real = score.new_zeros(())
            if self.relative:
                with torch.no_grad():
                    of_real, _ = heads(real_again, real)
        return self._of_generator(of_real, score).mean(1)

    def loss(self, fake: Maps, real: Maps, real_again: Maps) -> tuple[dict[str, Tensor], Tensor]:
        """The discriminator's terms, (B,) each, and the mean scores of real and fake, (2, B).
        `fake` are maps of the generated image under look a, `real_again` of the real one under look
        a, `real` of that under look b."""
        n = len(real[0])
        scores, penalty = self.network(
            [torch.cat(both) for both in zip(real_again, fake, strict=True)], real, self.r1 > 0
        )
        of_real, of_fake = scores[:n], scores[n:]
        terms = {"discriminator": self._of_discriminator(of_real, of_fake).mean(1)}
        if self.r1 > 0:
            terms["r1"] = self.r1 / 2 * penalty[:n]
        return terms, torch.stack([of_real.detach().mean(1), of_fake.detach().mean(1)])


_OPTIONS = options_of(Heads) | options_of(Discriminator)
_REST = {name: _OPTIONS[name] for name in ("reading", "width", "loss", "r1")}


class DiscriminatorSection(section_of(_REST, "Discriminator")):
    """The discriminator in a config, `objective.discriminator`.

    Attributes:
        features: What it looks through: labels, a small network trained on the data's labels;
            denoiser, the model's own blocks, in latent space; or the name or folder of a DINOv2.
        blocks: Numbers of the blocks; null: four, evenly spaced, of labels and denoiser all.
        side: Pixels to which images are resized for a DINOv2.
        reading: How a pair is read: patches, predictor or pooled (siamese); unpaired: a logit at
            each place.
        width: Channels of the heads.
        loss: Of the scores of real and fake.
        r1: Weight of the penalty R1 on the heads' inputs.
        augment: Augmentations of images; denoiser sees noise instead.
        real: Of decoded latents, what fakes are held to: the image, or its reconstruction by the
            VAE.
        learning_rate: Of the heads' AdamW.
        adam_beta1, adam_beta2: Decays of its moments.
        adam_weight_decay: Its decay of the weights.
        max_grad_norm: The heads' gradients are scaled down to this norm; null: no clipping.
    """

    features: Place = "facebook/dinov2-small"
    blocks: list[CountOrZero] | None = None
    side: Count = 224
    augment: list[Policy] = Field(default=[*USUAL])
    real: Literal["image", "reconstruction"] = "image"
    learning_rate: Positive = 2e-4
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.0
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    adam_weight_decay: NotNegative = 0.0
    max_grad_norm: Positive | None = 1.0
