"""`sparring demo`: the whole story in minutes."""

from __future__ import annotations

from pathlib import Path

import click

from ..shared import options


@click.command()
@click.option("--quick", is_flag=True, help="The short form, two minutes: rougher figures.")
@click.option(
    "--output-dir",
    type=options.PLACE,
    help="Where to put the runs; runs/demo, or runs/demo-quick with --quick.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of all three runs.")
@options.overrides
def demo(quick: bool, output_dir: str | None, seed: int, overrides: tuple[str, ...]) -> None:
    """See it work: train three models and compare them in a report.

    They are plain and robust training on noisy files, and plain training on clean ones. The files
    are digits, 90 % of them with Gaussian noise of a standard deviation between 0.05 and 0.35, and
    nobody tells training which. KEY=VALUE changes a setting of all three runs, and
    contamination.KEY=VALUE changes what is wrong with the files.

    \b
    Examples:
      sparring demo --quick
      sparring demo --seed 1
    """
    from .story import demo_command

    place = output_dir or ("runs/demo-quick" if quick else "runs/demo")
    demo_command(Path(place), seed, overrides, quick=quick)
