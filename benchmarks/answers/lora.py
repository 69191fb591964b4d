"""LoRA: subsets of layers of three families, by the names that people write.

The answer is computed with plain torch: the file of weights must hold A and B of exactly the layers
whose names end so, and whoever reads it must come to W + alpha / rank B A in every layer.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from known_answers import Verdict, refuses, right, wrong
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FAMILIES = ("sd", "sdxl", "sd3")


@functools.cache
def _base(family: str) -> Any:
    """The smallest network of a family; its weights are never changed."""
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    torch.manual_seed(2)
    if family == "sd3":
        network = SD3Transformer2DModel(
            sample_size=4, patch_size=2, in_channels=4, num_layers=2, num_attention_heads=1,
            attention_head_dim=8, caption_projection_dim=8, joint_attention_dim=8,
            pooled_projection_dim=8, pos_embed_max_size=4,
        )  # fmt: skip
    else:
        told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": 6 * 4 + 8}  # fmt: skip
        network = UNet2DConditionModel(
            sample_size=4, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2,
            cross_attention_dim=8, **(told if family == "sdxl" else {}),
        )  # fmt: skip
    return network


@functools.cache
def _layers(family: str) -> dict[str, str]:
    """Each module's kind by its name."""
    return {name: type(one).__name__ for name, one in _base(family).named_modules() if name}


@contextmanager
def _without_lora(family: str) -> Iterator[Any]:
    """The network, from which LoRA is taken off again at the end."""
    network = _base(family)
    try:
        yield network
    finally:
        if hasattr(network, "peft_config"):
            network.unload_lora()


def _adaptable(family: str) -> list[str]:
    return [name for name, kind in _layers(family).items() if kind in ("Linear", "Conv2d")]


def _matched(family: str, ends: list[str]) -> set[str]:
    parts = {name: name.split(".") for name in _layers(family)}
    found = set()
    for end in ends:
        own = end.split(".")
        found |= {name for name, path in parts.items() if path[-len(own) :] == own}
    return found


def _ends(rng: random.Random, family: str) -> list[str]:
    """Ends of layers' names, from one part to the full path, that name layers only."""
    kinds, ends = _layers(family), []
    for name in rng.sample(_adaptable(family), rng.randint(1, 8)):
        parts = name.split(".")
        n = rng.choice([1, 1, 2, 3, len(parts)])
        end = ".".join(parts[-n:])
        if all(kinds[one] in ("Linear", "Conv2d") for one in _matched(family, [end])):
            ends.append(end)
    return ends or [rng.choice(_adaptable(family))]


def _learnt(rng: random.Random, network: nn.Module) -> dict[str, Tensor]:
    """Draw all of A and B; their values by parameter name."""
    torch.manual_seed(rng.randrange(2**31))
    values = {}
    with torch.no_grad():
        for name, value in network.named_parameters():
            if ".lora_" in name:
                values[name] = value.normal_().clone()
    return values


def _expected(
    family: str, values: Mapping[str, Tensor], scale: Callable[[str], float]
) -> dict[str, Tensor]:
    """W + scale B A by layer, in float64."""
    weights = _base(family).state_dict()
    found = {}
    for name, a in values.items():
        if ".lora_A." not in name:
            continue
        layer = name.partition(".lora_A.")[0]
        b = values[name.replace(".lora_A.", ".lora_B.")]
        w = weights[f"{layer}.weight"].double()
        update = torch.einsum("or,ri->oi", b.double().flatten(1), a.double().flatten(1))
        found[layer] = w + scale(layer) * update.reshape(w.shape)
    return found


def _differs(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], who: str) -> str | None:
    if found.keys() != expected.keys():
        return f"{who}: other layers: {sorted(found.keys() ^ expected.keys())[:3]}"
    for name, value in expected.items():
        if not torch.allclose(found[name].double(), value, rtol=1e-5, atol=1e-4):
            return f"{who}: {name} is off by {(found[name] - value).abs().max():.2g}"
    return None


def _in_effect(network: Any) -> dict[str, Tensor]:
    """The weights that layers with LoRA act with, as peft makes them."""
    return {
        name: layer.base_layer.weight.detach() + layer.get_delta_weight(layer.active_adapters[0])
        for name, layer in network.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def _load_with_diffusers(family: str, network: Any, folder: Path) -> None:
    from diffusers.loaders.lora_pipeline import SD3LoraLoaderMixin as StableDiffusion3Pipeline
    from diffusers.loaders.lora_pipeline import (
        StableDiffusionLoraLoaderMixin as StableDiffusionPipeline,
    )
    from diffusers.loaders.lora_pipeline import (
        StableDiffusionXLLoraLoaderMixin as StableDiffusionXLPipeline,
    )

    if family == "sd3":
        state = StableDiffusion3Pipeline.lora_state_dict(str(folder))
        StableDiffusion3Pipeline.load_lora_into_transformer(state, network)
    else:
        cls = StableDiffusionPipeline if family == "sd" else StableDiffusionXLPipeline
        state, alphas, *_ = cls.lora_state_dict(str(folder), unet_config=network.config)
        cls.load_lora_into_unet(state, alphas, network)


def layers_by_their_names(rng: random.Random, folder: Path) -> Verdict:
    """Attention, convolutions, projections, by any end of their names; alpha is not the rank."""
    from sparring.models.lora import add_lora, load_lora, save_lora

    family = rng.choice(FAMILIES)
    ends, rank, alpha = _ends(rng, family), rng.randint(1, 6), rng.choice([None, 1.0, 2.5, 16.0])
    with _without_lora(family) as network:
        add_lora(network, rank, alpha, ends + ends[:1], seed=rng.randrange(100))
        values = _learnt(rng, network)
        save_lora(network, folder)
    scale = 1.0 if alpha is None else alpha / rank
    expected = _expected(family, values, lambda _: scale)
    if (layers := _matched(family, ends)) != expected.keys():
        return wrong(f"{ends} adapts other layers: {sorted(layers ^ expected.keys())[:3]}")
    for who in ("ours", "diffusers"):
        with _without_lora(family) as network:
            if who == "ours":
                load_lora(network, folder)
            else:
                _load_with_diffusers(family, network, folder)
            said = _differs(_in_effect(network), expected, f"{family} {ends} {who}")
            if said:
                return wrong(said)
    return right("read")


def ranks_of_their_own(rng: random.Random, folder: Path) -> Verdict:
    """Each layer has its rank and its alpha, as peft's patterns give them."""
    from peft import LoraConfig

    from sparring.models.lora import save_lora

    family = rng.choice(FAMILIES)
    names = rng.sample(_adaptable(family), rng.randint(2, 5))
    names = sorted(_matched(family, names) & set(_adaptable(family)))
    ranks = {name: rng.randint(1, 6) for name in names}
    alphas = {name: float(rng.randint(1, 9)) for name in names}
    with _without_lora(family) as network:
        network.add_adapter(
            LoraConfig(
                target_modules=names,
                rank_pattern={f"^{name}$": rank for name, rank in ranks.items()},
                alpha_pattern={f"^{name}$": alpha for name, alpha in alphas.items()},
            )
        )
        values = _learnt(rng, network)
        save_lora(network, folder)
    expected = _expected(
        family, values, lambda name: alphas[name] / len(values[f"{name}.lora_A.default.weight"])
    )
    with _without_lora(family) as network:
        _load_with_diffusers(family, network, folder)
        said = _differs(_in_effect(network), expected, f"{family} {ranks} {alphas}")
    return wrong(said) if said else right("read")


def names_of_no_layer(rng: random.Random, folder: Path) -> Verdict:
    """A misspelling, another family's layer, or a block, beside right names."""
    from sparring.models.lora import adapted

    family = rng.choice(FAMILIES)
    ends, kinds = _ends(rng, family), _layers(family)
    of_others = {
        "sd": ["add_k_proj", "to_add_out", "add_embedding.linear_1", "q_proj", "query_key_value"],
        "sdxl": ["add_q_proj", "pos_embed.proj", "ff_context.net.2", "c_attn"],
        "sd3": ["conv1", "proj_in", "time_emb_proj", "up_blocks.0.resnets.0.conv2"],
    }
    not_layers = [name for name, kind in kinds.items() if kind not in ("Linear", "Conv2d")]

    def misspelt() -> str:
        word = rng.choice(ends)
        i = rng.randrange(len(word))
        return rng.choice(
            [word + "x", word[:i] + word[i + 1 :], word[:i] + "Q" + word[i:], f"unet.{word}",
             word.upper(), f" {word}", f"{word}.weight", f"{word}.*", word.replace(".", "/") + "/"]
        )  # fmt: skip

    name = rng.choice([misspelt, misspelt, lambda: rng.choice(of_others[family]),
                       lambda: rng.choice(not_layers), lambda: ""])()  # fmt: skip
    targets = list(ends)
    targets.insert(rng.randint(0, len(targets)), name)
    matched = _matched(family, [name]) if name else set()
    if matched and all(kinds[one] in ("Linear", "Conv2d") for one in matched):
        adapted(_base(family), targets)
        return right("read")  # a misspelling that is another layer's name
    return refuses(lambda: adapted(_base(family), targets), "target_modules", repr(name))


def files_that_lose_layers(rng: random.Random, folder: Path) -> Verdict:
    """Two namings in one file, a matrix left out, a layer of another family."""
    from sparring.models.lora import WEIGHTS, add_lora, load_lora, save_lora

    family = rng.choice(FAMILIES)
    with _without_lora(family) as network:
        add_lora(network, 2, None, _ends(rng, family))
        _learnt(rng, network)
        save_lora(network, folder)
    weights = load_file(folder / WEIGHTS)
    key = rng.choice(sorted(weights))
    layer = key.partition(".lora_")[0]
    how = rng.choice(["left out", "another layer", "another prefix", "old naming"])
    value = weights.pop(key)
    if how == "another layer":
        weights[key.replace(layer, f"{layer}.nothing")] = value
    elif how == "another prefix":
        weights[f"text_encoder.{key}"] = value
    elif how == "old naming":
        weights[key.replace("lora_A", "lora.down").replace("lora_B", "lora.up")] = value
    save_file(weights, folder / WEIGHTS)
    try:
        with _without_lora(family) as network:
            load_lora(network, folder)
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        # `sparring.load` makes one line of these, beside the model's name
        return right("refused") if str(error) else wrong("refused without a word")
    found = load_file(folder / WEIGHTS)
    return wrong(f"{family}: {how} of {key} was read, {len(found)} matrices")


KINDS = {
    "layers by their names": layers_by_their_names,
    "ranks of their own": ranks_of_their_own,
    "names of no layer": names_of_no_layer,
    "files that lose layers": files_that_lose_layers,
}
