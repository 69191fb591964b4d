"""What every test may ask for; the networks that know the answer are in support.py."""

import random

import numpy as np
import pytest
import torch

from sparring.diffusion.schedules import Schedule, schedule_from_config
from support import in_random_order


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the tests in a random order")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seed = config.getoption("shuffle")
    if seed is not None:
        items[:] = in_random_order(items, lambda item: item.nodeid.split("::")[0], seed)


def pytest_runtest_setup() -> None:
    """Each test begins with the same random numbers, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def vp() -> Schedule:
    return schedule_from_config({"_class_name": "DDPMScheduler", "num_train_timesteps": 1000})
