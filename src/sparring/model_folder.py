"""A model's folder: what is in it, and how it is written whole or not at all.

model_index.json, unet/ or transformer/, scheduler/     diffusers' pipeline layout, with
vae/, text_encoder/, tokenizer/, ...                    parts of the pipeline it started from, or
pytorch_lora_weights.safetensors                        what LoRA has learned, or
model.safetensors, scheduler/                           for other networks
model.json                                              what diffusers has no words for
README.md                                               the model card
sparring_pipeline.py                                    where diffusers has no pipeline class
"""

import inspect
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from . import __version__, networks
from .config_sections import VP_SCHEDULERS
from .denoiser import Denoiser, unwrapped
from .errors import UserError
from .lora import WEIGHTS, lora_config, save_lora
from .parametrization import DIFFUSERS_KINDS

DESCRIPTION = "model.json"
PIPELINE_FILE = "sparring_pipeline"
_SCHEDULER = "scheduler/scheduler_config.json"
_PIPELINE_SOURCE = Path(__file__).parent / "sampling" / "pipeline.py"
_WORDS = {kind: word for word, kind in DIFFUSERS_KINDS.items()}
NOT_COPIED = (
    "*.bin", "*.ckpt", "*.pt", "*.msgpack", "*.onnx*", "*.fp16.*", "*.fp16-*", "*.non_ema.*",
)  # fmt: skip
"""Of a part that is not trained: pickles, and other versions of the weights."""
_OLD = (
    "unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3",
    "tokenizer", "tokenizer_2", "tokenizer_3",
    "model.safetensors", "null_condition.safetensors", WEIGHTS,
)  # fmt: skip
"""What an earlier model may have left in its folder."""


def describe(
    denoiser: Denoiser,
    scheduler_config: Mapping[str, Any],
    sample_shape: tuple[int, ...],
    num_classes: int | None,
    base: str | None = None,
    class_names: Sequence[str] = (),
    absent_classes: Sequence[int] = (),
) -> dict[str, Any]:
    """What model.json holds: all that is needed to build the model without its weights.

    Args:
        denoiser: The model.
        scheduler_config: Config of the scheduler it was trained with.
        sample_shape: Shape of one sample.
        num_classes: Classes of the data, or None.
        base: Of a latent model, the pipeline that it started from, a path or a hub name: the parts
            that are not trained come from there, and the null condition from its text encoder.
        class_names: Of the classes, in order; () where nobody knows them.
        absent_classes: Numbers of classes of which no sample was trained on.

    Raises:
        UserError: if the network does not say how it is built (an attribute `config`, a mapping of
            its constructor's arguments).
    """
    null = denoiser.null_condition
    if base is not None:
        tables = ("encoder_hidden_states", "pooled_projections", "added_cond_kwargs")
        null = {name: value for name, value in null.items() if name not in tables}
    nested = [name for name, value in null.items() if isinstance(value, Mapping)]
    if nested:
        raise UserError(f"a nested null condition cannot be saved: {', '.join(nested)}")
    return {
        "format": 1,
        "sparring": __version__,
        "network": _network_config(unwrapped(denoiser.network)),
        "kind": denoiser.kind,
        "learned_variance": denoiser.learned_variance,
        "boundary": denoiser.boundary,
        "sample_shape": list(sample_shape),
        "num_classes": num_classes,
        "class_names": list(class_names),
        "absent_classes": list(absent_classes),
        "null_condition": {
            name: int(value) for name, value in null.items() if not _is_table(value)
        },
        "scheduler": dict(scheduler_config)
        if base is not None
        else _saved_scheduler(scheduler_config, denoiser.kind),
        "base": base,
        "lora": lora_config(unwrapped(denoiser.network)),
    }


def describe_run(run_folder: str | Path, description: Mapping[str, Any]) -> None:
    """Write `describe`'s answer where `load` looks for it while a run is not finished."""
    folder = Path(run_folder) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / f".{DESCRIPTION}", description)
    os.replace(folder / f".{DESCRIPTION}", folder / DESCRIPTION)


def save(
    folder: str | Path,
    denoiser: Denoiser,
    scheduler_config: Mapping[str, Any],
    sample_shape: tuple[int, ...],
    num_classes: int | None,
    card: str,
    base: str | None = None,
    parts: Path | None = None,
    class_names: Sequence[str] = (),
    absent_classes: Sequence[int] = (),
) -> None:
    """Write a model that `load` reads, and diffusers too where it can.

    Networks of diffusers become a pipeline. Plain `DiffusionPipeline.from_pretrained(folder)` loads
    unconditional U-Nets with DDPM, DDIM and flow schedulers; others need trust_remote_code=True,
    because their pipeline class lies in the folder (`sparring_pipeline.py`). The saved scheduler
    has timestep_spacing "trailing" where the config left the class's default, as `sample` has.

    A latent model that was started from a pipeline becomes that pipeline, with its denoiser in the
    place of the old one and everything else copied; with LoRA, only the LoRA weights are written,
    for `pipeline.load_lora_weights(folder)`, and model.json names the pipeline.

    All is written under a temporary name first; the files that make a folder a model go away before
    anything is replaced and come last, so a folder never holds half a model.

    Args:
        folder: Made if it is not there; other files in it are kept.
        denoiser: With the weights to save (the moving average's).
        scheduler_config: Config of the scheduler it was trained with.
        sample_shape: Shape of one sample.
        num_classes: Classes of the data, or None.
        card: The text of README.md, see `model_card`.
        base: See `describe`.
        parts: The folder of that pipeline.
        class_names: See `describe`.
        absent_classes: See `describe`.
    """
    folder = Path(folder)
    description = describe(
        denoiser, scheduler_config, sample_shape, num_classes, base, class_names, absent_classes
    )
    network: Any = unwrapped(denoiser.network)
    half = folder / f".half-model-{os.getpid()}"
    component = component_of(description["network"]["_class_name"])
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        if description["lora"] is not None:
            save_lora(network, half)
        elif parts is not None and component is not None:
            _copy_parts(parts, half, component)
            _name_classes(half / "model_index.json", class_names)
            network.save_pretrained(half / component, safe_serialization=True)
            if samples_with_lcm(description):
                _write_json(half / _SCHEDULER, _lcm_scheduler(description))
                _name_scheduler(half / "model_index.json")
        elif isinstance(network, ModelMixin) and component is not None:
            network.save_pretrained(half / component, safe_serialization=True)
            _write_json(half / component / "config.json", description["network"])
            _write_json(half / "model_index.json", _model_index(component, description))
            if _plain_pipeline(description) is None:
                shutil.copy(_PIPELINE_SOURCE, half / f"{PIPELINE_FILE}.py")
        else:
            save_model(network, str(half / "model.safetensors"))
        tables = {
            name: null.detach().cpu().contiguous()
            for name, null in denoiser.null_condition.items()
            if base is None and _is_table(null)
        }
        if tables:
            save_file(tables, half / "null_condition.safetensors")
        if base is None:
            lcm = samples_with_lcm(description)
            scheduler = _lcm_scheduler(description) if lcm else description["scheduler"]
            _write_json(half / _SCHEDULER, scheduler)
        (half / "README.md").write_text(card, encoding="utf-8")
        _write_json(half / DESCRIPTION, description)
        _move_in(half, folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def usage(description: Mapping[str, Any], folder: str, absent: Sequence[str] = ()) -> str:
    """Python that samples a saved model, for its card.

    Args:
        description: See `describe`.
        folder: Where it is.
        absent: Parts of its pipeline that are null and that diffusers must be told are.
    """
    name, base = description["network"]["_class_name"], description["base"]
    if base is not None:
        start = folder if description["lora"] is None else base
        lora = f"pipe.load_lora_weights({folder!r})\n" * (description["lora"] is not None)
        told = "class_labels=[0, 1]" if description["num_classes"] is not None else "'a photo'"
        null = "".join(f", {part}=None" for part in absent)
        names, few = "DiffusionPipeline", "num_inference_steps=50"
        if samples_with_lcm(description):
            names, few = "DiffusionPipeline, LCMScheduler", "num_inference_steps=4"
            lora += "pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)\n"
            if "lora" in lora:  # such a student has its guidance inside
                few += ", guidance_scale=1.0"
        return (
            f"from diffusers import {names}\n\n"
            f"pipe = DiffusionPipeline.from_pretrained({start!r}{null})\n{lora}"
            f"images = pipe({told}, {few}).images"
        )
    if component_of(name) is None:
        return f"import sparring\n\nx = sparring.sample(sparring.load({folder!r}), 16)"
    own, n_steps = _plain_pipeline(description) is None, 4 if description["boundary"] else 50
    trust = ", trust_remote_code=True" * own
    labels = "class_labels=[0, 1]" if description["num_classes"] is not None else "batch_size=16"
    guidance = ", guidance_scale=2.0" if description["null_condition"] and own else ""
    return (
        "from diffusers import DiffusionPipeline\n\n"
        f"pipe = DiffusionPipeline.from_pretrained({folder!r}{trust})\n"
        f"images = pipe({labels}{guidance}, num_inference_steps={n_steps}).images"
    )


def _move_in(half: Path, folder: Path) -> None:
    """Bring a whole model to where it belongs; what makes it one goes first and comes last."""
    last = ("model_index.json", DESCRIPTION)
    for name in last:
        (folder / name).unlink(missing_ok=True)
    for old in _OLD:
        if not (half / old).exists():
            _remove(folder / old)
    names = sorted(path.name for path in half.iterdir())
    for name in [name for name in names if name not in last] + [n for n in last if n in names]:
        _remove(folder / name)
        os.replace(half / name, folder / name)


def _copy_parts(pipeline: Path, half: Path, trained: str) -> None:
    """A pipeline's folder without the part that is trained; what it lacks its index calls null."""
    index = json.loads((pipeline / "model_index.json").read_text(encoding="utf-8"))
    for name, value in index.items():
        if name.startswith("_") or name == trained or not isinstance(value, list):
            continue
        if (pipeline / name).is_dir():
            ignored = shutil.ignore_patterns(*NOT_COPIED)
            shutil.copytree(pipeline / name, half / name, ignore=ignored)
        else:  # what a hub copy leaves out, such as the safety checker
            index[name] = [None, None]
    if index.get("safety_checker") == [None, None]:
        index["requires_safety_checker"] = False
    _write_json(half / "model_index.json", index)


def _name_classes(index: Path, class_names: Sequence[str]) -> None:
    """The names by which DiT's pipeline knows the classes are those of the data from now on."""
    words = json.loads(index.read_text(encoding="utf-8"))
    if class_names and "id2label" in words:
        names = {str(number): name for number, name in enumerate(class_names)}
        _write_json(index, {**words, "id2label": names})


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _model_index(component: str, description: Mapping[str, Any]) -> dict[str, Any]:
    plain = _plain_pipeline(description)
    own = "SparringUNetPipeline" if component == "unet" else "SparringTransformerPipeline"
    index = {
        "_class_name": plain or [PIPELINE_FILE, own],
        "_diffusers_version": diffusers.__version__,
        component: ["diffusers", description["network"]["_class_name"]],
        "scheduler": ["diffusers", _scheduler_class(description)],
    }
    if plain is None:
        null = description["null_condition"].get("class_labels")
        index |= {"num_classes": description["num_classes"], "null_class": null}
        index |= {name: description[name] for name in ("class_names", "absent_classes")}
    return index


def _plain_pipeline(description: Mapping[str, Any]) -> str | None:
    """diffusers' own pipeline that samples this model rightly, or None."""
    scheduler = description["scheduler"]["_class_name"]
    is_plain = (
        description["network"]["_class_name"] == "UNet2DModel"
        and description["num_classes"] is None
        and description["kind"] in ("eps", "x0", "v", "flow")
    )
    if not is_plain:
        return None
    if samples_with_lcm(description):
        return "DDPMPipeline"
    if scheduler == "DDIMScheduler" and not description["learned_variance"]:
        return "DDIMPipeline"
    # DDPMPipeline only calls set_timesteps and step, which is all that flow needs too
    if scheduler == "DDPMScheduler":
        return "DDPMPipeline"
    is_flow = scheduler == "FlowMatchEulerDiscreteScheduler" and not description["learned_variance"]
    return "DDPMPipeline" if is_flow else None


def _saved_scheduler(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Every value of the scheduler, with what `sample` chooses where it was left open."""
    words = {key: value for key, value in config.items() if not key.startswith("_")}
    cls = getattr(diffusers, config.get("_class_name") or "DDPMScheduler")
    parameters = inspect.signature(cls.__init__).parameters
    if kind in _WORDS and kind != "flow" and "prediction_type" in parameters:
        words["prediction_type"] = _WORDS[kind]
    spacing = parameters.get("timestep_spacing")
    if spacing is not None and words.get("timestep_spacing", spacing.default) == spacing.default:
        words["timestep_spacing"] = "trailing"
    if "beta_start" in parameters and words.get("trained_betas") is None:
        # classes differ in their defaults; a schedule without numbers means DDPM's
        words = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", **words}
    scheduler = cls(**{key: value for key, value in words.items() if key in parameters})
    return json.loads(scheduler.to_json_string())


def samples_with_lcm(description: Mapping[str, Any]) -> bool:
    """Whether a model is a consistency model that diffusers' LCMScheduler samples."""
    is_vp = description["scheduler"]["_class_name"] in VP_SCHEDULERS
    is_known = is_vp and description["kind"] in _WORDS and not description["learned_variance"]
    return description["boundary"] is not None and is_known


def _scheduler_class(description: Mapping[str, Any]) -> str:
    lcm = samples_with_lcm(description)
    return "LCMScheduler" if lcm else description["scheduler"]["_class_name"]


def _lcm_scheduler(description: Mapping[str, Any]) -> dict[str, Any]:
    """LCMScheduler on the same noise schedule."""
    config = _saved_scheduler(description["scheduler"], description["kind"])
    known = inspect.signature(LCMScheduler.__init__).parameters
    words = {key: value for key, value in config.items() if key in known}
    own = {"timestep_spacing": "leading", "clip_sample": False}  # as LCM's pipelines have it
    own["original_inference_steps"] = min(50, config["num_train_timesteps"])
    return json.loads(LCMScheduler(**{**words, **own}).to_json_string())


def _name_scheduler(index: Path) -> None:
    words = json.loads(index.read_text(encoding="utf-8"))
    _write_json(index, {**words, "scheduler": ["diffusers", "LCMScheduler"]})


def _network_config(network: nn.Module) -> dict[str, Any]:
    name = type(network).__name__
    config = getattr(network, "config", None)
    if not isinstance(config, Mapping):
        raise UserError(
            f"{name} cannot be saved: give it an attribute `config`, a mapping of its "
            "constructor's arguments"
        )
    if isinstance(network, ModelMixin):
        kept = json.loads(network.to_json_string())
        return {key: value for key, value in kept.items() if key != "_name_or_path"}
    known = getattr(networks, name, None) is type(network)
    file = None if known else inspect.getsourcefile(type(network))
    return {"_class_name": name if file is None else f"{Path(file).resolve()}:{name}", **config}


def component_of(class_name: str) -> str | None:
    """Where a network of diffusers lies in a pipeline folder; None for other networks."""
    if ".py:" in class_name or not hasattr(diffusers, class_name):
        return None
    return "unet" if class_name.startswith("UNet") else "transformer"


def _is_table(null: Any) -> bool:
    return isinstance(null, Tensor) and null.numel() > 1


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
