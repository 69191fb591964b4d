"""The features that a discriminator with features=labels looked through, as an extractor.

    SPARRING_FEATURES=runs/adt_digits/data/features.safetensors \\
        sparring evaluate RUN evaluation.extractor=recipes/discriminator_features.py:features

A tuned model may please its own discriminator and nobody else: then the Frechet distance falls on
these features and not on those of the classifier, which the discriminator never saw.
"""

import os

from safetensors.torch import load_file
from torch import Tensor, nn

from sparring.adversarial.backbones import LabelBackbone


class LastMap(nn.Module):
    """The last map averaged over places, (B, 64), of images (B, C, H, W) in [0, 1]."""

    def __init__(self, backbone: LabelBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.maps(2 * images - 1)[-1].mean((2, 3))


def features() -> nn.Module:
    """The backbone in the file that SPARRING_FEATURES names."""
    weights = load_file(os.environ["SPARRING_FEATURES"])
    n_channels, n_classes = weights["enter.0.weight"].shape[1], len(weights["last.bias"])
    backbone = LabelBackbone(n_channels, n_classes)
    backbone.load_state_dict(weights)
    return LastMap(backbone).requires_grad_(False).eval()
