r"""Images that do not belong to the set: those that stay alone among all others.

Each image is described by what needs no trained weights, of its thumbnail of at most 16 x 16: how
strongly it answers to random filters of 5 x 5 (in each quarter), and the directions of its edges
(in each ninth). Both descriptions have the same variance in the set; the principal components f of
the two together are divided by sqrt(standard deviation + 0.2 of the largest one's). Then, with k a
tenth of the set and d_k(f) the distance to the k-th nearest of the set's images,

    s = ln d_k(f) - 1/2 mean over these k images j of ln d_k(f_j)

An image far from all is an outlier, and more so if those nearest to it are close to each other. k
is the cap: what looks like a tenth of the set or more is a part of it, not an outlier.

s is measured in standard deviations z of a bell with the median and the 80 % quantile of its group.
Noise changes the descriptions, and the clean tenth of a noisy set must not pass for outliers: so
the images in which noise or impulses were found are one group, and the others are one. Blur and
JPEG make no group: images from elsewhere often have them together. Of images without noise, z
counts at most LENIENT more than it is above the median of those that are about as rough, at the
image's own scale or at half of it. Rare but true images give every group a tail: an image is called
an outlier only from that z on where the tail is RATIO times as heavy as the bell's, and in a group
of fewer than LEAST_GROUP images never.

**Those like them.** Images from elsewhere come in numbers and are like each other: the loneliest
are found as above, the others lie between these and the set. A logistic regression on the
descriptions, each standardised in its group, says how likely an image is among those found; from
ALIKE_SHARE on it is an outlier too, and the regression is asked again, as if it had been told of no
more than the first ones: so it comes to rest. Where it does not know these again, since they have
nothing in common, as the rare but true images of a clean set, they stay alone.

Source: distance to the k-th neighbour after Ramaswamy, Rastogi and Shim 2000; against that of the
neighbours after Breunig et al. 2000 ("LOF"), here to one half; histograms of edges after Dalal and
Triggs 2005; that some labelled ones show the rest after Elkan and Noto 2008. The threshold is ours.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ....diffusion.randomness import generator
from ..contract import HAS, Columns, Detector, Rule, Statistics, said

SIDE = 16
N_FILTERS, FILTER_SIDE, FILTER_CELLS = 24, 5, 2
N_DIRECTIONS, EDGE_CELLS, FAINT = 6, 3, 0.02
"""Edges fainter than this, [0, 1] scale, have no direction to speak of."""
MAX_REFERENCES, N_COMPONENTS, WHITENED = 1024, 48, 0.2
SHARE, OF_NEIGHBOURS = 0.1, 0.5
CHANGING = ("gaussian", "poisson_gaussian", "correlated", "salt_and_pepper")
LEAST_GROUP, LEAST_TAIL = 50, 300
"""Images of a group of which something is said, and from which on its tail is measured: of 100
clean ones, three that are rare would decide that one in twenty is an outlier."""
ALIKE, LENIENT = 0.15, 0.5
"""Share of the group that counts as about as rough: more than the cap, or a group of outliers that
are alike in this would hide itself. Without it 41 of 1,500 clean digits were outliers, not 4."""
RATIO, LEAST_Z, MOST_Z, STEEP = 3.0, 2.3, 3.5, 4.0
"""From where an outlier is called, in which bounds, and how fast the probability grows there."""
LEAST, LEAST_SPREAD = 1e-6, 1e-3
LEAST_FOUND, ALIKE_SHARE, MOST_ROUNDS = 10, 0.2, 20
"""Outliers that are enough to look for others like them, and the share of found ones among images
that look alike at which all of these are. On digits 0.2 finds 148 of 168 outliers where loneliness
finds 86, and no more of the others; 0.15 finds 167 and ten others, 0.12 fifty others."""
RECOGNISED = 0.3
"""Mean probability of the found outliers from which on they are alike: where they come from another
set it is 0.6 to 0.9, where none does 0.01 to 0.16, in one case (blurred digits) 0.53."""
STRENGTH = 15.0  # of the data against the prior of the regression, whatever the set's size


@dataclass(frozen=True)
class Likeness:
    """How likely an image is among the outliers that were found."""

    mean: Tensor  # of the descriptions, of each group, (2, d)
    spread: Tensor  # their standard deviations; infinite for a group of few images
    weights: Tensor  # (d,)
    bias: float

    def __call__(self, seen: Statistics) -> Tensor:
        """Probability of an outlier, (B,): 1/2 where the regression says ALIKE_SHARE."""
        enough = math.log(ALIKE_SHARE / (1 - ALIKE_SHARE))
        described = _standardised(seen, self.mean, self.spread)
        return (described @ self.weights + self.bias - enough).sigmoid()


def likeness(seen: Statistics, first: Tensor) -> Likeness | None:
    """What the outliers found first, (n,), bool, have in common; None where they are too few."""
    from sklearn.linear_model import LogisticRegression

    if first.sum() < LEAST_FOUND:
        return None
    described, group = _described(seen), _group(seen)
    mean = torch.zeros(2, described.shape[1])
    spread = torch.full_like(mean, torch.inf)
    for number in (0, 1):
        own = described[group == number]
        if len(own) >= LEAST_GROUP:
            mean[number], spread[number] = own.mean(0), own.std(0) + LEAST_SPREAD
    x = _standardised(seen, mean, spread).double().numpy()
    regression, found = LogisticRegression(C=STRENGTH / len(x), max_iter=1000), first
    for _ in range(MOST_ROUNDS):
        regression.fit(x, found.numpy())
        if found is first and regression.predict_proba(x[first])[:, 1].mean() < RECOGNISED:
            return None
        weights = torch.as_tensor(regression.coef_, dtype=torch.float32)[0]
        told = _log_odds(first) - _log_odds(found)
        bias = torch.as_tensor(regression.intercept_).item() + told
        alike = Likeness(mean, spread, weights, bias)
        before, found = found, first | (alike(seen) > HAS)
        if torch.equal(found, before) or found.all():
            break
    return alike


def _standardised(seen: Statistics, mean: Tensor, spread: Tensor) -> Tensor:
    group = _group(seen)
    return (_described(seen) - mean[group]) / spread[group]


def _log_odds(found: Tensor) -> float:
    return math.log(found.sum().item() / (~found).sum().item())


@dataclass(frozen=True)
class OutlierRule(Rule):
    """Images that stand for the set, and where its tail begins."""

    mean: Tensor  # of the descriptions, (d,)
    components: Tensor  # (d, m)
    references: Tensor  # components of up to MAX_REFERENCES images, (n, m)
    loneliness: Tensor  # ln d_k of each of these, (n,)
    # of the images without noise and of those with it: median of s, its standard deviation above
    # that, and z from which on an image is called an outlier, (2, 3)
    bells: Tensor
    roughness: Tensor  # of the references without noise, at both scales, each ascending, (2, m)
    usual: Tensor  # median of s of those that are about as rough as each of these, (2, m)
    alike: Likeness | None = None  # to the outliers that are found so

    def __call__(self, seen: Statistics) -> Columns:
        threshold = self.bells[_group(seen), 2]
        p = (STEEP * (self.standardised(seen) - threshold)).sigmoid()
        return {"outlier": p if self.alike is None else torch.maximum(p, self.alike(seen))}

    def standardised(self, seen: Statistics) -> Tensor:
        """z, (B,)."""
        s, group = self.score(seen), _group(seen)
        middle, spread, _ = self.bells[group].unbind(1)
        z = (s - middle) / spread
        rough = seen["outliers.roughness"].T.contiguous()
        places = torch.searchsorted(self.roughness, rough).clamp(max=self.roughness.shape[1] - 1)
        alike = ((s - self.usual.gather(1, places)) / spread).amin(0)
        return torch.where(group == 0, torch.minimum(z, alike + LENIENT), z)

    def score(self, seen: Statistics) -> Tensor:
        """s, (B,)."""
        components = (_described(seen) - self.mean) @ self.components
        distance, nearest = _nearest(components, self.references)
        return distance[:, -1].log() - OF_NEIGHBOURS * self.loneliness[nearest].mean(1)


class Outliers(Detector):
    """Finds outliers."""

    kinds, after = ("outlier",), ("noise",)

    def look(self, x: Tensor) -> dict[str, Tensor]:
        """filters: (B, N_FILTERS * 4); edges: (B, N_DIRECTIONS * 9); roughness: (B, 2)."""
        thumb = F.adaptive_avg_pool2d(x, (min(SIDE, x.shape[2]), min(SIDE, x.shape[3])))
        return {
            "filters": _answers(thumb),
            "edges": _edges(thumb.mean(1, keepdim=True)),
            "roughness": torch.stack([_roughness(x), _roughness(F.avg_pool2d(x, 2))], 1),
        }

    def fit(self, seen: Statistics) -> OutlierRule:
        n = len(seen["outliers.edges"])
        chosen = torch.linspace(0, n - 1, min(n, MAX_REFERENCES)).round().long()
        sample = {name: values[chosen] for name, values in seen.items()}
        described = _described(sample)
        mean = described.mean(0)
        sizes = [sample[f"outliers.{name}"].shape[1] for name in ("filters", "edges")]
        parts = (described - mean).split(sizes, 1)
        scale = [part.square().sum(1).mean().sqrt().clamp(min=LEAST) for part in parts]
        weight = torch.cat([(1 / s).expand(size) for s, size in zip(scale, sizes, strict=True)])
        components = weight[:, None] * _components((described - mean) * weight)
        references = (described - mean) @ components
        loneliness = _nearest(references, references)[0][:, -1].log()
        nothing = torch.zeros(2, 1)
        bells = torch.tensor([[0.0, 1.0, torch.inf]] * 2)
        rule = OutlierRule(mean, components, references, loneliness, bells, nothing, nothing)
        s, group = rule.score(sample), _group(sample)
        rows = [(group == number).nonzero().flatten() for number in (0, 1)]
        for number, own in enumerate(rows):
            if len(own) >= LEAST_GROUP:
                bells[number, :2] = _bell(s[own])
        if len(rows[0]) >= LEAST_GROUP:
            roughness, order = sample["outliers.roughness"][rows[0]].T.contiguous().sort(1)
            rule = replace(rule, roughness=roughness, usual=_running_median(s[rows[0]][order]))
        z = rule.standardised(sample)
        for number, own in enumerate(rows):
            if len(own) >= LEAST_GROUP:
                bells[number, 2] = _tail(z[own]) if len(own) >= LEAST_TAIL else MOST_Z
        return replace(rule, alike=likeness(seen, rule(seen)["outlier"] > HAS))


def _group(seen: Statistics) -> Tensor:
    """1 for images in which noise was found, (B,), int64."""
    return (said(seen, CHANGING) > HAS).long()


def _bell(s: Tensor) -> Tensor:
    """Median of a group's s (n,), and its standard deviation above that, (2,)."""
    middle = s.quantile(0.5)
    above = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.8))
    return torch.stack([middle, ((s.quantile(0.8) - middle) / above).clamp(min=LEAST_SPREAD)])


def _described(seen: Statistics) -> Tensor:
    return torch.cat([seen["outliers.filters"], seen["outliers.edges"]], 1)


def _running_median(s: Tensor) -> Tensor:
    """Median over the share ALIKE of the row around each place, (k, n); at its ends the outmost."""
    n = s.shape[1]
    width = max(1, round(ALIKE * n))
    start = (torch.arange(n) - width // 2).clamp(0, n - width)
    return s.unfold(1, width, 1).median(2).values[:, start]


def _components(centred: Tensor) -> Tensor:
    """Principal directions of (n, d), divided by the root of their spread, (d, m)."""
    exact = centred.double()  # in float32 some kernels do not converge on nearly equal images
    variance, directions = torch.linalg.eigh(exact.T @ exact / len(exact))
    variance, directions = variance.float(), directions.float()
    spread = variance.clamp(min=0).sqrt().flip(0)[:N_COMPONENTS]
    scale = (spread + WHITENED * spread[0]).clamp(min=LEAST).sqrt()
    return directions.flip(1)[:, :N_COMPONENTS] / scale


def _nearest(f: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of (B, m) to the nearest k references, ascending, and which these are, (B, k)."""
    k = max(1, round(SHARE * len(references)))
    found = torch.cdist(f, references).topk(k, largest=False)
    return found.values.clamp(min=LEAST), found.indices


def _tail(z: Tensor) -> float:
    """The least z from which on the tail is RATIO times as heavy as the bell's, within bounds."""
    z = z.sort(descending=True).values
    above = torch.arange(1, len(z) + 1) / len(z)
    expected = torch.special.erfc(z / 2**0.5) / 2
    heavy = z[(above >= RATIO * expected) & (z >= LEAST_Z) & (above <= SHARE)]
    return float(heavy[-1].clamp(max=MOST_Z)) if len(heavy) else MOST_Z


def _answers(x: Tensor) -> Tensor:
    """Root of the mean positive answer to random filters without a mean, in each cell."""
    size = (N_FILTERS, x.shape[1], FILTER_SIDE, FILTER_SIDE)
    filters = torch.randn(size, generator=generator("cpu", 0, "outliers")).to(x.device)
    filters = filters - filters.mean((2, 3), keepdim=True)
    filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
    margin = (FILTER_SIDE // 2,) * 4
    answers = F.conv2d(F.pad(x, margin, mode="reflect"), filters).relu()
    return F.adaptive_avg_pool2d(answers, FILTER_CELLS).flatten(1).sqrt()


def _edges(grey: Tensor) -> Tensor:
    """Root of the normalised histogram of the edges' directions, in each cell."""
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    strength = (across.square() + down.square()).sqrt()
    turn = torch.atan2(down, across) / torch.pi * N_DIRECTIONS  # a half turn is the same edge
    below = turn.floor()
    part = turn - below
    histogram = torch.zeros_like(strength).repeat(1, N_DIRECTIONS, 1, 1)
    for direction, share in ((below, 1 - part), (below + 1, part)):
        histogram.scatter_add_(1, direction.long() % N_DIRECTIONS, strength * share)
    cells = F.adaptive_avg_pool2d(histogram, EDGE_CELLS).flatten(1)
    return (cells / (cells.norm(dim=1, keepdim=True) + FAINT)).sqrt()


def _roughness(x: Tensor) -> Tensor:
    """Mean size of (a - b - c + d) / 2 over all 2 x 2 pixels, (B,): of white noise 0.8 sigma."""
    across = x[..., 1:] - x[..., :-1]
    return (across[..., 1:, :] - across[..., :-1, :]).abs().mean((1, 2, 3)) / 2
