"""Metrics by name: the files beside this one are walked, there is no list."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ...support.errors import UserError
from ...support.home_folder import expanded_path
from ...support.user_code import load_from_file
from ...support.whole_files import sha256_of
from ..figure import Figure
from ..networks.weights import existing
from ..store.comparison import Comparison
from .base import Metric

PLACE = "evaluation.metrics"


@cache
def built_in() -> tuple[Metric, ...]:
    """One of each, in the order in which their figures are shown."""
    package = __name__.rpartition(".")[0]
    found: list[Metric] = []
    for file in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = importlib.import_module(f"{package}.{file.name}")
        classes = [one for one in vars(module).values() if inspect.isclass(one)]
        own = [one for one in classes if one.__module__ == module.__name__]
        metrics = [one for one in own if issubclass(one, Metric) and not inspect.isabstract(one)]
        found += [one() for one in metrics]
    return tuple(sorted(found, key=lambda metric: metric.place))


def find(name: str) -> Metric:
    """A metric of the user's own, `path/to/file.py:Name`.
    Raises UserError if there is none, or it is no metric."""
    return _made(str(expanded_path(name).absolute()), name, own_codes([name])[name])


@cache
def _made(place: str, name: str, code: str) -> Metric:  # an edited file has another code
    found = load_from_file(place, PLACE)
    if not (inspect.isclass(found) and issubclass(found, Metric)):
        base = "sparring.evaluation.metrics.base.Metric"
        raise UserError(f"{PLACE}: {name} is no subclass of {base}")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise UserError(f"{PLACE}: {name} has no method {', '.join(missing)}")
    if not all(isinstance(one, Figure) for one in found.figures) or not found.figures:
        raise UserError(f"{PLACE}: {name}.figures must be a tuple of Figure, got {found.figures!r}")
    try:
        return found()
    except TypeError as error:
        raise UserError(f"{PLACE}: {name} must be made without arguments ({error})") from error


def own_codes(names: Iterable[str]) -> dict[str, str]:
    """Metrics of the user's own -> a digest of their files."""
    files = {name: existing(expanded_path(name.rpartition(":")[0]), PLACE) for name in names}
    return {name: sha256_of(file)[:16] for name, file in files.items()}


def metrics_of(against: Comparison) -> list[Metric]:
    """Every metric that can measure samples that are compared with this.
    Raises UserError if one of the user's own cannot."""
    own = [find(name) for name in against.reference.settings.metrics]
    for name, metric in zip(against.reference.settings.metrics, own, strict=True):
        if not metric.suits(against):
            needs, data = ", ".join([metric.looks_at, *metric.needs]), against.reference.dataset
            raise UserError(f"{PLACE}: {name} needs {needs}, which {data.name} does not have here")
    return [*(metric for metric in built_in() if metric.suits(against)), *own]


def all_figures(own: Iterable[Figure] = ()) -> dict[str, Figure]:
    """Every figure by its key, in the order of tables; those of one's own come last."""
    known = [figure for metric in built_in() for figure in metric.figures]
    return {figure.key: figure for figure in (*known, *own)}
