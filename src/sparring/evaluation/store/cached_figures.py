"""What an evaluation keeps in the cache, under a key that says all that decides it.

Such a key changes with any weight of the model, any setting of the sampling or the measurement, the
data, the versions and the code of this package: what is found is what would be computed again. The
folder may be deleted at any time.
"""

import inspect
import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...models.model import Model
from ...support.cache import fingerprint, key_of
from ...support.whole_files import whole_file
from ..protocol import versions

log = logging.getLogger(__name__)


def model_key(model: Model) -> str:
    """A key that changes with whatever `sample` asks of a model."""
    denoiser = model.denoiser
    words = [
        model.scheduler_config, model.sample_shape, model.num_classes, denoiser.kind,
        denoiser.learned_variance, denoiser.boundary,
    ]  # fmt: skip
    encoders = [] if model.text is None else list(model.text.encoders)
    networks = [part for part in (denoiser.network, model.vae, *encoders) if part is not None]
    leaves = tree_leaves(denoiser.null_condition)
    null = [part if isinstance(part, Tensor | bytes) else str(part) for part in leaves]
    code = inspect.getsourcefile(type(denoiser.network).forward)  # it may be the user's own
    source = Path(code).read_bytes() if code is not None else b""
    return key_of(words, *map(fingerprint, networks), *null, source)


@cache
def code_key() -> str:
    """A key of versions and of this package's files: who works on a sampler wants nothing old."""
    root = Path(__file__).parents[2]
    return key_of(versions(), *(path.read_bytes() for path in sorted(root.rglob("*.py"))))


def kept_or_measured(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures that were kept in a file, or those of `measure`, which are kept from now on."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or not whole: they are measured again
        figures = measure()
    try:
        with whole_file(path) as half:
            half.write_text(json.dumps(figures, allow_nan=False), encoding="utf-8")
    except OSError as error:
        log.warning("figures are not kept: %s cannot be written (%s)", path, error.strerror)
    return figures
