"""Models on disk: `load` anything that can be sampled, `save` what diffusers can load.

Nothing is ever unpickled, and code that lies in a model's folder is never run.
"""

import json
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import diffusers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from torch import nn

from ..diffusion.denoiser import Denoiser
from ..diffusion.precision import SHORT
from ..diffusion.schedules import kind_from_config, schedule_from_config
from ..support.errors import UserError
from ..support.home_folder import expanded
from ..support.sharded_tensors import StoredTensors, load_weights
from ..support.user_code import load_from_file
from ..support.yaml_files import read_yaml
from . import networks
from .description import component_of
from .folder import DESCRIPTION, NOT_COPIED, save
from .lora import add_lora, load_lora, lora_config, merge_lora, restore_lora_weights
from .model import Model, image_size
from .text import PIPELINES, load_text, text_parts

__all__ = ["Model", "load", "save"]

_COMPONENTS = ("unet", "transformer")
_AUTOENCODERS = ("vae", "vqvae")
_WITH_LABELS = ("DiTTransformer2DModel", "Transformer2DModel")


def load(model: str | Path, device: torch.device | str = "cpu") -> Model:
    """A model from a run, a diffusers pipeline folder or a hub name; UserError if there is none.

    What can be loaded: finished runs; unfinished runs (the newest whole checkpoint, the source says
    which); a run's checkpoints, by their folders; pipelines whose denoiser is a `unet` or a
    `transformer` that is called as (x, t, class_labels) or (x, t, encoder_hidden_states): DDPM,
    DDIM, PNDM, flow, LDM, DiT, Stable Diffusion and others. Of a latent pipeline the VAE is loaded
    too, and of Stable Diffusion 1.x, 2.x, XL and 3 the text encoders; of other text-to-image models
    they are not: pass their output as a condition. Of a run that trained LoRA weights the pipeline
    it started from is loaded, with the LoRA weights beside its own. Weights must be safetensors.
    """
    source, device = expanded(str(model)), known_device(device)
    folder = Path(source) if Path(source).is_dir() else _from_hub(source)
    try:
        loaded = _load_folder(folder, source)
    except (KeyError, OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if isinstance(error, KeyError):
            why = f"its files do not say {why}; another version of sparring may have written them"
        raise UserError(f"{source} cannot be loaded: {why}") from error
    for part in (loaded.denoiser, loaded.vae, loaded.text):
        if part is not None:
            part.to(device).eval().requires_grad_(False)
    return loaded


def known_device(name: torch.device | str) -> torch.device:
    """The device of this name; UserError if there is none here."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # of another machine, or none that holds values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"there is no device {str(name)!r} here: take cpu, or cuda") from error
    return device


def _load_folder(folder: Path, source: str) -> Model:
    if (folder / DESCRIPTION).is_file():
        return _load_described(folder, _json(folder / DESCRIPTION), source)
    if (folder / "model_index.json").is_file():
        return _load_pipeline(folder, source)
    newest = _newest_checkpoint(folder / "checkpoints")
    if newest is not None:
        return _load_checkpoint(newest, f"{source} (unfinished, {{}})")
    if (folder.parent / DESCRIPTION).is_file() and _has_weights(folder):
        return _load_checkpoint(folder, f"{source} ({{}})")
    if (folder / "config.yaml").is_file() or (folder / "checkpoints" / DESCRIPTION).is_file():
        raise UserError(f"{source} is a run without a finished model or a checkpoint yet")
    expected = "a run, or a pipeline folder with model_index.json"
    raise UserError(f"{source} holds no model: expected {expected}")


def _load_described(folder: Path, description: dict[str, Any], source: str) -> Model:
    if description.get("lora") is not None:
        model = _base_of(description, source, folder)
        load_lora(model.denoiser.network, folder)
        return model
    network_config = description["network"]
    component = component_of(network_config["_class_name"])
    if (folder / "model_index.json").is_file() and component is not None:
        network = _diffusers_network(folder / component, network_config["_class_name"])
    else:
        network = _new_network(network_config)
        load_model(network, str(folder / "model.safetensors"))
    tensors = folder / "null_condition.safetensors"
    null = dict(description["null_condition"])
    null |= load_file(tensors) if tensors.is_file() else {}
    return _assembled(network, description, null, source, folder)


def _newest_checkpoint(folder: Path) -> Path | None:
    steps = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit() and _has_weights(path)
    }
    return steps[max(steps)] if steps and (folder / DESCRIPTION).is_file() else None


def _has_weights(checkpoint: Path) -> bool:
    """Whether a checkpoint has been written: its weights whole, or in pieces and to the end."""
    whole, pieces = checkpoint / "model.safetensors", checkpoint / "model.shard-0.safetensors"
    return whole.is_file() or (pieces.is_file() and (checkpoint / "manifest.json").is_file())


def _load_checkpoint(newest: Path, where: str) -> Model:
    """The moving average of a checkpoint, where it keeps one."""
    folder, where = newest.parents[1], where.format(newest.name)
    description = _json(newest.parent / DESCRIPTION)
    if description.get("base") is not None:
        model = _base_of(description, where, folder)
        if description["lora"] is not None:
            add_lora(model.denoiser.network, **description["lora"])
            restore_lora_weights(model.denoiser.network, load_file(newest / "model.safetensors"))
        else:
            load_weights(model.denoiser.network, StoredTensors(newest, "model"))
    else:
        network = _new_network(description["network"])
        load_weights(network, StoredTensors(newest, "model"))
        model = _assembled(network, description, dict(description["null_condition"]), where, folder)
    averages = StoredTensors(newest, "ema")
    with torch.no_grad():
        for name, parameter in model.denoiser.network.named_parameters():
            if name in averages:
                parameter.copy_(averages[name])
    return model


def _base_of(description: Mapping[str, Any], source: str, folder: Path) -> Model:
    """The pipeline that a run started from, under the run's name and at the run's size."""
    try:
        model = load(description["base"])
    except UserError as error:
        base = f"{description['base']}, which must be there too"
        raise UserError(f"{source} was trained on top of {base}: {error}") from error
    if lora_config(model.denoiser.network) is not None:
        merge_lora(model.denoiser.network)
    model.resize(tuple(description["sample_shape"]))
    model.source, model.run_config = source, _run_config(folder)
    model.denoiser.boundary = description["boundary"]
    model.denoiser.autocast = SHORT.get(description.get("autocast", "no"))
    model.class_names = description["class_names"]
    model.absent_classes = description["absent_classes"]
    return model


def _assembled(
    network: nn.Module, description: Mapping[str, Any], null: dict, source: str, folder: Path
) -> Model:
    scheduler_config = description["scheduler"]
    denoiser = Denoiser(
        network,
        schedule_from_config(scheduler_config),
        description["kind"],
        learned_variance=description["learned_variance"],
        null_condition=null,
        boundary=description["boundary"],
        autocast=SHORT.get(description.get("autocast", "no")),
    )
    shape, config = tuple(description["sample_shape"]), _run_config(folder)
    known = {name: description[name] for name in ("num_classes", "class_names", "absent_classes")}
    model = Model(denoiser, scheduler_config, shape, source=source, run_config=config, **known)
    if (folder / "model_index.json").is_file():
        _add_frozen_parts(model, folder, _json(folder / "model_index.json"))
    return model


def _load_pipeline(folder: Path, source: str) -> Model:
    """A pipeline of diffusers that says nothing of sparring."""
    index = _json(folder / "model_index.json")
    component = next((name for name in _COMPONENTS if index.get(name)), None)
    if component is None or not index.get("scheduler"):
        raise UserError(f"{source} is a pipeline without a unet or transformer and a scheduler")
    # old uploads keep the only component at the root
    place = folder / component if (folder / component).is_dir() else folder
    network = _diffusers_network(place, index[component][1])
    scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    scheduler_config = _json(scheduler_folder / "scheduler_config.json")
    scheduler_config.setdefault("_class_name", index["scheduler"][1])
    config: Any = network.config
    size = config.get("sample_size")
    if size is None or config.get("in_channels") is None:
        raise UserError(f"{source}: its {component} does not state in_channels and sample_size")
    size = (size, size) if isinstance(size, int) else tuple(size)
    num_classes, null = _classes_of(config)
    denoiser = Denoiser(
        network,
        schedule_from_config(scheduler_config),
        kind_from_config(scheduler_config),
        learned_variance=config.get("out_channels") == 2 * config["in_channels"],
        null_condition=null,
    )
    shape = (config["in_channels"], *size)
    model = Model(denoiser, scheduler_config, shape, num_classes, source, _run_config(folder))
    names = index.get("id2label") or {}  # as DiT's pipeline has them
    if num_classes is not None and all(str(i) in names for i in range(num_classes)):
        model.class_names = [str(names[str(i)]) for i in range(num_classes)]
    _add_frozen_parts(model, folder, index)
    return model


def _add_frozen_parts(model: Model, folder: Path, index: Mapping[str, Any]) -> None:
    """What a latent pipeline has around its denoiser: the VAE, and what reads captions."""
    name = next((name for name in _AUTOENCODERS if index.get(name)), None)
    if name is None or not (folder / name).is_dir():
        return
    model.parts = folder
    model.vae = _diffusers_network(folder / name, index[name][1])
    if index.get("_class_name") in PIPELINES:
        network: Any = model.denoiser.network
        size = image_size(model.sample_shape, model.vae)
        model.text = load_text(folder, index, size, network.config)
        model.denoiser.null_condition = model.text.null()


def _classes_of(config: Mapping[str, Any]) -> tuple[int | None, dict[str, int] | None]:
    """(num_classes, null condition) of a foreign network; its labels may hide a null class."""
    if "num_embeds_ada_norm" in config and config.get("_class_name") in _WITH_LABELS:
        n = config["num_embeds_ada_norm"]
        return n, None if n is None else {"class_labels": n}  # DiT's extra embedding
    if config.get("class_embed_type") is None:
        return config.get("num_class_embeds"), None
    return None, None


def _diffusers_network(folder: Path, class_name: str) -> Any:
    cls = getattr(diffusers, class_name, None)
    if cls is None:
        raise UserError(f"{folder}: diffusers {diffusers.__version__} has no {class_name}")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no safetensors weights; sparring reads no pickle files")
    if all(re.search(r"\.fp16[.-]", path.name) for path in folder.glob("*.safetensors")):
        advice = "save the pipeline without a variant"
        raise UserError(f"{folder} holds the variant fp16 only: {advice}")
    return cls.from_pretrained(folder, use_safetensors=True, local_files_only=True)


def _new_network(config: Mapping[str, Any]) -> nn.Module:
    words = {key: value for key, value in config.items() if not key.startswith("_")}
    name = config["_class_name"]
    if ".py:" in name:
        cls = load_from_file(name, "the model's network")
    elif isinstance(getattr(networks, name, None), type):
        cls = getattr(networks, name)
    elif hasattr(diffusers, name):
        return getattr(diffusers, name).from_config(dict(config))
    else:
        raise UserError(f"unknown network {name}")
    return cls(**words)


def _from_hub(name: str) -> Path:
    """The local copy of a hub model: denoiser, scheduler, VAE, and what `load_text` reads."""
    owner = name.partition("/")[0]
    is_path = name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name).exists()
    if is_path or owner == "runs" or Path(owner).is_dir():
        raise UserError(f"no model at {name}: there is no such folder")
    from huggingface_hub import hf_hub_download, snapshot_download

    cached = not hub_answers()
    try:
        index = _json(Path(hf_hub_download(name, "model_index.json", local_files_only=cached)))
        reads = (*_COMPONENTS, *_AUTOENCODERS, "scheduler")
        parts = [*(part for part in reads if index.get(part)), *text_parts(index)]
        wanted = ["*.json", *(f"{part}/*" for part in parts)]
        if len(parts) == 2:  # only a denoiser and a scheduler: old uploads keep them at the root
            wanted.append("diffusion_pytorch_model*.safetensors")
        patterns: Any = {"allow_patterns": wanted, "ignore_patterns": list(NOT_COPIED)}
        return Path(snapshot_download(name, local_files_only=cached, **patterns))
    except Exception as error:  # the hub's client, its HTTP library and the system raise their own
        why = "the hub cannot be reached" if cached else f"the hub says {type(error).__name__}"
        raise UserError(f"no model at {name}: there is no such folder, and {why}") from error


def hub_answers() -> bool:
    """Whether to ask the hub at all: its client would retry, aloud, for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies().get("https"):
        return True  # the proxy knows, a direct connection would not
    url = urlsplit(constants.ENDPOINT)
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((url.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True


def _run_config(folder: Path) -> dict[str, Any] | None:
    file = folder / "config.yaml"
    return read_yaml(file) if file.is_file() else None


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content
