"""The order of samples in shards: each once per epoch, in windows, the same for all processes."""

import pytest

from shards import SIZES
from sparring.data.batches import BatchOrder
from sparring.data.streams.shard_order import Sharding, ShardOrder
from sparring.support.errors import UserError

N = sum(SIZES)
CASES = [  # B, L, buffer
    (16, None, None), (4, None, None), (16, 16, 64), (16, 4, 40), (6, 18, 90), (1, None, 300),
    (8, 8, 1), (200, 200, 400), (500, None, None),
]  # fmt: skip


def order_of(B, n_lanes=None, buffer=None, seed=0, sizes=SIZES):
    return ShardOrder(Sharding(sizes, n_lanes, buffer), seed, B)


@pytest.mark.parametrize(("B", "n_lanes", "buffer"), CASES)
def test_every_epoch_holds_every_sample_once(B, n_lanes, buffer):
    order = order_of(B, n_lanes, buffer)
    epochs = [[order.index(k) for k in range(e * N, (e + 1) * N)] for e in range(4)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = order_of(B, n_lanes, buffer, seed=1)
    assert [other.index(k) for k in range(N)] != epochs[0]


@pytest.mark.parametrize(("B", "n_lanes", "buffer"), CASES)
def test_the_order_is_the_formula(B, n_lanes, buffer):
    """Lanes by walking the stream: their pieces are neighbours in the line, window by window."""
    order = order_of(B, n_lanes, buffer)
    L, K = order.lanes, order.window
    P = max(B, L)
    for e in range(3):
        lanes = {}
        for k in range(e * N, (e + 1) * N):
            lanes.setdefault(k % P * L // P, []).append(k)
        epoch = order._epoch(e)
        line = []
        for shard in epoch.shards:
            line += range(sum(SIZES[:shard]), sum(SIZES[: shard + 1]))
        assert sorted(epoch.shards) == list(range(20))
        taken = []
        for lane, positions in lanes.items():
            places = [line.index(order.index(k)) for k in positions]
            low = min(places)
            assert sorted(places) == list(range(low, low + len(places)))
            borders = [0] + [t for t in range(1, len(places)) if (t + lane % K) % K == 0]
            for a, z in zip(borders, [*borders[1:], len(places)], strict=True):
                assert sorted(places[a:z]) == list(range(low + a, low + z))
                window = order.window_of(positions[a])
                assert window.lane == lane
                samples = [i for first, last in window.ranges for i in range(first, last)]
                assert samples == line[low + a : low + z]
                assert all(order.window_of(k) == window for k in positions[a:z])
            taken += places
        assert sorted(taken) == list(range(N))
    assert order._epoch(1).shards != order._epoch(2).shards


def test_a_range_of_a_window_lies_in_one_shard():
    order = order_of(4, 4, 200)
    ends = [sum(SIZES[: shard + 1]) for shard in range(20)]
    for k in range(2 * N):
        for first, last in order.window_of(k).ranges:
            assert first < last
            assert not any(first < end < last for end in ends)


def test_windows_and_lanes_are_shuffled():
    order = order_of(16, 16, 16 * 5, sizes=[200])  # one shard: the line is 0, 1, 2, ...
    windows = {}
    for k in range(200):
        windows.setdefault(order.window_of(k), []).append(order.index(k))
    orders = [tuple(i - min(taken) for i in taken) for taken in windows.values() if len(taken) == 5]
    assert len(orders) >= 16
    assert len(set(orders)) > 10
    assert order._epoch(0).pieces != sorted(order._epoch(0).pieces)
    assert order._epoch(0).pieces != order._epoch(1).pieces


def test_no_two_lanes_share_a_row_of_the_batch_unless_told():
    order = order_of(16)
    assert order.lanes == 128
    for row in range(16):
        mine = {order.place(batch * 16 + row).lane for batch in range(50)}
        assert mine == {lane for lane in range(128) if lane % 16 == row}


def test_lanes_come_to_new_windows_at_different_times():
    order = order_of(32, 32, 32 * 8, sizes=[1000] * 10)
    seen, new = {}, []
    for batch in range(40):
        fresh = 0
        for row in range(32):
            window = order.window_of(batch * 32 + row)
            fresh += seen.get(row) != window
            seen[row] = window
        new.append(fresh)
    assert set(new[1:]) == {4}  # 32 lanes, 8 samples a window


def test_empty_shards_and_single_samples():
    order = order_of(2, sizes=[0, 1, 0, 0, 3, 0])
    assert sorted(order.index(k) for k in range(4)) == [0, 1, 2, 3]
    order = order_of(3, sizes=[1])
    assert [order.index(k) for k in range(5)] == [0] * 5


def test_lanes_that_do_not_fit_the_batch_are_refused():
    with pytest.raises(UserError, match=r"data.shuffle_lanes must divide the global batch of 16"):
        order_of(16, 12)


@pytest.mark.parametrize(
    ("n_workers", "n_lanes"), [(1, None), (2, None), (3, None), (2, 4), (3, 8)]
)
def test_parts_of_a_micro_batch_are_whole_lanes(n_workers, n_lanes):
    order = BatchOrder(N, 0, 16, n_micro=2, n_batches=3, shards=order_of(16, n_lanes))
    whole = list(order)
    order.n_parts = n_workers
    parts = list(order)
    assert len(parts) == n_workers * len(whole)
    lanes = [set() for _ in range(n_workers)]
    for number, keys in enumerate(parts):
        lanes[number % n_workers] |= {order.shards.place(position).lane for _, position in keys}
    assert [key for keys in parts for key in keys] == [key for keys in whole for key in keys]
    assert sum(map(len, lanes)) == len(set.union(*lanes))
