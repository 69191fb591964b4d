r"""Inception-v3 of 2015-12-05, whose features FID, KID and the Inception Score are defined on.

    features = load_inception(2048)(images)     # (B, 3, H, W) in [0, 1]  ->  (B, 2048)

| extractor | features | spatial mean after | what its Frechet distance is called |
|---|---|---|---|
| `inception` | 2048 | `Mixed_7c` | FID |
| `inception-768` | 768 | `Mixed_6e` | FID-768 |
| `inception-192` | 192 | the second max pool | FID-192 |
| `inception-64` | 64 | the first max pool | FID-64 |

Only FID compares with published numbers. Images are rounded to 8 bits, as if read from PNG files,
and resized to 299 x 299 as TensorFlow 1 did: other resizes give other numbers.

The weights are a public file (95 MB) that is not part of this package. It comes from
`evaluation.weights=PATH`, from $SPARRING_CACHE, or from its public address; its checksum is
verified before it is read, and it is kept as safetensors with batch norm folded in. A safetensors
file that ends earlier serves the features up to where it ends.

Source: Szegedy et al., "Rethinking the Inception architecture", 2016; the graph is that of
TensorFlow's classify_image_graph_def.pb as ported by pytorch-fid (Seitzer, 2020) and
torch-fidelity (Obukhov et al., 2020), with its two differences from the paper: average pools do
not count padding, and Mixed_7c pools by the maximum. Differs from the ports in: batch norm is
folded (a relative 1e-6).
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...support.cache import cache_folder
from ...support.errors import UserError
from ...support.home_folder import expanded_path
from ...support.whole_files import sha256_of, whole_file

log = logging.getLogger(__name__)

URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIDE = 299
N_LOGITS = 1008
BN_EPS = 1e-3
BATCH_SIZE = 32  # 299 x 299 needs about 10 MiB an image
TIMEOUT_SECONDS = 30


# --- Network ---------------------------------------------------------------------------------


class Conv(nn.Conv2d):
    """ReLU(convolution + bias): the bias is that of the batch norm which was folded in.

    Args:
        n_in: Channels.
        n_out: Channels.
        height: Of the filter.
        width: Of the filter; None: as its height.
        stride: 1 keeps the size of the picture by padding, 2 halves it without padding.
        keeps_size: False: no padding at stride 1 either.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        height: int,
        width: int | None = None,
        *,
        stride: int = 1,
        keeps_size: bool = True,
    ) -> None:
        width = height if width is None else width
        padding = (height // 2, width // 2) if keeps_size and stride == 1 else (0, 0)
        super().__init__(n_in, n_out, (height, width), stride, padding)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return F.relu(super().forward(x))


def _mean_pool(x: Tensor) -> Tensor:
    """Mean over 3 x 3 of those pixels that exist."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Mixed5(nn.Module):
    """35 x 35, n_in -> 224 + n_pool channels."""

    def __init__(self, n_in: int, n_pool: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(n_in, 64, 1)
        self.branch5x5_1 = Conv(n_in, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5)
        self.branch3x3dbl_1 = Conv(n_in, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(n_in, n_pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(_mean_pool(x)),
        ]
        return torch.cat(branches, 1)


class Mixed6a(nn.Module):
    """35 x 35 to 17 x 17, 288 -> 768 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = Conv(288, 384, 3, stride=2)
        self.branch3x3dbl_1 = Conv(288, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            F.max_pool2d(x, 3, stride=2),
        ]
        return torch.cat(branches, 1)


class Mixed6(nn.Module):
    """17 x 17, 768 -> 768 channels, with 7 x 7 filters as rows and columns of width c."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(768, 192, 1)
        self.branch7x7_1 = Conv(768, c, 1)
        self.branch7x7_2 = Conv(c, c, 1, 7)
        self.branch7x7_3 = Conv(c, 192, 7, 1)
        self.branch7x7dbl_1 = Conv(768, c, 1)
        self.branch7x7dbl_2 = Conv(c, c, 7, 1)
        self.branch7x7dbl_3 = Conv(c, c, 1, 7)
        self.branch7x7dbl_4 = Conv(c, c, 7, 1)
        self.branch7x7dbl_5 = Conv(c, 192, 1, 7)
        self.branch_pool = Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branches = [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(twice)),
            self.branch_pool(_mean_pool(x)),
        ]
        return torch.cat(branches, 1)


class Mixed7a(nn.Module):
    """17 x 17 to 8 x 8, 768 -> 1280 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(768, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Conv(768, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, 1, 7)
        self.branch7x7x3_3 = Conv(192, 192, 7, 1)
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        branches = [
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(seven),
            F.max_pool2d(x, 3, stride=2),
        ]
        return torch.cat(branches, 1)


class Mixed7(nn.Module):
    """8 x 8, n_in -> 2048 channels; the last one of the network pools by the maximum."""

    def __init__(self, n_in: int, pools_by_maximum: bool) -> None:
        super().__init__()
        self.pools_by_maximum = pools_by_maximum
        self.branch1x1 = Conv(n_in, 320, 1)
        self.branch3x3_1 = Conv(n_in, 384, 1)
        self.branch3x3_2a = Conv(384, 384, 1, 3)
        self.branch3x3_2b = Conv(384, 384, 3, 1)
        self.branch3x3dbl_1 = Conv(n_in, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3)
        self.branch3x3dbl_3a = Conv(384, 384, 1, 3)
        self.branch3x3dbl_3b = Conv(384, 384, 3, 1)
        self.branch_pool = Conv(n_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.pools_by_maximum else _mean_pool(x)
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(once), self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice),
            self.branch_pool(pooled),
        ]  # fmt: skip
        return torch.cat(branches, 1)


STAGES = {  # name: what makes it
    "Conv2d_1a_3x3": lambda: Conv(3, 32, 3, stride=2),
    "Conv2d_2a_3x3": lambda: Conv(32, 32, 3, keeps_size=False),
    "Conv2d_2b_3x3": lambda: Conv(32, 64, 3),
    "MaxPool_1": lambda: nn.MaxPool2d(3, stride=2),
    "Conv2d_3b_1x1": lambda: Conv(64, 80, 1),
    "Conv2d_4a_3x3": lambda: Conv(80, 192, 3, keeps_size=False),
    "MaxPool_2": lambda: nn.MaxPool2d(3, stride=2),
    "Mixed_5b": lambda: Mixed5(192, n_pool=32),
    "Mixed_5c": lambda: Mixed5(256, n_pool=64),
    "Mixed_5d": lambda: Mixed5(288, n_pool=64),
    "Mixed_6a": lambda: Mixed6a(),
    "Mixed_6b": lambda: Mixed6(128),
    "Mixed_6c": lambda: Mixed6(160),
    "Mixed_6d": lambda: Mixed6(160),
    "Mixed_6e": lambda: Mixed6(192),
    "Mixed_7a": lambda: Mixed7a(),
    "Mixed_7b": lambda: Mixed7(1280, pools_by_maximum=False),
    "Mixed_7c": lambda: Mixed7(2048, pools_by_maximum=True),
}
LAST_STAGE = {64: "MaxPool_1", 192: "MaxPool_2", 768: "Mixed_6e", 2048: "Mixed_7c"}
EXTRACTORS = {"inception": 2048} | {f"inception-{n}": n for n in (768, 192, 64)}
"""Number of features by the extractor's name."""


class InceptionV3(nn.Module):
    """The network up to the stage whose spatial mean has that many features.

    Args:
        n_features: 64, 192, 768 or 2048; only with 2048 there are classes (`logits_unbiased`).
    """

    def __init__(self, n_features: int = 2048) -> None:
        super().__init__()
        if n_features not in LAST_STAGE:
            raise ValueError(f"n_features must be one of {list(LAST_STAGE)}, got {n_features}")
        names = list(STAGES)
        self.n_features = n_features
        self.stages = names[: names.index(LAST_STAGE[n_features]) + 1]
        for name in self.stages:
            self.add_module(name, STAGES[name]())
        self.fc = nn.Linear(2048, N_LOGITS) if n_features == 2048 else None

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, n_features) of images (B, 1 or 3, H, W) in [0, 1]; grey becomes RGB.

        Raises:
            ValueError: for another number of channels.
        """
        if images.shape[1] not in (1, 3):
            raise ValueError(f"Inception takes 1 or 3 channels, got {images.shape[1]}")
        images = images.expand(-1, 3, -1, -1)
        x = (resize_tf1((255 * images).round(), SIDE) - 128) / 128
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))

    def logits_unbiased(self, features: Tensor) -> Tensor:
        """Logits (B, 1008) in float64, without the bias, which the Inception Score leaves out, of
        features (B, 2048)."""
        if self.fc is None:
            raise ValueError(f"{self.n_features} features have no classes: use 2048")
        weight = self.fc.weight.to(features.device, torch.float64)
        return torch.cat([chunk.double() @ weight.T for chunk in features.split(4096)])


def resize_tf1(images: Tensor, side: int = SIDE) -> Tensor:
    r"""Bilinear resize to (side, side) as TensorFlow 1 does it with align_corners=False.

    out[i] = x[lo] + (x[hi] - x[lo]) (p - lo)
    p = i n / side,   lo = floor p,   hi = min(lo + 1, n - 1)

    Output pixel i is read at i n / side, not at (i + 1/2) n / side - 1/2: the picture moves by up
    to half a pixel. There is no smoothing before shrinking, so large images alias.

    Args:
        images: (B, C, H, W) float, any range.
        side: Pixels of the result.

    Source: tf.image.resize_bilinear of TensorFlow 1, resize_bilinear_op.cc. Equal to the bit to
    torch-fidelity's `interpolate_bilinear_2d_like_tensorflow1x`.
    """
    for dim in (3, 2):
        n = images.shape[dim]
        scale = torch.tensor(n / side, dtype=torch.float32)
        place = torch.arange(side, dtype=torch.float32).mul(scale).to(images)
        lo = place.long().clamp(max=n - 1)
        hi = (lo + 1).clamp(max=n - 1)
        weight = (place - lo).view([-1 if d == dim else 1 for d in range(4)])
        first, second = images.index_select(dim, lo), images.index_select(dim, hi)
        images = first + (second - first) * weight
    return images


# --- Weights ---------------------------------------------------------------------------------


def load_inception(n_features: int = 2048, weights: str | Path | None = None) -> InceptionV3:
    """The network with the public weights, in evaluation mode, float32, on the CPU.

    Args:
        n_features: 64, 192, 768 or 2048.
        weights: The public file, or safetensors with its names (whole or up to some layer); None:
            from $SPARRING_CACHE or the public address.

    Raises:
        UserError: for a file that is not there, not what it should be, or ends too early.
    """
    path = _safetensors_of(expanded_path(weights)) if weights else public_weights()
    try:
        state = fold(safetensors.torch.load_file(path))
    except FileNotFoundError:
        raise UserError(f"evaluation.weights: there is no file {path}") from None
    except KeyError as error:
        raise UserError(f"evaluation.weights: {path} lacks {error}") from error
    except (OSError, safetensors.SafetensorError) as error:
        again = "; delete it to have it made anew" if path == converted_path() else ""
        raise UserError(f"evaluation.weights: {path} cannot be read ({error}){again}") from error
    return _network(n_features, state, path)


def _network(n_features: int, state: Mapping[str, Tensor], path: Path) -> InceptionV3:
    network = InceptionV3(n_features)
    expected = network.state_dict()
    wrong = f"evaluation.weights: {path} is not the Inception-v3 of 2015-12-05"
    if any(name.startswith("AuxLogits") for name in state):
        raise UserError(f"{wrong} but torchvision's, whose features give another number than FID")
    for name in expected.keys() & state.keys():
        if state[name].shape != expected[name].shape:
            shapes = f"{tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
            raise UserError(f"{wrong}: {name} has shape {shapes}")
    last = last_stage(state)
    if last is None:
        raise UserError(f"{wrong}: it has no layer Conv2d_1a_3x3")
    missing = sorted({name.partition(".")[0] for name in expected.keys() - state.keys()})
    if missing:
        raise UserError(
            f"evaluation.weights: {path} ends at {last}, {n_features} features also need "
            f"{', '.join(missing)}: use the whole file, or evaluation.extractor={_largest(last)}"
        )
    if last != "fc":
        log.warning(
            "%s ends at %s: it serves %s at most, whose distance is not comparable with FID",
            path, last, _largest(last),
        )  # fmt: skip
    network.load_state_dict({name: state[name].float() for name in expected})
    return network.requires_grad_(False).eval()


def last_stage(state: Mapping[str, Tensor]) -> str | None:
    """The last stage up to which no (folded) weight is missing, `fc` of a whole file; None without
    the first."""
    with torch.device("meta"):  # names only
        whole = InceptionV3().state_dict()
    last = None
    for stage in [*STAGES, "fc"]:
        weights = {name for name in whole if name.startswith(f"{stage}.")}
        if not weights <= state.keys():
            break
        last = stage
    return last


def _largest(last: str) -> str:
    """The extractor with most features among those that need no layer behind `last`."""
    order = [*STAGES, "fc"]
    reached = [
        name
        for name, n in EXTRACTORS.items()
        if order.index("fc" if n == 2048 else LAST_STAGE[n]) <= order.index(last)
    ]
    return reached[0] if reached else "classifier or pixels"


def fold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Batch norms folded into the convolutions before them; other weights stay as they are.

    w' = w s,   b' = beta - mean s,   s = gamma / sqrt(var + 1e-3)

    Args:
        state: `NAME.conv.weight`, `NAME.bn.{weight, bias, running_mean, running_var}`, ...

    Returns:
        `NAME.weight` and `NAME.bias`, float32 (computed in float64).
    """
    folded = {key: value for key, value in state.items() if not {"conv", "bn"} & {*key.split(".")}}
    for key in state:
        name, found, _ = key.partition(".conv.weight")
        if not found:
            continue
        gamma, beta, mean, var = (
            state[f"{name}.bn.{part}"].double()
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        s = gamma / (var + BN_EPS).sqrt()
        folded[f"{name}.weight"] = (state[key].double() * s[:, None, None, None]).float()
        folded[f"{name}.bias"] = (beta - mean * s).float()
    return folded


def public_weights() -> Path:
    """The public weights as safetensors in the cache, brought from their address at first."""
    converted = converted_path()
    if converted.is_file():
        return converted
    log.info("downloading %s (95 MB)", URL)
    try:
        converted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=converted.parent) as folder:
            half = Path(folder) / "weights.pth"
            page = urllib.request.urlopen(URL, timeout=TIMEOUT_SECONDS)
            with page, half.open("wb") as file:
                shutil.copyfileobj(page, file)
            return _convert(half, converted, URL)
    except (OSError, HTTPException, safetensors.SafetensorError) as error:
        raise UserError(
            f"the Inception weights are not in {converted.parent} and could not be brought there "
            f"({error}): download {URL} and name it as evaluation.weights=PATH"
        ) from error


def converted_path() -> Path:
    return cache_folder() / f"inception-2015-12-05-{SHA256[:8]}.safetensors"


def _safetensors_of(path: Path) -> Path:
    """The file itself if it is safetensors; the public .pth file is converted into the cache."""
    if path.suffix == ".safetensors":
        return path
    if not path.is_file():
        raise UserError(f"evaluation.weights: there is no file {path}")
    try:
        converted_path().parent.mkdir(parents=True, exist_ok=True)
        return _convert(path, converted_path(), str(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"evaluation.weights: {path} cannot be converted ({error})") from error


def _convert(path: Path, converted: Path, name: str) -> Path:
    """Verify the public file, then read it and write its folded weights as safetensors."""
    found = sha256_of(path)
    if found != SHA256:
        raise UserError(
            f"evaluation.weights: {name} has SHA-256 {found[:8]}..., the public file has "
            f"{SHA256[:8]}...: it was not read (other weights are read from .safetensors only)"
        )
    if not converted.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
        folded = {key: value.contiguous() for key, value in fold(state).items()}
        with whole_file(converted) as half:
            safetensors.torch.save_file(folded, half, metadata={"sha256": SHA256})
    return converted
