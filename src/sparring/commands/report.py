"""`sparring report RUN [RUN ...] -o report.html`: runs side by side in one self-contained page."""

from pathlib import Path
from typing import Any

import click

from ..support.errors import UserError
from .shared import options
from .shared.files import check_writable, claim_page, digest, replace_text, which, with_key


@click.command()
@click.argument("runs", nargs=-1, type=options.PLACE, required=True, metavar="RUN...")
@click.option(
    "-o", "--output", type=options.PLACE, default="report.html", show_default=True,
    help="The page to write.",
)  # fmt: skip
@options.overwrite
@click.option("--title", help="Heading of the page; the runs' names by default.")
@options.as_json
def report(
    runs: tuple[str, ...], output: str, overwrite: bool, title: str | None, as_json: bool
) -> None:
    """Write one self-contained HTML page that compares runs.

    It computes nothing: evaluate the runs first.

    \b
    Example:
      sparring report runs/plain runs/robust -o report.html
    """
    result = report_command(list(runs), Path(output), title, overwrite=overwrite)
    missing = [f"  {sentence}" for sentence in result["missing"]]
    text = "\n".join([result["headline"], *missing, f"Report: {result['output']}"])
    options.answer(result, as_json, lambda _: text)


def report_command(
    runs: list[str], output: Path, title: str | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Writes the comparison of finished (or unfinished) runs; it reads their folders only.

    Returns:
        `output`, `runs` (the names on the page), `headline`, `missing` (one sentence each).
    """
    from ..report.html import render
    from ..report.runs import missing, read_runs

    if not runs:
        raise UserError("report: name at least one run folder")
    if output.is_dir():
        raise UserError(f"{output}: is a folder; name the HTML file, such as {output}/report.html")
    key = digest([which(str(run)) for run in runs], title)
    claim_page(output, key, overwrite=overwrite)
    read = read_runs([str(run) for run in runs])
    html, finding = render(read, title)
    check_writable(output.parent)
    replace_text(output, with_key(html, key))
    return {
        "output": str(output),
        "runs": [run.name for run in read],
        "headline": finding.sentence,
        "missing": [sentence for run in read for sentence in missing(run)],
    }
