"""Who is winning, between the model and the discriminator of `adt`, as numbers for the log."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..diffusion.denoiser import Denoiser

MEMORY = 0.99  # of the running means of the balance, per micro-batch
WON = 0.02  # a side has won when the overlap of the scores stays this close to 0 or 1


class Balance:
    """Who is winning: running means over the micro-batches, logged as balance/*.

    real, fake: Mean scores of the pairs.
    overlap: P(a fake pair scores above a real one), 1/2 where the two cannot be told apart, 0 where
        the discriminator tells them all, 1 where it is wrong about all.
    early, middle, late: Norm of the weights' gradient from the last trained call looked at in that
        third of the path, in one step of ten (times the loss scale under fp16): of the own rows,
        and only where each process holds whole weights.
    """

    names = ("real", "fake", "overlap", "early", "middle", "late")

    def __init__(self) -> None:
        self.means = torch.zeros(6)
        self.n_seen = torch.zeros((), dtype=torch.long)
        self.warned = torch.zeros((), dtype=torch.bool)
        self._third = 0
        self._squares: list[Tensor] = []
        self._handles: list[Any] = []

    @torch.no_grad()
    def see(self, scores: Tensor) -> None:
        """Scores of the real and the fake pairs, (2, B); to be called by all processes together."""
        scores = scores.float()
        if dist.is_initialized() and dist.get_world_size() > 1:  # an overlap is one of all pairs
            parts = [torch.empty_like(scores) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, scores.contiguous())
            scores = torch.cat(parts, 1)
        real, fake = scores
        over = (fake[:, None] > real).float().mean() + (fake[:, None] == real).float().mean() / 2
        now = torch.stack([real.mean(), fake.mean(), over])
        self.means = self.means.to(now)
        memory = min(MEMORY, 1 - 1 / (int(self.n_seen) + 1))
        self.means[:3] = memory * self.means[:3] + (1 - memory) * now
        self.n_seen += 1

    def news(self) -> list[str]:
        """A warning, once each time, when one side has won for as long as the means remember."""
        if int(self.n_seen) % 100 or int(self.n_seen) < 200:
            return []
        overlap = float(self.means[2])
        won = min(overlap, 1 - overlap) < WON
        told, self.warned = bool(self.warned), torch.tensor(won)
        if not won or told:
            return []
        who = "model deceives the discriminator"
        advice = "raise discriminator_steps or its learning rate, or lower objective.weight"
        if overlap < WON:
            who = "discriminator tells every fake"
            advice = "lower its learning rate, raise r1, or augment more"
        return [f"the {who} (overlap of the scores {overlap:.3f}): {advice}"]

    def found(self) -> dict[str, float]:
        """The numbers that there are, by name."""
        numbers = enumerate(zip(self.names, self.means.tolist(), strict=True))
        any_seen = int(self.n_seen) > 0
        return {
            f"balance/{name}": value
            for i, (name, value) in numbers
            if (any_seen if i < 3 else value > 0)
        }

    def watch(self, denoiser: Denoiser, third: int) -> None:
        """The gradients of the weights that arrive from here on are of a call in that third."""
        self.unwatch()
        self._third = third
        self._handles = [
            one.register_hook(lambda grad: self._squares.append(grad.float().square().sum()))
            for one in denoiser.network.parameters()
            if one.requires_grad
        ]

    def unwatch(self) -> None:
        """No more hooks; their norm is kept."""
        for handle in self._handles:
            handle.remove()
        if self._squares:
            self.means[3 + self._third] = torch.stack(self._squares).sum().sqrt()
        self._handles, self._squares = [], []

    def state_dict(self) -> dict[str, Tensor]:
        """What must survive a restart."""
        return {"balance": self.means, "balance_n": self.n_seen, "balance_warned": self.warned}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        self.means, self.n_seen = state["balance"].clone(), state["balance_n"].clone()
        self.warned = state["balance_warned"].clone()
