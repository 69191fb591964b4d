"""`sparring contaminate`: a dirty copy of a data set."""

from pathlib import Path

import click

from ...support.errors import UserError, one_line_errors
from ...support.terminal import echo
from ..shared import options
from ..shared.data_words import sections_of


@click.command()
@click.argument("data", type=options.PLACE)
@options.overrides
@options.output_dir("An empty or new folder; DATA-contaminated by default.")
@click.option("--kind", default="gaussian", show_default=True, help="What is done to the images.")
@click.option("--rate", type=float, help="Share of the images it is done to; 0.9 by default.")
@click.option("--seed", type=int, help="Decides, with an image's number, what it gets.")
@options.as_json
def contaminate(
    data: str,
    overrides: tuple[str, ...],
    output_dir: str | None,
    kind: str,
    rate: float | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Write a dirty copy of a data set. It has 8-bit images and a manifest of what each got.

    DATA is a folder of images, a parquet file, tar shards, digits, a config file, or the name
    of a data set on the hub. KEY=VALUE changes a setting of sections data and contamination. The
    copy is clipped to [0, 1] and rounded to 8 bits, as training with the same contamination is.

    \b
    Examples:
      sparring contaminate digits -o noisy-digits contamination.sigma=0.2
      sparring contaminate photos -o dirty-photos --kind jpeg --rate 0.5 contamination.quality=5
      sparring contaminate photos -o noisy-photos 'contamination.sigma=[0.05,0.35]'
    """
    words = [f"contamination.{key}={value}" for key, value in
             (("rate", rate), ("seed", seed)) if value is not None]  # fmt: skip
    sections = sections_of(data, [*words, *overrides], kind, "contaminate")
    from .copies import contaminate as write_copy

    with one_line_errors("contaminate"):
        say = options.say if as_json else echo
        result = write_copy(*sections, output_dir or _beside(data), say=say)
    options.answer(result, as_json)


def _beside(data: str) -> str:
    """Where the copy of a data set goes: a folder in this one, and never within the data."""
    place = Path(data).resolve() if Path(data).is_dir() else Path(data)
    if place.is_dir() and Path.cwd().is_relative_to(place):
        raise UserError(f"{data} is where you are: name another folder with -o for the copy")
    is_file = place.suffix.lower() in (".parquet", ".tar", ".yaml", ".yml")
    return f"{place.stem if is_file else place.name}-contaminated"
