"""The features that a discriminator with features=labels looked through, as an extractor.

    SPARRING_FEATURES=runs/adt_digits/data/features.safetensors \\
        sparring evaluate RUN evaluation.extractor=recipes/discriminator_features.py:features

A tuned model may please its own discriminator and nobody else: then the Frechet distance falls on
these features and not on those of the classifier, which the discriminator never saw.
"""

import os

import torch
from safetensors.torch import load_file
from torch import Tensor

from sparring.backbones import LabelBackbone


def features(images: Tensor) -> Tensor:
    """The last map averaged over places, (B, 64), of images (B, C, H, W) in [0, 1]."""
    weights = load_file(os.environ["SPARRING_FEATURES"])
    n_channels = weights["enter.0.weight"].shape[1]
    network = LabelBackbone(n_channels, len(weights["last.bias"])).eval()
    network.load_state_dict(weights)
    with torch.no_grad():
        return network.maps(2 * images - 1)[-1].mean((2, 3))
