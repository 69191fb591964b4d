"""Stable Diffusion 1.x, XL and 3 tuned through their samplers, from the command line."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from sparring.adversarial.backbones import load_dino
from sparring.adversarial.eyes import ImageEye, LatentEye
from sparring.commands.train import run as train_module
from sparring.diffusion.randomness import generator
from sparring.models.latents import decode
from sparring.models.lora import lora_weights
from sparring.models.pretrained import load
from sparring.sampling.sample import sample
from sparring.training import latest_checkpoint
from sparring.training.checkpoint import checkpoint_step
from support import CLOSE, tiny_dino
from text_to_image import CAPTIONS, SIDE, quiet, run, stable_diffusion_3, train, training_places

KINDS = ["sd", "sdxl", "sd3"]
CASES = [(kind, learns) for kind in KINDS for learns in ("full", "lora")]
LORA = "model.lora={rank: 2, alpha: 4}"
DENOISER = "objective.discriminator.features=denoiser"
TIMED = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Three pipelines, a captioned folder, a DINOv2, and a config of four steps."""
    root = training_places(tmp_path_factory.mktemp("adt"))
    stable_diffusion_3(root)
    tiny_dino(root / "dino")
    return root


def words(places, kind="sd", learns="full"):
    """Overrides of the config."""
    return [
        f"model.pretrained_model_name_or_path={places / kind}",
        "objective=adt",
        "objective.num_inference_steps=4",
        "objective.n_trained=2",
        "objective.guidance_scale=3.0",
        "objective.weight=0.5",
        f"objective.discriminator.features={places / 'dino'}",
        "objective.discriminator.side=28",
        "objective.discriminator.width=8",
        # of these two readings of "real" each is run with every pipeline
        f"objective.discriminator.real={'image' if learns == 'full' else 'reconstruction'}",
        f"data.latents_cache={places / 'cache'}",
        *([LORA] if learns == "lora" else []),
    ]


@pytest.fixture(scope="module")
def tuned(places):
    """Folder, model and discriminator of a finished run; each is made once."""

    @functools.cache
    def make(kind, learns):
        folder = places / f"{kind}-{learns}"
        with pytest.MonkeyPatch.context() as patch:
            players = watched_players(patch)
            train(places, folder, *words(places, kind, learns))
        return folder, *players

    return make


def watched_players(patch) -> list[Any]:
    """What the next run makes: its model, then its discriminator."""
    made: list[Any] = []
    for name in ("build_model", "build_discriminator"):

        def watched(build, *args):
            result = build(*args)
            made.append(result[0] if isinstance(result, tuple) else result)
            return result

        build = getattr(train_module, name)
        patch.setattr(train_module, name, functools.partial(watched, build))
    return made


def same(a, b):
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def outcome(folder):
    """Weights, averages, moments, the objective's memory and the log; no times."""
    newest = latest_checkpoint(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in line.items() if key not in TIMED} for line in lines]
    return newest.name, {file.name: load_file(file) for file in newest.glob("*.safetensors")}, log


def assert_same_outcome(one, other):
    (step, files, log), (its_step, its_files, its_log) = outcome(one), outcome(other)
    assert step == its_step
    for name in ("model", "ema", "optimizer", "discriminator", "discriminator-optimizer"):
        assert f"{name}.safetensors" in files
    assert "balance" in files["objective.safetensors"]
    assert files.keys() == its_files.keys()
    for name, tensors in files.items():
        same(tensors, its_files[name])
    assert log == its_log


def one_call(network, model):
    """The network's answer to fixed inputs, with its text's condition."""
    x = torch.randn(2, *model.sample_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network(x, timestep=torch.tensor([7.0, 700.0]), **model.text(CAPTIONS[:2])).sample


def untouched(network):
    """LoRA weights B that are zero still; the last block of SD 3 asks its captions nothing."""
    zero = [name for name, value in lora_weights(network).items() if not value.any()]
    return [name for name in zero if "transformer_blocks.1.attn.add_q_proj" not in name]


@pytest.mark.parametrize(("kind", "learns"), CASES)
def test_the_model_and_the_heads_learn_and_nothing_else_does(places, tuned, kind, learns):
    folder, model, rival = tuned(kind, learns)
    base, network = load(places / kind), model.denoiser.network
    for part, its in ((model.vae, base.vae), (model.text, base.text)):
        same(part.state_dict(), its.state_dict())
    dino = load_dino(str(places / "dino"), None, 28)
    same(rival.eye.backbone.state_dict(), dino.state_dict())
    before, after = base.denoiser.network.state_dict(), network.state_dict()
    if learns == "lora":
        assert untouched(network) == []
        kept = {
            name.replace(".base_layer", ""): value
            for name, value in after.items()
            if "lora_" not in name
        }
        same(kept, before)
    else:
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        assert set(before) - set(moved) <= {"pos_embed.pos_embed"}
    _, _, log = outcome(folder)
    terms = {key for line in log for key in line if key.startswith("loss/")}
    assert terms == {"loss/denoise", "loss/adversarial", "loss/discriminator", "loss/r1"}
    assert {"balance/real", "balance/fake", "balance/overlap"} <= log[-1].keys()


@pytest.mark.parametrize(("kind", "learns"), CASES)
def test_the_result_is_a_pipeline_of_diffusers(places, tuned, kind, learns):
    """It loads there, and draws what our own sampler draws from the same noise."""
    folder, *_ = tuned(kind, learns)
    base = DiffusionPipeline.from_pretrained(places / kind)
    if learns == "lora":
        pipe = DiffusionPipeline.from_pretrained(places / kind)
        pipe.load_lora_weights(folder)
    else:
        pipe = DiffusionPipeline.from_pretrained(folder)
    model, prompts = load(folder), ["a red square", "grey"]
    theirs, untuned = (one.transformer if kind == "sd3" else one.unet for one in (pipe, base))
    ours = one_call(model.denoiser.network, model)
    torch.testing.assert_close(one_call(theirs, model), ours, **CLOSE)
    assert not torch.allclose(one_call(untuned, model), ours)
    if kind != "sd3":
        config = pipe.scheduler.config
        pipe.scheduler = DDIMScheduler.from_config(
            config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
        )
    seeded = [generator("cpu", 5, "sample", i) for i in (0, 1)]
    noise = torch.stack([torch.randn(model.sample_shape, generator=own) for own in seeded])
    drawn = {"num_inference_steps": 3, "guidance_scale": 3.0}
    images = quiet(pipe)(prompts, latents=noise, **drawn, output_type="pt").images
    latents = sample(model, 2, prompts=prompts, seed=5, **drawn)
    decoded = (decode(model.vae, latents) / 2 + 0.5).clamp(0, 1)
    # guidance of 3 and 1 / alpha_T = 15 enlarge rounding; a step of 8 bits is 4e-3
    torch.testing.assert_close(decoded, images, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("kind", "learns"),
    [
        ("sd", "full"),
        ("sdxl", "lora"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[3:]),
    ],
)
def test_a_resumed_run_repeats_itself_to_the_bit(places, tuned, tmp_path, kind, learns):
    whole, *_ = tuned(kind, learns)
    told = words(places, kind, learns)
    cut = train(places, tmp_path / "cut", *told, "training.max_train_steps=2")
    train(places, cut, *told, "training.resume_from_checkpoint=latest")
    assert_same_outcome(cut, whole)


def test_a_killed_run_repeats_itself_to_the_bit(places, tmp_path):
    """SIGKILL somewhere after the second checkpoint; LoRA, heads and balance go on as they were."""
    told = words(places, "sd", "lora")
    killed = tmp_path / "killed"
    command = ["train", places / "config.yaml", f"training.output_dir={killed}", *told]
    child = subprocess.Popen(
        [sys.executable, "-m", "sparring", *map(str, command), "training.max_train_steps=9999"],
        stderr=subprocess.DEVNULL,
    )
    while not (killed / "checkpoints/checkpoint-4").exists():
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (killed / "training.json").exists()
    last = checkpoint_step(latest_checkpoint(killed))
    told.append(f"training.max_train_steps={last + 2}")
    train(places, killed, *told, "training.resume_from_checkpoint=latest")
    assert_same_outcome(killed, train(places, tmp_path / "whole", *told))


def test_rollouts_are_told_what_sampling_is_and_the_denoising_loss_the_truth(
    places, tmp_path, monkeypatch
):
    """XL's sizes: of the image as it was for the loss, of the image to be made for the rollout."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        Image.new("RGB", (SIDE + 3, SIDE)).save(photos / f"{i}.png")
        (photos / f"{i}.txt").write_text("grey")
    forward, told = UNet2DConditionModel.forward, {True: [], False: []}

    @functools.wraps(forward)
    def watched(*args, added_cond_kwargs, **kwargs):
        sizes = added_cond_kwargs["time_ids"].long()
        assert len(set(map(tuple, sizes.tolist()))) == 1
        told[torch.is_grad_enabled()].append(tuple(sizes[0].tolist()))
        return forward(*args, added_cond_kwargs=added_cond_kwargs, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", watched)
    train(
        places, tmp_path / "run", *words(places, "sdxl"), f"data.train_data_dir={photos}",
        f"data.resolution={SIDE}", "data.random_flip=false", "objective.start=noise",
    )  # fmt: skip
    truth, made = (SIDE, SIDE + 3, 0, 1, SIDE, SIDE), (SIDE, SIDE, 0, 0, SIDE, SIDE)
    # four steps; guidance calls the network twice, for each of four calls and of two trained ones
    assert told[False] == [made] * 4 * 8
    assert told[True] == [truth, *[made] * 4] * 4


@pytest.mark.parametrize("real", ["image", "reconstruction"])
def test_the_discriminator_sees_images_not_latents(places, tmp_path, monkeypatch, real):
    """Real ones as they were read, mirrored or not, or what the decoder makes of their latents."""
    seen: list[Any] = []
    show = ImageEye.real

    def watched(eye, x0, image):
        seen.append((eye, x0, image, show(eye, x0, image)))
        return seen[-1][-1]

    monkeypatch.setattr(ImageEye, "real", watched)
    choice = f"objective.discriminator.real={real}"
    train(places, tmp_path / "run", *words(places), choice, "training.max_train_steps=2")
    photos = [np.asarray(Image.open(places / f"photos/{i}.png")) for i in range(len(CAPTIONS))]
    known = torch.tensor(np.stack(photos)).movedim(-1, 1).float() / 127.5 - 1
    known = torch.cat([known, known.flip(-1)])
    n_mirrored = 0
    for eye, x0, image, shown in seen:
        assert x0.shape == (3, 4, SIDE // 2, SIDE // 2)
        distance = (image[:, None] - known).abs().amax((2, 3, 4))
        assert float(distance.amin(1).max()) < 1e-6
        n_mirrored += int((distance.argmin(1) >= len(CAPTIONS)).sum())
        if real == "image":
            assert shown is image
        else:
            torch.testing.assert_close(shown, decode(eye.vae, x0))
    assert 0 < n_mirrored < 3 * len(seen)


def test_the_cache_changes_nothing(places, tuned, tmp_path):
    whole, *_ = tuned("sd", "full")
    plain = train(places, tmp_path / "run", *words(places), "data.latents_cache=null")
    assert_same_outcome(plain, whole)


@pytest.mark.parametrize("kind", ["sd", pytest.param("sdxl", marks=pytest.mark.slow), "sd3"])
def test_in_latent_space_with_all_that_saves_memory(places, tmp_path, monkeypatch, kind):
    """What does not learn is held in bfloat16, and so is the eye: the model before it learned."""
    players = watched_players(monkeypatch)
    train(
        places, tmp_path / "run", *words(places, kind, "lora"), DENOISER,
        "training.mixed_precision=bf16", "training.gradient_checkpointing=true",
    )  # fmt: skip
    model, rival = players
    assert isinstance(rival.eye, LatentEye)
    base = load(places / kind).denoiser.network.bfloat16()
    same(*(dict(one.named_parameters()) for one in (rival.eye.denoiser.network, base)))
    learned = lora_weights(model.denoiser.network)
    assert all(value.dtype == torch.float32 for value in learned.values())
    assert untouched(model.denoiser.network) == []
    ours, before = (load(one) for one in (tmp_path / "run", places / kind))
    assert not torch.allclose(
        one_call(ours.denoiser.network, ours), one_call(before.denoiser.network, before)
    )


D = "objective.discriminator."


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([D + "features=./nowhere"], "nowhere cannot be loaded: "),
        ([D + "features={places}/sd/text_encoder"], "is a clip_text_model: name a DINOv2"),
        ([D + "features=labels"], "learns from labels, and image_folder has none"),
        ([D + "blocks=[9]"], "objective.discriminator.blocks must be of 0 to 5, got [9]"),
        ([D + "blocks=[9]", DENOISER], "blocks must be of 0 to 2, got [9]"),
        ([D + "side=13"], "objective.discriminator.side must be >= 14"),
        (["data.resolution=12"], "patches of 14 pixels, and the images are 12x12"),
        ([D + "widht=1"], "unknown key 'objective.discriminator.widht' - did you mean 'width'?"),
        (["objective.scheduler=pndm"], "cannot begin in the middle of its path: take ddim"),
        (["objective.scheduler=flow_euler"], "does not go with this model's vp schedule"),
        (["objective.num_inference_steps=2000"], "must lie in [1, 1000], got 2000"),
        (
            ["objective.real_pair=other", "training.train_batch_size=1"],
            "set training.train_batch_size to 2 or more",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(places, tmp_path, told, message):
    told = [one.format(places=places) for one in told]
    folder = f"training.output_dir={tmp_path / 'run'}"
    answer = run("train", places / "config.yaml", folder, *words(places), *told)
    assert answer.exit_code == 2, answer.output
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_sampler_that_is_not_linear_is_one_line(places, tmp_path, monkeypatch):
    from sparring.assembly import build

    def clipping(*args: Any) -> Any:
        return DDIMScheduler(clip_sample=True)

    monkeypatch.setattr(build, "make_scheduler", clipping)
    folder = f"training.output_dir={tmp_path / 'run'}"
    told = [*words(places), "objective.scheduler=DDIMScheduler"]
    answer = run("train", places / "config.yaml", folder, *told)
    assert answer.exit_code == 2, answer.output
    assert "its steps are not linear" in answer.stderr
