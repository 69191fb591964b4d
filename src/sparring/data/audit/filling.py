"""Hidden pixels filled from what is seen around them.

    isolated:  the median of the seen ones among its eight neighbours
    the rest:  from near to far. With v the values and w = 1 where seen, 0 where hidden,
               v' = sum w v / sum w,  w' = 1 where any w is 1       (blocks of 2 x 2, repeated)
               v  = v where w = 1, else v' enlarged                 (on the way back)

So a pixel of a wide hole gets the mean of the nearest seen region, and a single dead pixel in a
sharp edge takes no value that no neighbour has. Training leaves the loss of a filled pixel out.

Source: the median is that of impulse filters; the rest is pull and push after Gortler, Grzeszczuk,
Szeliski and Cohen 1996 ("The Lumigraph"), with weights 0 and 1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

ISOLATED = 0.5
"""Share of a pixel's neighbours in the image that are seen, from which on it counts as isolated."""
AROUND = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


def filled(x: Tensor, hidden: Tensor) -> Tensor:
    """Images (B, C, H, W) whose hidden pixels, (B, 1, H, W), bool, look like those around them.
    They lie within the range of the image's seen ones. An image without any stays as it is."""
    some = (hidden.flatten(1).any(1) & ~hidden.flatten(1).all(1)).nonzero().flatten()
    if len(some) == 0:
        return x
    out, own, gap = x.clone(), x[some], hidden[some]
    own, gap = _without_isolated(own, gap)
    out[some] = torch.where(gap, _from_far(own, ~gap), own)
    return out


def neighbours(x: Tensor, row: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """The eight values (n, 8, C) around pixels (row, i, j), (n,) each, of images (B, C, H, W), and
    which of them lie in the image, (n, 8).
    """
    height, width = x.shape[2:]
    step = torch.tensor(AROUND, device=x.device)
    i, j = i[:, None] + step[:, 0], j[:, None] + step[:, 1]
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    return x[row[:, None], :, i.clamp(0, height - 1), j.clamp(0, width - 1)], inside


def median(values: Tensor, counted: Tensor) -> Tensor:
    """The middle, (n, C), of those values (n, k, C) that count, (n, k), at least one in each row.
    Of an even number it is the mean of the two in the middle."""
    ordered = values.masked_fill(~counted[..., None], torch.inf).sort(1).values
    last = counted.sum(1) - 1
    rows = torch.arange(len(values), device=values.device)
    return (ordered[rows, last // 2] + ordered[rows, (last + 1) // 2]) / 2


def _without_isolated(x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Images with their isolated pixels filled, and what is hidden still."""
    row, _, i, j = hidden.nonzero().unbind(1)
    values, inside = neighbours(x, row, i, j)
    seen = inside & ~neighbours(hidden, row, i, j)[0][..., 0]
    alone = (seen.sum(1) >= ISOLATED * inside.sum(1)) & seen.any(1)
    row, i, j = row[alone], i[alone], j[alone]
    x, hidden = x.clone(), hidden.clone()
    x[row, :, i, j] = median(values[alone], seen[alone])
    hidden[row, 0, i, j] = False
    return x, hidden


def _from_far(x: Tensor, seen: Tensor) -> Tensor:
    """Images (B, C, H, W) whose unseen pixels have values of coarser and coarser images."""
    if seen.all():
        return x
    w = seen.to(x.dtype)
    share = F.avg_pool2d(w, 2, ceil_mode=True)
    coarse = F.avg_pool2d(torch.where(seen, x, 0), 2, ceil_mode=True) / share.clamp(min=0.25)
    far = F.interpolate(_from_far(coarse, share > 0), scale_factor=2, mode="bilinear")
    return torch.where(seen, x, far[:, :, : x.shape[2], : x.shape[3]])
