"""`sparring export`: what an audit says of each image, for other trainers."""

from __future__ import annotations

import click

from ...support.errors import one_line_errors
from ..shared import options
from ..shared.data_words import sections_of


@click.command()
@click.argument("data", type=options.PLACE)
@options.overrides
@options.output_dir("An empty or new folder.")
@click.option(
    "--dirt",
    type=options.PLACE,
    help="A table of `sparring inspect`, corrected or not; without it the images are looked at.",
)
@click.option(
    "--from-level",
    type=click.FloatRange(min=0, min_open=True),
    help="Also a folder of all images that may be used from this noise level on.",
)
@click.option("--copy", is_flag=True, help="Copy the files; by default they are linked.")
@options.as_json
def export(
    data: str,
    overrides: tuple[str, ...],
    output_dir: str | None,
    dirt: str | None,
    from_level: float | None,
    copy: bool,
    as_json: bool,
) -> None:
    """Write an audit as a list and folders for other trainers.

    DATA is what `sparring inspect` takes. OUT/images holds every readable image and metadata.jsonl,
    a line per image: kinds, sizes, weight and least noise level (a Hugging Face image folder).
    OUT/clean holds the images that are called clean, with their captions as text files, for
    trainers that know folders only. KEY=VALUE changes a setting of sections data and contamination.

    \b
    Examples:
      sparring export photos -o photos-exported --dirt photos-report/dirt.csv
      sparring export photos -o photos-exported --from-level 0.5 data.resolution=64
    """
    if output_dir is None:
        raise click.UsageError("name the folder to write with -o", click.get_current_context())
    sections = sections_of(data, overrides, "none", "export")
    from .folders import as_text, export_command

    with one_line_errors("export"):
        result = export_command(
            *sections, output_dir, dirt, options.say, from_level=from_level, copy=copy
        )
    options.answer(result, as_json, as_text)
