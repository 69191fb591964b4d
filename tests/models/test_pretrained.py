"""What is saved loads again, in sparring and in plain diffusers, and samples the same."""

import json
import os
import sys

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline, DiTTransformer2DModel, UNet2DModel
from safetensors.torch import load_file, save_file, save_model
from torch import nn

import sparring
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import generator
from sparring.diffusion.schedules import kind_from_config, schedule_from_config
from sparring.models.card import model_card, usage
from sparring.models.description import describe
from sparring.models.folder import describe_run
from sparring.models.networks import MLP
from sparring.models.pretrained import Model, load, save
from sparring.sampling.sample import sample
from sparring.support.errors import UserError
from support import CLOSE

DDPM = {"_class_name": "DDPMScheduler", "clip_sample": True}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.0}
EDM = {"_class_name": "EDMEulerScheduler", "sigma_data": 0.6}


def unet(seed=0, **words):
    torch.manual_seed(seed)
    words = {"sample_size": 8, "in_channels": 1, "out_channels": 1, **words}
    return UNet2DModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"), **words,
    )  # fmt: skip


def denoiser_of(network, config, **words):
    return Denoiser(network, schedule_from_config(config), kind_from_config(config), **words)


def noise_generators(n, seed=0):
    return [generator("cpu", seed, "sample", i) for i in range(n)]


def saved(folder, denoiser, config, shape=(1, 8, 8), num_classes=None):
    save(folder, Model(denoiser, config, shape, num_classes), "card")
    return load(folder)


@pytest.mark.parametrize(
    ("config", "pipeline", "name"),
    [
        (DDPM, "DDPMPipeline", "ddpm"),
        ({**DDPM, "prediction_type": "v_prediction"}, "DDPMPipeline", "ddpm"),
        ({**DDPM, "prediction_type": "sample"}, "DDPMPipeline", "ddpm"),
        ({"_class_name": "DDIMScheduler"}, "DDIMPipeline", "ddim"),
        (FLOW, "DDPMPipeline", "flow_euler"),
    ],
)
def test_plain_diffusers_samples_the_same(tmp_path, config, pipeline, name):
    model = saved(tmp_path, denoiser_of(unet(), config), config)
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipe).__name__ == pipeline
    pipe.set_progress_bar_config(disable=True)
    words = {"use_clipped_model_output": True} if name == "ddim" else {}  # not their default
    words |= {"generator": noise_generators(3), "num_inference_steps": 5, "output_type": "pt"}
    theirs = pipe(3, **words).images
    ours = sample(model, 3, scheduler=name, num_inference_steps=5)
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, **CLOSE)


def test_class_conditional_pipeline_is_saved_with_the_model(tmp_path):
    """diffusers runs code from a folder with trust_remote_code=True only."""
    config = {**DDPM, "prediction_type": "v_prediction"}
    denoiser = denoiser_of(
        unet(num_class_embeds=4), config, null_condition={"class_labels": torch.tensor([3])}
    )
    model = saved(tmp_path, denoiser, config, num_classes=3)
    assert (model.num_classes, model.denoiser.null_condition) == (3, {"class_labels": 3})
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(tmp_path)
    pipe = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    for guidance in (1.0, 3.0):
        theirs = pipe(
            class_labels=[2, 0, 1], guidance_scale=guidance, num_inference_steps=5,
            generator=noise_generators(3), output_type="pt",
        ).images  # fmt: skip
        ours = sample(
            model, 3, scheduler="ddpm", num_inference_steps=5, guidance_scale=guidance,
            class_labels=torch.tensor([2, 0, 1]),
        )  # fmt: skip
        torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, **CLOSE)
    assert len(pipe(batch_size=2, num_inference_steps=2).images) == 2


@pytest.mark.parametrize("config", [EDM, DDPM])
def test_edm_and_learned_variance_sample_the_same_in_a_pipeline(tmp_path, config):
    learned = config is DDPM
    config = {**config, "variance_type": "learned_range"} if learned else config
    network = unet(out_channels=2 if learned else 1)
    model = saved(tmp_path, denoiser_of(network, config, learned_variance=learned), config)
    pipe = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    arguments = {"generator": noise_generators(2), "num_inference_steps": 5, "output_type": "pt"}
    theirs = pipe(2, **arguments).images
    ours = sample(model, 2, scheduler="ddpm" if learned else "euler_edm", num_inference_steps=5)
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, **CLOSE)


def test_transformer_pipeline(tmp_path):
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, out_channels=1, num_layers=1,
        sample_size=8, num_embeds_ada_norm=5, norm_num_groups=1,
    ).eval()  # fmt: skip
    denoiser = denoiser_of(network, DDPM, null_condition={"class_labels": 5})
    model = saved(tmp_path, denoiser, DDPM, num_classes=5)
    pipe = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        class_labels=[4, 1], guidance_scale=2.0, generator=noise_generators(2),
        num_inference_steps=4, output_type="pt",
    ).images  # fmt: skip
    ours = sample(
        model, 2, scheduler="ddpm", num_inference_steps=4, guidance_scale=2.0,
        class_labels=torch.tensor([4, 1]),
    )  # fmt: skip
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, **CLOSE)


def test_foreign_pipelines_load(tmp_path):
    """Saved by diffusers itself: unconditional, class-conditional, and DiT with its VAE."""
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMPipeline, DDPMScheduler, DiTPipeline

    DDPMPipeline(unet(), DDPMScheduler(prediction_type="sample", beta_end=0.03)).save_pretrained(
        tmp_path / "ddpm"
    )
    model = load(tmp_path / "ddpm")
    assert (model.denoiser.kind, model.sample_shape, model.num_classes) == ("x0", (1, 8, 8), None)
    torch.testing.assert_close(
        model.denoiser.schedule.alphas_cumprod.float(), DDPMScheduler(beta_end=0.03).alphas_cumprod
    )
    torch.manual_seed(0)
    dit = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1,
        sample_size=4, num_embeds_ada_norm=3, norm_num_groups=1,
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    DiTPipeline(dit, vae, DDIMScheduler()).save_pretrained(tmp_path / "dit")
    model = load(tmp_path / "dit")
    assert model.denoiser.learned_variance
    assert model.denoiser.null_condition == {"class_labels": 3}
    assert (model.sample_shape, model.num_classes) == ((4, 4, 4), 3)
    assert isinstance(model.vae, AutoencoderKL)
    assert sample(model, 2, num_inference_steps=2).shape == (2, 4, 4, 4)


class Shift(nn.Module):
    """A user's own network, defined in a file of theirs."""

    def __init__(self, dim, bias=0.5):
        super().__init__()
        self.config = {"dim": dim, "bias": bias}
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), bias

    def forward(self, x, t):
        return x * self.weight + self.bias


@pytest.mark.parametrize(
    "network", [MLP(3, width=16, n_blocks=1), MLP(3, width=16, num_classes=5), Shift(3, bias=0.25)]
)
def test_other_networks_load_with_the_same_outputs(tmp_path, network):
    n = network.config.get("num_classes")
    null = None if n is None else {"class_labels": n - 1}
    before = denoiser_of(network, FLOW, null_condition=null)
    after = saved(tmp_path, before, FLOW, (3,), None if n is None else n - 1)
    assert after.sample_shape == (3,)
    x, t = torch.randn(4, 3), torch.tensor([1.0, 250.0, 500.0, 999.0])
    labels = {} if n is None else {"class_labels": torch.tensor([0, 1, 2, 3])}
    torch.testing.assert_close(before(x, t, **labels).x0, after.denoiser(x, t, **labels).x0)
    assert after.denoiser.schedule.shift == 2.0
    assert not (tmp_path / "model_index.json").exists()


def test_a_network_that_hides_its_arguments_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match="attribute `config`"):
        describe(Model(denoiser_of(nn.Linear(3, 3), FLOW), FLOW, (3,), None))


def test_an_unfinished_run_gives_its_newest_average(tmp_path):
    denoiser = denoiser_of(MLP(2, width=8), DDPM)
    describe_run(tmp_path, describe(Model(denoiser, DDPM, (2,), None)))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"objective": {"name": "detail"}}))
    with pytest.raises(UserError, match="without a finished model or a checkpoint"):
        load(tmp_path)
    for step, value in ((90, 0.1), (100, 0.2)):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir()
        save_model(denoiser.network, str(folder / "model.safetensors"))
        average = {k: torch.full_like(v, value) for k, v in denoiser.network.named_parameters()}
        save_file(average, folder / "ema.safetensors")
    (tmp_path / "checkpoints" / ".half-checkpoint-200").mkdir()
    model = load(tmp_path)
    assert "unfinished, checkpoint-100" in model.source
    assert all((p == 0.2).all() for p in model.denoiser.network.parameters())
    assert model.run_config == {"objective": {"name": "detail"}}


def test_saving_over_a_model_leaves_only_the_new_one(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    saved(tmp_path, denoiser_of(unet(num_class_embeds=3), DDPM), DDPM, num_classes=3)
    assert (tmp_path / "sparring_pipeline.py").exists()
    model = saved(tmp_path, denoiser_of(MLP(2, width=8), DDPM), DDPM, (2,))
    assert isinstance(model.denoiser.network, MLP)
    assert not (tmp_path / "model_index.json").exists()
    assert not (tmp_path / "unet").exists()
    assert (tmp_path / "config.yaml").exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".half")]


def test_a_killed_save_leaves_no_half_model(tmp_path, monkeypatch):
    """Stopped at every rename in turn: the folder is a whole model, or says that it is none."""
    first, second = (denoiser_of(unet(seed), DDPM) for seed in (0, 1))
    replace, n_done = os.replace, [0]

    def killed(a, b):
        if n_done[0] == 0:
            raise KeyboardInterrupt
        n_done[0] -= 1
        replace(a, b)

    for n_renames in range(6):
        folder = tmp_path / str(n_renames)
        save(folder, Model(first, DDPM, (1, 8, 8), None), "card")
        with monkeypatch.context() as patch:
            n_done[0] = n_renames
            patch.setattr(os, "replace", killed)
            try:
                save(folder, Model(second, DDPM, (1, 8, 8), None), "card")
                assert n_renames == 5  # unet, scheduler, README, and the two that make it a model
            except KeyboardInterrupt:
                pass
        # without model.json the folder reads as a plain pipeline; without both as none
        if (folder / "model_index.json").exists():
            weights = load(folder).denoiser.network.state_dict()
            assert all(torch.equal(weights[k], v) for k, v in second.network.state_dict().items())
        else:
            with pytest.raises(UserError):
                load(folder)


def test_the_saved_scheduler_says_everything(tmp_path):
    """Betas of a class with other defaults; what only sampling reads is as `sample` has it."""
    config = {"_class_name": "HeunDiscreteScheduler", "timestep_spacing": "leading"}
    denoiser = denoiser_of(unet(), config)
    model = saved(tmp_path, denoiser, config)
    assert model.scheduler_config["beta_end"] == 0.02  # what it was trained with; Heun's is 0.012
    assert model.scheduler_config["timestep_spacing"] == "trailing"
    torch.testing.assert_close(
        model.denoiser.schedule.alphas_cumprod, denoiser.schedule.alphas_cumprod, rtol=1e-6, atol=0
    )
    model = saved(tmp_path, denoiser_of(unet(), DDPM), DDPM)
    assert model.scheduler_config["timestep_spacing"] == "trailing"


def test_errors_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # no hub
    monkeypatch.setattr("sparring.models.pretrained.getproxies", dict)
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("{}")
    save(tmp_path / "cut", Model(denoiser_of(MLP(2, width=8), DDPM), DDPM, (2,), None), "card")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    save(tmp_path / "bin", Model(denoiser_of(unet(), DDPM), DDPM, (1, 8, 8), None), "card")
    save(tmp_path / "old", Model(denoiser_of(MLP(2, width=8), DDPM), DDPM, (2,), None), "card")
    says = tmp_path / "old" / "model.json"
    says.write_text(says.read_text().replace('"boundary"', '"something_else"'))
    for file in (tmp_path / "bin" / "unet").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    for name, message in {
        str(tmp_path / "absent"): "no such folder",
        "runs/absent": "there is no such folder$",
        "somebody/something": "no such folder, and the hub cannot be reached",
        str(tmp_path / "empty"): "holds no model",
        str(tmp_path / "run"): "without a finished model",
        str(tmp_path / "cut"): "cannot be loaded",
        str(tmp_path / "old"): "its files do not say 'boundary'",
        str(tmp_path / "bin"): "no safetensors",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            load(name)
        assert "\n" not in str(caught.value)


def test_code_in_a_models_folder_is_not_run(tmp_path):
    denoiser = denoiser_of(unet(num_class_embeds=3), DDPM)
    save(tmp_path, Model(denoiser, DDPM, (1, 8, 8), 3), "card")
    (tmp_path / "sparring_pipeline.py").write_text("import sys; sys.ran_foreign_code = True")
    load(tmp_path)
    assert not hasattr(sys, "ran_foreign_code")


def test_card_escapes_what_the_user_wrote(tmp_path):
    evil = "<script>alert(1)</script> | `x` [a](javascript:b)\n# heading"
    run = {"objective": {"name": evil, "lam": 3}, "data": {"name": "image_folder", "dir": evil}}
    description = describe(Model(denoiser_of(unet(), DDPM), DDPM, (1, 8, 8), None))
    card = model_card(
        evil, description, run=run, command=f"sparring train '```\n{evil}'",
        versions={"torch": "2", evil: "3"},
    )  # fmt: skip
    front, body = card.split("\n---\n", 1)
    assert yaml.safe_load(front.removeprefix("---\n"))["library_name"] == "diffusers"
    assert yaml.safe_load(front.removeprefix("---\n"))["tags"][-1] == evil
    text, in_code = "", None
    for line in body.splitlines():
        fence = line[: len(line) - len(line.lstrip("`"))]
        if in_code is None and len(fence) >= 3:
            in_code = fence
        elif in_code is not None and line == in_code:
            in_code = None
        elif in_code is None:
            text += line + "\n"
    assert in_code is None
    assert "<script" not in text
    assert "[a](" not in text
    assert "\n# heading" not in text
    table = [line for line in text.splitlines() if line.startswith("| Objective")]
    assert table[0].replace("\\|", "").count("|") == 3
    compile(usage(description, "it's"), "usage", "exec")


def test_model_json_is_readable(tmp_path):
    denoiser = denoiser_of(unet(), FLOW)
    save(tmp_path, Model(denoiser, FLOW, (1, 8, 8), None), "card")
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["sparring"] == sparring.__version__
    assert description["kind"] == "flow"
    assert (tmp_path / "README.md").read_text() == "card"


@pytest.mark.parametrize("lost", ["a tensor", "a number", "an argument"])
def test_a_save_that_loses_something_is_no_model(tmp_path, monkeypatch, lost):
    """Files are read back, and what diffusers builds of the config has these tensors."""
    denoiser = denoiser_of(unet(), DDPM)
    network, whole = denoiser.network, type(denoiser.network).save_pretrained
    if lost == "an argument":
        network.register_to_config(layers_per_block=2)

    def spoilt(self, folder, **words):
        whole(self, folder, **words)
        (file,) = folder.glob("*.safetensors")
        tensors = load_file(file)
        if lost == "a tensor":
            del tensors["conv_in.weight"]
        if lost == "a number":
            tensors["conv_in.weight"].view(-1)[3] = 0
        save_file(tensors, file)

    monkeypatch.setattr(type(network), "save_pretrained", spoilt)
    with pytest.raises(UserError, match="could not be saved"):
        save(tmp_path, Model(denoiser, DDPM, (1, 8, 8), None), "card")
    assert not list(tmp_path.iterdir())


def test_a_null_condition_that_is_no_whole_number_is_kept(tmp_path):
    denoiser = denoiser_of(MLP(3, width=16, num_classes=5), FLOW)
    denoiser.null_condition = {"class_labels": torch.tensor(4), "strength": torch.tensor([0.25])}
    model = saved(tmp_path, denoiser, FLOW, (3,), 4)
    assert model.denoiser.null_condition == {"class_labels": 4, "strength": 0.25}
