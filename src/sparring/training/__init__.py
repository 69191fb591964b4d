"""One loop for all methods: `train`, its settings, its run folder and its checkpoints."""

from .checkpoint import latest_checkpoint
from .loop import ConditionFn, train
from .processes import process_state
from .run_folder import RunFolder, open_run
from .settings import TrainSettings

__all__ = [
    "ConditionFn",
    "RunFolder",
    "TrainSettings",
    "latest_checkpoint",
    "open_run",
    "process_state",
    "train",
]
