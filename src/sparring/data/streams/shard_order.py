r"""The order of training on shards: random, and read in pieces that lie together.

Samples are numbered through all shards in their listed order. As in `batches`, the samples of all
epochs form one stream: with n samples, position k of it belongs to epoch e = k // n, and every
epoch holds every sample once. Instead of one permutation of everything:

1. The shards, permuted by (seed, e) and put end to end, make a line of n samples.
2. L lanes share the stream. With P = max(B, L) for batches of B (one divides the other) and
   R = P / L,

       lane(k) = (k mod P) // R,
       G(l, x) = #{k < x : lane(k) = l} = (x // P) R + clip(x mod P - l R, 0, R),

   so in epoch e lane l takes T = G(l, (e + 1) n) - G(l, e n) positions, and position k is its
   number t = G(l, k) - G(l, e n). The line is cut into pieces of these lengths, without regard to
   where shards end; which lane has which piece is a permutation by (seed, e).
3. A piece is cut into windows of K samples. Number t is in window w = (t + o) // K, with o = l mod
   K: the first window is short, so that lanes do not all come to a new window at the same time.
   Inside the window the order is a permutation by (seed, e, l, w).

At any time a lane needs one window, K samples that lie together: L K samples are held, and a run
resumes anywhere by reading these. Row i of a batch is always of the same lanes; when L is a
multiple of B, each row has lanes of its own, and what one row needs no other row reads, whatever
the number of processes, micro-batches and workers.

Source: ours; shuffling shards, then a buffer, is webdataset's and MosaicML Streaming's (`py1s`).
Differs: the buffer is a set of windows at places spread over all data, and nothing depends on what
was read before.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import torch

from ...diffusion.randomness import generator
from ...support.errors import UserError

LANES, WINDOW = 128, 32


class Sharding(NamedTuple):
    """What a data set in shards says about itself, and how it wants to be shuffled."""

    sizes: Sequence[int]  # samples of each shard
    n_lanes: int | None = None  # L; None: B if B >= 128, else the largest multiple of B up to 128
    buffer: int | None = None  # samples held by all: K = max(1, buffer // L); None: K = 32


class Window(NamedTuple):
    """What lies together of a lane."""

    lane: int
    first: int  # its first place in the epoch's line
    ranges: tuple[tuple[int, int], ...]  # (first, last + 1) of each shard it touches, in order


class Place(NamedTuple):
    """Where a position of the stream is found."""

    epoch: int
    lane: int
    number: int  # of the window in the lane
    first: int  # place in the line of the window's first sample
    size: int  # samples in the window
    offset: int  # of the position in the window's order


@dataclass
class Epoch:
    """The line of an epoch: the shards in their order, and where each lane's piece starts."""

    shards: list[int]
    line: list[int]  # places at which the shards start, and n
    pieces: list[int]
    lengths: list[int]


@dataclass
class ShardOrder:
    """Which sample stands at a position of the stream; see the module. L divides B or is a multiple
    of it (UserError)."""

    sharding: Sharding  # the shards, L and K
    seed: int  # of all permutations
    n_global: int  # size B of the global batch
    _epochs: dict[int, Epoch] = field(default_factory=dict, repr=False)
    _orders: dict[int, tuple[tuple[int, int], list[int]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        sizes, n_lanes, buffer = self.sharding
        B = self.n_global
        self.lanes = n_lanes or B * max(1, LANES // B)
        if self.lanes % B and B % self.lanes:
            raise UserError(
                f"data.shuffle_lanes must divide the global batch of {B} or be a multiple of it, "
                f"got {self.lanes}"
            )
        self.window = WINDOW if buffer is None else max(1, buffer // self.lanes)
        self.period = max(B, self.lanes)
        self.per_lane = self.period // self.lanes
        self.starts = [0, *accumulate(sizes)]
        self.n_samples = self.starts[-1]

    def index(self, position: int) -> int:
        place = self.place(position)
        key = (place.epoch, place.number)
        if self._orders.get(place.lane, (None,))[0] != key:
            rng = generator("cpu", self.seed, "window", place.epoch, place.lane, place.number)
            self._orders[place.lane] = key, torch.randperm(place.size, generator=rng).tolist()
        in_window = self._orders[place.lane][1][place.offset]
        return self._sample(self._epoch(place.epoch), place.first + in_window)

    def window_of(self, position: int) -> Window:
        """The window that holds the sample of a position."""
        place = self.place(position)
        epoch = self._epoch(place.epoch)
        ranges, first = [], place.first
        while first < place.first + place.size:
            number = bisect_right(epoch.line, first) - 1
            last = min(epoch.line[number + 1], place.first + place.size)
            sample = self._sample(epoch, first)
            ranges.append((sample, sample + last - first))
            first = last
        return Window(place.lane, place.epoch * self.n_samples + place.first, tuple(ranges))

    def place(self, position: int) -> Place:
        """The epoch, lane and window of a position."""
        n, K = self.n_samples, self.window
        e = position // n
        epoch = self._epoch(e)
        lane = position % self.period // self.per_lane
        t = self._count(lane, position) - self._count(lane, e * n)
        o = lane % K
        w = (t + o) // K
        first = max(0, w * K - o)
        last = min(epoch.lengths[lane], (w + 1) * K - o)
        return Place(e, lane, w, epoch.pieces[lane] + first, last - first, t - first)

    def _count(self, lane: int, x: int) -> int:
        """G: how many of the first x positions of the stream are the lane's."""
        whole, rest = divmod(x, self.period)
        R = self.per_lane
        return whole * R + min(max(rest - lane * R, 0), R)

    def _epoch(self, e: int) -> Epoch:
        if e not in self._epochs:
            n, S, L = self.n_samples, len(self.sharding.sizes), self.lanes
            rng = generator("cpu", self.seed, "shards", e)
            shards = torch.randperm(S, generator=rng).tolist()
            line = [0, *accumulate(self.sharding.sizes[shard] for shard in shards)]
            lengths = [
                self._count(lane, (e + 1) * n) - self._count(lane, e * n) for lane in range(L)
            ]
            pieces, start = [0] * L, 0
            rng = generator("cpu", self.seed, "lanes", e)
            for lane in torch.randperm(L, generator=rng).tolist():
                pieces[lane], start = start, start + lengths[lane]
            self._epochs[e] = Epoch(shards, line, pieces, lengths)
            for past in [one for one in self._epochs if one < e - 1]:
                del self._epochs[past]
        return self._epochs[e]

    def _sample(self, epoch: Epoch, place: int) -> int:
        """The sample at a place of the line."""
        number = bisect_right(epoch.line, place) - 1
        return self.starts[epoch.shards[number]] + place - epoch.line[number]
