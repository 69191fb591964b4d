"""What training is told of its images: from `objective.dirt` and `data.trusted` to a data set.

    objective       its training data
    oracle          each sample with what was really done to it
    detail          each image with what the table says of it
    throw_away      the images that the table says nothing against
    denoise_first   all images, denoised as the table says
    others          as they are

The table is that of an audit (`dirt: auto`), made once by the main process and kept with the run as
data/dirt.csv, or a file (`dirt: TABLE`). A control may know what was really done (`dirt: truth`).
Of a stream a sample is audited, and each image is judged by its thresholds when it is read.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from ..config.schema import RunConfig
from ..data.audit.audit import audit_images
from ..data.audit.contract import HAS
from ..data.audit.judging import Judge
from ..data.audit.level_classifier import LEAST_TRUSTED, unknown_levels
from ..data.audit.registry import hiding_kinds
from ..data.audit.summary import lines_of
from ..data.audit.table import Table, clean_table, consistent, read_table, rounded, write_table
from ..data.base import Dataset, ModelRange
from ..data.datasets import build_dataset
from ..data.trust.controls import Chosen, Denoised, check_any_order, clean_numbers
from ..data.trust.trust import Trust
from ..data.trust.trusted import ByJudge, ByTable, ByTruth, LevelsOnly, Source, Trusted, trust_of
from ..objectives import Objective
from ..objectives.own_noise import teaching_levels
from ..support.cache import key_of
from ..support.errors import UserError
from ..support.shared_errors import on_main_for_long
from ..support.terminal import echo
from ..support.whole_files import written
from ..training import RunFolder

KEPT = Path("data/dirt.csv")  # of a run: what its audit found
AUTO, NONE, TRUTH = "auto", "none", "truth"
FALSE_ALARMS = 0.03
"""Of trusted images, the most that an audit may call dirty before its thresholds rise."""


def with_knowledge(
    config: RunConfig, dataset: ModelRange, run: RunFolder, *, is_latent: bool = False
) -> ModelRange:
    """The training data as the objective takes them; all processes call it together.
    A resumed run finds its table in its folder. Of latents only levels and weights can be told."""
    name, images = config.objective.name, dataset.dataset
    told = config.objective.method.told_of_dirt
    dirt = dirt_of(config)
    knows_all = TRUTH in (told, dirt)
    is_left_alone = dirt == AUTO and told == "table" and not dataset.is_image
    if not knows_all and (dirt in (None, NONE) or is_left_alone):
        return dataset
    if not dataset.is_image and (not knows_all or told == "denoised"):
        raise UserError(
            f"objective {name} is told of dirt in images, and {dataset.name} holds vectors: take "
            "objective=plain, or objective.dirt=auto of detail, which does nothing there"
        )
    if told == "clean_only":
        check_any_order(images)
    if dirt is None or knows_all:
        source = ByTruth(images)
    else:
        source = on_main_for_long(lambda: _source(config, images, run, dirt))
    if told == "clean_only":
        return ModelRange(Chosen(images, clean_numbers(source.table)))
    if told == "denoised":
        return ModelRange(Denoised(images, source))
    return ModelRange(Trusted(images, _as_latents(source, is_latent, is_asked=dirt != AUTO)))


def dirt_of(config: RunConfig) -> str | None:
    """`objective.dirt`: auto, none, truth or a file; None where there is no such setting."""
    dirt = getattr(config.objective, "dirt", None)
    if config.data.trusted is not None and dirt in (None, NONE, TRUTH):
        raise UserError(
            "data.trusted corrects what an objective is told of dirt, and objective "
            f"{config.objective.name} is told nothing that could be wrong: leave it out (null), or "
            "set objective=detail"
        )
    return dirt


def words_of(config: RunConfig) -> list[str]:
    """How training will know what is wrong with which sample, for a run that is only looked at;
    refused as the run would be."""
    dirt = dirt_of(config)
    if TRUTH in (config.objective.method.told_of_dirt, dirt):
        return ["what was really done to each sample"]
    if dirt in (None, NONE):
        return []
    if dirt != AUTO and not Path(dirt).is_file():
        raise UserError(f"objective.dirt: there is no table {dirt}; `sparring inspect` writes one")
    words = "the images are looked at before training" if dirt == AUTO else f"as {dirt} says"
    return [words + (", but for trusted ones" if config.data.trusted is not None else "")]


def known_lines(dataset: ModelRange) -> list[str]:
    """What training is told, a line per kind of dirt; [] where it is told nothing."""
    source = getattr(dataset.dataset, "source", None)
    return [] if source is None else lines_of(source.table)


def levels_in(dataset: ModelRange) -> Tensor | None:
    """Noise levels from which on the images teach, ascending, (N,), infinite for never; those of a
    sample stand for the whole stream. None where training is told nothing."""
    known = _known(dataset)
    if known is None:
        return None
    levels = teaching_levels(*known).sort().values
    return levels[torch.linspace(0, len(levels) - 1, len(dataset)).round().long()]


def epoch_of(objective: Objective, dataset: ModelRange) -> Tensor | None:
    """Numbers of the samples that make up an epoch; None: each comes once, as in every stream."""
    known = _known(dataset)
    if known is None or dataset.sharding is not None:
        return None
    numbers = objective.epoch(*known)
    if numbers is not None and PartialState().is_main_process:
        counts = numbers.bincount()
        ratio = float(counts.max() / counts[counts > 0].min())
        _say(
            f"the images that teach most come {ratio:.2g} times as often as those that teach least"
        )
    return numbers


def _known(dataset: ModelRange) -> tuple[Trust, int, int] | None:
    """What is known of all images, and their height and width; None where that is nothing."""
    inner = dataset.dataset
    if not isinstance(inner, Trusted):
        return None
    table, shape = inner.source.table, inner.sample_shape
    trust = trust_of(table, torch.ones(len(table), dtype=torch.bool), None, inner.scale, shape)
    height, width = shape[1:] if inner.is_image else (1, 1)
    return trust, height, width


def _source(config: RunConfig, images: Dataset, run: RunFolder, dirt: str) -> ByTable | ByJudge:
    """Who knows the images; the main process alone finds out, says it and keeps it."""
    kept, judge = _kept(run), None
    if dirt == AUTO and kept is not None and images.sharding is None:
        table = read_table(kept, images)
    else:
        is_asked = config.data.trusted is not None
        trusted = trusted_numbers(config, images) if is_asked else None  # an audit may take long
        table, judge = (
            _audited(config, images) if dirt == AUTO else (read_table(dirt, images), None)
        )
        if trusted is not None:
            table = calibrated(table, trusted) if dirt == AUTO else table
            clean = clean_table(trusted, table.kinds)
            clean.clipped[:] = table.clipped[trusted]
            table.put(trusted, clean)
            if dirt == AUTO:
                give_levels(table, trusted, images, config.training.seed)
    for line in lines_of(table):
        _say(line)
    keep(table, images, run)
    return ByTable(table) if judge is None else ByJudge(judge, table)


def _audited(config: RunConfig, images: Dataset) -> tuple[Table, Judge | None]:
    """What an audit finds in the images, and of a stream the thresholds for all of it."""
    _say("the images are looked at before training")
    audit = audit_images(images, config.data.dataloader_num_workers)
    if audit.is_whole:
        return audit.table, None
    n_seen, n = len(audit.table), len(images)
    _say(f"{n_seen} of {n} images of the stream say how all are judged")
    return audit.table, audit.judge


def give_levels(table: Table, trusted: np.ndarray, images: Dataset, seed: int) -> None:
    """Where no statistic knows what is wrong: levels from the difference to trusted images, filled
    into the table of the whole data set; the seed is that of the comparison's noise."""
    unknown = np.setdiff1d(table.index[table.is_clean], trusted)
    if len(trusted) < LEAST_TRUSTED or len(unknown) < LEAST_TRUSTED:
        _say(
            f"{len(trusted)} trusted images are compared with the {len(unknown)} others without "
            f"known dirt only if there are {LEAST_TRUSTED} of each"
        )
        return
    levels = unknown_levels(images, trusted, unknown, seed)
    if levels is None:
        _say("the images without known dirt look like trusted ones")
        return
    table.level[unknown] = rounded("level", levels)
    n_odd, median = int((levels > 0).sum()), float(np.median(levels[levels > 0]))
    _say(
        f"{n_odd} of {len(unknown)} images without known dirt differ from trusted ones, and are "
        f"used from a noise level on, median {median:.2g}"
    )


def _say(line: str) -> None:
    echo(f"sparring: dirt: {line}", err=True)


def _kept(run: RunFolder) -> Path | None:
    """The table of the run that goes on, which may lie elsewhere; a fork looks anew."""
    if run.checkpoint is None or run.is_fork:
        return None
    path = run.checkpoint.parent.parent / KEPT
    return path if path.is_file() else None


def keep(table: Table, dataset: Dataset, run: RunFolder) -> None:
    """Writes the table among what the run says of its data."""
    run.check()  # an audit may take minutes
    path = run.path / KEPT
    with written(f"{path}:"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(table, dataset, path)


def trusted_numbers(config: RunConfig, images: Dataset) -> np.ndarray:
    """Numbers of the images of `data.trusted`, (n,): those said, or equal to the folder's."""
    said, n = config.data.trusted, len(images)
    if images.sharding is not None:
        raise UserError(
            f"data.trusted needs data that are read in any order, and {images.name} is a stream: "
            "leave it out (null), or read the images from a folder, or a table with "
            "data.streaming=false"
        )
    if isinstance(said, list):
        if max(said) >= n:
            raise UserError(
                f"data.trusted names image {max(said)}, and {images.name} has 0 to {n - 1}"
            )
        return np.unique(np.asarray(said, np.int64))
    channels, height, width = images.sample_shape
    read_as = {"n_channels": channels, "resolution": height if height == width else None}
    try:
        folder = build_dataset("image_folder", "all", train_data_dir=said, **read_as)
    except (UserError, ValueError) as error:
        raise UserError(f"data.trusted: {error}") from error
    theirs = {key_of(x) for x in folder.read_all()["x0"]}
    found = [
        i
        for batch in images.chunks()
        for i, x in zip(batch["index"].tolist(), batch["x0"], strict=True)
        if key_of(x) in theirs
    ]
    if not found:
        raise UserError(
            f"data.trusted: no image of {said} is among those of {images.name} as they are read: "
            "copy them from there, and do not crop at random (data.center_crop=true)"
        )
    return np.asarray(found, np.int64)


def calibrated(table: Table, trusted: np.ndarray) -> Table:
    """An audit's table in which no kind is found in more than `FALSE_ALARMS` of trusted images.

    An image whose probability of a kind is no higher than that of all but so many of the trusted
    ones, given by their numbers in the whole data set, does not have it.
    """
    kinds = {}
    for kind, p in table.kinds.items():
        usual = np.quantile(p[trusted], 1 - FALSE_ALARMS, method="higher")
        kinds[kind] = np.where(p <= usual, np.minimum(p, np.float32(HAS)), p)
    return consistent(replace(table, kinds=kinds))


def _as_latents(source: Source, is_latent: bool, *, is_asked: bool) -> Source:
    """Of what is known, what can be told of latents: levels and weights. What the user asked for
    beyond that is refused."""
    if not is_latent:
        return source
    table = source.table
    n_noisy = int(((table.sigma > 0) | (table.slope > 0)).sum())
    hiding = [table.has(kind) for kind in hiding_kinds() & table.kinds.keys()]
    n_hidden = int(np.any(hiding, 0).sum())
    if (n_noisy or source.hides) and is_asked:
        raise UserError(
            f"a latent model can be told levels and weights of images, and {n_noisy} have noise, "
            f"{n_hidden} hidden pixels: neither is so in latents; set objective.dirt=none"
        )
    if (n_noisy or n_hidden) and PartialState().is_main_process:
        _say(
            f"noise ({n_noisy} images) and hidden pixels ({n_hidden}) are not told to a latent "
            "model, levels and weights are"
        )
    return LevelsOnly(source)
