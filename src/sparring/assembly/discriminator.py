"""From settings to who judges the samples of an objective: eye, heads, the optimiser's numbers."""

import copy
from pathlib import Path

import torch

from ..adversarial.backbones import label_backbone, load_dino
from ..adversarial.discriminators import Discriminator, Heads
from ..adversarial.eyes import ImageEye, LatentEye
from ..config.schema import RunConfig
from ..data.base import ModelRange
from ..diffusion.randomness import derive_seed
from ..models.lora import lora_config, merge_lora
from ..models.pretrained import Model
from ..support.errors import UserError, one_line_errors
from ..training.settings import TrainSettings


def build_discriminator(
    config: RunConfig, model: Model, dataset: ModelRange, kept_in: Path | None = None
) -> tuple[Discriminator, TrainSettings] | None:
    """Who judges the samples, with the numbers of its optimiser; None where nobody is asked for.

    The model is as it is before it learns. features=labels is trained on the data set, and kept in
    a file for a resumed run.
    """
    section = config.objective
    if not section.method.needs_discriminator:
        return None
    if len(dataset.sample_shape) != 3:
        raise UserError(f"objective {section.name} needs images, and {config.data.name} has none")
    own = section.discriminator
    with one_line_errors("objective.discriminator"):
        if own.features == "denoiser":
            eye, channels = _latent_eye(model, own.blocks)
        else:
            if own.features == "labels":
                backbone = label_backbone(dataset, own.blocks, kept_in)
            else:
                backbone = load_dino(own.features, own.blocks, own.side)
                _, height, width = dataset.sample_shape
                if min(height, width) < (patch := backbone.patch):
                    raise UserError(
                        f"objective.discriminator.features {own.features} looks at patches of "
                        f"{patch} pixels, and the images are {width}x{height}: take labels or "
                        "denoiser"
                    )
            how = {"shared": own.reading != "pooled", "reconstructed": own.real == "reconstruction"}
            eye = ImageEye(backbone, own.augment, vae=model.vae, **how)
            channels = eye.channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.training.seed, "discriminator"))
            heads = Heads(channels, own.reading, own.width)
        discriminator = Discriminator(eye, heads, loss=own.loss, r1=own.r1)
    names = ("learning_rate", "adam_beta1", "adam_beta2", "adam_weight_decay", "max_grad_norm")
    numbers = {name: getattr(own, name) for name in names}
    numbers |= {"lr_scheduler": "constant", "lr_warmup_steps": 0, "use_ema": False}
    return discriminator, config.training.model_copy(update=numbers)


def _latent_eye(model: Model, blocks: list[int] | None) -> tuple[LatentEye, list[int]]:
    """The model as it is now, looking at its own samples; and the channels of what it sees."""
    copied = copy.deepcopy(model.denoiser)
    if lora_config(copied.network) is not None:
        merge_lora(copied.network)  # nothing is learned yet: this only takes the matrices away
    eye = LatentEye(copied, blocks)
    x0, condition = torch.zeros(1, *model.sample_shape), {}
    if model.text is not None:
        condition = model.text([""])
    elif model.num_classes is not None:
        condition = {"class_labels": torch.zeros(1, dtype=torch.long)}
    return eye, eye.channels_of(x0, condition)
