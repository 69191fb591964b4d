"""LoRA on any linear layer or convolution: one naming, read back by whoever did not write it."""

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusionPipeline
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import nn

from sparring.models import lora
from sparring.models.lora import WEIGHTS, adapted, add_lora, lora_weights, merge_lora, save_lora
from sparring.models.pretrained import load
from sparring.support.errors import UserError
from text_to_image import train, training_places, unet

TARGETS = [
    ["to_q", "conv1", "proj_in"],
    ["conv_in", "conv_out", "conv_shortcut", "time_emb_proj", "linear_1", "upsamplers.0.conv"],
    ["net.0.proj", "ff.net.2", "to_out.0", "mid_block.resnets.0.conv2"],
]


def learnt(network, **words):
    """A network with LoRA whose B is not nought."""
    add_lora(network, **{"rank": 3, "alpha": 2.0, "seed": 1, **words})
    torch.manual_seed(0)
    for name, value in lora_weights(network).items():
        if "lora_B" in name:
            nn.init.normal_(value)
    return network


def sd3():
    torch.manual_seed(2)
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, num_attention_heads=2,
        attention_head_dim=8, caption_projection_dim=16, joint_attention_dim=32,
        pooled_projection_dim=24, pos_embed_max_size=12,
    )  # fmt: skip


def weights_by_hand(base, file, prefix="unet"):
    """W + B A of each layer, from the file and the base's weights alone."""
    weights = {name: value.clone() for name, value in base.state_dict().items()}
    found = load_file(file)
    for name in {key.partition(".lora_")[0] for key in found}:
        a, b = (found.pop(f"{name}.lora_{letter}.weight") for letter in "AB")
        key = f"{name.removeprefix(prefix + '.')}.weight"
        weights[key] += (b.flatten(1) @ a.flatten(1)).view_as(weights[key])
    assert not found
    return weights


def assert_close(network, weights):
    own = network.state_dict()
    assert own.keys() == weights.keys()
    for name, value in own.items():
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", TARGETS, ids=["mixed", "convolutions", "rest"])
def test_diffusers_reads_every_layer(tmp_path, targets):
    network = learnt(unet(16), target_modules=targets)
    save_lora(network, tmp_path)
    theirs, expected = unet(16), weights_by_hand(unet(16), tmp_path / WEIGHTS)
    layers = {key.partition(".lora_")[0] for key in load_file(tmp_path / WEIGHTS)}
    assert all(any(layer.endswith(f".{end}") for layer in layers) for end in targets)
    assert len(layers) == len(lora_weights(network)) / 2
    StableDiffusionPipeline.load_lora_into_unet(
        *StableDiffusionPipeline.lora_state_dict(str(tmp_path)), theirs, low_cpu_mem_usage=True
    )
    for one in (network, theirs):
        merge_lora(one)
        assert_close(one, expected)


def test_every_layer_of_stable_diffusion_3(tmp_path):
    targets = ["to_q", "add_k_proj", "net.2", "pos_embed.proj", "norm_out.linear", "proj_out"]
    network = learnt(sd3(), target_modules=targets)
    save_lora(network, tmp_path)
    merge_lora(network)
    assert_close(network, weights_by_hand(sd3(), tmp_path / WEIGHTS, "transformer"))


def test_each_layer_has_its_own_rank_and_alpha(tmp_path):
    network = unet(16)
    network.add_adapter(
        LoraConfig(
            r=4,
            lora_alpha=3,
            target_modules=["to_q", "to_k", "conv1"],
            init_lora_weights=False,
            rank_pattern={"to_k": 2},
            alpha_pattern={"conv1": 7},
        )
    )
    save_lora(network, tmp_path)
    merge_lora(network)
    assert_close(network, weights_by_hand(unet(16), tmp_path / WEIGHTS))


def test_a_run_with_convolutions_is_loaded_whole(tmp_path):
    places = training_places(tmp_path)
    words = "model.lora={rank: 2, alpha: 4, target_modules: [to_q, conv1, proj_in]}"
    folder = train(places, tmp_path / "run", words)
    average = load_file(folder / "checkpoints/checkpoint-4/ema.safetensors")
    ours = load(folder).denoiser.network
    pipe = StableDiffusionPipeline.from_pretrained(places / "sd")
    pipe.load_lora_weights(folder)
    for network in (ours, pipe.unet):
        found = lora.effective(network)
        assert len(found) == len(average) / 2
        for name, (a, b) in found.items():
            assert torch.equal(a, average[f"{name}.lora_A.default.weight"])
            assert torch.equal(b, 2 * average[f"{name}.lora_B.default.weight"])


def spoilt(weights, how):
    first = min(weights)
    if how == "left out":
        del weights[first]
    elif how == "changed":
        weights[first] = weights[first] + 1e-7
    else:  # as diffusers names the layers of attention, and only those
        weights = {
            name.replace("to_q.lora_A", "to_q.lora.down").replace("to_q.lora_B", "to_q.lora.up"): v
            for name, v in weights.items()
        }
    return weights


@pytest.mark.parametrize("how", ["left out", "changed", "two namings"])
def test_a_file_that_loses_something_is_no_finished_run(tmp_path, monkeypatch, how):
    monkeypatch.setattr(lora, "save_file", lambda w, *a, **k: save_file(spoilt(w, how), *a, **k))
    with pytest.raises(UserError, match="could not be saved"):
        save_lora(learnt(unet(16), target_modules=["to_q", "conv1"]), tmp_path)


def test_a_file_that_loses_something_is_not_loaded(tmp_path):
    save_lora(learnt(unet(16), target_modules=["to_q", "conv1"]), tmp_path)
    save_file(spoilt(load_file(tmp_path / WEIGHTS), "two namings"), tmp_path / WEIGHTS)
    with pytest.raises(RuntimeError, match="16 of 32 matrices are for no layer"):
        lora.load_lora(unet(16), tmp_path)


def test_a_file_with_numbers_that_are_none_is_not_loaded(tmp_path):
    save_lora(learnt(unet(16), target_modules=["to_q"]), tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(RuntimeError, match="not finite"):
        lora.load_lora(unet(16), tmp_path)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["to_q", "to_vv"], "no layer 'to_vv' - did you mean 'to_v'"),
        (["to_q", "add_k_proj"], r"no layer 'add_k_proj' \(it has: conv, conv1"),
        (["to_q", "conv_1"], "no layer 'conv_1' - did you mean 'conv1'"),
        (["unet.mid_block.resnets.0.conv1"], "did you mean 'mid_block.resnets.0.conv1'"),
        (["to_q", "norm1"], "'norm1' names .*, of kind LayerNorm"),
        (["to_out"], r"of kind ModuleList.*\(in it: to_out.0\)"),
        (["attn1"], r"of kind Attention.*\(in it: attn1.to_k"),
        (["0"], "of kind"),
        ([""], "no layer ''"),
        ([], "is empty"),
        (["to_q", "TO_K"], "no layer 'TO_K'"),
    ],
)
def test_a_name_that_is_no_layers_is_refused(targets, message):
    with pytest.raises(UserError, match=message) as caught:
        adapted(unet(16), targets)
    assert "\n" not in str(caught.value)


def test_the_default_are_the_attentions_that_there_are():
    assert adapted(unet(16)) == ["to_k", "to_q", "to_v", "to_out.0"]
    assert adapted(unet(16), ["to_q", "to_q"]) == ["to_q"]
    assert len(adapted(sd3())) == 8
