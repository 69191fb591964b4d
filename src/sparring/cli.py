"""The `sparring` command. The commands import torch, so --help and config errors are instant.

Every user error is one line on stderr, `sparring: error: ...`, exit codes in support/errors.py.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from . import __version__
from .support.errors import UserError, is_out_of_memory
from .support.home_folder import expanded
from .support.terminal import echo, one_line, show_warnings
from .support.text_files import read_lines


class _Place(click.ParamType):
    """A file, a folder or a model's name; `~` at its start is the home folder."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return expanded(value)
        except UserError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


PLACE = _Place()
_overwrite = click.option(
    "--overwrite", is_flag=True, help="Also replace what other settings have made there."
)


class _Sparring(click.Group):
    """A click group that answers errors with one line, and keeps the order of its commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        show_warnings()
        try:
            code = super().main(*args, **kwargs)
        except click.UsageError as error:
            about = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
            _fail(f"{error.format_message().rstrip('.')}{about}")
        except click.ClickException as error:
            _fail(error.format_message())
        except (click.Abort, KeyboardInterrupt):
            echo("sparring: stopped", err=True)
            sys.exit(130)
        except UserError as error:
            _fail(str(error), error.exit_code)
        except BrokenPipeError:  # the reader of a pipe has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except OSError as error:
            place = "" if error.filename is None else f"{error.filename}: "
            full = ": free some space, then start again" if error.errno == errno.ENOSPC else ""
            _fail(f"{place}{error.strerror or error}{full}")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            _fail(f"there is not enough memory ({line}): take smaller batches, images or numbers")
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, exit_code: int = UserError.exit_code) -> NoReturn:
    echo(f"sparring: error: {one_line(message)}", err=True)
    sys.exit(exit_code)


def _print_json(value: Any) -> None:
    echo(json.dumps(value, allow_nan=False, default=str))


@click.group(
    cls=_Sparring,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="sparring", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Train diffusion models on dirty data, robustly, and see that it worked.

    \b
    sparring demo                                         the whole story in minutes
    sparring train digits objective=detail                one run
    sparring configs                                      what there is to train
    sparring evaluate runs/digits                         its figures
    sparring attack runs/plain runs/robust                quality under attack
    sparring inspect photos                               is this data dirty, and how
    sparring report runs/plain runs/robust -o report.html
    """
    if context.invoked_subcommand is None:
        echo(context.get_help())
    elif context.invoked_subcommand not in ("train", "replay"):
        precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if precision != "no" and os.environ.get("RANK", "0") == "0":
            echo(
                f"sparring: accelerate asks for mixed precision {precision}, which is for training:"
                f" {context.invoked_subcommand} computes in the precision of the weights",
                err=True,
            )


@main.command()
@click.argument("config", type=PLACE)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="Print the resolved run and stop.")
@click.option(
    "--fork",
    type=PLACE,
    metavar="RUN",
    help="Begin a new run with the state of this run, or of a checkpoint of one: as "
    "training.fork_from=RUN.",
)
def train(config: str, overrides: tuple[str, ...], dry_run: bool, fork: str | None) -> None:
    """Train the run that CONFIG describes: a YAML file, or one that `sparring configs` lists.

    KEY=VALUE changes one setting: keys are dotted (training.seed=1), objective=NAME picks a method
    with its defaults. The results go to training.output_dir, runs/<the config's name> by default.

    \b
    Examples:
      sparring train digits objective=detail training.seed=1
      sparring train digits --dry-run
      sparring train smoothing_cifar10 row=p90_s02
      sparring train runs/digits/config.yaml training.resume_from_checkpoint=latest
      sparring train runs/digits/config.yaml --fork runs/digits training.output_dir=runs/b
      torchrun --nproc_per_node 2 -m sparring train digits
    """
    from .config.read import resolve

    if fork is not None:
        overrides = (*overrides, f"training.fork_from={fork}")
    run = resolve(config, overrides)
    from .commands.train import dry_run_text, train_command

    if dry_run:
        echo(dry_run_text(run))
    else:
        # run.json records this, however the program was started: console script, -m, torchrun
        sys.argv = ["sparring", "train", config, *overrides]
        train_command(run)


@main.command()
@click.argument("name", required=False, type=PLACE)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def configs(name: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """List the configs that come with sparring and their rows, or print the one called NAME.

    With row=ROW, or any KEY=VALUE, its settings are printed with these on top.

    \b
    Examples:
      sparring configs
      sparring configs digits > mine.yaml
      sparring configs smoothing_cifar10 row=p90_s02
    """
    from .commands.configs import as_text, one_config
    from .config.files import bundled

    if name is None:
        _print_json({"configs": bundled()}) if as_json else echo(as_text(bundled()))
    elif as_json:
        _print_json({"name": name, "yaml": one_config(name, overrides)})
    else:
        echo(one_config(name, overrides))


@main.command()
@click.argument("run", type=PLACE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def replay(run: str, as_json: bool) -> None:
    """Compute the batch at which RUN stopped once more, to see where it began.

    A run whose loss or gradient is not finite keeps that batch and the weights it met in
    RUN/stopped. Nothing is updated and nothing written.

    \b
    Example:
      sparring replay runs/digits
    """
    from .commands.replay import replay_command

    result = replay_command(run)
    text = result.pop("text")
    if as_json:
        _print_json(_finite_json(result))
    else:
        click.echo(text)


def _finite_json(value: Any) -> Any:
    """Numbers that JSON does not know become words: "nan", "inf"."""
    if isinstance(value, dict):
        return {key: _finite_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_json(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@main.command()
@click.option(
    "--output-dir",
    type=PLACE,
    default="runs/demo",
    show_default=True,
    help="Where to put the runs.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of all three runs.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def demo(output_dir: str, seed: int, overrides: tuple[str, ...]) -> None:
    """Train plain and robust on noisy files, and plain on clean ones; compare them in a report.

    The files are digits, 90 % of them with Gaussian noise of a standard deviation between 0.05 and
    0.35, and nobody tells training which. KEY=VALUE changes a setting of all three runs, such as
    training.max_train_steps=500 for a quick look; contamination.KEY=VALUE, what is wrong with the
    files.

    \b
    Example:
      sparring demo --seed 1
    """
    from .commands.demo import demo_command

    demo_command(Path(output_dir), seed, overrides)


@main.command()
@click.argument("model", type=PLACE)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "-o", "--output-dir", type=PLACE, help="Where to; a run's evaluation/samples by default."
)
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
@click.option("--prompt-file", type=PLACE, help="Show these: a text file, a prompt in each line.")
@click.option("--batch-size", type=int, help="Samples at once; changes speed and memory only.")
@_overwrite
@click.option("--device", help="Such as cpu or cuda; a GPU by default where there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def sample(
    model: str,
    overrides: tuple[str, ...],
    as_json: bool,
    output_dir: str | None,
    prompts: tuple[str, ...],
    prompt_file: str | None,
    **options: Any,
) -> None:
    """Draw samples from MODEL: images as PNG files and a grid, vectors as a table.

    MODEL is a run, a pipeline folder or a hub name. What is not said is the run's own section
    sampling; KEY=VALUE (sampling.num_inference_steps=10) changes it as in `sparring train`.
    A text-to-image model draws one image per prompt, or -n images of the prompts in turn; without
    a prompt those of sampling.prompts, else of the empty prompt.

    \b
    Examples:
      sparring sample runs/digits -n 100 --seed 1
      sparring sample runs/consistency_digits --sweep 1,2,4,8
      sparring sample runs/photos --prompt "a red fox" --guidance-scale 7.5
      sparring sample google/ddpm-cifar10-32 --scheduler dpmsolver++ --num-inference-steps 20 -o out
    """
    from .config.read import sampling_of

    words = {name: value for name, value in options.items() if value not in (None, ())}
    said = [*prompts, *(read_lines(prompt_file, "--prompt-file") if prompt_file else ())]
    words |= {"prompts": said} if said else {}
    if "sweep" in words:
        words["sweep"] = _numbers(str(words["sweep"]))
    settings = sampling_of([*overrides], words)
    from .commands.sample import sample_command

    result = sample_command(model, output_dir, **settings)
    if as_json:
        _print_json(result)
    else:
        echo(f"{result['n_images']} samples in {result['output']}")


def _numbers(text: str) -> list[int]:
    """Numbers of steps with commas between them."""
    numbers = [int(word) for word in text.split(",") if word.strip().isdigit()]
    if not numbers or len(numbers) != text.count(",") + 1 or 0 in numbers:
        raise UserError(f"--sweep takes numbers of steps such as 1,2,4,8, got {text!r}")
    return numbers


@main.command()
@click.argument("models", nargs=-1, type=PLACE, required=True, metavar="MODEL... [KEY=VALUE]...")
@click.option(
    "-o", "--output-dir", type=PLACE, help="Where the results go; a run's evaluation/ by default."
)
@click.option(
    "--allow-unlike-sampling",
    is_flag=True,
    help="Also put figures of different samplers or steps side by side.",
)
@click.option(
    "--save-reference",
    type=PLACE,
    metavar="FILE",
    help="Write the reference's features, for evaluation.statistics=FILE the next time.",
)
@_overwrite
@click.option("--device", help="Such as cpu or cuda; a GPU by default where there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def evaluate(
    models: tuple[str, ...],
    output_dir: str | None,
    allow_unlike_sampling: bool,
    save_reference: str | None,
    overwrite: bool,
    device: str | None,
    as_json: bool,
) -> None:
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
    names = [word for word in models if not _is_override(word)]
    overrides = [word for word in models if _is_override(word)]
    if not names:
        raise click.UsageError("Missing argument 'MODEL'", click.get_current_context())
    from .commands.evaluate import as_text, evaluate_command

    result = evaluate_command(
        names,
        overrides,
        output_dir,
        allow_unlike_sampling=allow_unlike_sampling,
        save_reference=save_reference,
        overwrite=overwrite,
        device=device,
    )
    if not result:
        return  # a process that is not the first
    if as_json:
        _print_json(result)
    else:
        echo(as_text(result))


@main.command()
@click.argument("models", nargs=-1, type=PLACE, required=True, metavar="MODEL... [KEY=VALUE]...")
@click.option(
    "-o", "--output-dir", type=PLACE, help="A folder for all of it and a page; a run's attacks/."
)
@_overwrite
@click.option("--device", help="Such as cpu or cuda; a GPU by default where there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def attack(
    models: tuple[str, ...],
    output_dir: str | None,
    overwrite: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Attack the sampling path of models: quality against the radius of the attack.

    MODEL is a run, a pipeline folder or a hub name, trained in whatever way. Before chosen calls of
    the network x_t is moved by sigma_t w, w in a ball; random noise of the same size is the
    control. KEY=VALUE changes a setting of sections attack, data, sampling and evaluation; a model
    that is no run needs data.name and what goes with it.

    \b
    Examples:
      sparring attack runs/plain runs/robust -o attacked
      sparring attack runs/plain attack.kind=fgsm attack.norm=l2 attack.where=[0,0.5]
      sparring attack runs/plain attack.n_path_steps=all sampling.num_inference_steps=10
      sparring attack runs/plain attack.transfer_from=runs/robust
      sparring attack google/ddpm-cifar10-32 data.name=huggingface \
          data.dataset_name=uoft-cs/cifar10 -o cifar10
    """
    names = [word for word in models if not _is_override(word)]
    overrides = [word for word in models if _is_override(word)]
    if not names:
        raise click.UsageError("Missing argument 'MODEL'", click.get_current_context())
    from .commands.attack import as_text, attack_command

    result = attack_command(names, overrides, output_dir, overwrite=overwrite, device=device)
    if as_json:
        _print_json(result)
    else:
        echo(as_text(result))


def _is_override(word: str) -> bool:
    return "=" in word and not Path(word).exists()


@main.command()
@click.argument("data", type=PLACE)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "-o", "--output-dir", type=PLACE, help="An empty or new folder; DATA-contaminated by default."
)
@click.option("--kind", default="gaussian", show_default=True, help="What is done to the images.")
@click.option("--rate", type=float, help="Share of the images it is done to; 0.9 by default.")
@click.option("--seed", type=int, help="Decides, with an image's number, what it gets.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def contaminate(
    data: str,
    overrides: tuple[str, ...],
    output_dir: str | None,
    kind: str,
    rate: float | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Write a contaminated copy of a data set as 8-bit images with its manifest.

    DATA is a folder of images, a parquet file, tar shards, digits, a config file, or the name
    of a data set on the hub. KEY=VALUE changes a setting of sections data and contamination. The
    copy is clipped to [0, 1] and rounded to 8 bits, as training with the same contamination is.

    \b
    Examples:
      sparring contaminate digits -o noisy-digits contamination.sigma=0.2
      sparring contaminate photos -o dirty-photos --kind jpeg --rate 0.5 contamination.quality=5
      sparring contaminate photos -o noisy-photos 'contamination.sigma=[0.05,0.35]'
    """
    from .config.read import contamination_of

    words = [f"contamination.{key}={value}" for key, value in
             (("rate", rate), ("seed", seed)) if value is not None]  # fmt: skip
    sections = contamination_of(data, [*words, *overrides], kind)
    from .assembly.build import one_line_errors
    from .commands.contaminate import contaminate as write_copy

    with one_line_errors("contaminate"):
        folder = output_dir or _beside(data)
        result = write_copy(*sections, folder, say=_say if as_json else echo)
    if as_json:
        _print_json(result)


def _beside(data: str) -> str:
    """Where the copy of a data set goes: a folder in this one, and never within the data."""
    place = Path(data)
    if place.is_dir():
        place = place.resolve()
        if Path.cwd().is_relative_to(place):
            raise UserError(f"{data} is where you are: name another folder with -o for the copy")
    is_file = place.suffix.lower() in (".parquet", ".tar", ".yaml", ".yml")
    return f"{place.stem if is_file else place.name}-contaminated"


def _say(line: str) -> None:
    echo(line, err=True)


@main.command()
@click.argument("data", type=PLACE)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "-o",
    "--output-dir",
    type=PLACE,
    help="Also write dirt.csv, examples, report.json and index.html.",
)
@_overwrite
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def inspect(
    data: str, overrides: tuple[str, ...], output_dir: str | None, overwrite: bool, as_json: bool
) -> None:
    """Say what a set of images holds: which are dirty and how, duplicates, sizes, broken files.

    DATA is a folder of images, a parquet file, tar shards, digits, a config file, with the
    contamination that it names, or the name of a data set on the hub. KEY=VALUE changes a setting
    of sections data and contamination. Noise, compression, blur, holes and outliers are found from
    the images alone; with -o there is a table with a row per image, to correct and to train with.
    Nothing is changed.

    \b
    Examples:
      sparring inspect photos data.resolution=64 -o photos-report
      sparring inspect digits contamination.kind=gaussian contamination.sigma=0.2
    """
    from .config.read import contamination_of

    sections = contamination_of(data, [*overrides], "none", "inspect")
    from .assembly.build import one_line_errors
    from .commands.inspect import as_text, inspect_command

    with one_line_errors("inspect"):
        result = inspect_command(
            *sections, output_dir, say=_say, overwrite=overwrite, with_images=as_json
        )
    if as_json:
        _print_json(result)
    else:
        echo(as_text(result))


@main.command()
@click.argument("data", type=PLACE)
@click.argument("models", nargs=-1, type=PLACE, required=True, metavar="MODEL... [KEY=VALUE]...")
@click.option(
    "-o", "--output-dir", type=PLACE, help="Where to; an empty or new folder for cleaned images."
)
@click.option("--sigma", help="The images' noise on the [0, 1] scale, or auto.")
@click.option("--levels", help="DATA is clean: put noise of these sizes on it, such as 0.1,0.2.")
@click.option("--num-inference-steps", "n_steps", type=int, help="Calls of the network; 1.")
@click.option("--eta", type=float, help="Noise of the steps between the calls, 0 to 1; 0.")
@click.option("--purify", type=float, help="Add noise up to this size first, [0, 1] scale; 0.")
@click.option("--seed", type=int, help="Of the noise of --purify and --eta.")
@click.option("-n", "--n-images", type=int, help="With --levels: at most so many images; 1,000.")
@click.option(
    "--extractor", type=PLACE, help="With --levels: of the features, as evaluation.extractor."
)
@click.option("--batch-size", type=int, help="Images at once; changes speed and memory only.")
@_overwrite
@click.option("--device", help="Such as cpu or cuda; a GPU by default where there is one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def clean(
    data: str,
    models: tuple[str, ...],
    output_dir: str | None,
    sigma: str | None,
    levels: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Clean images of their noise with a model, or measure how well models do it.

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
    from .config.read import contamination_of

    names = [word for word in models if not _is_override(word)]
    overrides = [word for word in models if _is_override(word)]
    if not names:
        raise click.UsageError("Missing argument 'MODEL'", click.get_current_context())
    noise = _noise(sigma)
    given = {name: value for name, value in options.items() if value is not None}
    sizes = None if levels is None else _sizes(levels)
    if sizes is None:
        _check_clean(names, output_dir, noise, {**given, "overwrite": True} if overwrite else given)
        if not data.endswith((".yaml", ".yml")) and "data.split" not in _keys(overrides):
            overrides.append("data.split=all")
    sections = contamination_of(data, overrides, "none", "clean")
    from .assembly.build import one_line_errors

    with one_line_errors("clean"):
        if sizes is None:
            from .commands.clean import clean_command

            result = clean_command(
                *sections, names[0], str(output_dir), noise or 0.0,
                say=_say if as_json else echo, **given,
            )  # fmt: skip
        else:
            from .commands.clean_levels import as_text, levels_command, spoken

            told = [data, *models, "--levels", str(levels)]
            told += [] if sigma is None else ["--sigma", sigma]
            result = levels_command(
                *sections, names, sizes, output_dir, noise,
                command=spoken(told), overwrite=overwrite, **given,
            )  # fmt: skip
            if not as_json:
                echo(as_text(result))
    if as_json:
        _print_json(result)


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


def _noise(sigma: str | None) -> float | str | None:
    """What --sigma says."""
    return sigma if sigma in (None, "auto") else _sizes(str(sigma), "--sigma", 1)[0]


def _sizes(text: str, option: str = "--levels", most: int | None = None) -> list[float]:
    """Sizes of noise with commas between them."""
    try:
        sizes = [float(word) for word in text.split(",")]
    except ValueError:
        sizes = []
    if (
        not sizes
        or not all(0 <= size < float("inf") for size in sizes)
        or len(sizes) > (most or 99)
    ):
        said = "sizes of noise such as 0.1,0.2,0.4" if most is None else "a number >= 0, or auto"
        raise UserError(f"{option} takes {said}, got {text!r}")
    return sizes


def _keys(overrides: list[str]) -> list[str]:
    return [override.partition("=")[0] for override in overrides]


@main.command()
@click.argument("runs", nargs=-1, type=PLACE, required=True, metavar="RUN...")
@click.option(
    "-o",
    "--output",
    type=PLACE,
    default="report.html",
    show_default=True,
    help="The page to write.",
)
@_overwrite
@click.option("--title", help="Heading of the page; the runs' names by default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def report(
    runs: tuple[str, ...], output: str, overwrite: bool, title: str | None, as_json: bool
) -> None:
    """Write one self-contained HTML page that compares runs.

    It computes nothing: evaluate the runs first.

    \b
    Example:
      sparring report runs/plain runs/robust -o report.html
    """
    from .commands.report import report_command

    result = report_command(list(runs), Path(output), title, overwrite=overwrite)
    if as_json:
        _print_json(result)
        return
    echo(result["headline"])
    for sentence in result["missing"]:
        echo(f"  {sentence}")
    echo(f"Report: {result['output']}")
