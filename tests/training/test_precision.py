"""`mixed_precision: auto`, forced both ways: what a run computes in, and keeps when it goes on."""

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from tiny_runs import Points, assert_same, make_objective, metrics, outcome, run, tiny_settings
from torch import nn

from sparring.diffusion import denoiser as denoiser_module
from sparring.diffusion.denoiser import Denoiser
from sparring.models.model import Model
from sparring.models.pretrained import load, save
from sparring.training import precision
from sparring.training.run_folder import open_run

IMAGE = (1, 16, 16)


class Pictures(Points):
    """Seeded images of 16x16 pixels."""

    name, is_image, sample_shape = "pictures", True, IMAGE

    def __init__(self, n: int = 40) -> None:
        self.points = torch.rand(n, *IMAGE, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Seen(nn.Module):
    """A convolution that notes the dtype of what it answers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.dtypes = nn.Conv2d(1, 1, 3, padding=1), set[torch.dtype]()

    def forward(self, x, t):
        out = self.layer(x)
        self.dtypes.add(out.dtype)
        return out


@pytest.fixture
def machine(monkeypatch):
    """Makes this a machine that multiplies bf16, or one that does not."""

    def make(multiplies: bool) -> None:
        for module in (precision, denoiser_module):
            monkeypatch.setattr(module, "multiplies", lambda dtype, device: multiplies)

    return make


@pytest.mark.parametrize(
    ("multiplies", "shape", "expected"),
    [
        (True, IMAGE, "bf16"),
        (True, (3, 64, 48), "bf16"),
        (False, IMAGE, "no"),
        (True, (1, 8, 8), "no"),  # next to nothing is gained
        (True, (2,), "no"),  # a vector
    ],
)
def test_auto_is_what_the_machine_multiplies(machine, tmp_path, multiplies, shape, expected):
    machine(multiplies)
    with open_run(tmp_path / "run") as folder:
        settled = precision.settled(tiny_settings(mixed_precision="auto"), folder, shape)
    assert settled.mixed_precision == expected


@pytest.mark.parametrize("chosen", ["no", "bf16"])
def test_a_precision_that_is_named_stays(machine, tmp_path, chosen):
    machine(chosen == "no")
    with open_run(tmp_path / "run") as folder:
        settled = precision.settled(tiny_settings(mixed_precision=chosen), folder, IMAGE)
    assert settled.mixed_precision == chosen


@pytest.mark.parametrize("began_with_bf16", [True, False])
def test_a_run_goes_on_as_it_began_on_a_machine_of_the_other_kind(
    machine, vp, tmp_path, capsys, began_with_bf16
):
    def go(name: str, **words: object) -> Seen:
        network = Seen()
        run(tmp_path / name, make_objective(), data=Pictures(), denoiser=Denoiser(network, vp),
            checkpointing_steps=4, mixed_precision="auto", **words)  # fmt: skip
        return network

    machine(began_with_bf16)
    go("whole", max_train_steps=8)
    go("cut", max_train_steps=4)
    said = capsys.readouterr().err
    assert ("training.mixed_precision is bf16" in said) == began_with_bf16
    machine(not began_with_bf16)
    network = go("cut", max_train_steps=8, resume_from_checkpoint="latest")
    assert network.dtypes == {torch.bfloat16 if began_with_bf16 else torch.float32}
    whole, cut = outcome(tmp_path / "whole"), outcome(tmp_path / "cut")
    assert metrics(tmp_path / "cut")[-1] == whole["metrics"][-1]
    assert_same({**whole, "metrics": []}, {**cut, "metrics": []})


def test_a_model_computes_as_it_was_trained_where_the_machine_can(machine, vp, tmp_path):
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    saved = Denoiser(network, vp, autocast=torch.bfloat16).eval()
    save(tmp_path / "model", Model.around(saved, IMAGE), card="")
    loaded = load(tmp_path / "model").denoiser
    assert loaded.autocast is torch.bfloat16
    x, t = torch.randn(2, *IMAGE), torch.tensor([10, 500])
    machine(True)
    with torch.autocast("cpu", torch.bfloat16):
        short = network(x, t).sample
    assert short.dtype == torch.bfloat16
    torch.testing.assert_close(loaded.output(x, t), short.float())
    machine(False)
    torch.testing.assert_close(loaded.output(x, t), network(x, t).sample, rtol=1e-5, atol=1e-6)
    machine(True)  # known answers are asked for in float64
    torch.testing.assert_close(
        loaded.double().output(x.double(), t), network.double()(x.double(), t).sample
    )
