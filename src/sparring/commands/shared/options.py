"""Options and arguments that several commands take, and how an answer is printed."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from ...support.errors import UserError
from ...support.home_folder import expanded
from ...support.terminal import echo


class _Place(click.ParamType):
    """A file, a folder or a model's name; `~` at its start is the home folder."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return expanded(value)
        except UserError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


PLACE = _Place()
overwrite = click.option(
    "--overwrite", is_flag=True, help="Also replace what other settings have made there."
)
device = click.option("--device", help="Such as cpu or cuda; a GPU by default where there is one.")
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of text."
)
overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
models = click.argument(
    "models", nargs=-1, type=PLACE, required=True, metavar="MODEL... [KEY=VALUE]..."
)


def output_dir(help: str) -> Callable[[Any], Any]:
    """-o, which says in each command what goes there."""
    return click.option("-o", "--output-dir", type=PLACE, help=help)


def models_and_overrides(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Words that name models, and those that are `key=value` and no files."""
    names, settings = [], []
    for word in words:
        (settings if "=" in word and not Path(word).exists() else names).append(word)
    if not names:
        raise click.UsageError("Missing argument 'MODEL'", click.get_current_context())
    return names, settings


def default_device() -> str:
    """A GPU of this process's own, if there is one and accelerate is not told to use none."""
    import torch

    from ...training.launcher import on_cpu

    use_gpu = torch.cuda.is_available() and not on_cpu()
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if use_gpu else "cpu"


def answer(
    result: Mapping[str, Any], as_json: bool, text: Callable[[Any], str] | None = None
) -> None:
    """Print what came out: as one JSON object, or as text for people, if there is any."""
    if as_json:
        echo(json.dumps(_finite(result), allow_nan=False, default=str))
    elif text is not None:
        echo(text(result))


def _finite(value: Any) -> Any:
    """Numbers that JSON does not know become words: "nan", "inf"."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def say(line: str) -> None:
    """A line beside the answer, on stderr."""
    echo(line, err=True)
