"""Scores, losses, R1 and augmentation against what they must be; DINOv2 against transformers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.adversarial.augmentations import Look, augment, draw_looks
from sparring.adversarial.backbones import DinoBackbone, LabelBackbone, label_backbone, load_dino
from sparring.adversarial.discriminators import LOSSES, READINGS, Discriminator, Heads
from sparring.adversarial.eyes import ImageEye, LatentEye
from sparring.data.base import ModelRange
from sparring.data.dirt.contaminated import training_data
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import StepRandom
from sparring.diffusion.schedules import schedule_from_config
from sparring.support.errors import UserError
from support import SD, tiny_dino, tiny_unet


def maps(n: int, seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 6, 4, 4, generator=rng), torch.randn(n, 10, 2, 2, generator=rng)]


def heads(reading: str) -> Heads:
    torch.manual_seed(1)
    return Heads([6, 10], reading, 8)


@pytest.mark.parametrize("reading", ["patches", "pooled"])
def test_equal_images_are_as_alike_as_can_be(reading: str) -> None:
    """A cosine of 1 everywhere: s (1 - c), and less for any other pair."""
    net = heads(reading)
    u = maps(3, 0)
    most = float((net.log_scale.exp() * (1 - net.centre)).detach())
    same, _ = net(u, u)
    other, _ = net(u, maps(3, 1))
    torch.testing.assert_close(same, torch.full((3, 1), most))
    assert float(other.detach().max()) < most - 0.1
    torch.testing.assert_close(net(u, maps(3, 1))[0], net(maps(3, 1), u)[0])  # symmetric


def test_patches_compare_places_and_pooled_does_not() -> None:
    u = maps(2, 0)
    moved = [one.flip(-1) for one in u]
    for reading, changes in (("patches", True), ("pooled", False)):
        net = heads(reading)
        for head in net.heads:  # so that a head commutes with the flip
            nn.init.zeros_(head.around.weight)  # pyright: ignore
        difference = float((net(moved, u)[0] - net(u, u)[0]).detach().abs().max())
        assert (difference > 0.1) == changes


def test_the_predictors_target_takes_no_gradient() -> None:
    net, u, y = heads("predictor"), maps(2, 0), maps(2, 1)
    y = [one.requires_grad_() for one in y]
    net(u, y)[0].sum().backward()
    assert all(one.grad is None for one in y)
    (net(u, y)[0] - net(y, u)[0]).abs().min().backward()  # and it is not symmetric
    assert float((net(u, y)[0] - net(y, u)[0]).abs().min()) > 1e-3


def test_unpaired_has_a_logit_at_each_place_and_reads_one_image() -> None:
    net = heads("unpaired")
    assert net(maps(2, 0), maps(2, 1))[0].shape == (2, 4 * 4 + 2 * 2)
    assert torch.equal(net(maps(2, 0), maps(2, 1))[0], net(maps(2, 0), maps(2, 5))[0])


@pytest.mark.parametrize("reading", READINGS)
def test_scores_of_a_row_are_its_own(reading: str) -> None:
    net, u, y = heads(reading), maps(4, 0), maps(4, 1)
    whole, penalty = net(u, y, True)
    row = slice(2, 3)
    alone, its_penalty = net([one[row] for one in u], [one[row] for one in y], True)
    torch.testing.assert_close(whole[row], alone)
    torch.testing.assert_close(penalty[row], its_penalty)


@pytest.mark.parametrize("reading", READINGS)
def test_r1_is_the_squared_slope_on_the_heads_inputs(reading: str) -> None:
    """Against the slope by central differences along its own direction, in float64."""
    net = heads(reading).double()
    u, y = ([one.double() for one in maps(1, seed)] for seed in (0, 1))
    _, penalty = net(u, y, True)
    u = [one.requires_grad_() for one in u]
    slopes = torch.autograd.grad(net(u, y)[0].mean(1).sum(), u)
    step = 1e-5
    with torch.no_grad():
        up, down = (
            net([a + sign * step * b for a, b in zip(u, slopes, strict=True)], y)[0].mean()
            for sign in (1, -1)
        )
    torch.testing.assert_close(penalty[0], (up - down) / (2 * step), rtol=1e-6, atol=0)
    penalty.sum().backward()  # R1 is there to be descended
    weights = [one for name, one in net.heads.named_parameters() if name.endswith("weight")]
    assert all(one.grad is not None for one in weights)


@pytest.mark.parametrize("reading", READINGS)
def test_the_penalty_is_half_gamma_r1_of_the_real_pair(reading: str) -> None:
    net, fake, real, again = heads(reading), maps(3, 0), maps(3, 1), maps(3, 2)
    terms, scores = Discriminator(ImageEye(Itself()), net, r1=0.3).loss(fake, real, again)
    of_real, penalty = net(again, real, True)
    torch.testing.assert_close(terms["r1"], 0.15 * penalty)
    expected = [of_real.mean(1), net(fake, real)[0].mean(1)]
    torch.testing.assert_close(scores, torch.stack(expected).detach())


def test_losses_are_what_they_are_called() -> None:
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 0.5])
    found = {name: (d(real, fake), g(real, fake)) for name, (d, g) in LOSSES.items()}
    torch.testing.assert_close(found["hinge"][0], torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(found["hinge"][1], torch.tensor([3.0, -0.5]))
    torch.testing.assert_close(
        found["non_saturating"][0], -(real.sigmoid().log() + (1 - fake.sigmoid()).log())
    )
    torch.testing.assert_close(found["non_saturating"][1], -fake.sigmoid().log())
    torch.testing.assert_close(found["relativistic"][0], -(real - fake).sigmoid().log())
    torch.testing.assert_close(found["relativistic"][1], -(fake - real).sigmoid().log())


class Itself(nn.Module):
    """A backbone that shows the image."""

    channels = (1,)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


def test_the_pairs_are_those_of_the_text() -> None:
    """Real: the real image under looks a and b. Fake: the fake under a, the real one under b."""
    seen: list[tuple[Tensor, Tensor]] = []

    class Recorder(nn.Module):
        def forward(self, u: list[Tensor], y: list[Tensor], penalised: bool = False) -> Any:
            seen.append((u[0], y[0]))
            return torch.zeros(len(u[0]), 1), torch.zeros(len(u[0]))

    judge = Discriminator(ImageEye(Itself()), Recorder(), r1=1.0)
    fake, real, again = (torch.full((2, 1, 1, 1), value) for value in (1.0, 2.0, 3.0))
    judge.generator_loss([fake], [real], [again])
    judge.loss([fake], [real], [again])
    assert [one.flatten().tolist() for one in seen[0]] == [[1, 1], [2, 2]]
    assert [one.flatten().tolist() for one in seen[1]] == [[3, 3, 1, 1], [2, 2]]
    Discriminator(ImageEye(Itself()), Recorder(), loss="relativistic").generator_loss(
        [fake], [real], [again]
    )
    assert [one.flatten().tolist() for one in seen[2]] == [[1, 1], [2, 2]]
    assert [one.flatten().tolist() for one in seen[3]] == [[3, 3], [2, 2]]


def look(n: int = 1, **place: float) -> Look:
    names = ("flip", "right", "down", "zoom", "x", "y")
    neutral = {"flip": 0.9, "right": 0.5, "down": 0.5, "zoom": 0.5, "x": 0.5, "y": 0.5}
    row = torch.tensor([[{**neutral, **place}[name] for name in names]])
    return Look(torch.tensor([[0.5, 0.5, 0.5]]).repeat(n, 1), row.repeat(n, 1))


def test_a_latent_eye_sees_the_blocks_at_a_noisy_sample() -> None:
    """Of alpha x + sigma eps at t; both looks share the time, each has a noise of its own."""
    denoiser = Denoiser(tiny_unet().eval(), schedule_from_config(SD))
    eye = LatentEye(copy.deepcopy(denoiser), [1])
    x = torch.rand(2, 1, 8, 8)
    (u, eps), (its_u, its_eps) = eye.draw(StepRandom(0, 0, 2), x)
    assert torch.equal(u, its_u)
    assert float((eps - its_eps).abs().min()) > 0
    (found,) = eye(x, (u, eps), {})
    t = (1000 * u).long()
    alpha, sigma = (
        one[:, None, None, None].float()
        for one in (denoiser.schedule.alpha(t), denoiser.schedule.sigma(t))
    )
    seen: list[Tensor] = []
    network: Any = denoiser.network
    network.down_blocks[1].register_forward_hook(lambda *one: seen.append(one[2][0]))
    denoiser(alpha * x + sigma * eps, t)
    torch.testing.assert_close(found, seen[0])


def test_each_augmentation_alone() -> None:
    images = torch.arange(64.0).view(1, 1, 8, 8) / 32 - 1
    everything = ["color", "flip", "translation", "zoom"]
    torch.testing.assert_close(augment(images, look(), everything), images, rtol=0, atol=1e-5)
    flipped = augment(images, look(flip=0.1), ["flip"])
    torch.testing.assert_close(flipped, images.flip(-1), rtol=0, atol=1e-5)
    left = augment(images, look(right=1.0), ["translation"])  # by an eighth: one pixel
    torch.testing.assert_close(left[..., :7], images[..., 1:], rtol=0, atol=1e-5)
    assert float(left[..., 7].abs().max()) < 1e-5
    cut = augment(images, look(x=0.25, y=0.25), ["cutout"])
    assert float(cut[..., :4, :4].abs().max()) == 0
    assert torch.equal(cut[..., 4:, :], images[..., 4:, :])
    larger = augment(torch.ones(1, 1, 8, 8), look(zoom=1.0), ["zoom"])  # seen from further away
    assert float(larger[..., 0, 0]) < 0.9
    brighter = Look(torch.tensor([[1.0, 0.5, 0.5]]), look().place)
    torch.testing.assert_close(augment(images, brighter, ["color"]), images + 0.5)
    flat = Look(torch.tensor([[0.5, 0.5, 0.0]]), look().place)
    torch.testing.assert_close(
        augment(images, flat, ["color"]), images.mean() + 0.5 * (images - images.mean())
    )
    colourful = torch.rand(1, 3, 4, 4)
    grey = colourful.mean(1, keepdim=True)
    for number, factor in ((0.0, 0), (0.5, 1), (1.0, 2)):  # to grey, as it is, twice as colourful
        saturated = Look(torch.tensor([[0.5, number, 0.5]]), look().place)
        expected = grey + factor * (colourful - grey)
        torch.testing.assert_close(augment(colourful, saturated, ["color"]), expected)


def test_gradients_flow_through_every_augmentation() -> None:
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    first, _ = draw_looks(StepRandom(0, 0, 2, dtype=torch.float64), shared=True)
    every = ["color", "flip", "translation", "zoom", "cutout"]
    assert torch.autograd.gradcheck(lambda x: augment(x, first, every), images)


def test_looks_share_places_but_never_colours() -> None:
    for shared in (True, False):
        a, b = draw_looks(StepRandom(0, 0, 4), shared=shared)
        assert torch.equal(a.place, b.place) == shared
        assert not torch.equal(a.colour, b.colour)


@pytest.mark.parametrize("registers", [False, True])
def test_dino_shows_the_patch_tokens_of_its_blocks(tmp_path: Path, registers: bool) -> None:
    dino = load_dino(str(tiny_dino(tmp_path / "dino", registers=registers)), [2, 5], 28)
    images = torch.rand(2, 3, 28, 28) * 2 - 1
    found = dino(images)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    inputs = ((images + 1) / 2 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    with torch.no_grad():
        states = dino.model(inputs, output_hidden_states=True).hidden_states
    for one, block in zip(found, (2, 5), strict=True):
        assert one.shape == (2, 16, 2, 2)
        tokens = states[block][:, -4:]  # patches come last, row by row
        torch.testing.assert_close(one[:, :, 0, 1], tokens[:, 1])
        torch.testing.assert_close(one[:, :, 1, 0], tokens[:, 2])
    assert dino(torch.rand(1, 1, 20, 40))[0].shape == (1, 16, 2, 4)  # grey, wide, resized


def test_dino_passes_gradients_and_keeps_none(tmp_path: Path) -> None:
    dino = load_dino(str(tiny_dino(tmp_path / "dino")), None, 28)
    assert dino.blocks == [1, 2, 4, 5]
    images = torch.rand(1, 3, 28, 28, requires_grad=True)
    sum(one.square().sum() for one in dino(images)).backward()  # pyright: ignore
    assert images.grad is not None
    assert float(images.grad.abs().min()) >= 0
    assert float(images.grad.abs().max()) > 0
    assert all(one.grad is None for one in dino.parameters())


@pytest.mark.parametrize(
    ("name", "blocks", "told"),
    [("nowhere", None, "cannot be loaded"), ("dino", [9], "blocks must be of 0 to 5")],
)
def test_a_dino_that_is_not_there(tmp_path: Path, name: str, blocks: Any, told: str) -> None:
    tiny_dino(tmp_path / "dino")
    with pytest.raises(UserError, match=told):
        load_dino(str(tmp_path / name), blocks, 28)


def digits() -> ModelRange:
    return training_data({"name": "digits"}, {"kind": "none"})


def test_label_features_know_the_digits_and_repeat_themselves(tmp_path: Path) -> None:
    kept = tmp_path / "features.safetensors"
    first = label_backbone(digits(), None, kept)
    images = torch.tensor(load_digits().images).float()[:, None] / 8 - 1
    right = first.logits(images).argmax(1) == torch.tensor(load_digits().target)
    assert float(right.float().mean()) > 0.97
    again, other = label_backbone(digits(), [3], kept), LabelBackbone(1, 10)
    torch.testing.assert_close(again(images[:5])[0], first(images[:5])[2], rtol=0, atol=0)
    assert [one.shape[1] for one in first(images[:5])] == first.channels == other.channels


def test_wrong_eyes() -> None:
    with pytest.raises(ValueError, match="augment must be of color"):
        ImageEye(Itself(), ["rotation"])
    with pytest.raises(ValueError, match="reading must be one of"):
        Heads([1], "s4")
    with pytest.raises(ValueError, match="loss must be one of"):
        Discriminator(ImageEye(Itself()), heads("patches"), loss="wasserstein")
    with pytest.raises(ValueError, match="r1 must be >= 0"):
        Discriminator(ImageEye(Itself()), heads("patches"), r1=-1)


def test_dino_needs_blocks_it_has() -> None:
    import transformers

    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))  # pyright: ignore
    assert DinoBackbone(model).blocks == [1, 2]
    with pytest.raises(ValueError, match="blocks must be of"):
        DinoBackbone(model, [3])


def test_resizing_is_that_of_torch() -> None:
    """An image of twice the size is averaged down before it is seen."""
    import transformers

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    dino = DinoBackbone(transformers.Dinov2Model(transformers.Dinov2Config(**sizes)), [1], 28)  # pyright: ignore
    large = torch.rand(1, 3, 56, 56) * 2 - 1
    small = F.interpolate(large, (28, 28), mode="bicubic", antialias=True)
    torch.testing.assert_close(dino(large)[0], dino(small)[0])
