"""`sparring replay`: the batch at which a run stopped, once more, to see where it began."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..config.read import resolve
from ..support.errors import UserError
from .shared import options

if TYPE_CHECKING:
    from ..training.replay import Finding

N_SHOWN = 8


@click.command()
@click.argument("run", type=options.PLACE)
@options.as_json
def replay(run: str, as_json: bool) -> None:
    """Compute the batch at which RUN stopped once more. It shows which number broke first.

    A run whose loss or gradient is not finite keeps that batch, and the weights that it met, in
    RUN/stopped. Nothing is updated, and nothing is written.

    \b
    Example:
      sparring replay runs/digits
    """
    from ..assembly.build import build_dataset
    from ..training import replay as stopped_batch
    from ..training.checkpoint import Checkpoint
    from ..training.processes import distributed, make_accelerator, process_state
    from ..training.roles import restore, roles
    from ..training.stopping import not_finite_state
    from .train.run import trained_of

    folder = Path(run)
    address = stopped_batch.read_address(folder)
    if process_state().num_processes > 1:
        raise UserError("sparring replay looks at all rows by itself: start one process")
    config = resolve(folder / "config.yaml")
    _, trained = trained_of(config, build_dataset(config), folder)
    accelerator = make_accelerator(config.training, folder)
    nets, players = roles(trained, config.training, accelerator)
    place = folder / stopped_batch.FOLDER / f"checkpoint-{address.step}"
    restore(Checkpoint(place), players, trained.objective)
    with distributed(nets, players, accelerator, compiled=False):
        again = (folder, address, trained.objective, nets, players, accelerator)
        findings = list(stopped_batch.replay(*again))
    state = not_finite_state(players)
    result = {
        "run": str(folder),
        "where": asdict(address),
        "state": state,
        "findings": [asdict(finding) for finding in findings],
    }
    options.answer(result, as_json, lambda _: _text(findings, address.turn, state))


def _text(findings: list[Finding], turn: int, state: str | None) -> str:
    """What was found, in lines."""
    lines = [] if state is None else [f"{state}: everything that they compute is too"]
    bad = [finding for finding in findings if not finding.is_finite]
    for one in bad:
        place = f"process {one.process}, micro-batch {one.micro}, turn {one.turn} ({one.player})"
        terms = ", ".join(f"{name} {value:.4g}" for name, value in one.terms.items())
        lines.append(f"{place}: mean loss {terms}")
        for index, values in one.bad_rows[:N_SHOWN]:
            said = ", ".join(f"{name} {value}" for name, value in values.items())
            lines.append(f"  sample {index}: {said}")
        if len(one.bad_rows) > N_SHOWN:
            lines.append(f"  and {len(one.bad_rows) - N_SHOWN} more of {one.n_rows} samples")
        if one.first_module:
            lines.append(f"  the first layer with a non-finite output: {one.first_module}")
        elif one.bad_rows and state is None:
            lines.append("  no layer made it: the samples, their noise or the target did")
        if one.bad_gradients:
            n = len(one.bad_gradients)
            lines.append(f"  {n} gradients are not finite, the first is of {one.bad_gradients[0]}")
    if not bad:
        lines.append(
            "every loss and gradient is finite this time: the device is not deterministic, or an "
            "earlier turn of the batch matters"
        )
    if turn > 0:
        before = "the updates of the turns before are in these weights"
        lines.append(f"it stopped at turn {turn}: {before}")
    return "\n".join(lines)
