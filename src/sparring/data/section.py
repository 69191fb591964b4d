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
    """What stays as it is said when a config takes another data set.

    Attributes:
        name: A built-in set, or `path/to/file.py:Name`.
        split: train, held_out or all; a Hugging Face set's own split too.
        seed: Of the order, the splits and random crops.
        resolution: Pixels of a side: the shorter side is resized to it and a square is cut out;
            null: as the files are.
        center_crop: Whether the square is the middle one; otherwise it is drawn.
        random_flip: Whether half of the images are mirrored.
        n_channels: 1 for grey, 3 for RGB; null: as the images are.
        dataloader_num_workers: Processes that read. auto: up to 4 where a GPU trains on images that
            are decoded in every step (large ones, of differing sizes, or in shards); else 0, as
            held images cost nothing and a CPU that trains has no core to spare.
        max_train_samples: So many of split train, drawn from the seed; null: all.
    """

    model_config = ConfigDict(extra="allow")
    name: Annotated[Place, AfterValidator(sets.check_name)] = "digits"
    split: Word = "train"
    seed: int = 0
    resolution: Count | None = None
    center_crop: bool = True
    random_flip: bool = False
    n_channels: Literal[1, 3] | None = None
    dataloader_num_workers: CountOrZero | Literal["auto"] = "auto"
    max_train_samples: Count | None = None


class DataSection(AnyData):
    """How samples are read. Any set accepts these keys, and ignores what does not concern it.

    Attributes:
        held_out_share: Part of a folder or table that is kept out of split train.
        image_column: Of a table, or the ending of a shard's images; null: the first with images.
        label_column: Of the classes; null: the first with classes.
        caption_column: Of the captions; null: text.
        trusted: Images that the user looked at and found clean, for objectives that are told what
            is dirty: a folder of them, or their numbers in the data (see `sparring inspect`).
        latents: What of the VAE's distribution latent models learn from.
        latents_cache: Folder that keeps that distribution and the captions' hidden states; null:
            they are computed in every epoch.
    """

    held_out_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    image_column: Word | None = None
    label_column: Word | None = None
    caption_column: Word | None = None
    trusted: Place | Listed[CountOrZero] | None = None
    latents: Literal["sample", "mode"] = "sample"
    latents_cache: Place | None = None


READING = DataSection.model_fields.keys() - {"name", "split"}
