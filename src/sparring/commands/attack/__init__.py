"""`sparring attack`: quality against the radius of an attack on the sampling path."""

from typing import Any

import click

from ..shared import options


@click.command()
@options.models
@options.output_dir("A folder for all of it and a page; a run's attacks/.")
@options.overwrite
@options.device
@options.as_json
def attack(models: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Attack the sampling path of models.

    The result is quality against the radius of the attack. MODEL is a run, a pipeline folder or a
    hub name, trained in whatever way. Before chosen calls of the network x_t is moved by sigma_t w,
    where w lies in a ball; random noise of the same size is the control. KEY=VALUE changes a
    setting of sections attack, data, sampling and evaluation; a model that is no run needs
    data.name and what goes with it.

    \b
    Examples:
      sparring attack runs/plain runs/robust -o attacked
      sparring attack runs/plain attack.kind=fgsm attack.norm=l2 attack.where=[0,0.5]
      sparring attack runs/plain attack.n_path_steps=all sampling.num_inference_steps=10
      sparring attack runs/plain attack.transfer_from=runs/robust
      sparring attack google/ddpm-cifar10-32 data.name=huggingface \
          data.dataset_name=uoft-cs/cifar10 -o cifar10
    """
    names, overrides = options.models_and_overrides(models)
    from .curves import as_text, attack_command

    options.answer(attack_command(names, overrides, **given), as_json, as_text)
