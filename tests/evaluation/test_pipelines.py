"""`sparring evaluate` on pipelines that diffusers wrote: its figures are those of their images."""

import json

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    LDMPipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    UNet2DModel,
    VQModel,
)
from measuring import evaluate
from PIL import Image

from sparring.commands.evaluate import figures as command
from sparring.commands.evaluate.figures import as_text, evaluate_command
from sparring.data.datasets import build_dataset
from sparring.diffusion.randomness import generator
from sparring.evaluation.protocol import differences
from sparring.evaluation.store.reference import Reference, Settings
from sparring.models.pretrained import load
from sparring.sampling.schedulers import make_scheduler
from sparring.sampling.settings import Sampling
from sparring.support.errors import UserError
from text_to_image import (
    CAPTIONS,
    SIDE,
    autoencoder,
    captioned_folder,
    quiet,
    run,
    stable_diffusion,
    t5_encoder,
    t5_tokenizer,
)

POOLED = "import torch\n\ndef pooled():\n    return torch.nn.Sequential(\n" + (
    "        torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())\n"
)
"""Code of an extractor with few features: a Frechet distance of 768 takes seconds."""


def unet(n_channels, side):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=side, in_channels=n_channels, out_channels=n_channels,
        block_out_channels=(8, 8), layers_per_block=1, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, norm_num_groups=4, attention_head_dim=8,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A grey and an RGB DDPM, latent models of one and of the other kind, images with captions."""
    root = tmp_path_factory.mktemp("pipelines")
    (root / "pooled.py").write_text(POOLED)
    DDPMPipeline(unet(1, 8), DDPMScheduler()).save_pretrained(root / "grey")
    DDPMPipeline(unet(3, SIDE), DDPMScheduler()).save_pretrained(root / "rgb")
    stable_diffusion(root)
    torch.manual_seed(1)
    vq = VQModel(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=3,
        num_vq_embeddings=16, sample_size=SIDE,
    )  # fmt: skip
    LDMPipeline(vqvae=vq, unet=unet(3, SIDE // 2), scheduler=DDIMScheduler()).save_pretrained(
        root / "ldm"
    )
    folder = captioned_folder(root / "photos")
    lines = []
    for i in range(12):  # two of each, so that every figure has enough
        image = Image.open(folder / f"{i % 6}.png").rotate(90 * (i // 6))
        image.save(folder / f"{i:02}.png")
        lines.append(json.dumps({"file_name": f"{i:02}.png", "text": CAPTIONS[i // 2]}))
    for i in range(6):
        (folder / f"{i}.png").unlink()
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return root


def quick(places):
    words = ["n_resamples=2", "k=2", f"extractor={extractor(places)}"]
    return ["sampling.num_inference_steps=3", *(f"evaluation.{word}" for word in words)]


def extractor(places):
    return f"{places / 'pooled.py'}:pooled"


def settings(places):
    return Settings(extractor(places), n_resamples=2, k=2)


def photos(places, *fields):
    where = f"data.train_data_dir={places / 'photos'}"
    return ["data.name=image_folder", where, *fields, *quick(places)]


def pipeline(folder, name, clip_sample):
    """The pipeline with the sampler that sparring builds, and no progress bar."""
    pipe, model = quiet(DiffusionPipeline.from_pretrained(folder)), load(folder)
    pipe.scheduler = make_scheduler(
        Sampling(name, clip_sample=clip_sample), model.scheduler_config, "eps"
    )
    return pipe


def noises(n):
    return [generator("cpu", 0, "sample", i) for i in range(n)]


def assert_same_figures(found, images, reference, rel=1e-4, abs=1e-6):
    """Figures are those of a pipeline's images (N, C, H, W) in [0, 1]."""
    expected = evaluate(2 * images - 1, reference)
    numbers = {name for name, value in expected.items() if isinstance(value, float)}
    assert {"frechet_distance", "kernel_distance", "precision"} <= numbers
    for name in numbers:
        assert found[name] == pytest.approx(expected[name], rel=rel, abs=abs), name


def test_a_grey_ddpm_is_measured_as_its_pipeline_draws(places):
    told = ["data.name=digits", "evaluation.n_samples=12", *quick(places)]
    found = evaluate_command([str(places / "grey")], [*told, "sampling.scheduler=ddpm"])
    pipe = pipeline(places / "grey", "ddpm", clip_sample=True)
    images = pipe(12, noises(12), num_inference_steps=3, output_type="pt").images
    reference = Reference(build_dataset("digits", "all"), settings(places))
    assert_same_figures(found, images, reference)
    assert found["protocol"]["read_as"] == "8x8, 1 channel"


def test_an_rgb_ddpm_against_an_rgb_folder_of_another_size(places, tmp_path):
    large = tmp_path / "large"
    large.mkdir()
    for path in (places / "photos").glob("*.png"):
        Image.open(path).resize((40, 30)).save(large / path.name)
    told = ["data.name=image_folder", f"data.train_data_dir={large}", *quick(places)]
    with pytest.raises(UserError, match=r"\(3, 16, 16\) but image_folder has \(3, 30, 40\): .*"
                                        r"data\.resolution=16, or"):  # fmt: skip
        evaluate_command([str(places / "rgb")], told)
    found = evaluate_command([str(places / "rgb")], [*told, "data.resolution=16"])
    pipe = pipeline(places / "rgb", "ddpm", clip_sample=True)
    pipe.scheduler = make_scheduler(
        Sampling("ddim", clip_sample=True), pipe.scheduler.config, "eps"
    )
    x, generators = torch.stack([torch.randn(3, SIDE, SIDE, generator=g) for g in noises(12)]), None
    pipe.scheduler.set_timesteps(3)
    for t in pipe.scheduler.timesteps:  # DDPMPipeline does not pass on use_clipped_model_output
        with torch.no_grad():
            eps = pipe.unet(x, t).sample
        x = pipe.scheduler.step(
            eps, t, x, use_clipped_model_output=True, generator=generators
        ).prev_sample
    data = build_dataset("image_folder", "all", train_data_dir=str(large), resolution=16)
    reference = Reference(data, settings(places))
    assert_same_figures(found, (x / 2 + 0.5).clamp(0, 1), reference)
    read_as = "16x16, 3 channels, shorter side resized to 16, cropped to the middle"
    assert found["protocol"]["read_as"] == read_as


@pytest.fixture
def reference(places):
    data = build_dataset("image_folder", "all", train_data_dir=str(places / "photos"))
    return Reference(data, settings(places))


def test_stable_diffusion_with_prompts_from_the_command_line(places, reference):
    prompts = ["a red square", "grey"]
    told = ["sampling.guidance_scale=3", f"sampling.prompts={json.dumps(prompts)}"]
    told.append("sampling.batch_size=5")  # the second part begins with the second prompt
    found = evaluate_command([str(places / "sd")], photos(places, *told))
    pipe = pipeline(places / "sd", "ddim", clip_sample=False)
    images = pipe(
        6 * prompts, num_inference_steps=3, guidance_scale=3.0, generator=noises(12),
        output_type="pt",
    ).images  # fmt: skip
    assert_same_figures(found, images, reference)
    assert found["protocol"]["prompts"] == prompts
    assert "guidance 3, prompts: 2 in turn, against 12 of image_folder" in as_text(found)


def test_stable_diffusion_with_the_references_captions(places, reference):
    found = evaluate_command([str(places / "sd")], photos(places))
    prompts = reference.captions
    assert sorted(prompts) == sorted(2 * CAPTIONS)
    pipe = pipeline(places / "sd", "ddim", clip_sample=False)
    images = pipe(
        prompts, num_inference_steps=3, guidance_scale=1.0, generator=noises(12), output_type="pt"
    ).images
    assert_same_figures(found, images, reference)
    assert found["protocol"]["prompts"] == "as in the reference"


def test_fewer_samples_show_captions_from_all_of_it(places, reference, monkeypatch):
    seen, draw = [], command.sample

    def spy(model, rows, sampling, **words):
        seen.append(sampling.prompts[: len(rows)])
        return draw(model, rows, sampling, **words)

    monkeypatch.setattr(command, "sample", spy)
    evaluate_command([str(places / "sd")], photos(places, "evaluation.n_samples=6"))
    assert seen == [reference.captions[:6]]
    last = {"grey", "a dark red field", "white"}  # the folder is sorted by caption
    assert last & set(seen[0])


def test_latents_of_a_vq_model_are_decoded(places, reference):
    found = evaluate_command([str(places / "ldm")], photos(places, "sampling.scheduler=ddim"))
    pipe = pipeline(places / "ldm", "ddim", clip_sample=False)
    images = pipe(12, noises(12), num_inference_steps=3, output_type="np").images
    # rounding may take a value to the next code of the book
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert_same_figures(found, images, reference, rel=0.05, abs=1e-3)
    assert found["frechet_distance"] > 2 * found["frechet_distance_of_reference"]


def test_one_command_line(places, tmp_path):
    told = run("evaluate", places / "sd", *photos(places), "-o", tmp_path, "--json")
    assert told.exit_code == 0, told.output
    (grid,) = tmp_path.glob("*-grid.png")
    assert Image.open(grid).mode == "RGB"


@pytest.mark.parametrize(
    ("model", "told", "message"),
    [
        ("rgb", ["data.name=digits"], r"\(1, 8, 8\): .* data\.resolution=16 data\.n_channels=3,"),
        ("sd", ["data.name=digits"], r"sd makes samples of shape \(3, 16, 16\) but digits"),
        ("rgb", ["data.name=plane"], "name the model's own data"),
        ("rgb", ["photos", "sampling.prompts=[grey]"], "prompts need a text-to-image model"),
        ("rgb", ["photos", "sampling.guidance_scale=2"], "guidance_scale needs a condition"),
    ],
)
def test_wrong_references_and_words_are_refused(places, model, told, message, monkeypatch):
    told = photos(places, *told[1:]) if told[0] == "photos" else [*told, *quick(places)]
    with pytest.raises(UserError, match=message) as error:
        evaluate_command([str(places / model)], told)
    assert "\n" not in str(error.value)


def test_pipelines_that_cannot_be_sampled_rightly_are_refused(places, tmp_path):
    pieces = t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2,
        caption_channels=32, cross_attention_dim=16,
    )  # fmt: skip
    PixArtAlphaPipeline(
        tokenizer=pieces, text_encoder=t5_encoder(pieces, 32), vae=autoencoder(),
        transformer=transformer, scheduler=DDPMScheduler(),
    ).save_pretrained(tmp_path / "pixart")  # fmt: skip
    with pytest.raises(UserError, match="is a PixArtAlphaPipeline, whose prompts"):
        evaluate_command([str(tmp_path / "pixart")], photos(places))
    DDPMPipeline(unet(1, 8), DDPMScheduler()).save_pretrained(tmp_path / "half", variant="fp16")
    with pytest.raises(UserError, match=r"half/unet holds the variant fp16 only"):
        evaluate_command([str(tmp_path / "half")], ["data.name=digits"])


def test_figures_for_other_prompts_do_not_compare():
    protocol = {"prompts": ["grey"]}
    assert differences(protocol, {"prompts": ["white"]}) == ["prompts: ['grey'] and ['white']"]
    assert differences(protocol, {"prompts": ["white"]}, sampling=False) == []
