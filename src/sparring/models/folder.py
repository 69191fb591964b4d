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
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import safe_open
from safetensors.torch import save_file, save_model

from ..diffusion.denoiser import unwrapped
from ..support.errors import UserError
from ..support.sharded_tensors import same_bits
from ..support.whole_files import remove, whole_file
from .description import component_of, describe, is_table, plain_pipeline, sampling_scheduler
from .lora import WEIGHTS, save_lora
from .model import Model
from .text import clip_length

DESCRIPTION = "model.json"
PIPELINE_FILE = "sparring_pipeline"
_SCHEDULER = "scheduler/scheduler_config.json"
_PIPELINE_SOURCE = ("sampling/pipeline.py",)
_CONSISTENCY_SOURCE = (
    "diffusion/noising.py", "diffusion/parametrization.py", "diffusion/schedules.py",
    "diffusion/solver_steps.py", "sampling/samplers/consistency.py",
    "sampling/pipeline.py", "sampling/consistency_pipeline.py",
)  # fmt: skip
"""What sparring_pipeline.py is made of, in the order in which one needs another."""
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


def describe_run(run_folder: str | Path, description: Mapping[str, Any]) -> None:
    """Write `describe`'s answer where `load` looks for it while a run is not finished."""
    with whole_file(Path(run_folder) / "checkpoints" / DESCRIPTION) as half:
        _write_json(half, description)


def save(folder: str | Path, model: Model, card: str, base: str | None = None) -> None:
    """Write a model that `load` reads, and diffusers too where it can.

    Networks of diffusers become a pipeline. Plain `DiffusionPipeline.from_pretrained(folder)` loads
    unconditional U-Nets with DDPM, DDIM and flow schedulers; others need trust_remote_code=True,
    because their pipeline class lies in the folder (`sparring_pipeline.py`). The saved scheduler
    has timestep_spacing "trailing" where the config left the class's default, as `sample` has.

    A latent model that was started from a pipeline becomes that pipeline, with its denoiser in the
    place of the old one and everything else copied; with LoRA, only the LoRA weights are written,
    for `pipeline.load_lora_weights(folder)`, and model.json names the pipeline.

    All is written under a temporary name first, and the files that make a folder a model come last:
    a folder, in which other files are kept, never holds half a model.

    Args:
        folder: Made if it is not there.
        model: Its denoiser has the weights to save (the moving average's); its parts are copied.
        card: The text of README.md, see `model_card`.
        base: See `describe`.
    """
    folder = Path(folder)
    description = describe(model, base)
    network: Any = unwrapped(model.denoiser.network)
    half = folder / f".half-model-{os.getpid()}"
    component = component_of(description["network"]["_class_name"])
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        if description["lora"] is not None:
            save_lora(network, half)
        elif model.parts is not None and component is not None:
            index = _copy_parts(model.parts, half, component)
            if model.class_names and "id2label" in index:  # DiT's: those of the data from now on
                index["id2label"] = {str(i): name for i, name in enumerate(model.class_names)}
            network.save_pretrained(half / component, safe_serialization=True)
            scheduler = sampling_scheduler(description)
            if scheduler["_class_name"] == "LCMScheduler":
                _write_json(half / _SCHEDULER, scheduler)
                index["scheduler"] = ["diffusers", "LCMScheduler"]
            _write_json(half / "model_index.json", index)
        elif isinstance(network, ModelMixin) and component is not None:
            network.save_pretrained(half / component, safe_serialization=True)
            _write_json(half / component / "config.json", description["network"])
            _write_json(half / "model_index.json", _model_index(component, description))
            if plain_pipeline(description) is None:
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
            for name, null in model.denoiser.null_condition.items()
            if base is None and is_table(null)
        }
        if tables:
            save_file(tables, half / "null_condition.safetensors")
        if base is None:
            _write_json(half / _SCHEDULER, sampling_scheduler(description))
        _write_text(half / "README.md", card)
        _write_json(half / DESCRIPTION, description)
        _move_in(half, folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _check_saved(network: Any, folder: Path) -> None:
    """Refuse files of a network that do not say what it is, tensor by tensor, to the bit.

    They are read one tensor at a time; and diffusers builds what the saved config says, without
    weights, which must have these tensors and no others.
    """
    live, stored = network.state_dict(), {}
    for file in sorted(folder.glob("*.safetensors")):
        handle = safe_open(file, framework="pt")
        stored |= dict.fromkeys(handle.keys(), handle)
    saved_under = {live[name].data_ptr(): name for name in stored if name in live}  # tied ones once
    differ = [name for name in stored if name not in live]
    for name, value in live.items():
        key = name if name in stored else saved_under.get(value.data_ptr())
        if key is None or not same_bits(stored[key].get_tensor(key), value):
            differ.append(name)
    if isinstance(network, ModelMixin):
        cls: Any = type(network)
        with torch.device("meta"):
            built = cls.from_config(cls.load_config(folder)).state_dict()
        differ += live.keys() ^ built.keys()
        both = live.keys() & built.keys()
        differ += [name for name in both if built[name].shape != live[name].shape]
    if differ:
        raise UserError(
            f"the model could not be saved: its files read otherwise than it is in {len(differ)} "
            f"of {len(live)} tensors, such as {min(differ)}; the checkpoints hold them"
        )


def _move_in(half: Path, folder: Path) -> None:
    """Bring a whole model to where it belongs; what makes it one goes first and comes last."""
    last = ("model_index.json", DESCRIPTION)
    for name in last:
        (folder / name).unlink(missing_ok=True)
    for old in _OLD:
        if not (half / old).exists():
            remove(folder / old)
    names = sorted(path.name for path in half.iterdir())
    for name in [name for name in names if name not in last] + [n for n in last if n in names]:
        remove(folder / name)
        os.replace(half / name, folder / name)


def _copy_parts(pipeline: Path, half: Path, trained: str) -> dict[str, Any]:
    """A pipeline's folder without the part that is trained; its index, which calls null what it
    lacks."""
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
    return index


def _state_length(tokenizer: Path, encoder: Path) -> None:
    """Have a CLIP's tokenizer say how many tokens the encoder takes, if it says nothing or more:
    diffusers' pipelines believe it, and fail where it is wrong."""
    said, known = tokenizer / "tokenizer_config.json", encoder / "config.json"
    if not said.is_file() or not known.is_file():
        return
    words, config = (json.loads(file.read_text(encoding="utf-8")) for file in (said, known))
    n_positions = config.get("max_position_embeddings")
    length = words.get("model_max_length")
    if n_positions is not None and clip_length(length, n_positions) != length:
        words["model_max_length"] = clip_length(length, n_positions)
        _write_json(said, words)


def _model_index(component: str, description: Mapping[str, Any]) -> dict[str, Any]:
    plain = plain_pipeline(description)
    family = "Consistency" if description["boundary"] == "ddim" else "Sparring"
    own = f"{family}{'UNet' if component == 'unet' else 'Transformer'}Pipeline"
    index = {
        "_class_name": plain or [PIPELINE_FILE, own],
        "_diffusers_version": diffusers.__version__,
        component: ["diffusers", description["network"]["_class_name"]],
        "scheduler": ["diffusers", sampling_scheduler(description)["_class_name"]],
    }
    if plain is None:
        _, height, width = description["sample_shape"]
        told = ("num_classes", "class_names", "absent_classes", "kind", "boundary")
        index |= {name: description[name] for name in told} | {"height": height, "width": width}
        index["null_class"] = description["null_condition"].get("class_labels")
    return index


def _in_one_file(sources: Sequence[str]) -> str:
    """Modules of sparring as one that imports nothing of it: what they take lies above."""
    parts = []
    for source in sources:
        text = (Path(__file__).parents[1] / source).read_text(encoding="utf-8")
        lines: list[str | None] = list(text.splitlines())
        for node in ast.parse(text).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                last = node.end_lineno or node.lineno
                lines[node.lineno - 1 : last] = [None] * (last - node.lineno + 1)
        parts.append("\n".join(line for line in lines if line is not None))
    return "\n\n\n".join(parts) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    _write_text(path, json.dumps(value, indent=2) + "\n")
