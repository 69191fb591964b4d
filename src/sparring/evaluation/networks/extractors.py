"""Named extractors: what turns images into the features that the distances compare.

| name | features | when |
|---|---|---|
| `classifier` | layer before the classes (64) of a small CNN trained on the reference | labels |
| `pixels` | the image itself, flattened | no labels; small images |
| `inception`, or `inception-768`, -192, -64 | Inception-v3, see inception.py | FID, KID, IS |
| `dinov2` | class token of a DINOv2, see `ClassToken` | FD-DINOv2 |
| `path/to/file.py:function` | what the module returned by `function()` gives | a known network |

Every extractor takes images (B, C, H, W) in [0, 1] and gives features (B, D). Figures of different
extractors cannot be compared, so each carries a checksum that goes into the protocol.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...adversarial.backbones import IMAGENET_MEAN, IMAGENET_STD, dino_model
from ...data.base import Dataset
from ...diffusion.noising import precise
from ...support.errors import UserError
from ...support.home_folder import expanded
from ...support.user_code import load_from_file
from ...support.whole_files import sha256_of
from .classifier import MAX_SIDE, get_classifier
from .inception import BATCH_SIZE, EXTRACTORS, SIDE
from .inception_weights import load_inception

DINO, DINO_SIDE = "facebook/dinov2-large", 224
N_ENOUGH = 10_000  # images that FID needs at least, by its authors (Heusel et al., 2017)


@dataclass(frozen=True)
class Extractor:
    """A named map from images (B, C, H, W) in [0, 1] to features (B, D).
    What it does to the size and the values of an image is said in words, for the protocol."""

    name: str  # as the user named it
    function: Callable[[Tensor], Tensor]  # the map itself, one batch at a time
    checksum: str  # of its weights, or of its code where there are none
    resize: str = "none"  # what it does to the size of an image, in words, for the protocol
    range: str = "[0, 1], clipped, not rounded"  # and to its values
    details: dict[str, Any] = field(default_factory=dict)  # more for the protocol
    logits: Callable[[Tensor], Tensor] | None = None  # (N, n_classes) from features
    n_enough: int = 0  # with fewer images a Frechet distance is warned of, and extrapolated
    batch_size: int = 256

    @torch.no_grad()
    def __call__(self, images: Tensor, batch_size: int | None = None) -> Tensor:
        """Features (N, D) on the CPU, float32 or float64, of images (N, C, H, W) in [0, 1].
        Raises ValueError where the function does not answer (B, C, H, W) with (B, D)."""
        batches = images.split(batch_size or self.batch_size)
        return torch.cat([self._features(batch) for batch in batches])

    def _features(self, images: Tensor) -> Tensor:
        features = self.function(images)
        got = f"it returned {type(features).__name__}"
        if isinstance(features, Tensor):
            if features.ndim == 2 and len(features) == len(images):
                return precise(features).cpu()
            got = f"for {tuple(images.shape)} it returned {tuple(features.shape)}"
        what = "must map images (B, C, H, W) to features (B, D)"
        raise ValueError(f"extractor {self.name} {what}; {got}")


def make_extractor(
    name: str | None,
    reference: Dataset,
    device: torch.device | str = "cpu",
    weights: str | None = None,
) -> Extractor:
    """The extractor of that name; the classifier is trained on `reference`, or read from the cache.

    Args:
        name: See the table above; None: `classifier` where the reference has labels, else `pixels`.
        reference: Clean images in [0, 1], labelled for `classifier`.
        device: Where the features are computed; training is always on the CPU.
        weights: Of Inception, a file; None: from the cache or the public address. Of DINOv2, a
            folder or hub name; None: the published one.

    Raises:
        UserError: for an unknown name, missing labels, or a file that cannot be used.
    """
    if name is None:
        name = "classifier" if reference.num_classes else "pixels"
    if name in (*EXTRACTORS, "dinov2"):
        if reference.sample_shape[0] not in (1, 3):
            raise UserError(
                f"evaluation.extractor={name} takes images with 1 or 3 channels, {reference.name} "
                f"has {reference.sample_shape[0]}: use evaluation.extractor=pixels"
            )
        return _dinov2(device, weights) if name == "dinov2" else _inception(name, device, weights)
    if weights is not None:
        raise UserError(
            f"evaluation.weights is for evaluation.extractor={', '.join(EXTRACTORS)} and dinov2, "
            f"not {name}"
        )
    if name == "pixels":
        return Extractor("pixels", lambda images: images.flatten(1), checksum="none")
    if name == "classifier":
        if not reference.num_classes:
            raise UserError(
                f"the classifier extractor needs labels and {reference.name} has none: "
                "use evaluation.extractor=pixels or evaluation.extractor=path/to/file.py:function"
            )
        network, accuracy = get_classifier(reference)
        network = network.to(device)
        side = max(reference.sample_shape[1:])
        return Extractor(
            "classifier",
            lambda images: network.features(images.to(device, torch.float32)),
            checksum=checksum(network),
            resize=f"area to at most {MAX_SIDE} pixels" if side > MAX_SIDE else "none",
            details={"classifier_held_out_accuracy": accuracy},
        )
    if ".py:" in name:
        return _from_file(name, device)
    raise UserError(
        f"unknown extractor {name!r}: choose classifier, pixels, {', '.join(EXTRACTORS)}, dinov2 "
        "or path/to/file.py:function"
    )


def _inception(name: str, device: torch.device | str, weights: str | None) -> Extractor:
    n_features = EXTRACTORS[name]
    network = load_inception(n_features, weights).to(device)
    # on a CPU a quarter faster; torch's own annotations do not know the argument
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def features(images: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 moves FID by 1e-3
            return network(images.to(device, torch.float32))

    unlike = f"FID-{n_features}: features of an inner layer, not comparable with FID"
    return Extractor(
        name,
        features,
        checksum=checksum(network),
        resize=f"bilinear as in TensorFlow 1, to {SIDE} pixels",
        range="[0, 1], clipped, rounded to 8 bits",
        details={"frechet_distance_is": "FID" if n_features == 2048 else unlike},
        logits=network.logits_unbiased if n_features == 2048 else None,
        n_enough=N_ENOUGH,
        batch_size=BATCH_SIZE,
    )


class ClassToken(nn.Module):
    """Images (B, 1 or 3, H, W) in [0, 1] to the class token (B, D) of a DINOv2, `dino_model`'s.

    Resized as tensors with antialiasing and rounded to 8 bits before and after, as PIL does; PIL
    rounds its weights too, so single pixels differ by a grey level.

    Source: Stein et al., "Exposing flaws of generative model evaluation metrics", 2023, who found
    it nearer to what people see than Inception's features; theirs is `DINO` at this size.
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
        if tuple(x.shape[2:]) != (DINO_SIDE, DINO_SIDE):
            x = F.interpolate(x, (DINO_SIDE, DINO_SIDE), mode="bicubic", antialias=True)
            x = x.round().clamp(0, 255)
        return self.model((x / 255 - self.mean) / self.std).pooler_output


def _dinov2(device: torch.device | str, weights: str | None) -> Extractor:
    name = weights or DINO
    model = dino_model(name, "evaluation.extractor=dinov2: weights", "name a DINOv2")
    network = ClassToken(model).requires_grad_(False).eval().to(device)
    return Extractor(
        "dinov2",
        lambda images: network(images.to(device, torch.float32)),
        checksum=checksum(network),
        resize=f"bicubic, antialiased, to {DINO_SIDE} x {DINO_SIDE} pixels",
        range="[0, 1], clipped, rounded to 8 bits",
        details={"frechet_distance_is": f"FD-DINOv2 with {name}"},
        n_enough=N_ENOUGH,
        batch_size=BATCH_SIZE,
    )


def _from_file(name: str, device: torch.device | str) -> Extractor:
    path, _, attribute = expanded(name).rpartition(":")
    make = load_from_file(name, "extractor")
    if not callable(make):
        raise UserError(f"extractor {name}: {path} has no function {attribute!r}")
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise UserError(
            f"extractor {name}: {attribute}() must take no arguments and return the module that "
            "maps images in [0, 1] to features"
        ) from error
    network = make()
    if not callable(network):
        got = f"a module or function, it returned {type(network).__name__}"
        raise UserError(f"extractor {name}: {attribute}() must return {got}")
    code = sha256_of(Path(path))[:16]
    if not isinstance(network, nn.Module):
        function = cast(Callable[[Tensor], Tensor], network)
        return Extractor(name, function, checksum=code, resize="by the extractor")
    network = network.to(device).eval()
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    return Extractor(
        name,
        lambda images: network(images.to(device, dtype)),
        checksum=f"{code}-{checksum(network)}",
        resize="by the extractor",
    )


def checksum(network: nn.Module) -> str:
    """16 hex digits that follow from names, shapes, types and values of a network's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def image_batches(
    dataset: Dataset, indices: Sequence[int], batch_size: int = 256
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Images (B, C, H, W) in [0, 1] and labels (B,) of a data set at `indices`, batch by batch.

    An unreadable image is left out, not replaced by its neighbour: every image counts once. Raises
    ValueError for images outside [0, 1], such as those of a contaminated or scaled data set; those
    with a known truth (digits_subspace) may leave it a little.
    """
    for batch in dataset.chunks(indices, batch_size):
        images = batch["x0"].float()
        if len(images) and dataset.truth is None and (images.min() < 0 or images.max() > 1):
            raise ValueError(
                f"reference images of {dataset.name} must be clean and in [0, 1], got "
                f"{images.min():.3g} to {images.max():.3g}"
            )
        yield images, batch.get("label")
