"""`sparring train`: the run that a config describes."""

import sys

import click

from ...config.read import resolve
from ...support.terminal import echo
from ..shared import options


@click.command()
@click.argument("config", type=options.PLACE)
@options.overrides
@click.option("--dry-run", is_flag=True, help="Print the resolved run and stop.")
@click.option(
    "--fork",
    type=options.PLACE,
    metavar="RUN",
    help="Begin a new run with the state of this run, or of a checkpoint of one: as "
    "training.fork_from=RUN.",
)
def train(config: str, overrides: tuple[str, ...], dry_run: bool, fork: str | None) -> None:
    """Train the run that CONFIG describes.

    CONFIG is a YAML file, or the name of one that `sparring configs` lists. KEY=VALUE changes one
    setting: keys are dotted (training.seed=1), objective=NAME picks a method with its defaults. The
    results go to training.output_dir, runs/<the config's name> by default.

    \b
    Examples:
      sparring train digits objective=detail training.seed=1
      sparring train digits --dry-run
      sparring train smoothing_cifar10 row=p90_s02
      sparring train runs/digits/config.yaml training.resume_from_checkpoint=latest
      sparring train runs/digits/config.yaml --fork runs/digits training.output_dir=runs/b
      torchrun --nproc_per_node 2 -m sparring train digits
    """
    if fork is not None:
        overrides = (*overrides, f"training.fork_from={fork}")
    settings = resolve(config, overrides)
    if dry_run:
        from .dry_run import dry_run_text

        echo(dry_run_text(settings))
        return
    from .run import train_command

    # run.json records this, however the program was started: console script, -m, torchrun
    sys.argv = ["sparring", "train", config, *overrides]
    train_command(settings)
