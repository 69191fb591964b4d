"""Latent consistency distillation from the command line; plain diffusers samples the result."""

import pytest
import torch
from diffusers import DiffusionPipeline, LCMScheduler

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.guidance import guidance_dim, with_guidance_embedding
from sparring.diffusion.randomness import generator
from sparring.models.lora import lora_weights
from sparring.models.pretrained import load
from sparring.sampling.sample import sample
from text_to_image import quiet, run, train, training_places

LORA = "model.lora={rank: 2, alpha: 4, target_modules: [to_q, to_v]}"
FULL = "model.lora=null"
LCM = "objective=latent_consistency_distillation"
FREE_AT = ["objective.n_passes=2", "objective.perturbed=target"]
GUIDANCE = 8.0


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return training_places(tmp_path_factory.mktemp("latent_consistency"))


@pytest.fixture(
    scope="module",
    params=[("sd", FULL), ("sd", LORA), ("sdxl", FULL), ("sdxl", LORA)],
    ids=["sd", "sd-lora", "sdxl", "sdxl-lora"],
)
def distilled(request, places):
    """(base, learnt, the run's folder): one of them adversarial on the target."""
    base, learnt = request.param
    name = f"{base}-{'lora' if learnt == LORA else 'full'}"
    more = FREE_AT if name == "sdxl-lora" else []
    path = f"model.pretrained_model_name_or_path={places / base}"
    dropout = "training.conditioning_dropout_prob=0"
    if not (places / name).exists():  # in a random order pytest asks more than once
        train(places, places / name, path, learnt, LCM, dropout, *more)
    return base, learnt, places / name


def pipeline(places, distilled):
    """What a user of diffusers writes."""
    base, learnt, folder = distilled
    if learnt == FULL:
        return quiet(DiffusionPipeline.from_pretrained(folder))
    pipe = quiet(DiffusionPipeline.from_pretrained(places / base))
    pipe.load_lora_weights(folder)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_diffusers_samples_it_as_we_do(places, distilled, n_steps):
    """The pipeline's latents are ours, from one to four steps, with the same noise."""
    _, learnt, _ = distilled
    pipe, model = pipeline(places, distilled), load(distilled[2])
    assert type(pipe.scheduler).__name__ == "LCMScheduler"
    guidance = GUIDANCE if learnt == FULL else 1.0  # a LoRA student has its guidance inside
    ours = sample(
        model, 1, scheduler="lcm", num_inference_steps=n_steps, prompts=["a red square"],
        guidance_scale=guidance, seed=3, scheduler_options={"timestep_spacing": "leading"},
    )  # fmt: skip
    own = generator("cpu", 3, "sample", 0)
    start = torch.randn(1, *model.sample_shape, generator=own)
    theirs = pipe(
        "a red square", num_inference_steps=n_steps, guidance_scale=guidance, latents=start,
        generator=own, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_student_listens_to_the_guidance_scale(distilled):
    _, learnt, folder = distilled
    network = load(folder).denoiser.network
    assert guidance_dim(network) == (256 if learnt == FULL else None)
    if learnt == FULL:
        learned = network.time_embedding.cond_proj.weight
        assert learned.abs().max() > 0  # nought at first: the student starts as its teacher
        return
    learned = [value for name, value in lora_weights(network).items() if "lora_B" in name]
    assert all(value.abs().max() > 0 for value in learned)


def test_a_student_starts_as_its_teacher(places):
    teacher = load(places / "sd").denoiser
    student = Denoiser(
        with_guidance_embedding(load(places / "sd").denoiser.network), teacher.schedule
    )
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    condition = {
        "encoder_hidden_states": torch.randn(2, 77, teacher.network.config["cross_attention_dim"])
    }
    with torch.no_grad():
        answer = student(x, t, **condition, timestep_cond=torch.randn(2, 256)).output
        torch.testing.assert_close(answer, teacher(x, t, **condition).output)


def test_the_default_sampler_is_lcms(distilled, tmp_path):
    folder = distilled[2]
    told = run(
        "sample", folder, "--prompt", "white", "--num-inference-steps", 2, "-o", tmp_path / "drawn"
    )
    assert told.exit_code == 0, told.output
    assert '"sampler": "lcm"' in (tmp_path / "drawn" / "sampling.json").read_text()


def test_a_resumed_distillation_repeats_itself_to_the_bit(places, tmp_path):
    dropout = "training.conditioning_dropout_prob=0"
    whole = train(places, tmp_path / "whole", LCM, dropout, LORA)
    cut = train(places, tmp_path / "cut", LCM, dropout, LORA, "training.max_train_steps=2")
    train(
        places, cut, LCM, dropout, LORA, "training.resume_from_checkpoint=latest",
    )  # fmt: skip
    one, other = (lora_weights(load(path).denoiser.network) for path in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([LORA, "objective.guidance_embedding=true"], "set it to false"),
        (["objective.teacher={root}/nothing"], "no model at"),
        (["objective.teacher={root}/sd-full"], "is a consistency model"),
        (["training.use_ema=false"], "set training.use_ema=true"),
    ],
)
def test_what_does_not_go_together_is_one_line(places, tmp_path, words, said):
    if "sd-full" in words[0] and not (places / "sd-full").is_dir():
        train(places, places / "sd-full", LCM, "training.conditioning_dropout_prob=0")
    told = run(
        "train", places / "config.yaml", LCM, f"training.output_dir={tmp_path / 'no'}",
        *(word.replace("{root}", str(places)) for word in words),
    )  # fmt: skip
    assert told.exit_code != 0
    assert said in told.output
    assert "Traceback" not in told.output
