"""What every test may ask for; the networks that know the answer are in support.py."""

import pytest

from sparring.schedules import Schedule, schedule_from_config


@pytest.fixture
def vp() -> Schedule:
    return schedule_from_config({"_class_name": "DDPMScheduler", "num_train_timesteps": 1000})
