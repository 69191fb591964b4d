"""`evaluate` against a data set or a reference, as most tests ask for it."""

from collections import ChainMap
from types import SimpleNamespace
from typing import Any

from sparring.data.base import InMemory
from sparring.evaluation import evaluate as module
from sparring.evaluation.metrics.caption_scores import CaptionScore
from sparring.evaluation.metrics.cmmd import CMMD
from sparring.evaluation.metrics.registry import built_in
from sparring.evaluation.store.comparison import Comparison
from sparring.evaluation.store.reference import Reference, Settings


def evaluate(
    samples, data, training=None, settings=None, *, captions=None, generation=None, **sets
):
    """The figures of samples; `sets` are held_out, dirty and proximal."""
    reference = data if isinstance(data, Reference) else Reference(data, settings or Settings())
    return module.evaluate(samples, Comparison(reference, training, **sets), captions, generation)


def analytic_figures(samples, truth, n_resamples=10):
    """What the metrics that know the truth say of samples in data units."""
    against = Comparison(
        Reference(InMemory("known", samples, truth=truth), Settings(n_resamples=n_resamples))
    )
    metrics = [one for one in built_in() if one.looks_at == "x0" and one.suits(against)]
    return {
        key: value
        for one in metrics
        for key, value in one.measure({"x0": samples}, against).items()
    }


def judged(panel, readings, n_resamples=10):
    """What the metrics of captioned samples make of a panel's readings."""
    stub: Any = SimpleNamespace(panel=panel, settings=Settings(n_resamples=n_resamples))
    against = Comparison(stub)
    metrics = [one for one in built_in() if isinstance(one, CaptionScore | CMMD)]
    suited = [one for one in metrics if one.suits(against)]
    return dict(ChainMap(*(one.measure(readings, against) for one in suited)))
