"""Named extractors: what turns images into the features that the distances compare.

| name | features | when |
|---|---|---|
| `classifier` | layer before the classes (64) of a small CNN trained on the reference | labels |
| `pixels` | the image itself, flattened | no labels; small images |
| `inception`, or `inception-768`, -192, -64 | Inception-v3, see inception.py | FID, KID, IS |
| `dinov2` | class token of a DINOv2, see dino.py | FD-DINOv2 |
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
from torch import Tensor, nn

from ...data.base import Dataset
from ...support.errors import UserError
from ...support.home_folder import expanded
from ...support.user_code import load_from_file
from .classifier import MAX_SIDE, get_classifier
from .dino import PUBLISHED, load_class_token
from .dino import SIDE as DINO_SIDE
from .inception import BATCH_SIZE, EXTRACTORS, SIDE
from .inception_weights import load_inception

N_ENOUGH = 10_000
"""Images that FID needs at least, by its authors (Heusel et al., 2017)."""


@dataclass(frozen=True)
class Extractor:
    """A named map from images (B, C, H, W) in [0, 1] to features (B, D).

    Attributes:
        name: As the user named it.
        function: The map itself, one batch at a time.
        checksum: Of its weights (or of its code, where there are none).
        resize: What it does to the size of an image, in words, for the protocol.
        range: What it does to the values of an image, in words, for the protocol.
        details: More for the protocol, such as the classifier's held-out accuracy.
        logits: Logits (N, n_classes) from features, where the Inception Score is defined.
        n_enough: With fewer images a Frechet distance is warned of, and extrapolated.
        batch_size: Images at once.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    checksum: str
    resize: str = "none"
    range: str = "[0, 1], clipped, not rounded"
    details: dict[str, Any] = field(default_factory=dict)
    logits: Callable[[Tensor], Tensor] | None = None
    n_enough: int = 0
    batch_size: int = 256

    @torch.no_grad()
    def __call__(self, images: Tensor, batch_size: int | None = None) -> Tensor:
        """Features (N, D) on the CPU of images (N, C, H, W) in [0, 1], batch by batch.

        Their precision is float32, or float64 where the function answers in that.

        Raises:
            ValueError: where the function does not answer (B, C, H, W) with (B, D).
        """
        batches = images.split(batch_size or self.batch_size)
        return torch.cat([self._features(batch) for batch in batches])

    def _features(self, images: Tensor) -> Tensor:
        features = self.function(images)
        expected = f"extractor {self.name} must map images (B, C, H, W) to features (B, D)"
        if not isinstance(features, Tensor):
            raise ValueError(f"{expected}; it returned {type(features).__name__}")
        if features.ndim != 2 or len(features) != len(images):
            raise ValueError(
                f"{expected}; for {tuple(images.shape)} it returned {tuple(features.shape)}"
            )
        return features.cpu() if features.dtype == torch.float64 else features.float().cpu()


def make_extractor(
    name: str | None,
    reference: Dataset,
    device: torch.device | str = "cpu",
    weights: str | None = None,
) -> Extractor:
    """The extractor of that name; the classifier is trained on `reference`, or read from the cache.

    Args:
        name: `classifier`, `pixels`, `inception` (-768, -192, -64), `dinov2` or
            `path/to/file.py:function`; None: `classifier` where the reference has labels, else
            `pixels`.
        reference: Clean images in [0, 1], labelled for `classifier`.
        device: Where the features are computed (training is always on the CPU, see classifier.py).
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


def _dinov2(device: torch.device | str, weights: str | None) -> Extractor:
    network = load_class_token(weights).to(device)
    return Extractor(
        "dinov2",
        lambda images: network(images.to(device, torch.float32)),
        checksum=checksum(network),
        resize=f"bicubic, antialiased, to {DINO_SIDE} x {DINO_SIDE} pixels",
        range="[0, 1], clipped, rounded to 8 bits",
        details={"frechet_distance_is": f"FD-DINOv2 with {weights or PUBLISHED}"},
        n_enough=N_ENOUGH,
        batch_size=BATCH_SIZE,
    )


def _from_file(name: str, device: torch.device | str) -> Extractor:
    path, _, attribute = expanded(name).rpartition(":")
    make = load_from_file(name, "extractor")
    if not callable(make):
        raise UserError(f"extractor {name}: {path} has no function {attribute!r}")
    if any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
           for p in inspect.signature(make).parameters.values()):  # fmt: skip
        raise UserError(
            f"extractor {name}: {attribute}() must take no arguments and return the module that "
            "maps images in [0, 1] to features"
        )
    network = make()
    if not callable(network):
        raise UserError(
            f"extractor {name}: {attribute}() must return a module or function, "
            f"it returned {type(network).__name__}"
        )
    code = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
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

    An unreadable image is left out, not replaced by its neighbour: every image counts once.

    Images with a known truth (digits_subspace) may leave [0, 1] a little.

    Raises:
        ValueError: for images outside [0, 1], such as those of a contaminated or scaled data set.
    """
    for batch in dataset.chunks(indices, batch_size):
        images = batch["x0"].float()
        if len(images) and dataset.truth is None and (images.min() < 0 or images.max() > 1):
            raise ValueError(
                f"reference images of {dataset.name} must be clean and in [0, 1], got "
                f"{images.min():.3g} to {images.max():.3g}"
            )
        yield images, batch.get("label")
