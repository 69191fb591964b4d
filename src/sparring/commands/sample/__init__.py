"""`sparring sample`: samples of a model as files."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from ...config.checks import check_section
from ...config.overrides import with_overrides
from ...config.schema import SamplingSection
from ...support.errors import UserError
from ...support.text_files import read_lines
from ..shared import options


@click.command()
@click.argument("model", type=options.PLACE)
@options.overrides
@options.output_dir("Where to; a run's evaluation/samples by default.")
@click.option("-n", "--n-images", type=int, help="How many samples.")
@click.option(
    "--scheduler", help="Such as ddim, ddpm, euler, heun, dpmsolver++, unipc, flow_euler."
)
@click.option("--num-inference-steps", type=int, help="Steps of the sampler.")
@click.option("--sweep", help="Such as 1,2,4,8: sweep.png shows a row for each number of steps.")
@click.option("--seed", type=int, help="Sample i follows from (seed, i).")
@click.option("--guidance-scale", type=float, help="Of classifier-free guidance; 1 is none.")
@click.option("--eps-scale", type=float, help="The estimated noise is divided by this.")
@click.option("--eta", type=float, help="Noise of DDIM's steps, 0 to 1.")
@click.option("--stop-ratio", type=float, help="DDIM: sigma/alpha at which the last step starts.")
@click.option("--grid-power", type=float, help="DDIM: above 1, steps denser towards the data.")
@click.option(
    "--class-label", "class_labels", multiple=True, help="Draw this class, by name or number."
)
@click.option("--prompt", "prompts", multiple=True, help="Show this (text-to-image models).")
@click.option(
    "--prompt-file", type=options.PLACE, help="Show these: a text file, a prompt in each line."
)
@click.option("--batch-size", type=int, help="Samples at once; changes speed and memory only.")
@options.overwrite
@options.device
@options.as_json
def sample(model: str, overrides: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Draw samples from MODEL. Images become PNG files and a grid, vectors a table.

    MODEL is a run, a pipeline folder or a hub name. Where you say nothing, the run's own section
    sampling holds; KEY=VALUE (sampling.num_inference_steps=10) changes it as in `sparring train`.
    A text-to-image model draws one image per prompt, or -n images of the prompts in turn. Without
    a prompt it takes those of sampling.prompts, or else the empty one.

    \b
    Examples:
      sparring sample runs/digits -n 100 --seed 1
      sparring sample runs/consistency_digits --sweep 1,2,4,8
      sparring sample runs/photos --prompt "a red fox" --guidance-scale 7.5
      sparring sample google/ddpm-cifar10-32 --scheduler dpmsolver++ --num-inference-steps 20 -o out
    """
    prompts, file = given.pop("prompts"), given.pop("prompt_file")
    given["prompts"] = [*prompts, *(read_lines(file, "--prompt-file") if file else ())] or None
    given["sweep"] = None if given["sweep"] is None else _numbers(given["sweep"])
    given |= asked_for(overrides, given)
    from .draw import sample_command

    result = sample_command(model, **given)
    options.answer(result, as_json, lambda _: f"{result['n_images']} samples in {result['output']}")


def asked_for(overrides: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """What of section sampling was asked for, checked: by options, given by the section's keys, and
    by `sampling.key=value`, which wins."""
    for override in overrides:
        if not override.startswith("sampling."):
            raise UserError(f"override {override!r}: sample takes sampling.* only")
    fields = SamplingSection.model_fields
    known = {key: one for key, one in given.items() if key in fields and one is not None}
    words = known | with_overrides({}, overrides).get("sampling", {})
    said = check_section(SamplingSection, words, "sampling", overrides)
    return said.model_dump(exclude_unset=True)


def _numbers(text: str) -> list[int]:
    """Numbers of steps with commas between them."""
    numbers = [int(word) for word in text.split(",") if word.strip().isdigit()]
    if not numbers or len(numbers) != text.count(",") + 1 or 0 in numbers:
        raise UserError(f"--sweep takes numbers of steps such as 1,2,4,8, got {text!r}")
    return numbers
