"""A model's folder: what is in it, and how it is written whole or not at all.

model_index.json, unet/ or transformer/, scheduler/     diffusers' pipeline layout, with
vae/, text_encoder/, tokenizer/, ...                    parts of the pipeline it started from, or
pytorch_lora_weights.safetensors                        what LoRA has learned, or
model.safetensors, scheduler/                           for other networks
model.json                                              what diffusers has no words for
README.md                                               the model card
sparring_pipeline.py                                    where diffusers has no pipeline class
"""

import ast
import inspect
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from safetensors import safe_open
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from .. import __version__
from ..config.schema import VP_SCHEDULERS
from ..diffusion.denoiser import Denoiser, unwrapped
from ..diffusion.parametrization import DIFFUSERS_KINDS
from ..diffusion.schedules import betas_of
from ..support.errors import UserError
from ..support.sharded_tensors import same_bits
from ..support.whole_files import whole_file
from . import networks
from .lora import WEIGHTS, lora_config, save_lora
from .text import clip_length

DESCRIPTION = "model.json"
PIPELINE_FILE = "sparring_pipeline"
_SCHEDULER = "scheduler/scheduler_config.json"
_PIPELINE_SOURCE = ("sampling/pipeline.py",)
_CONSISTENCY_SOURCE = (
    "diffusion/parametrization.py", "diffusion/schedules.py", "diffusion/solver_steps.py",
    "sampling/consistency.py",
    "sampling/pipeline.py", "sampling/consistency_pipeline.py",
)  # fmt: skip
"""What sparring_pipeline.py is made of, in the order in which one needs another."""
_WORDS = {kind: word for word, kind in DIFFUSERS_KINDS.items()}
_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""Schedules of betas that each scheduler class of diffusers knows."""
_DEFAULT_CLASSES = {
    "EDMDPMSolverMultistepScheduler": "EDMEulerScheduler",
    "FlowMatchHeunDiscreteScheduler": "FlowMatchEulerDiscreteScheduler",
}
"""Classes that a model may be trained with, and those of the samplers that are our default."""
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
        "network": _network_config(unwrapped(denoiser.network), sample_shape),
        "kind": denoiser.kind,
        "learned_variance": denoiser.learned_variance,
        "boundary": denoiser.boundary,
        "sample_shape": list(sample_shape),
        "num_classes": num_classes,
        "class_names": list(class_names),
        "absent_classes": list(absent_classes),
        "null_condition": {
            name: value.item() if isinstance(value, Tensor) else value
            for name, value in null.items()
            if not _is_table(value)
        },
        "scheduler": dict(scheduler_config)
        if base is not None
        else _saved_scheduler(scheduler_config, denoiser.kind, clips=len(sample_shape) == 3),
        "base": base,
        "lora": lora_config(unwrapped(denoiser.network)),
    }


def describe_run(run_folder: str | Path, description: Mapping[str, Any]) -> None:
    """Write `describe`'s answer where `load` looks for it while a run is not finished."""
    with whole_file(Path(run_folder) / "checkpoints" / DESCRIPTION) as half:
        _write_json(half, description)


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
                own = description["boundary"] == "ddim"
                sources = _CONSISTENCY_SOURCE if own else _PIPELINE_SOURCE
                _write_text(half / f"{PIPELINE_FILE}.py", _in_one_file(sources))
        else:
            save_model(network, str(half / "model.safetensors"))
        if description["lora"] is None:
            in_part = isinstance(network, ModelMixin)
            _check_saved(network, half / component if component and in_part else half)
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
        _write_text(half / "README.md", card)
        _write_json(half / DESCRIPTION, description)
        _move_in(half, folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _check_saved(network: Any, folder: Path) -> None:
    """Whether the files of a network say what it is, tensor by tensor, to the bit.

    They are read as files, one tensor at a time; and diffusers builds what the saved config says,
    without weights, which must have these tensors and no others.

    Raises:
        UserError: naming the first tensor that differs.
    """
    live, stored = network.state_dict(), {}
    for file in sorted(folder.glob("*.safetensors")):
        handle = safe_open(file, framework="pt")
        stored |= dict.fromkeys(handle.keys(), handle)
    saved_under = {live[name].data_ptr(): name for name in stored if name in live}
    names = {
        name: name if name in stored else saved_under.get(live[name].data_ptr()) for name in live
    }
    differ = [
        name
        for name, key in names.items()
        if key is None or not same_bits(stored[key].get_tensor(key), live[name])
    ]
    differ += [name for name in stored if name not in live]
    if isinstance(network, ModelMixin):
        cls: Any = type(network)
        with torch.device("meta"):
            built = cls.from_config(cls.load_config(folder)).state_dict()
        shapes = {name: value.shape for name, value in live.items()}
        differ += [
            name
            for name in live.keys() | built.keys()
            if name not in live or name not in built or built[name].shape != shapes[name]
        ]
    if differ:
        raise UserError(
            f"the model could not be saved: its files read otherwise than it is in {len(differ)} "
            f"of {len(live)} tensors, such as {min(differ)}; the checkpoints hold them"
        )


def usage(
    description: Mapping[str, Any],
    folder: str,
    absent: Sequence[str] = (),
    size: tuple[int, int] | None = None,
) -> str:
    """Python that samples a saved model as `sample` does by default, for its card.

    With the same noise the images are those of training's own grids, where the number of steps
    divides that of the training times (see `GridDDIMScheduler`).

    Args:
        description: See `describe`.
        folder: Where it is.
        absent: Parts of its pipeline that are null and that diffusers must be told are.
        size: (H, W) in pixels of the images of a text-to-image model, which its pipeline is told.
    """
    name, base = description["network"]["_class_name"], description["base"]
    is_vp = description["scheduler"]["_class_name"] in VP_SCHEDULERS
    boundary, has_classes = description["boundary"], description["num_classes"] is not None
    if base is None and component_of(name) is None:
        return f"import sparring\n\nx = sparring.sample(sparring.load({folder!r}), 16)"
    plain = _plain_pipeline(description) if base is None else "DiffusionPipeline"
    words = ["class_labels=[0, 1]" if has_classes else "batch_size=16"]
    start, trust, lines, scheduler = folder, "", [], ""
    if base is not None:
        words = words if has_classes else ["'a photo'"]
        trust = "".join(f", {part}=None" for part in absent)
        scheduler = ', timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True'
        if description["lora"] is not None:
            start = base
            lines.append(f"pipe.load_lora_weights({folder!r})")
        if size is not None:
            words.append(f"height={size[0]}, width={size[1]}")
    elif plain is None:
        trust = ", trust_remote_code=True"
    names, pipeline, n_steps = [], "DiffusionPipeline", 50 if boundary is None else 4
    if samples_with_lcm(description):
        if base is not None:
            names.append("LCMScheduler")
            lines.append("pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)")
        if description["lora"] is not None:  # such a student has its guidance inside
            words.append("guidance_scale=1.0")
    elif plain is None and description["null_condition"]:
        words.append("guidance_scale=2.0")
    if boundary is None and is_vp and plain in ("DDPMPipeline", "DDIMPipeline"):
        pipeline = "DDIMPipeline"  # takes the noise that goes with a clipped x0, if it is told to
        words.append("use_clipped_model_output=True")
    elif boundary is None and is_vp:
        names.append("DDIMScheduler")
        made = f"DDIMScheduler.from_config(pipe.scheduler.config{scheduler})"
        lines.append(f"pipe.scheduler = {made}")
    elif boundary is None and description["scheduler"]["_class_name"] in _DEFAULT_CLASSES:
        names.append(_DEFAULT_CLASSES[description["scheduler"]["_class_name"]])
        lines.append(f"pipe.scheduler = {names[-1]}.from_config(pipe.scheduler.config)")
    return "\n".join(
        [
            f"from diffusers import {', '.join(sorted([pipeline, *names]))}",
            "",
            f"pipe = {pipeline}.from_pretrained({start!r}{trust})",
            *lines,
            f"images = pipe({', '.join(words)}, num_inference_steps={n_steps}).images",
        ]
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
            if name.startswith("tokenizer"):
                _state_length(half / name, pipeline / name.replace("tokenizer", "text_encoder"))
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


def _state_length(tokenizer: Path, encoder: Path) -> None:
    """Have a CLIP's tokenizer say how many tokens the encoder takes, if it says nothing or more.

    diffusers' pipelines believe the tokenizer, and fail where it is wrong.
    """
    said, known = tokenizer / "tokenizer_config.json", encoder / "config.json"
    if not said.is_file() or not known.is_file():
        return
    words, config = (json.loads(file.read_text(encoding="utf-8")) for file in (said, known))
    n_positions = config.get("max_position_embeddings")
    length = words.get("model_max_length")
    if n_positions is not None and clip_length(length, n_positions) != length:
        words["model_max_length"] = clip_length(length, n_positions)
        _write_json(said, words)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _model_index(component: str, description: Mapping[str, Any]) -> dict[str, Any]:
    plain = _plain_pipeline(description)
    family = "Consistency" if description["boundary"] == "ddim" else "Sparring"
    own = f"{family}{'UNet' if component == 'unet' else 'Transformer'}Pipeline"
    index = {
        "_class_name": plain or [PIPELINE_FILE, own],
        "_diffusers_version": diffusers.__version__,
        component: ["diffusers", description["network"]["_class_name"]],
        "scheduler": ["diffusers", _scheduler_class(description)],
    }
    if plain is None:
        _, height, width = description["sample_shape"]
        index |= {
            **{
                name: description[name] for name in ("num_classes", "class_names", "absent_classes")
            },
            "null_class": description["null_condition"].get("class_labels"),
            "height": height,
            "width": width,
            "kind": description["kind"],
            "boundary": description["boundary"],
        }
    return index


def _plain_pipeline(description: Mapping[str, Any]) -> str | None:
    """diffusers' own pipeline that samples this model rightly, or None."""
    scheduler = description["scheduler"]["_class_name"]
    is_plain = (
        description["network"]["_class_name"] == "UNet2DModel"
        and description["num_classes"] is None
        and description["kind"] in ("eps", "x0", "v", "flow")
        and description["boundary"] != "ddim"
        and not description["learned_variance"]
    )
    if not is_plain:
        return None
    if samples_with_lcm(description):
        return "DDPMPipeline"
    if scheduler == "DDIMScheduler":
        return "DDIMPipeline"
    # DDPMPipeline only calls set_timesteps and step, which is all that flow needs too
    if scheduler == "DDPMScheduler":
        return "DDPMPipeline"
    return "DDPMPipeline" if scheduler == "FlowMatchEulerDiscreteScheduler" else None


def _saved_scheduler(
    config: Mapping[str, Any], kind: str, *, clips: bool = False
) -> dict[str, Any]:
    """Every value of the scheduler; what only sampling reads is as `sample` has it.

    Args:
        config: Of the scheduler that the model was trained with.
        kind: What the model predicts.
        clips: Whether `sample` clips its estimate of x0, where it can.
    """
    words = {key: value for key, value in config.items() if not key.startswith("_")}
    cls = getattr(diffusers, config.get("_class_name") or "DDPMScheduler")
    parameters = inspect.signature(cls.__init__).parameters
    if kind in _WORDS and kind != "flow" and "prediction_type" in parameters:
        words["prediction_type"] = _WORDS[kind]
    words |= {"timestep_spacing": "trailing", "set_alpha_to_one": True, "thresholding": False}
    words["clip_sample"] = clips and kind in ("eps", "x0", "v")
    if words.get("beta_schedule", "linear") not in _BETAS:  # as numbers, which every class takes
        words["trained_betas"] = betas_of(config)
    if "beta_start" in parameters and words.get("trained_betas") is None:
        # classes differ in their defaults; a schedule without numbers means DDPM's
        words = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", **words}
    scheduler = cls(**{key: value for key, value in words.items() if key in parameters})
    return json.loads(scheduler.to_json_string())


def samples_with_lcm(description: Mapping[str, Any]) -> bool:
    """Whether a model is a consistency model that diffusers' LCMScheduler samples."""
    is_vp = description["scheduler"]["_class_name"] in VP_SCHEDULERS
    is_known = is_vp and description["kind"] in _WORDS and not description["learned_variance"]
    return description["boundary"] == "lcm" and is_known


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


def _network_config(network: nn.Module, sample_shape: tuple[int, ...]) -> dict[str, Any]:
    """The arguments that build a network, with the size of what it draws, where diffusers looks."""
    name = type(network).__name__
    config = getattr(network, "config", None)
    if not isinstance(config, Mapping):
        raise UserError(
            f"{name} cannot be saved: give it an attribute `config`, a mapping of its "
            "constructor's arguments"
        )
    if isinstance(network, ModelMixin):
        kept = json.loads(network.to_json_string())
        if "UNet" in name and "sample_size" in kept and len(sample_shape) == 3:
            _, *side = sample_shape
            kept["sample_size"] = side[0] if side[0] == side[1] else side
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


def _in_one_file(sources: Sequence[str]) -> str:
    """Modules of sparring as one that imports nothing of it: what they take lies above."""
    parts = []
    for source in sources:
        text = (Path(__file__).parents[1] / source).read_text(encoding="utf-8")
        lines: list[str | None] = list(text.splitlines())
        for node in ast.parse(text).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                lines[node.lineno - 1 : node.end_lineno] = [None] * (
                    (node.end_lineno or node.lineno) - node.lineno + 1
                )
        parts.append("\n".join(line for line in lines if line is not None))
    return "\n\n\n".join(parts) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    _write_text(path, json.dumps(value, indent=2) + "\n")
