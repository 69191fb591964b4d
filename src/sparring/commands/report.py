"""`sparring report RUN [RUN ...] -o report.html`: runs side by side in one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..support.errors import UserError
from ..support.whole_files import whole_file
from .files import claim_page, digest, which, with_key


def report_command(
    runs: list[str], output: Path, title: str | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Writes the comparison of finished (or unfinished) runs; it reads their folders only.

    Args:
        runs: Run folders, in the order of the page.
        output: The HTML file; its folder is made. A page of the same runs is replaced.
        title: The page's heading; the runs' names by default.
        overwrite: Whether any other file may be replaced too.

    Returns:
        `output`, `runs` (the names on the page), `headline`, `missing` (one sentence each).

    Raises:
        UserError: a folder is no run, a file of it cannot be read, or `output` cannot be written.
    """
    from ..report.html import render
    from ..report.runs import missing, read_runs

    if not runs:
        raise UserError("report: name at least one run folder")
    key = digest([which(str(run)) for run in runs], title)
    claim_page(Path(output), key, overwrite=overwrite)
    read = read_runs([str(run) for run in runs])
    html, finding = render(read, title)
    _write(Path(output), with_key(html, key))
    return {
        "output": str(output),
        "runs": [run.name for run in read],
        "headline": finding.sentence,
        "missing": [sentence for run in read for sentence in missing(run)],
    }


def _write(output: Path, html: str) -> None:
    """The page, whole or not there."""
    if output.is_dir():
        raise UserError(f"{output}: is a folder; name the HTML file, such as {output}/report.html")
    try:
        with whole_file(output) as half:
            half.write_bytes(html.encode("utf-8", errors="replace"))  # odd bytes in a file's name
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror})") from error
