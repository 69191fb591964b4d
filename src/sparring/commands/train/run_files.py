"""What a run's folder holds beside the loop's own: its data in words, grids, the finished model."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from ...config.schema import RunConfig
from ...data.base import ModelRange
from ...data.captions import first_of
from ...data.dirt.manifest import write_manifest
from ...diffusion.denoiser import Denoiser
from ...models.card import model_card
from ...models.description import describe
from ...models.latents import decode
from ...models.pretrained import Model, save
from ...sampling.images import grid
from ...sampling.sample import sample
from ...support.errors import UserError
from ...support.terminal import echo
from ..shared.files import replace_text

N_SHOWN = 64
N_CAPTIONS_SHOWN = 8  # in the grids of a text-to-image model without sampling.prompts


def describe_data(dataset: ModelRange, folder: Path) -> None:
    """What was trained on, for the report: pictures and the manifest. Training does not read it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(dataset, folder / "manifest.jsonl")
    if dataset.remarks:
        replace_text(folder / "remarks.json", json.dumps(list(dataset.remarks), indent=2) + "\n")
    if dataset.is_image:
        shown = dataset.__getitems__(range(min(N_SHOWN, len(dataset))))["x0"]
        grid(shown).save(folder / "training_samples.png")


def grid_writer(
    config: RunConfig, model: Model, dataset: ModelRange
) -> Callable[[Denoiser, Path], None]:
    """Writes a grid of samples at the same noise every time, of prompts or the first captions."""
    prompts, guidance = config.sampling.prompts, config.sampling.guidance_scale
    if model.text is not None and prompts is None:
        captions = dict.fromkeys(map(first_of, dataset.captions or ()))
        prompts = [caption for caption in captions if caption is not None][:N_CAPTIONS_SHOWN]

    def write(denoiser: Denoiser, path: Path) -> None:
        samples = sample(
            replace(model, denoiser=denoiser),
            config.sampling.n_images,
            config.sampling.settings,
            prompts=prompts,
            guidance_scale=guidance if denoiser.null_condition else 1.0,
        )
        grid(samples if model.vae is None else decode(model.vae, samples)).save(path)

    return write


def show_the_start(config: RunConfig, model: Model, dataset: ModelRange, folder: Path) -> None:
    """What a model drew before this run, at the noise of the grids to come."""
    started = config.model.pretrained_model_name_or_path is not None
    if started and dataset.is_image and config.training.validation_steps is not None:
        (folder / "samples").mkdir(exist_ok=True)
        model.denoiser.to(PartialState().device)
        grid_writer(config, model, dataset)(model.denoiser, folder / "samples" / "step-0.png")


def base_of(model: Model, config: RunConfig) -> str | None:
    """Of a latent model, the pipeline whose other parts belong to it: a full path or a hub name."""
    name = config.model.pretrained_model_name_or_path
    if model.vae is None or name is None:
        return None
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def save_model(model: Model, folder: Path, config: RunConfig, known: Sequence[str]) -> None:
    """The finished model at the run's root, with its card, which says what is known of the data."""
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    command, base = info["command"], base_of(model, config)
    card = model_card(
        folder.name,
        describe(model, base),
        run=config.model_dump(mode="json"),
        command=command if isinstance(command, str) else shlex.join(command),
        versions={"sparring": info["version"], **info["versions"]},
        text=model.text,
        known=known,
    )
    save(folder, model, card, base)


def push(folder: Path, hub_model_id: str) -> None:
    """Upload the finished model and its samples, not the checkpoints and logs."""
    from huggingface_hub import create_repo, upload_folder
    from huggingface_hub.errors import HfHubHTTPError

    try:
        repo_id = create_repo(hub_model_id, exist_ok=True).repo_id
        upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message="Upload the finished model",
            ignore_patterns=[".lock/**", "checkpoints/**", "logs/**", "data/**", "*.jsonl"],
        )
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the model is finished in {folder} but could not be pushed to {hub_model_id}: {reason}"
        ) from error
    echo(f"Pushed to https://huggingface.co/{repo_id}")
