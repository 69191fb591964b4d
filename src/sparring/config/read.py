"""One YAML file is a run: read it, apply `key=value` overrides, check it before anything is built.

`objectives: {detail: {lam: 30}}` in a file says what an objective uses in this experiment:
`objective=NAME` selects NAME with its defaults and these leaves on top, in the file and on the
command line. Configs build objects and never enter them (assembly does that).
"""

from collections.abc import Sequence
from pathlib import Path

from ..support.yaml_files import write_yaml
from .checks import check
from .files import chosen_row, find
from .overrides import with_overrides
from .schema import RunConfig


def resolve(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked settings of the run that a file and the overrides describe.

        resolve("digits", ["row=clean", "objective=detail", "objective.lam=3"])

    The file may be the name of one that comes with sparring; later overrides win, and `row=NAME`
    names a row of a file that is a table.
    """
    path = find(path)
    raw, overrides, name = chosen_row(path, overrides)
    config = check(with_overrides(raw, overrides), f"config {path}", overrides)
    if config.training.output_dir is None:
        config.training.output_dir = str(Path("runs") / name)
    return config


def dump(config: RunConfig) -> str:
    """The settings as YAML that resolves to them, every leaf written out."""
    return write_yaml(config.model_dump(mode="json"))
