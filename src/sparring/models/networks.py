"""A small network for vectors; images use diffusers' models."""

import math

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """A residual MLP on vectors, told the time (and the class) by an embedding.

    Args:
        dim: Size d of the vectors.
        width: Hidden width.
        n_blocks: Residual blocks.
        num_classes: Number of class labels including the null class, or None.
        dropout: Dropout probability inside the blocks.
    """

    def __init__(
        self,
        dim: int,
        width: int = 192,
        n_blocks: int = 3,
        num_classes: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = {
            "dim": dim, "width": width, "n_blocks": n_blocks, "num_classes": num_classes,
            "dropout": dropout,
        }  # fmt: skip
        # the device is said: transformers' loading code can make `torch.device("meta")` forget that
        # linspace makes tensors, for the rest of the process
        device = torch.get_default_device()
        frequencies = torch.exp(torch.linspace(0, -math.log(10_000), width // 2, device=device))
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.time = nn.Sequential(nn.Linear(2 * (width // 2), width), nn.SiLU())
        self.label = None if num_classes is None else nn.Embedding(num_classes, width)
        self.first = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Dropout(dropout),
                nn.Linear(width, width),
            )
            for _ in range(n_blocks)
        )
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(width, dim))
        # At high noise eps is linear in x. Without this path, and with a bounded layer before the
        # last, the few samples that start far out (one in a thousand) end far off the data.
        self.skip = nn.Linear(dim, dim)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The output for x (B, d) at times t (B,), with class_labels (B,) if it has classes."""
        angles = t.to(x.dtype)[:, None] * self.frequencies.to(x.dtype)
        context = self.time(torch.cat([angles.cos(), angles.sin()], dim=1))
        if self.label is not None:
            if class_labels is None:
                raise ValueError("this MLP has classes: pass class_labels")
            context = context + self.label(class_labels)
        hidden = self.first(x)
        for block in self.blocks:
            hidden = hidden + block(hidden + context)
        return self.last(hidden) + self.skip(x)
