"""Features and classes of a public CIFAR-10 classifier, as an extractor: an in-domain distance.

    SPARRING_CIFAR10_RESNET=cifar10_resnet56.safetensors \\
        sparring evaluate RUN evaluation.extractor=recipes/cifar10_resnet.py:features

The ResNet of He et al. (2016, section 4.2) for 32x32 images: a 3x3 convolution to 16 channels,
three stages of n blocks with 16, 32 and 64 channels, mean over places, 10 classes; 6 n + 2 layers.
A shortcut into a new stage takes every second pixel and pads the channels with zeros (their option
A). The weights are those of github.com/akamaster/pytorch_resnet_cifar10 (BSD-2-Clause) as
safetensors; n follows from the file: ResNet-20, -32, -44, -56 or -110. Test error there 8.27 % (20)
and 6.61 % (56).
"""

import os

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.support.errors import UserError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Block(nn.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x))))))."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.n_new = n_out - n_in
        self.stride = 2 if self.n_new else 1
        self.conv1 = nn.Conv2d(n_in, n_out, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        half = self.n_new // 2
        return F.relu(F.pad(shortcut, (0, 0, 0, 0, half, half)) + inner)


class ResNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to features (B, 64); `logits` goes on to classes (B, 10)."""

    def __init__(self, n_blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for stage, (n_in, n_out) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
            blocks = [Block(n_in if k == 0 else n_out, n_out) for k in range(n_blocks)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1((images - self.mean) / self.std)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def logits(self, features: Tensor) -> Tensor:
        return self.linear(features)


def features() -> ResNet:
    """The network in the file that SPARRING_CIFAR10_RESNET names.

    Raises:
        UserError: if it names none.
    """
    file = os.environ.get("SPARRING_CIFAR10_RESNET")
    if not file:
        raise UserError("SPARRING_CIFAR10_RESNET must name the weights, a .safetensors file")
    weights = load_file(file)
    network = ResNet(
        sum(name.startswith("layer1.") and name.endswith("conv1.weight") for name in weights)
    )
    network.load_state_dict(weights)
    return network.requires_grad_(False).eval()
