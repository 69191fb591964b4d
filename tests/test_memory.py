"""Less memory: gradient checkpointing, and frozen weights in bfloat16."""

import json

import pytest
import torch
from safetensors.torch import load_file

from sparring.assembly.build import build_model, spare_memory
from sparring.commands.train import run as command
from sparring.config.read import resolve
from sparring.diffusion.randomness import StepRandom
from sparring.models.latents import LatentEncoder
from sparring.models.lora import lora_weights
from sparring.models.pretrained import load
from sparring.objectives import Objective
from text_to_image import CAPTIONS, run, stable_diffusion_3, train, training_places

LORA = "model.lora={rank: 2, alpha: 4}"
BF16 = "training.mixed_precision=bf16"
CHECKPOINTING = "training.gradient_checkpointing=true"
KINDS = ["sd", "sdxl", "sd3"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = training_places(tmp_path_factory.mktemp("memory"))
    stable_diffusion_3(root)
    return root


def start(places, name):
    return f"model.pretrained_model_name_or_path={places / name}"


def tail(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("step", "loss", "grad_norm")} for line in lines]


def built(places, *overrides):
    """The model as a run holds it."""
    config = resolve(places / "config.yaml", list(overrides))
    model = build_model(config, (3, 16, 16), None)
    spare_memory(config, model, None)
    return model


def gradients(model):
    """Of a loss of one call, by parameter name, and how often a block was computed."""
    network, calls = model.denoiser.network, []
    block = next(one for one in network.modules() if "TransformerBlock" in type(one).__name__)
    hook = block.register_forward_pre_hook(lambda *_: calls.append(1))
    x = torch.randn(2, *model.sample_shape, generator=torch.Generator().manual_seed(0))
    output = model.denoiser.output(x, torch.tensor([7, 700]), **model.text(CAPTIONS[:2]))
    output.square().mean().backward()
    hook.remove()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return found, len(calls)


@pytest.mark.parametrize("learns", ["model.lora=null", LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_computes_blocks_twice_and_changes_no_gradient(places, kind, learns):
    plain, n_plain = gradients(built(places, start(places, kind), learns))
    again, n_again = gradients(built(places, start(places, kind), learns, CHECKPOINTING))
    assert (n_plain, n_again) == (1, 2)
    assert plain.keys() == again.keys()
    assert any(value.abs().max() > 0 for value in plain.values())
    assert all(torch.equal(again[name], value) for name, value in plain.items())


@pytest.mark.parametrize(
    "objective",
    [
        ("objective=dro",),
        ("objective=smoothing_adversarial", "objective.n_steps=2"),
        ("objective=detail", "objective.start_step=1", "objective.noise=0.3", "objective.window=3"),
    ],
    ids=["dro", "smoothing_adversarial", "detail"],
)
def test_attacks_go_through_checkpointed_blocks(places, tmp_path, objective):
    words = (start(places, "sd3"), *objective)
    plain = train(places, tmp_path / "plain", *words)
    assert tail(train(places, tmp_path / "again", *words, CHECKPOINTING)) == tail(plain)


def test_a_network_without_gradient_checkpointing_is_refused(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("model: {network: {_class_name: MLP}}\ndata: {name: plane}\n")
    told = run("train", config, CHECKPOINTING, f"training.output_dir={tmp_path / 'run'}")
    assert told.exit_code == 2
    assert told.stderr.count("\n") == 1
    assert "training.gradient_checkpointing: MLP cannot, set it to false" in told.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_weights_are_held_in_bf16_and_lora_in_float32(places, kind):
    model = built(places, start(places, kind), LORA, BF16)
    network = model.denoiser.network
    for part in (network, model.vae, model.text):
        learned = lora_weights(part)
        for name, parameter in part.named_parameters():
            expected = torch.float32 if name in learned else torch.bfloat16
            assert parameter.dtype == expected, name
    assert len(lora_weights(network)) > 0
    condition = model.text(["grey"], torch.tensor([[1001, 777, 3, 5]]))
    states, null = (
        one["encoder_hidden_states"] for one in (condition, model.denoiser.null_condition)
    )
    assert states.dtype == null.dtype == torch.bfloat16
    assert torch.equal(null, model.text.null()["encoder_hidden_states"])
    if kind == "sdxl":
        told = condition["added_cond_kwargs"]["time_ids"]
        assert told.tolist() == [[1001, 777, 3, 5, 16, 16]]


@pytest.mark.parametrize("words", [(BF16,), (LORA, "training.mixed_precision=no")])
def test_otherwise_all_stays_in_float32(places, words):
    model = built(places, start(places, "sdxl"), *words)
    for part in (model.denoiser, model.vae, model.text):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_lora_in_bf16_learns_as_in_float32_and_resumes_to_the_bit(places, tmp_path, kind):
    words = (start(places, kind), LORA, CHECKPOINTING)
    exact = train(places, tmp_path / "exact", *words)
    words = (*words, BF16)
    whole = train(places, tmp_path / "whole", *words, "training.validation_steps=4")
    for ours, theirs in zip(tail(whole), tail(exact), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.05)
        assert ours["loss"] != theirs["loss"]
    cut = train(places, tmp_path / "cut", *words, "training.max_train_steps=2")
    train(places, cut, *words, "training.resume_from_checkpoint=latest")
    assert tail(cut) == tail(whole)
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/checkpoint-4/{name}.safetensors"
        a, b = load_file(cut / file), load_file(whole / file)
        assert all(value.dtype == torch.float32 for value in a.values())
        assert all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())
    saved = load_file(whole / "pytorch_lora_weights.safetensors")
    assert all(value.dtype == torch.float32 for value in saved.values())
    assert (whole / "samples/step-4.png").is_file()
    assert load(whole).denoiser.network.dtype == torch.float32


def test_latents_are_drawn_in_float32_from_a_vae_in_bf16(places):
    model = built(places, start(places, "sdxl"), LORA, BF16)
    x0 = torch.rand(2, 3, 16, 16) * 2 - 1
    z = LatentEncoder(model.vae)({"x0": x0}, StepRandom(0, 0, 2))
    assert z.dtype == torch.float32
    assert not torch.equal(z, z.bfloat16().float())
    exact = LatentEncoder(load(places / "sdxl").vae)({"x0": x0}, StepRandom(0, 0, 2))
    torch.testing.assert_close(z, exact, rtol=0.05, atol=0.02)


def test_training_sees_latents_in_float32(places, tmp_path, monkeypatch):
    noised, seen = Objective.noised, set()

    def watched(self, batch, *drawn):
        seen.add(batch["x0"].dtype)
        return noised(self, batch, *drawn)

    monkeypatch.setattr(Objective, "noised", watched)
    train(places, tmp_path / "run", LORA, BF16)
    assert seen == {torch.float32}


def test_a_teacher_is_held_in_bf16_too(places, tmp_path, monkeypatch):
    seen = []

    def watched(config, model, teacher):
        spare_memory(config, model, teacher)
        seen.append(teacher)

    monkeypatch.setattr(command, "spare_memory", watched)
    words = (LORA, BF16, "objective=latent_consistency_distillation")
    train(places, tmp_path / "run", *words, "training.conditioning_dropout_prob=0")
    assert {parameter.dtype for parameter in seen[0].parameters()} == {torch.bfloat16}
