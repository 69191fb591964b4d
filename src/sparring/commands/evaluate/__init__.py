"""`sparring evaluate`: sample models and measure the samples."""

from typing import Any

import click

from ..shared import options


@click.command()
@options.models
@options.output_dir("Where the results go; a run's evaluation/ by default.")
@click.option(
    "--allow-unlike-sampling",
    is_flag=True,
    help="Also put figures of different samplers or steps side by side.",
)
@click.option(
    "--save-reference",
    type=options.PLACE,
    metavar="FILE",
    help="Write the reference's features, for evaluation.statistics=FILE the next time.",
)
@options.overwrite
@options.device
@options.as_json
def evaluate(models: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Sample models and measure the samples against clean data.

    MODEL is a run, a pipeline folder or a hub name. KEY=VALUE changes a setting of sections data,
    sampling and evaluation; a model that is no run needs data.name and what goes with it.

    \b
    Examples:
      sparring evaluate runs/digits
      sparring evaluate runs/plain runs/robust sampling.num_inference_steps=10 --json
      sparring evaluate google/ddpm-cifar10-32 data.name=huggingface \\
          data.dataset_name=uoft-cs/cifar10 -o cifar10
      sparring evaluate runs/plain evaluation.mismatch=true evaluation.mismatch_steps=[10,50]
      sparring evaluate runs/cifar evaluation.extractor=inception
      sparring evaluate runs/sd evaluation.clip=openai/clip-vit-large-patch14
      sparring evaluate runs/cifar evaluation.sweep.num_inference_steps=[5,10,50]
      torchrun --nproc_per_node 2 -m sparring evaluate runs/cifar
    """
    names, overrides = options.models_and_overrides(models)
    from .figures import as_text, evaluate_command

    result = evaluate_command(names, overrides, **given)
    if result:  # else this is a process that is not the first
        options.answer(result, as_json, as_text)
