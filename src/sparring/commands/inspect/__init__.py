"""`sparring inspect`: what a set of images holds, and which of them are dirty."""

import click

from ...support.errors import one_line_errors
from ..shared import options
from ..shared.data_words import sections_of


@click.command()
@click.argument("data", type=options.PLACE)
@options.overrides
@options.output_dir("Also write dirt.csv, examples, report.json and index.html.")
@options.overwrite
@options.as_json
def inspect(
    data: str, overrides: tuple[str, ...], output_dir: str | None, overwrite: bool, as_json: bool
) -> None:
    """Say which images of a set are dirty, and how. Duplicates and broken files are told too.

    DATA is a folder of images, a parquet file, tar shards, digits, a config file, with the
    contamination that it names, or the name of a data set on the hub. KEY=VALUE changes a setting
    of sections data and contamination. Noise, compression, blur, holes and outliers are found from
    the images alone; with -o there is a table with a row per image, to correct and to train with.
    Nothing is changed.

    \b
    Examples:
      sparring inspect photos data.resolution=64 -o photos-report
      sparring inspect digits contamination.kind=gaussian contamination.sigma=0.2
    """
    sections = sections_of(data, overrides, "none", "inspect")
    from .findings import as_text, inspect_command

    with one_line_errors("inspect"):
        result = inspect_command(
            *sections, output_dir, say=options.say, overwrite=overwrite, with_images=as_json
        )
    options.answer(result, as_json, as_text)
