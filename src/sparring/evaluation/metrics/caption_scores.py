r"""Scores of captioned samples, from judges that the user names.

| figure | judge | of one sample |
|---|---|---|
| `clip_score` | `evaluation.clip`, a CLIPModel | 100 max(cos(image, caption), 0) |
| `pick_score` | `evaluation.pick_score`, PickScore_v1 | exp(logit_scale) cos(image, caption) |
| `hps` | `evaluation.hps`, HPS v2 or v2.1 | 100 cos(image, caption) |
| `aesthetic` | `evaluation.aesthetic`, reading `clip` | see aesthetic.py; needs no captions |

Each is a mean over samples that have a caption. Beside it stands the same mean over the reference's
own images and captions, no upper bound: preference models like what they were trained to like.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..resampling import mean_of, with_interval
from .base import Batch, Comparison, Figure, Metric, given


def _figure(key: str, label: str, hint: str = "do people prefer it") -> tuple[Figure]:
    pairs = "the reference's own images and captions"
    return (Figure(key, label, hint, better="higher", beside=pairs),)


class CaptionScore(Metric):
    """The mean of what the judge says of each sample. Abstract: `figures` has the one figure, whose
    key is that of the judge's `Readings`, and `option` names the judge."""

    looks_at = "images"
    needs = ("panel",)
    option = ""

    def suits(self, against: Comparison) -> bool:
        panel = against.panel
        return panel is not None and self.option in panel.judges.named

    def look(self, batch: Batch) -> dict[str, Tensor]:
        key = self.figures[0].key
        return {key: batch.readings[key]}

    def measure(self, seen: Mapping[str, Tensor], against: Comparison) -> dict[str, Any]:
        key, settings = self.figures[0].key, against.reference.settings
        real = given(against.panel).reference
        scores, of_real = (one[~one.isnan()] for one in (seen[key], real[key]))
        if not len(scores):
            return {}
        figures = with_interval(key, mean_of, scores, settings.n_resamples, settings.seed)
        return figures | ({f"{key}_of_reference": mean_of(of_real)} if len(of_real) else {})

    def protocol(self, against: Comparison) -> dict[str, Any]:
        return {self.option: given(against.panel).described(self.option)}


class ClipScore(CaptionScore):
    """Source: Hessel et al., "CLIPScore", 2021. See `judges.clip_score`."""

    option, place = "clip", 60
    figures = _figure("clip_score", "CLIP score", "do image and caption agree")


class PickScore(CaptionScore):
    """Source: Kirstain et al., "Pick-a-Pic", 2023."""

    option, place = "pick_score", 61
    figures = _figure("pick_score", "PickScore")


class HPS(CaptionScore):
    """Source: Wu et al., "Human Preference Score v2", 2023."""

    option, place = "hps", 62
    figures = _figure("hps", "HPS v2")


class AestheticScore(CaptionScore):
    """Source: Schuhmann, improved-aesthetic-predictor, 2022."""

    option, place = "aesthetic", 63
    figures = _figure("aesthetic", "Aesthetic score", "rating of 1 to 10")
