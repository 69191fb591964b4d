"""The small classifier whose penultimate layer gives the features of the extractor `classifier`.

It is trained once on the clean labelled reference, on one CPU thread with a fixed seed, so that
the same data give the same weights on the same machine, and kept in $SPARRING_CACHE. The accuracy
on a fifth that is held out says what the features are worth and goes into the protocol.
"""

import logging
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.base import Dataset
from ...data.classifier import fit_labels, one_thread
from ...diffusion.randomness import derive_seed, generator
from ...support.cache import cache_folder
from .weights import write_weights

log = logging.getLogger(__name__)

VERSION = 1  # a change of anything below must raise it: it is part of the cache's key
SEED = 0
MAX_SIDE = 32  # larger images are averaged down to this many pixels
N_FEATURES = 64
N_STEPS = 600
BATCH_SIZE = 64
MAX_IMAGES = 20_000  # a random subset is enough, and bounds memory


class Classifier(nn.Module):
    """Convolutions that halve the image to at most 4 pixels, a layer of 64, the classes."""

    def __init__(self, n_channels: int, side: int, n_classes: int) -> None:
        super().__init__()
        side = min(side, MAX_SIDE)
        stride = 1 if side <= 8 else 2
        width, layers, side = 32, _block(n_channels, 32, stride), (side + stride - 1) // stride
        while side > 4:
            layers += _block(width, min(2 * width, 64), stride=2)
            width, side = min(2 * width, 64), (side + 1) // 2
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.penultimate = nn.Linear(4 * width, N_FEATURES)
        self.head = nn.Linear(N_FEATURES, n_classes)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, 64), >= 0, of images (B, C, H, W) in [0, 1]."""
        return F.relu(self.penultimate(self.body(2 * shrink(images) - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, n_classes) of images (B, C, H, W) in [0, 1]."""
        return self.head(self.features(images))


def _block(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 3, stride, 1), nn.ReLU()]


def get_classifier(reference: Dataset) -> tuple[Classifier, float]:
    """The classifier of a labelled clean data set and its held-out accuracy, perhaps cached.
    A cache that cannot be read or written costs a training, and is said in the log."""
    path = cache_folder() / f"classifier-v{VERSION}-{reference.fingerprint()}.safetensors"
    if path.is_file():
        try:
            return _read(path, reference)
        except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
            log.warning("%s cannot be used (%s); training the classifier again", path, error)
    network, accuracy = train_classifier(reference)
    try:
        write_weights(path, network.state_dict(), {"held_out_accuracy": repr(accuracy)})
    except OSError as error:
        log.warning("the classifier is not cached: %s cannot be written (%s)", path, error)
    return network, accuracy


def train_classifier(reference: Dataset) -> tuple[Classifier, float]:
    """Train on four fifths of (at most 20,000 of) the images; return it and the rest's accuracy.
    600 AdamW steps of batch 64 with a cosine schedule: about 2 s on one core for 8x8 images."""
    order = torch.randperm(len(reference), generator=generator("cpu", SEED, "classifier rows"))
    rows = order[:MAX_IMAGES].tolist()  # unreadable images stay out
    batches = [(shrink(one["x0"].float()), one["label"]) for one in reference.chunks(rows, 256)]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    n_held_out = max(1, round(0.2 * len(images)))
    held_out, train = slice(0, n_held_out), slice(n_held_out, None)
    log.info("training the feature classifier on %d images of %s", len(images), reference.name)

    with one_thread():  # the order of a sum, hence the weights, depends on their number
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(SEED, "classifier weights"))
            network = _untrained(reference)
        learning = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(learning, N_STEPS)
        rng = generator("cpu", SEED, "classifier batches")
        counts = {"n_steps": N_STEPS, "batch_size": BATCH_SIZE}
        fit_labels(network, rate, images[train], labels[train], rng, **counts)
        with torch.no_grad():
            guesses = torch.cat([network(part).argmax(1) for part in images[held_out].split(256)])
    accuracy = (guesses == labels[held_out]).double().mean().item()
    log.info("its accuracy on %d held-out images is %.1f %%", n_held_out, 100 * accuracy)
    return network.eval(), accuracy


def _untrained(reference: Dataset) -> Classifier:
    n_channels, *sides = reference.sample_shape
    return Classifier(n_channels, max(sides), reference.num_classes or 0)


def shrink(images: Tensor) -> Tensor:
    """Images (B, C, H, W) averaged down so that their longer side has at most 32 pixels."""
    if max(images.shape[2:]) <= MAX_SIDE:
        return images
    scale = MAX_SIDE / max(images.shape[2:])
    size = [max(1, round(scale * n)) for n in images.shape[2:]]
    return F.interpolate(images, size=size, mode="area")


def _read(path: Path, reference: Dataset) -> tuple[Classifier, float]:
    network = _untrained(reference)
    network.load_state_dict(safetensors.torch.load_file(path))
    with safetensors.safe_open(path, framework="pt") as file:
        accuracy = float(file.metadata()["held_out_accuracy"])
    return network.eval(), accuracy
