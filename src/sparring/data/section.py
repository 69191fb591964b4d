"""Section data of a config: how samples are read, whatever set they are of.

Its other keys are the arguments of the set's constructor (`datasets.section_of_data`). Torch is not
imported here, so a wrong value of these keys is answered at once.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from ..options.sections import Section
from ..options.value_types import Count, CountOrZero, Listed, Place, Word
from . import sets


class AnyData(Section):
    """What stays as it is said when a config takes another data set."""

    model_config = ConfigDict(extra="allow")
    name: Annotated[Place, AfterValidator(sets.check_name)] = "digits"
    split: Word = "train"
    seed: int = 0
    resolution: Count | None = None
    center_crop: bool = True
    random_flip: bool = False
    n_channels: Literal[1, 3] | None = None  # None: as the images are
    dataloader_num_workers: CountOrZero = 0
    max_train_samples: Count | None = None


class DataSection(AnyData):
    """Any set accepts these keys; one that says nothing about them ignores them."""

    held_out_share: Annotated[float, Field(ge=0, lt=1)] | None = None  # kept out of split train
    image_column: Word | None = None
    label_column: Word | None = None
    caption_column: Word | None = None
    # Images that the user looked at and found clean, for objectives that are told what is dirty:
    # a folder of them, or their numbers in the data (`sparring inspect` names them).
    trusted: Place | Listed[CountOrZero] | None = None
    # Of latent models: what of the VAE's distribution is learned from, and a folder that keeps the
    # distribution and the captions' hidden states (None: they are computed in every epoch).
    latents: Literal["sample", "mode"] = "sample"
    latents_cache: Place | None = None


READING = DataSection.model_fields.keys() - {"name", "split"}
