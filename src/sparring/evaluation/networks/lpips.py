r"""LPIPS: how unlike two images look.

    LPIPS(x, y) = sum_l mean_hw sum_c w_lc (f_l(x) - f_l(y))^2_c,   f_l of unit length over channels

f_l are the five activations of AlexNet or of VGG-16 before each change of size, w_l >= 0 was fitted
to people's judgements. Two public files hold them, named by `evaluation.lpips_weights` and verified
by their checksums before they are read; both are kept in $SPARRING_CACHE as one safetensors file.

Source: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric",
2018, eq. 1, version 0.1 of the authors' code. Differs from it in: images below 64 pixels are
enlarged to 64 (bilinear), the size of the patches that w was fitted on; AlexNet has no activations
for less than 31.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from ...support.cache import cache_folder
from ...support.errors import UserError
from ...support.home_folder import expanded_path
from .weights import read_published, read_weights, write_weights

PLACE = "evaluation.lpips_weights"
MIN_SIDE = 64
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


@dataclass(frozen=True)
class Net:
    """A trunk's layers and the public files."""

    # (channels, filter, stride, padding) of a convolution with its ReLU, or "pool"
    layers: tuple[tuple[int, int, int, int] | str, ...]
    taps: tuple[int, ...]  # numbers, from 0, of the convolutions whose activations are compared
    pool: tuple[int, int]  # (window, stride) of the maxima
    files: dict[str, str]  # public names with the start of their SHA-256, as torch.hub checks it


NETS = {
    "alex": Net(
        ((64, 11, 4, 2), "pool", (192, 5, 1, 2), "pool", (384, 3, 1, 1), (256, 3, 1, 1),
         (256, 3, 1, 1)),
        (0, 1, 2, 3, 4), (3, 2),
        {"alexnet-owt-7be5be79.pth": "7be5be79", "alex.pth": "df73285e"},
    ),
    "vgg": Net(
        (*[(64, 3, 1, 1)] * 2, "pool", *[(128, 3, 1, 1)] * 2, "pool", *[(256, 3, 1, 1)] * 3, "pool",
         *[(512, 3, 1, 1)] * 3, "pool", *[(512, 3, 1, 1)] * 3),
        (1, 3, 6, 9, 12), (2, 2),
        {"vgg16-397923af.pth": "397923af", "vgg.pth": "a78928a0"},
    ),
}  # fmt: skip


class LPIPS(nn.Module):
    """The distance on "alex" or "vgg", with the weights' own names: `lin0.model.1.weight`."""

    def __init__(self, name: str = "alex") -> None:
        super().__init__()
        if name not in NETS:
            raise ValueError(f"LPIPS is on {' or '.join(NETS)}, got {name!r}")
        net = NETS[name]
        self.name, n_in, n_convolutions = name, 3, 0
        self.features = nn.Sequential()
        self.taps: list[int] = []  # places in `features` of the ReLUs that are compared
        for layer in net.layers:
            if isinstance(layer, str):
                self.features.append(nn.MaxPool2d(*net.pool))
                continue
            n_out, kernel, stride, padding = layer
            self.features.append(nn.Conv2d(n_in, n_out, kernel, stride, padding))
            self.features.append(nn.ReLU())
            if n_convolutions in net.taps:
                lin = nn.Conv2d(n_out, 1, 1, bias=False)
                model = nn.Sequential(nn.Identity(), lin)  # there was a dropout
                self.add_module(f"lin{len(self.taps)}", nn.ModuleDict({"model": model}))
                self.taps.append(len(self.features) - 1)
            n_in, n_convolutions = n_out, n_convolutions + 1
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances (B,) between images (B, 1 or 3, H, W) in [0, 1]; grey becomes RGB."""
        distance = torch.zeros(len(x), device=x.device)
        both = zip(self.activations(x), self.activations(y), strict=True)
        for number, (of_x, of_y) in enumerate(both):
            weight = self.get_parameter(f"lin{number}.model.1.weight")
            difference = (_unit(of_x) - _unit(of_y)).square()
            distance = distance + F.conv2d(difference, weight).mean((1, 2, 3))
        return distance

    def activations(self, images: Tensor) -> list[Tensor]:
        """The five activations (B, C_l, H_l, W_l) of images in [0, 1]."""
        if images.shape[1] not in (1, 3):
            raise ValueError(f"LPIPS takes 1 or 3 channels, got {images.shape[1]}")
        x = enlarge(2 * images - 1).expand(-1, 3, -1, -1)
        x = (x - self.get_buffer("shift")) / self.get_buffer("scale")
        found = []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.taps:
                found.append(x)
        return found


def _unit(x: Tensor) -> Tensor:
    """Of length 1 over channels, 0 where x is."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


def enlarge(images: Tensor) -> Tensor:
    """Images whose shorter side has at least 64 pixels."""
    shorter = min(images.shape[2:])
    if shorter >= MIN_SIDE:
        return images
    size = [round(n * MIN_SIDE / shorter) for n in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def find_lpips(weights: str | None) -> LPIPS | None:
    """The network with the named weights, else with those in the cache, AlexNet's first."""
    cached = (path for path in map(converted_path, NETS) if path.is_file())
    found = weights if weights is not None else next(cached, None)
    return None if found is None else load_lpips(found)


def load_lpips(weights: str | Path) -> LPIPS:
    """The network with its weights, in evaluation mode, float32, on the CPU.

    `weights` is the trunk's public file, with that of the linear layers beside it
    (`alexnet-owt-7be5be79.pth` and `alex.pth`, or `vgg16-397923af.pth` and `vgg.pth`); or
    safetensors that hold both under their own names. Raises UserError for a file that is not there,
    or not what it should be.
    """
    path = expanded_path(weights)
    path = path if path.suffix == ".safetensors" else _converted(path)
    state = read_weights(path, PLACE)
    name = "vgg" if "features.28.weight" in state else "alex"
    network = LPIPS(name)
    expected = network.state_dict()
    for key, value in expected.items():
        if key not in state:
            raise UserError(f"{PLACE}: {path} lacks {key} of LPIPS on {name}")
        if state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(value.shape)}"
            raise UserError(f"{PLACE}: {path}: {key} has shape {shapes}")
    network.load_state_dict({key: state[key].float() for key in expected})
    return network.requires_grad_(False).eval()


def converted_path(name: str) -> Path:
    """Where the cache keeps a network: the sums of both files are in its name."""
    return cache_folder() / f"lpips-{name}-{'-'.join(NETS[name].files.values())}.safetensors"


def _converted(trunk: Path) -> Path:
    """Both public files, verified and then read, as one safetensors file in the cache."""
    name = next((name for name, net in NETS.items() if trunk.name in net.files), None)
    if name is None:
        known = " or ".join(next(iter(net.files)) for net in NETS.values())
        raise UserError(
            f"{PLACE}: {trunk} is not known: it must be {known}, with the linear "
            "layers' file beside it, or a .safetensors file"
        )
    state: dict[str, Tensor] = {}
    for file, start in NETS[name].files.items():
        try:
            state |= read_published(trunk.with_name(file), {start: ""}, PLACE)
        except OSError as error:
            why = f"({error.strerror}); it must lie beside the other public file"
            raise UserError(f"{PLACE}: {trunk.with_name(file)} cannot be read {why}") from error
    path = converted_path(name)
    try:
        write_weights(path, {key: state[key].float() for key in LPIPS(name).state_dict()})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{PLACE}: {path} cannot be written ({error})") from error
    return path
