"""`sparring clean`: clean images of their noise with a model, or measure how well models do it."""

import shlex
from typing import Any

import click

from ...support.errors import UserError, one_line_errors
from ...support.terminal import echo
from ..shared import options
from ..shared.data_words import sections_of


@click.command()
@click.argument("data", type=options.PLACE)
@options.models
@options.output_dir("Where to; an empty or new folder for cleaned images.")
@click.option("--sigma", help="The images' noise on the [0, 1] scale, or auto.")
@click.option(
    "--levels", "noise", help="DATA is clean: put noise of these sizes on it, such as 0.1,0.2."
)
@click.option("--num-inference-steps", "n_steps", type=int, help="Calls of the network; 1.")
@click.option("--eta", type=float, help="Noise of the steps between the calls, 0 to 1; 0.")
@click.option("--purify", type=float, help="Add noise up to this size first, [0, 1] scale; 0.")
@click.option("--seed", type=int, help="Of the noise of --purify and --eta.")
@click.option("-n", "--n-images", type=int, help="With --levels: at most so many images; 1,000.")
@click.option(
    "--extractor",
    type=options.PLACE,
    help="With --levels: of the features, as evaluation.extractor.",
)
@click.option("--batch-size", type=int, help="Images at once; changes speed and memory only.")
@options.overwrite
@options.device
@options.as_json
def clean(
    data: str, models: tuple[str, ...], output_dir: str | None, sigma: str | None,
    noise: str | None, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Clean noisy images with a model. With --levels, measure how well models do it.

    DATA is what `sparring inspect` takes. Each image is handed to MODEL at the time whose noise is
    the image's own; OUT/images holds the answers, in the tree and the formats of DATA. --sigma auto
    finds the noise as `sparring inspect` does. KEY=VALUE changes a setting of sections data and
    contamination. With --levels, DATA is clean, several models may be named, and the figures go to
    -o, or to the runs' evaluation folders, where `sparring report` finds them.

    \b
    Examples:
      sparring clean photos runs/robust -o photos-clean --sigma auto
      sparring clean photos runs/robust -o photos-clean --sigma 0.1 --num-inference-steps 10
      sparring clean digits runs/plain runs/robust --levels 0.1,0.2,0.4 data.split=held_out
    """
    names, overrides = options.models_and_overrides(models)
    told = sigma if sigma in (None, "auto") else _sizes(str(sigma), "--sigma", 1)[0]
    given = {name: one for name, one in given.items() if one is not None and one is not False}
    sizes = None if noise is None else _sizes(noise)
    if sizes is None:
        _check_clean(names, output_dir, told, given)
        keys = [override.partition("=")[0] for override in overrides]
        if not data.endswith((".yaml", ".yml")) and "data.split" not in keys:
            overrides.append("data.split=all")
    sections = sections_of(data, overrides, "none", "clean")
    with one_line_errors("clean"):
        if sizes is None:
            from .images import clean_command

            result = clean_command(
                sections, names[0], str(output_dir), told or 0.0,
                say=options.say if as_json else echo, **given,
            )  # fmt: skip
            options.answer(result, as_json)
        else:
            from .levels import Trial, as_text, levels_command

            words = ["sparring", "clean", data, *models, "--levels", str(noise)]
            words += [] if sigma is None else ["--sigma", sigma]
            of_trial = {key: given.pop(key) for key in ("n_images", "extractor") if key in given}
            trial = Trial(sizes, told, **of_trial)
            result = levels_command(
                sections, names, trial, output_dir, command=shlex.join(words), **given
            )
            options.answer(result, as_json, as_text)


def _check_clean(
    names: list[str], output_dir: str | None, noise: float | str | None, given: dict[str, Any]
) -> None:
    """Refuse what makes no sense where images are cleaned and nothing is measured."""
    if len(names) > 1:
        raise UserError(f"clean writes one set of images: name one model, got {', '.join(names)}")
    if output_dir is None:
        raise UserError("name a folder for the cleaned images: -o OUT")
    if noise is None and not given.get("purify"):
        raise UserError("how noisy are the images? --sigma 0.1 ([0, 1] scale), or --sigma auto")
    if wrong := [name for name in ("n_images", "extractor", "overwrite") if name in given]:
        raise UserError(f"--{wrong[0].replace('_', '-')} goes with --levels")


def _sizes(text: str, option: str = "--levels", most: int | None = None) -> list[float]:
    """Sizes of noise with commas between them."""
    try:
        sizes = [float(word) for word in text.split(",")]
    except ValueError:
        sizes = []
    if not 0 < len(sizes) <= (most or 99) or not all(0 <= one < float("inf") for one in sizes):
        said = "sizes of noise such as 0.1,0.2,0.4" if most is None else "a number >= 0, or auto"
        raise UserError(f"{option} takes {said}, got {text!r}")
    return sizes
