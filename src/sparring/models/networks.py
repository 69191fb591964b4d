"""Networks that diffusers does not have: for vectors, and a U-Net that learns fast on a CPU."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class PatchedUNet(nn.Module):
    r"""A U-Net on patches of p x p pixels, which become p^2 C channels:

    f(x, t) = pixel_shuffle(UNet2DModel(pixel_unshuffle(x, p), t), p)

    Most of a U-Net's time goes into its finest level, which has the most pixels and knows least of
    the image. With p = 2 there are a quarter of them, so the same time pays for wider levels.

    Args:
        sample_size, in_channels, out_channels: Of the images: side in pixels, a multiple of
            p 2^(levels - 1), and channels.
        patch_size: Side p of a patch, in pixels.
        block_out_channels: Width of each level, the finest first; multiples of norm_num_groups.
        layers_per_block: Residual blocks of each level on the way down.
        attention_levels: Numbers of the levels with self-attention, 0 the finest.
        attention_head_dim: Channels of a head; the coarsest level has attention always.
        norm_num_groups: Groups of each normalisation.
        dropout: Probability, inside the blocks.
        num_class_embeds: Number of class labels including the null class, or None.
    """

    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        *,
        patch_size: int = 2,
        block_out_channels: Sequence[int] = (64, 128, 192),
        layers_per_block: int = 2,
        attention_levels: Sequence[int] = (),
        attention_head_dim: int = 32,
        norm_num_groups: int = 8,
        dropout: float = 0.0,
        num_class_embeds: int | None = None,
    ) -> None:
        from diffusers.models.unets.unet_2d import UNet2DModel  # a second to import

        super().__init__()
        self.config = {
            "sample_size": sample_size, "in_channels": in_channels, "out_channels": out_channels,
            "patch_size": patch_size, "block_out_channels": list(block_out_channels),
            "layers_per_block": layers_per_block, "attention_levels": list(attention_levels),
            "attention_head_dim": attention_head_dim, "norm_num_groups": norm_num_groups,
            "dropout": dropout, "num_class_embeds": num_class_embeds,
        }  # fmt: skip
        kinds = ["Attn" if i in attention_levels else "" for i in range(len(block_out_channels))]
        self.patch_size = patch_size
        self.unet = UNet2DModel(
            sample_size=sample_size // patch_size,
            in_channels=in_channels * patch_size**2,
            out_channels=out_channels * patch_size**2,
            block_out_channels=tuple(block_out_channels),
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            layers_per_block=layers_per_block,
            attention_head_dim=attention_head_dim,
            norm_num_groups=norm_num_groups,
            dropout=dropout,
            num_class_embeds=num_class_embeds,
        )

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The output for images x (B, C, H, W) at times t (B,), with class_labels (B,)."""
        patches = F.pixel_unshuffle(x, self.patch_size)
        out = self.unet(patches, t, class_labels=class_labels, return_dict=False)[0]
        return F.pixel_shuffle(out, self.patch_size)
