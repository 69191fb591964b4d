"""DINOv2 as an extractor: FD-DINOv2 is the Frechet distance of its class tokens.

Stein et al. ("Exposing flaws of generative model evaluation metrics and their unfair treatment of
diffusion models", NeurIPS 2023) found it nearer to what people see than Inception's. Theirs is the
ViT-L/14 (`facebook/dinov2-large`): images in 8 bits, resized to 224 x 224 (bicubic), ImageNet's
mean and spread, the class token after the last normalisation, 1,024 numbers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...adversarial.backbones import IMAGENET_MEAN, IMAGENET_STD, dino_model

PUBLISHED = "facebook/dinov2-large"
SIDE = 224


class ClassToken(nn.Module):
    """Images (B, 1 or 3, H, W) in [0, 1] to the class token (B, D).

    Resized as tensors with antialiasing and rounded to 8 bits before and after, as PIL does; PIL
    rounds its weights too, so single pixels differ by a grey level.

    Args:
        model: `Dinov2Model` or `Dinov2WithRegistersModel` of transformers.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = (255 * images.expand(-1, 3, -1, -1)).round()
        if tuple(x.shape[2:]) != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True)
            x = x.round().clamp(0, 255)
        return self.model((x / 255 - self.mean) / self.std).pooler_output


def load_class_token(weights: str | None) -> ClassToken:
    """The network of a folder or hub name; None: the published one's.

    Raises:
        UserError: if transformers is missing, or the name is of no DINOv2.
    """
    name, advice = weights or PUBLISHED, "name a DINOv2"
    network = ClassToken(dino_model(name, "evaluation.extractor=dinov2: weights", advice))
    return network.requires_grad_(False).eval()
