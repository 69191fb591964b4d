"""`sparring evaluate RUN evaluation.proximal=auto`: choose between models without a clean image.

The samples are made dirty as a table says that the training images are, and compared with those;
see evaluation/store/proximal.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...assembly.dirt_knowledge import KEPT
from ...data.audit.table import read_table
from ...evaluation.networks.judges import Judges
from ...evaluation.store.proximal import Proximal
from ...evaluation.store.reference import Reference, Settings
from ...support.errors import UserError, one_line_errors

if TYPE_CHECKING:
    from .plan import Plan


def proximal_of(plan: Plan, references: dict[tuple[str, Settings], Reference]) -> Proximal | None:
    """What evaluation.proximal asks for: the model's training images and the table of their dirt.

    Raises:
        UserError: if there is no table, or none of these images.
    """
    wanted = plan.config.evaluation.proximal
    if wanted is None:
        return None
    dirty = plan.against.dirty or plan.against.training
    if dirty is None:
        raise UserError(
            f"{plan.name}: evaluation.proximal compares with the images that a run was trained on: "
            "leave it out for vectors, for models that are no run, and where samples are measured "
            "at another size"
        )
    place = own_table(plan.name) if wanted == "auto" else wanted
    table = read_table(place, dirty, whole=dirty.sharding is None)  # of a stream: some images
    settings = replace(
        plan.reference.settings,
        statistics=None,
        judges=Judges(),
        memorization_extractor=None,
        metrics=(),
    )
    kept = {"kept": plan.reference.kept, "processes": plan.processes}
    reference = references.setdefault(
        (dirty.fingerprint(), settings), Reference(dirty, settings, "train", **kept)
    )
    with one_line_errors(f"{plan.name}: evaluation.proximal", (ValueError,)):
        return Proximal(reference, table)


def own_table(name: str) -> Path:
    """The table of a run, or of the run that a checkpoint is of."""
    place = Path(name)
    for run in (place, *place.resolve().parents[:2]):
        if (run / KEPT).is_file():
            return run / KEPT
    raise UserError(
        f"{name} has no {KEPT} that says how dirty its training images are: make one with "
        "`sparring inspect DATA -o FOLDER`, look at it, and set evaluation.proximal=FOLDER/dirt.csv"
    )
