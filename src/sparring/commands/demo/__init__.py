"""`sparring demo`: the whole story in minutes."""

from __future__ import annotations

from pathlib import Path

import click

from ..shared import options


@click.command()
@click.option(
    "--output-dir",
    type=options.PLACE,
    default="runs/demo",
    show_default=True,
    help="Where to put the runs.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of all three runs.")
@options.overrides
def demo(output_dir: str, seed: int, overrides: tuple[str, ...]) -> None:
    """See it work: train three models and compare them in a report.

    They are plain and robust training on noisy files, and plain training on clean ones. The files
    are digits, 90 % of them with Gaussian noise of a standard deviation between 0.05 and 0.35, and
    nobody tells training which. KEY=VALUE changes a setting of all three runs, such as
    training.max_train_steps=500 for a quick look; contamination.KEY=VALUE changes what is wrong
    with the files.

    \b
    Example:
      sparring demo --seed 1
    """
    from .story import demo_command

    demo_command(Path(output_dir), seed, overrides)
