"""One loop for all methods: `train`, its settings, its run folder and its checkpoints."""

from .checkpoint import latest_checkpoint
from .feed import ConditionFn, Feed
from .loop import train
from .processes import process_state
from .roles import Trained
from .run_folder import RunFolder, open_run
from .run_state import Hooks
from .settings import TrainSettings
