"""The order of training: the same stream for any number of processes, micro-batches, workers."""

import pytest
import torch

from sparring.data import batches
from sparring.data.base import Dataset
from sparring.data.batches import BatchOrder, make_loader, rows_of
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import Contaminated
from sparring.support.errors import UserError
from support import EVERY_DIRT


def _flat(order):
    return [key for keys in order for key in keys]


def test_every_epoch_holds_every_sample_once_in_its_own_order():
    n, n_global = 10, 4
    keys = _flat(BatchOrder(n, 0, n_global, n_batches=15))
    assert [position for _, position in keys] == list(range(60))
    epochs = [[index for index, _ in keys[start : start + n]] for start in range(0, 60, n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert _flat(BatchOrder(n, 1, n_global, n_batches=15)) != keys


def test_an_epoch_holds_samples_as_often_as_its_numbers_do():
    numbers = torch.tensor([0, 0, 0, 2, 5, 5])
    keys = _flat(BatchOrder(6, 0, 4, n_batches=6, numbers=numbers))
    epochs = [[index for index, _ in keys[start : start + 6]] for start in range(0, 24, 6)]
    assert all(sorted(epoch) == numbers.tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    alone = _flat(BatchOrder(6, 0, 4, 2, 1, 2, first_batch=3, n_batches=3, numbers=numbers))
    assert alone == [key for key in keys[12:] if key[1] % 2]  # of two processes, resumed
    loaded = make_loader(build_dataset("digits"), 0, 4, numbers=numbers, n_batches=6)
    assert [i for batch in loaded for i in batch["index"].tolist()] == [i for i, _ in keys]


def test_a_batch_larger_than_the_data_goes_on_into_the_next_epoch():
    keys = BatchOrder(3, 0, 8).keys(0)
    assert sorted(index for index, _ in keys[:3]) == [0, 1, 2]
    assert sorted(index for index, _ in keys[3:6]) == [0, 1, 2]


@pytest.mark.parametrize(("world_size", "n_micro"), [(1, 1), (2, 1), (1, 3), (2, 3), (4, 3)])
def test_processes_and_micro_batches_share_out_one_global_batch(world_size, n_micro):
    n_global, n_batches = 24, 5
    one = list(BatchOrder(50, 3, n_global, n_batches=n_batches))
    together = [[None] * n_global for _ in range(n_batches)]
    n_local = n_global // (world_size * n_micro)
    for rank in range(world_size):
        order = BatchOrder(50, 3, n_global, n_micro, rank, world_size, n_batches=n_batches)
        micros = list(order)
        assert len(micros) == n_batches * n_micro
        for number, keys in enumerate(micros):
            batch, micro = divmod(number, n_micro)
            together[batch][rows_of(micro, rank, world_size, n_local)] = keys
    assert together == one


def test_a_resumed_order_goes_on_where_it_would_have_been():
    whole = list(BatchOrder(7, 5, 4, n_micro=2, n_batches=20))
    for first in (1, 6, 13):
        resumed = BatchOrder(7, 5, 4, n_micro=2, first_batch=first, n_batches=20 - first)
        assert list(resumed) == whole[2 * first :]


def test_resuming_late_costs_one_permutation():
    order = BatchOrder(1000, 0, 100, first_batch=10**6, n_batches=1)
    batches._permutation.cache_clear()
    next(iter(order))
    assert batches._permutation.cache_info().misses == 1


@pytest.mark.parametrize(("n_global", "n_micro", "world_size"), [(10, 3, 1), (10, 1, 4), (0, 1, 1)])
def test_a_batch_that_does_not_divide_is_refused(n_global, n_micro, world_size):
    with pytest.raises(ValueError, match="does not divide"):
        BatchOrder(100, 0, n_global, n_micro, 0, world_size)


def _read(dataset, **options):
    loader = make_loader(dataset, 2, 16, n_batches=6, **options)
    return {key: torch.cat([batch[key] for batch in loader]) for key in ("x0", "index", "label")}


def test_workers_read_the_same_stream():
    dirty = Contaminated(build_dataset("digits"), "mixture", 0.9, 0, False, parts=EVERY_DIRT)
    dirty.held = None  # contaminate in the workers
    here, workers = _read(dirty), _read(dirty, n_workers=2)
    for key in here:
        assert torch.equal(here[key], workers[key]), key


def test_a_loader_reads_the_rows_of_its_process_in_order():
    digits = build_dataset("digits")
    whole = list(make_loader(digits, 2, 16, n_batches=3))
    second = list(make_loader(digits, 2, 16, n_micro=2, rank=1, world_size=2, n_batches=3))
    for number, micro in enumerate(second):
        batch, m = divmod(number, 2)
        rows = rows_of(m, 1, 2, 4)
        assert torch.equal(micro["x0"], whole[batch]["x0"][rows])
        assert torch.equal(micro["index"], whole[batch]["index"][rows])


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_loader_leaves_the_global_random_state_alone(n_workers):
    before = torch.get_rng_state()
    next(iter(make_loader(build_dataset("digits"), 0, 8, n_workers=n_workers)))
    assert torch.equal(torch.get_rng_state(), before)


class _Broken(Dataset):
    name, sample_shape, is_image = "broken", (1,), False

    def __len__(self):
        return 4

    def rows(self, indices, positions):
        raise UserError("sizes differ: set data.resolution")

    def fingerprint(self):
        return ""


@pytest.mark.parametrize("n_workers", [0, 1])
def test_an_error_of_a_worker_is_one_line(n_workers):
    with pytest.raises(UserError, match=r"^sizes differ: set data.resolution$"):
        next(iter(make_loader(_Broken(), 0, 2, n_workers=n_workers)))
