"""Stable Diffusion from the command line: trained, resumed, saved, sampled; diffusers agrees."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file

from sparring.diffusion.randomness import generator
from sparring.models.latents import decode
from sparring.models.lora import add_lora, lora_config, lora_weights
from sparring.models.pretrained import Model, load
from sparring.sampling.sample import sample
from sparring.support.errors import UserError
from support import CLOSE
from text_to_image import (
    CAPTIONS,
    SIDE,
    autoencoder,
    quiet,
    run,
    train,
    training_places,
)

LORA = "model.lora={rank: 2, alpha: 4, target_modules: [to_q, to_v]}"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Both pipelines, a captioned folder, and a config of four steps."""
    return training_places(tmp_path_factory.mktemp("text_to_image"))


def weights(folder, part="unet"):
    (file,) = (folder / part).glob("*.safetensors")
    return load_file(file)


def same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def tail(folder):
    """What the log says of each step, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("step", "loss", "grad_norm")} for line in lines]


def one_call(unet, model):
    """The network's answer to fixed inputs, with its text's condition."""
    x = torch.randn(2, *model.sample_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return unet(x, torch.tensor([7, 700]), **model.text(CAPTIONS[:2])).sample


@pytest.fixture(scope="module")
def full(places):
    return train(places, places / "full", "training.validation_steps=4")


@pytest.fixture(scope="module")
def lora(places):
    return train(places, places / "lora", LORA)


@pytest.fixture(scope="module")
def xl(places):
    path = f"model.pretrained_model_name_or_path={places / 'sdxl'}"
    return train(places, places / "xl", path, "objective=dro")


def test_a_finished_run_is_the_pipeline_with_another_unet(places, full):
    assert (full / "samples" / "step-4.png").is_file()
    assert "pipeline_tag: text-to-image" in (full / "README.md").read_text()
    for part in ("vae", "text_encoder"):
        same(weights(full, part), weights(places / "sd", part))
    before, after = weights(places / "sd"), weights(full)
    assert not any(torch.equal(before[name], after[name]) for name in before)
    pipe, model = DiffusionPipeline.from_pretrained(full), load(full)
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert (
        pipe.scheduler.config == DiffusionPipeline.from_pretrained(places / "sd").scheduler.config
    )
    ours = one_call(model.denoiser.network, model)
    torch.testing.assert_close(one_call(pipe.unet, model), ours, **CLOSE)
    assert len(quiet(pipe)("a red square", num_inference_steps=2).images) == 1


def test_xl_trains_with_another_objective_and_loads_in_diffusers(places, xl):
    pipe, model = DiffusionPipeline.from_pretrained(xl), load(xl)
    assert type(pipe).__name__ == "StableDiffusionXLPipeline"
    ours = one_call(model.denoiser.network, model)
    torch.testing.assert_close(one_call(pipe.unet, model), ours, **CLOSE)
    for part in ("vae", "text_encoder", "text_encoder_2"):
        same(weights(xl, part), weights(places / "sdxl", part))


def test_lora_trains_its_own_weights_alone(places, lora):
    model, base = load(lora), load(places / "sd")
    frozen = base.denoiser.network.state_dict()
    kept = {
        name.replace(".base_layer", ""): value
        for name, value in model.denoiser.network.state_dict().items()
        if "lora_" not in name
    }
    same(kept, frozen)
    learned = lora_weights(model.denoiser.network)
    assert all(value.abs().max() > 0 for value in learned.values())  # B has left zero
    # two blocks of two attentions, in the encoder, the middle and twice in the decoder; q and v
    checkpoint = load_file(lora / "checkpoints/checkpoint-4/model.safetensors")
    average = load_file(lora / "checkpoints/checkpoint-4/ema.safetensors")
    assert checkpoint.keys() == average.keys()
    assert all("lora_" in name for name in checkpoint)
    assert len(checkpoint) == len(learned)
    assert not (lora / "model_index.json").exists()
    assert not (lora / "unet").exists()


def test_lora_weights_load_in_diffusers(places, lora):
    pipe, model = DiffusionPipeline.from_pretrained(places / "sd"), load(lora)
    before = one_call(pipe.unet, model)
    pipe.load_lora_weights(lora)
    ours = one_call(model.denoiser.network, model)
    torch.testing.assert_close(one_call(pipe.unet, model), ours, **CLOSE)
    assert not torch.allclose(before, ours)


def test_the_saved_lora_is_what_was_trained(lora):
    """alpha / rank is 2 in training and 1 in the file: B is twice as large there."""
    average = load_file(lora / "checkpoints/checkpoint-4/ema.safetensors")
    saved = load_file(lora / "pytorch_lora_weights.safetensors")
    up = {name: value for name, value in saved.items() if ".lora_B." in name}
    assert len(up) == len(saved) / 2 == len(average) / 2
    for name, value in up.items():
        path = name.removeprefix("unet.").replace(".lora_B.", ".lora_B.default.")
        assert torch.equal(value, 2 * average[path])
    assert lora_config(load(lora).denoiser.network)["rank"] == 2


@pytest.mark.parametrize("words", [(), (LORA, "data.latents=mode")], ids=["full", "lora"])
def test_a_resumed_run_repeats_itself_to_the_bit(places, tmp_path, words):
    whole = train(places, tmp_path / "whole", *words)
    cut = train(places, tmp_path / "cut", *words, "training.max_train_steps=2")
    train(places, cut, *words, "training.resume_from_checkpoint=latest")
    assert tail(cut) == tail(whole)
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/checkpoint-4/{name}.safetensors"
        same(load_file(cut / file), load_file(whole / file))


def test_a_run_with_the_cache_is_the_run_without(places, full, tmp_path):
    """Two epochs with random flips: the second reads what the first has kept."""
    cache = tmp_path / "cache"
    for name in ("cold", "warm"):
        cached = train(places, tmp_path / name, f"data.latents_cache={cache}")
        assert tail(cached) == tail(full)
        same(weights(cached), weights(full))
    n_files = len(list(cache.rglob("*.safetensors")))
    assert len(CAPTIONS) * 2 < n_files <= len(CAPTIONS) * 3  # captions, images, mirrored ones


def test_frozen_parts_get_no_gradient(places, monkeypatch):
    from sparring.assembly.build import build_model
    from sparring.commands.train import run as module
    from sparring.config.read import resolve

    seen = []

    def watched(*args):
        seen.append(build_model(*args))
        return seen[0]

    monkeypatch.setattr(module, "build_model", watched)
    train(places, places / "watched", LORA)
    (model,) = seen
    for part in (model.vae, model.text):
        assert not any(p.requires_grad or p.grad is not None for p in part.parameters())
        assert not any(one.training for one in part.modules())
    network = model.denoiser.network
    learned = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learned == set(lora_weights(network))
    assert resolve(places / "config.yaml", [LORA]).model.lora.rank == 2


@pytest.mark.parametrize("kind", ["sd", "sdxl", "full", "lora"])
def test_sampling_with_guidance_gives_the_pipelines_latents(places, request, kind):
    folder = request.getfixturevalue(kind) if kind in ("full", "lora") else places / kind
    pipe = DiffusionPipeline.from_pretrained(places / "sd" if kind == "lora" else folder)
    if kind == "lora":
        pipe.load_lora_weights(folder)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    model, prompts = load(folder), ["a red square", "grey"]
    shape, seeded = model.sample_shape, [generator("cpu", 5, "sample", i) for i in (0, 1)]
    noise = torch.stack([torch.randn(shape, generator=own) for own in seeded])
    words = {"num_inference_steps": 5, "guidance_scale": 4.0, "output_type": "latent"}
    theirs = quiet(pipe)(prompts, latents=noise, **words).images
    drawn = {"num_inference_steps": 5, "seed": 5, "scheduler": "ddim"}
    ours = sample(model, 2, prompts=prompts, guidance_scale=4.0, **drawn)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    plain = sample(model, 2, prompts=prompts, **drawn)
    assert (plain - ours).abs().max() > 0.01
    pixels = quiet(pipe)(prompts, latents=noise, **{**words, "output_type": "pt"}).images
    decoded = (decode(model.vae, ours) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decoded, pixels, atol=1e-4, rtol=0)


def test_sample_draws_prompts(full, lora, tmp_path):
    (tmp_path / "prompts.txt").write_text("grey\n\na red square\n")
    for name, folder, words, prompts, n in [
        ("two", full, ("--prompt", "grey", "--prompt", "white"), ["grey", "white"], 2),
        ("file", lora, ("--prompt-file", tmp_path / "prompts.txt"), ["grey", "a red square"], 2),
        ("in turn", full, ("--prompt", "grey", "-n", 3), ["grey"], 3),
        ("empty", lora, ("--guidance-scale", 1), [""], 4),
        ("config", full, ("sampling.prompts=[grey]", "-n", 4), ["grey"], 4),
    ]:
        out = tmp_path / name
        told = run("sample", folder, *words, "-o", out, "--json")
        assert told.exit_code == 0, told.output
        protocol = json.loads((out / "sampling.json").read_text())
        assert (protocol["prompts"], protocol["n_images"]) == (prompts, n)
        assert len(list(out.glob("0*.png"))) == n


def test_evaluate_draws_the_captions_of_the_data(full):
    words = ("evaluation.n_samples=6", "evaluation.extractor=pixels", "evaluation.n_resamples=2")
    told = run("evaluate", full, *words, "evaluation.k=2", "--json")
    assert told.exit_code == 0, told.output
    protocol = json.loads(told.stdout)["protocol"]
    assert (protocol["prompts"], protocol["clip_sample"]) == ("as in the reference", False)


def test_the_path_of_latents_with_guidance_is_attacked(full):
    words = ("attack.n_samples=4", "attack.n_seeds=1", "attack.radii=[0.3]", "attack.where=[0]",
             "attack.kind=fgsm", "attack.n_path_steps=all", "sampling.guidance_scale=3.0",
             "evaluation.extractor=pixels", "evaluation.n_resamples=2",
             "evaluation.k=2")  # fmt: skip
    told = run("attack", full, *words, "--json")
    assert told.exit_code == 0, told.output
    (found,) = json.loads(told.stdout)["models"].values()
    attack, control = (curve["points"][1] for curve in found["curves"])
    assert attack["gain"] == pytest.approx(attack["shift_rms"] ** 2, rel=1e-3)
    assert attack["shift_rms"] > control["shift_rms"]
    assert found["protocol"]["prompts"] == "as in the reference"
    assert len(list((full / "attacks").glob("*.png"))) == 1
    told = run("attack", full, *words, "attack.aim=features", "attack.kind=pgd")
    assert "models that make images, not latents" in told.stderr


def test_xl_learns_with_the_size_that_each_image_had(places, tmp_path, monkeypatch):
    """Mirrored, a crop begins where it used to end; an image without its caption has a size too."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        Image.new("RGB", (SIDE + 3, SIDE)).save(photos / f"{i}.png")
        (photos / f"{i}.txt").write_text("grey")
    forward, told = UNet2DConditionModel.forward, []

    @functools.wraps(forward)
    def watched(*args, added_cond_kwargs, **words):
        told.extend(map(tuple, added_cond_kwargs["time_ids"].long().tolist()))
        return forward(*args, added_cond_kwargs=added_cond_kwargs, **words)

    monkeypatch.setattr(UNet2DConditionModel, "forward", watched)
    path = f"model.pretrained_model_name_or_path={places / 'sdxl'}"
    words = (path, f"data.train_data_dir={photos}", f"data.resolution={SIDE}")
    as_it_is, mirrored = ((SIDE, SIDE + 3, 0, left, SIDE, SIDE) for left in (1, 2))
    train(places, tmp_path / "plain", *words, "data.random_flip=false")
    assert told == [as_it_is] * 4 * 3
    told.clear()
    train(places, tmp_path / "flips", *words)
    assert set(told) == {as_it_is, mirrored}
    told.clear()
    sample(load(tmp_path / "flips"), 1, num_inference_steps=1, guidance_scale=2.0)
    assert told == [(SIDE, SIDE, 0, 0, SIDE, SIDE)] * 2


def test_another_resolution_than_the_pipelines_own(places, tmp_path):
    path = f"model.pretrained_model_name_or_path={places / 'sdxl'}"
    folder = train(places, tmp_path / "run", path, f"data.resolution={2 * SIDE}")
    model = load(folder)
    assert model.sample_shape == (4, SIDE, SIDE)
    told = model.text(["grey"])["added_cond_kwargs"]["time_ids"]
    assert told.tolist() == [[2 * SIDE, 2 * SIDE, 0, 0, 2 * SIDE, 2 * SIDE]]
    smaller = load(folder)
    smaller.resize((4, SIDE // 2, SIDE // 2))
    told = smaller.text(["grey"])["added_cond_kwargs"]["time_ids"]
    assert told.tolist() == [[SIDE, SIDE, 0, 0, SIDE, SIDE]]
    pipe = quiet(DiffusionPipeline.from_pretrained(folder))
    assert pipe("grey", num_inference_steps=1).images[0].size == (2 * SIDE, 2 * SIDE)


@pytest.mark.parametrize("words", [(), (LORA,)], ids=["full", "lora"])
def test_an_unfinished_run_gives_its_average(places, tmp_path, words):
    folder = train(places, tmp_path / "run", *words)
    finished = load(folder)
    for name in ("model.json", "model_index.json"):
        (folder / name).unlink(missing_ok=True)
    model = load(folder)
    assert "unfinished, checkpoint-4" in model.source
    assert model.text is not None
    torch.testing.assert_close(
        one_call(model.denoiser.network, model), one_call(finished.denoiser.network, finished)
    )


def test_a_run_starts_from_a_run(places, full, lora, tmp_path):
    """From a whole one, and from LoRA weights: they are merged, and the pipeline is whole again."""
    for start in (full, lora):
        path = f"model.pretrained_model_name_or_path={start}"
        folder = train(places, tmp_path / start.name, path, "training.learning_rate=1e-9")
        pipe, model = DiffusionPipeline.from_pretrained(folder), load(start)
        ours = one_call(model.denoiser.network, model)
        torch.testing.assert_close(one_call(pipe.unet, model), ours, rtol=1e-4, atol=1e-4)
    for more in ([], ["--dry-run"]):
        words = [path, LORA, f"training.output_dir={tmp_path}/2", *more]
        told = run("train", places / "config.yaml", *words)
        assert told.exit_code == 2
        assert "holds LoRA weights already" in told.stderr


def test_what_a_copy_of_the_hub_leaves_out_is_left_out(places, tmp_path):
    """The safety checker is named in model_index.json and never downloaded; pickles are ignored."""
    copy = tmp_path / "hub"
    shutil.copytree(places / "sd", copy)
    index = json.loads((copy / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    del index["requires_safety_checker"]
    (copy / "model_index.json").write_text(json.dumps(index))
    (copy / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    path = f"model.pretrained_model_name_or_path={copy}"
    folder = train(places, tmp_path / "run", path, "training.max_train_steps=1")
    assert not list(folder.rglob("*.bin"))
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert pipe.safety_checker is None
    assert len(quiet(pipe)("grey", num_inference_steps=1).images) == 1


def test_several_captions_of_an_image_are_drawn_while_training(places, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(places / "photos", photos)
    rows = [json.loads(line) for line in (photos / "metadata.jsonl").read_text().splitlines()]
    rows = [row | {"text": [row["text"], f"also {row['text']}"]} for row in rows]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = (f"data.train_data_dir={photos}", "training.max_train_steps=2")
    folder = train(places, tmp_path / "run", *words)
    remarks = json.loads((folder / "data" / "remarks.json").read_text())
    assert any("have several captions" in remark for remark in remarks)
    # The second start goes on as the first one would have.
    half = train(places, tmp_path / "half", words[0], "training.max_train_steps=1")
    train(places, half, *words, "training.resume_from_checkpoint=latest")
    same(load_file(folder / "unet/diffusion_pytorch_model.safetensors"),
         load_file(half / "unet/diffusion_pytorch_model.safetensors"))  # fmt: skip


def test_a_class_conditional_latent_pipeline_learns_from_images(places, tmp_path):
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1,
        sample_size=SIDE // 2, num_embeds_ada_norm=2, norm_num_groups=1,
    )  # fmt: skip
    DiTPipeline(network, autoencoder(), DDIMScheduler()).save_pretrained(tmp_path / "dit")
    index = tmp_path / "dit" / "model_index.json"
    names = {"id2label": {"0": "tench", "1": "goldfish"}}  # as the hub's DiT has them
    index.write_text(json.dumps(json.loads(index.read_text()) | names))
    assert load(tmp_path / "dit").class_names == ["tench", "goldfish"]
    for i in range(6):
        (tmp_path / f"photos/{i % 2}").mkdir(parents=True, exist_ok=True)
        shutil.copy(places / f"photos/{i}.png", tmp_path / f"photos/{i % 2}")
    words = (
        f"model.pretrained_model_name_or_path={tmp_path / 'dit'}",
        "model.class_conditional=true",
        f"data.train_data_dir={tmp_path / 'photos'}",
    )
    folder = train(places, tmp_path / "run", *words)
    model, pipe = load(folder), DiffusionPipeline.from_pretrained(folder)
    assert type(pipe).__name__ == "DiTPipeline"
    assert (model.num_classes, model.denoiser.null_condition) == (2, {"class_labels": 2})
    assert (model.class_names, pipe.labels) == (["0", "1"], {"0": 0, "1": 1})
    same(pipe.transformer.state_dict(), model.denoiser.network.state_dict())
    told = run("train", places / "config.yaml", *words, "data.resolution=32",
               f"training.output_dir={tmp_path / 'large'}")  # fmt: skip
    assert "makes samples of shape (4, 8, 8)" in told.stderr


def test_a_lora_run_whose_base_is_gone_says_so(places, lora, tmp_path):
    shutil.copytree(lora, tmp_path / "lora")
    file = tmp_path / "lora/model.json"
    description = json.loads(file.read_text()) | {"base": str(tmp_path / "gone")}
    file.write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"trained on top of .*gone, which must be there too"):
        load(tmp_path / "lora")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.name=digits", "data.train_data_dir=null"], "n_channels=3"),
        (["data.resolution=15"], "multiples of 2"),
        (
            ["objective=oracle", "contamination.kind=gaussian"],
            "have noise, 0 hidden pixels: neither is so in latents",
        ),
        (["data.latents_cache=x", "data.center_crop=false"], "random crops"),
        (["model.lora.target_modules=[nothing]"], "has no layer 'nothing'"),
        (["model.class_conditional=true"], "needs labels"),
        (["data.caption_column=texts"], "no column 'texts'"),
        (["data.n_channels=1"], "data.n_channels=3"),
    ],
)
def test_what_does_not_go_together_is_one_line(places, tmp_path, words, message):
    told = run("train", places / "config.yaml", *words, f"training.output_dir={tmp_path / 'run'}")
    assert told.exit_code == 2, told.output
    assert message in told.stderr
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "word", ["data.latents=mode", "data.latents_cache=x", "sampling.prompts=[grey]"]
)
def test_settings_of_latent_models_are_refused_elsewhere(tmp_path, word):
    digits = Path(__file__).parents[1] / "configs/digits.yaml"
    told = run("train", digits, word, f"training.output_dir={tmp_path / 'run'}")
    assert told.exit_code == 2
    assert word.partition("=")[0] in told.stderr


def test_a_missing_caption_is_refused_before_training(places, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(places / "photos", photos)
    lines = (photos / "metadata.jsonl").read_text().splitlines()
    (photos / "metadata.jsonl").write_text("\n".join(lines[:-1]))
    words = (f"data.train_data_dir={photos}", f"training.output_dir={tmp_path / 'run'}")
    told = run("train", places / "config.yaml", *words)
    assert "1 of 6 images of image_folder have no caption, the first is number 5" in told.stderr
    (photos / "metadata.jsonl").unlink()
    told = run("train", places / "config.yaml", *words)
    assert "needs captions, and image_folder has none" in told.stderr


def test_lora_changes_nothing_at_first_and_follows_from_the_seed(places):
    model = load(places / "sd")
    before = one_call(model.denoiser.network, model)
    add_lora(model.denoiser.network, 2, seed=3)
    torch.testing.assert_close(one_call(model.denoiser.network, model), before, **CLOSE)
    other = load(places / "sd")
    other.denoiser.requires_grad_(True)
    add_lora(other.denoiser.network, 2, seed=3)
    learns = {name for name, p in other.denoiser.network.named_parameters() if p.requires_grad}
    assert learns == set(lora_weights(other.denoiser.network))
    same(lora_weights(model.denoiser.network), lora_weights(other.denoiser.network))


def test_prompts_of_other_models_are_refused(places):
    model = load(places / "sd")
    with pytest.raises(ValueError, match="must not be empty"):
        sample(model, 1, prompts=[])
    with pytest.raises(ValueError, match="text-to-image"):
        sample(Model.around(model.denoiser, model.sample_shape), 1, prompts=["a"])
    condition = model.text(["a"])
    with pytest.raises(ValueError, match="not both"):
        sample(model, 1, prompts=["a"], condition=condition)
    given = sample(model, 1, condition=condition, num_inference_steps=2)
    torch.testing.assert_close(
        given, sample(model, 1, prompts=["a"], num_inference_steps=2), **CLOSE
    )


def test_a_run_says_which_texts_are_cut_and_mends_the_tokenizer(places, tmp_path):
    """The saved pipeline's tokenizer knows its length, which diffusers asks it for."""
    base, photos = tmp_path / "sd", tmp_path / "photos"
    shutil.copytree(places / "sd", base)
    file = base / "tokenizer/tokenizer_config.json"
    words = json.loads(file.read_text())
    file.write_text(json.dumps({**words, "model_max_length": 10**30}))
    shutil.copytree(places / "photos", photos)
    lines = (photos / "metadata.jsonl").read_text().splitlines()
    lines[0] = json.dumps({"file_name": "0.png", "text": "x " * 100})
    (photos / "metadata.jsonl").write_text("\n".join(lines))
    path = f"model.pretrained_model_name_or_path={base}"
    prompts = f"sampling.prompts=['{'y ' * 90}', grey]"
    told = run("train", places / "config.yaml", path, f"data.train_data_dir={photos}", prompts,
               f"training.output_dir={tmp_path / 'run'}")  # fmt: skip
    assert told.exit_code == 0, told.output
    said = "1 of 6 captions are longer than 77 tokens and are cut"
    assert said in told.stderr
    assert "1 of 2 prompts are longer than 77 tokens and are cut" in told.stderr
    assert said in json.loads((tmp_path / "run/data/remarks.json").read_text())
    pipe = quiet(DiffusionPipeline.from_pretrained(tmp_path / "run"))
    assert len(pipe("a red square", num_inference_steps=1).images) == 1
    told = run("sample", tmp_path / "run", "--prompt", "x " * 80, "--num-inference-steps", 1)
    assert "1 of 1 prompts are longer than 77 tokens and are cut" in told.stderr
