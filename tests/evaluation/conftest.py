"""The feature classifier is trained once for all tests, in a cache of their own."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def digits():
    from sparring.data.datasets import build_dataset

    return build_dataset("digits", split="all")


@pytest.fixture(scope="session")
def unlabelled():
    """100 grey 4x4 images without labels."""
    from sparring.data.base import InMemory

    images = torch.rand(100, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return InMemory("squares", images)
