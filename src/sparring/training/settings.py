"""The numbers of a run: section `training` of a config, which the loop takes as it is."""

from typing import Any

from ..config.schema import TrainingSection as TrainSettings

__all__ = ["START", "TrainSettings", "start_of"]

START = ("resume_from_checkpoint", "overwrite_output_dir", "fork_from", "wait_for_lock")
"""What says how a start begins; it is no part of what a run is."""


def start_of(settings: TrainSettings) -> dict[str, Any]:
    """How this start begins: the arguments of `open_run`."""
    return {name: getattr(settings, name) for name in START}
