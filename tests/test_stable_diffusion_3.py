"""Stable Diffusion 3 from the command line: trained, resumed, saved, sampled; diffusers agrees."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file

from sparring.diffusion.randomness import generator
from sparring.models.latents import decode
from sparring.models.lora import ATTENTION, OF_CAPTIONS, lora_weights
from sparring.models.pretrained import load
from sparring.sampling.sample import sample
from support import CLOSE
from text_to_image import CAPTIONS, SIDE, quiet, run, stable_diffusion_3, train, training_places

LORA = "model.lora={rank: 2, alpha: 4}"
WITHOUT_T5 = {"text_encoder_3": None, "tokenizer_3": None}
DETAIL = ("objective=detail", "objective.start_step=1", "objective.noise=0.3", "objective.window=3")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Stable Diffusion 3 with T5 and without, a captioned folder, and a config of four steps."""
    root = training_places(tmp_path_factory.mktemp("stable_diffusion_3"))
    stable_diffusion_3(root)
    stable_diffusion_3(root, "sd3_without_t5", t5=False)
    return root


def start(places, name="sd3"):
    return f"model.pretrained_model_name_or_path={places / name}"


@pytest.fixture(scope="module")
def full(places):
    return train(places, places / "full", start(places), "training.validation_steps=4")


@pytest.fixture(scope="module")
def lora(places):
    return train(places, places / "lora", start(places, "sd3_without_t5"), LORA)


@pytest.fixture(scope="module")
def pipes(places, full, lora):
    """What a user of diffusers writes for each."""
    bare = DiffusionPipeline.from_pretrained(places / "sd3_without_t5", **WITHOUT_T5)
    learnt = DiffusionPipeline.from_pretrained(places / "sd3_without_t5", **WITHOUT_T5)
    learnt.load_lora_weights(lora)
    return {
        "sd3": quiet(DiffusionPipeline.from_pretrained(places / "sd3")),
        "sd3_without_t5": quiet(bare),
        "full": quiet(DiffusionPipeline.from_pretrained(full)),
        "lora": quiet(learnt),
    }


def one_call(network, model):
    """The network's answer to fixed inputs, with its text's condition."""
    x = torch.randn(2, *model.sample_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network(x, timestep=torch.tensor([7.0, 700.0]), **model.text(CAPTIONS[:2])).sample


def same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def weights(folder, part):
    (file,) = (folder / part).glob("*.safetensors")
    return load_file(file)


def tail(folder):
    """What the log says of each step, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("step", "loss", "grad_norm")} for line in lines]


def card(folder):
    """The Python code of a model card."""
    return (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]


def test_the_cards_code_draws_an_image(places, full, lora, monkeypatch):
    monkeypatch.chdir(places)
    assert "from_pretrained('full')\n" in card(full)
    assert ", text_encoder_3=None, tokenizer_3=None)\n" in card(lora)
    for folder in (full, lora):
        found = {}
        exec(card(folder).replace("num_inference_steps=50", "num_inference_steps=1"), found)
        assert len(found["images"]) == 1


def test_what_is_downloaded_of_a_hub_repository(places, tmp_path, monkeypatch):
    """All that is read, in one precision, and not the same weights in one file."""
    hub, copy = shutil.copytree(places / "sd3", tmp_path / "hub"), tmp_path / "copy"
    unwanted = (
        "sd3_medium_incl_clips.safetensors", "text_encoders/t5xxl_fp16.safetensors",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors", "transformer/x.bin",
        "text_encoder_3/model.safetensors.index.fp16.json", "vae/x.fp16.safetensors",
    )  # fmt: skip
    for name in unwanted:
        (hub / name).parent.mkdir(exist_ok=True)
        (hub / name).write_bytes(b"")

    def snapshot(name, allow_patterns, ignore_patterns, local_files_only):
        files = [str(path.relative_to(hub)) for path in hub.rglob("*") if path.is_file()]
        for file in filter_repo_objects(
            files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hub / file, copy / file)
        return str(copy)

    monkeypatch.setattr("sparring.models.pretrained.hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file, **_: str(hub / file))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    model, local = load("somebody/sd3"), load(places / "sd3")
    ours, theirs = (one_call(one.denoiser.network, one) for one in (model, local))
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert not any((copy / name).exists() for name in unwanted)


def test_what_is_loaded(places):
    model = load(places / "sd3")
    assert (model.sample_shape, model.denoiser.kind) == ((16, SIDE // 2, SIDE // 2), "flow")
    assert model.denoiser.schedule.shift == 3
    assert (len(model.text.encoders), len(load(places / "sd3_without_t5").text.encoders)) == (3, 2)


def test_a_finished_run_is_the_pipeline_with_another_transformer(places, full, pipes):
    assert (full / "samples" / "step-4.png").is_file()
    for part in ("vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        same(weights(full, part), weights(places / "sd3", part))
    before, after = weights(places / "sd3", "transformer"), weights(full, "transformer")
    assert not any(
        torch.equal(before[name], after[name]) for name in before.keys() - {"pos_embed.pos_embed"}
    )
    pipe, model = pipes["full"], load(full)
    assert type(pipe).__name__ == "StableDiffusion3Pipeline"
    assert pipe.scheduler.config == pipes["sd3"].scheduler.config
    ours = one_call(model.denoiser.network, model)
    torch.testing.assert_close(one_call(pipe.transformer, model), ours, **CLOSE)
    assert not torch.allclose(one_call(pipes["sd3"].transformer, model), ours)


def test_lora_adapts_the_attentions_of_images_and_captions(places, lora, pipes):
    model = load(lora)
    network = model.denoiser.network
    learned = lora_weights(network)
    layers = {name.partition(".lora_")[0].partition(".attn.")[2] for name in learned}
    assert layers == {*ATTENTION, *OF_CAPTIONS}
    assert all(value.abs().max() > 0 for name, value in learned.items() if "lora_A" in name)
    saved = load_file(lora / "pytorch_lora_weights.safetensors")
    assert all(name.startswith("transformer.") for name in saved)
    ours = one_call(network, model)
    torch.testing.assert_close(one_call(pipes["lora"].transformer, model), ours, **CLOSE)
    assert not torch.allclose(one_call(pipes["sd3_without_t5"].transformer, model), ours)
    assert not (lora / "model_index.json").exists()


@pytest.mark.parametrize("kind", ["sd3", "sd3_without_t5", "full", "lora"])
def test_sampling_with_guidance_gives_the_pipelines_latents(places, pipes, kind):
    pipe, model, prompts = pipes[kind], load(places / kind), ["a red square", "grey"]
    seeded = [generator("cpu", 5, "sample", i) for i in (0, 1)]
    noise = torch.stack([torch.randn(model.sample_shape, generator=own) for own in seeded])
    words = {"num_inference_steps": 5, "guidance_scale": 4.0}
    theirs = pipe(prompts, latents=noise, **words, output_type="latent").images
    ours = sample(model, 2, prompts=prompts, seed=5, **words)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    plain = sample(model, 2, prompts=prompts, seed=5, num_inference_steps=5)
    assert (plain - ours).abs().max() > 0.01
    pixels = pipe(prompts, latents=noise, **words, output_type="pt").images
    decoded = (decode(model.vae, ours) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decoded, pixels, atol=1e-4, rtol=0)


@pytest.mark.parametrize("learns", ["full", "lora"])
@pytest.mark.parametrize(
    "objective", [DETAIL, ("objective=dro",), ("objective=smoothing_adversarial",)],
    ids=["detail", "dro", "smoothing_adversarial"],
)  # fmt: skip
def test_robust_objectives_train_it(places, tmp_path, objective, learns):
    words = (start(places), *objective, *([LORA] if learns == "lora" else []))
    folder = train(places, tmp_path / "run", *words)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    terms = {key for line in lines for key in line if key.startswith("loss/")}
    assert len(terms) == (1 if "dro" in objective[0] else 2), terms
    model, base = load(folder), load(places / "sd3")
    ours, before = (one_call(one.denoiser.network, one) for one in (model, base))
    assert ours.isfinite().all()
    assert not torch.allclose(ours, before)


@pytest.mark.parametrize("learns", ["full", "lora"])
def test_a_resumed_run_repeats_itself_to_the_bit(places, request, tmp_path, learns):
    whole = request.getfixturevalue(learns)
    words = (start(places),) if learns == "full" else (start(places, "sd3_without_t5"), LORA)
    cut = train(places, tmp_path / "cut", *words, "training.max_train_steps=2")
    train(places, cut, *words, "training.resume_from_checkpoint=latest")
    assert tail(cut) == tail(whole)
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/checkpoint-4/{name}.safetensors"
        same(load_file(cut / file), load_file(whole / file))


def test_a_run_with_the_cache_is_the_run_without(places, full, tmp_path):
    words = (start(places), f"data.latents_cache={tmp_path / 'cache'}")
    for name in ("cold", "warm"):
        assert tail(train(places, tmp_path / name, *words)) == tail(full)


@pytest.mark.parametrize("learns", ["full", "lora"])
def test_an_unfinished_run_gives_its_average(places, request, tmp_path, learns):
    folder = shutil.copytree(request.getfixturevalue(learns), tmp_path / "run")
    finished = load(folder)
    for name in ("model.json", "model_index.json"):
        (folder / name).unlink(missing_ok=True)
    model = load(folder)
    assert "unfinished, checkpoint-4" in model.source
    torch.testing.assert_close(
        one_call(model.denoiser.network, model), one_call(finished.denoiser.network, finished)
    )


def test_a_run_starts_from_lora_weights(places, lora, tmp_path):
    """They are merged, and the pipeline is whole again, without T5 as before."""
    words = (f"model.pretrained_model_name_or_path={lora}", "training.learning_rate=1e-9")
    folder = train(places, tmp_path / "run", *words)
    pipe, model = DiffusionPipeline.from_pretrained(folder, **WITHOUT_T5), load(lora)
    ours = one_call(model.denoiser.network, model)
    torch.testing.assert_close(one_call(pipe.transformer, model), ours, rtol=1e-4, atol=1e-4)


def test_sample_draws_prompts(full, lora, tmp_path):
    for folder in (full, lora):
        out = tmp_path / folder.name
        told = run("sample", folder, "--prompt", "grey", "--prompt", "white", "-o", out, "--json")
        assert told.exit_code == 0, told.output
        protocol = json.loads((out / "sampling.json").read_text())
        assert (protocol["prompts"], protocol["guidance_scale"]) == (["grey", "white"], 3.0)
        assert len(list(out.glob("0*.png"))) == 2


def test_another_resolution_than_the_pipelines_own(places, tmp_path):
    folder = train(places, tmp_path / "run", start(places), "data.resolution=24")
    assert load(folder).sample_shape == (16, 12, 12)
    pipe = quiet(DiffusionPipeline.from_pretrained(folder))
    assert pipe("grey", num_inference_steps=1).images[0].size == (24, 24)
    for side in (50, 18):  # more than the positions it knows; half a patch
        told = run("train", places / "config.yaml", start(places), f"data.resolution={side}",
                   f"training.output_dir={tmp_path / str(side)}")  # fmt: skip
        assert told.exit_code == 2
        assert "set data.resolution" in told.stderr
