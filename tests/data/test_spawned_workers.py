"""Workers that are started anew, as on macOS and Windows, are sent the data set as a pickle."""

import pickle

import pytest
from torch.utils.data import DataLoader

from shards import write_parquet, write_tars
from sparring.data import batches
from sparring.data.batches import make_loader
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate
from sparring.data.trust.trusted import ByTruth, Trusted

DIRT = {"kind": "gaussian", "rate": 0.5, "sigma": [0.05, 0.3], "seed": 0}


class Sent(DataLoader):
    """Reads, in this process, what a worker would get through a pipe."""

    def __init__(
        self, dataset, *, collate_fn, worker_init_fn, num_workers, prefetch_factor, **rest
    ):
        assert num_workers == 1
        parts = pickle.loads(pickle.dumps((dataset, collate_fn, worker_init_fn)))
        super().__init__(parts[0], collate_fn=parts[1], **rest)


def read(dataset, n_workers):
    loader = make_loader(dataset, 3, 4, n_workers=n_workers, n_batches=6)
    return [(batch["index"].tolist(), batch["x0"].tolist()) for batch in loader]


@pytest.mark.parametrize("kind", ["memory", "files", "table", "tars", "stream", "points"])
def test_a_sent_data_set_gives_the_same_batches(kind, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    fields = {
        "memory": lambda: {"name": "digits", "max_train_samples": 30},
        "files": lambda: {"name": "image_folder", "train_data_dir": str(folder), "resolution": 8},
        "table": lambda: {"name": "parquet", "data_files": write_parquet(tmp_path)},
        "tars": lambda: {"name": "webdataset", "data_files": write_tars(tmp_path)},
        "stream": lambda: {
            "name": "parquet", "data_files": write_parquet(tmp_path), "streaming": True,
        },
        "points": lambda: {"name": "plane", "n_points": 40},
    }[kind]()  # fmt: skip
    dataset = contaminate(build_dataset(**fields), DIRT)
    dataset = Trusted(dataset, ByTruth(dataset))
    expected = read(dataset, 0)
    monkeypatch.setattr(batches, "DataLoader", Sent)
    assert read(dataset, 1) == expected
