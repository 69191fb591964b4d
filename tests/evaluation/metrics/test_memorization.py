"""Copies of training images: shares with a known answer, and a model that learned 64 by heart."""

import pytest
import torch
from measuring import evaluate

from sparring.commands.evaluate.figures import memorization_lines, pairs_picture
from sparring.data.base import InMemory
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.schedules import schedule_from_config
from sparring.evaluation import feature_sets as module
from sparring.evaluation.evaluate import thumbs
from sparring.evaluation.metrics.memorization import histogram, memorization
from sparring.evaluation.networks.extractors import Extractor
from sparring.evaluation.store.originals import Originals, small_pixels, two_nearest
from sparring.evaluation.store.reference import Reference, Settings
from sparring.models.networks import MLP
from sparring.models.pretrained import Model
from sparring.sampling.sample import sample
from sparring.support.errors import UserError

PIXELS = Extractor("pixels", lambda images: images.flatten(1), checksum="none")
SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}
N_STEPS = 8000


def dots(*values):
    """Images of one pixel."""
    return InMemory("dots", torch.tensor(values).view(-1, 1, 1, 1))


def found_in(samples01, originals, **settings):
    features = originals.extractor(samples01.clamp(0, 1))
    return memorization(originals.neighbours(features), originals, **settings)


def noisy(x, size, seed=0):
    return x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


# --- Neighbours


@pytest.mark.parametrize("n_points", [3, 5, 11, 12])
def test_neighbours_in_blocks_are_those_of_the_whole_matrix(n_points, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 5)
    random = torch.Generator().manual_seed(n_points)
    points = torch.randn(n_points, 3, generator=random)
    queries = torch.randn(9, 3, generator=random)
    found = two_nearest(queries, points)
    every = (queries[:, None] - points[None]).double().norm(dim=2).sort(1)
    torch.testing.assert_close(found.nearest, every.values[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.second, every.values[:, 1], rtol=0, atol=1e-6)
    assert torch.equal(found.index, every.indices[:, 0])

    own = torch.arange(n_points - 1, -1, -1)
    among = two_nearest(points[own], points, own)
    others = (points[:, None] - points[None]).double().norm(dim=2)
    others.fill_diagonal_(torch.inf)
    assert torch.equal(among.index, others.argmin(1)[own])
    expected = others.sort(1).values[own]
    torch.testing.assert_close(among.nearest, expected[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(among.second, expected[:, 1], rtol=0, atol=1e-6)


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="needs at least 3 samples, got 2"):
        two_nearest(torch.zeros(4, 2), torch.zeros(2, 2), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="at least 3 training images, got 2"):
        Originals(dots(0.0, 1.0), None, PIXELS)


# --- Shares by hand


def test_shares_of_dots_by_hand():
    training = dots(0.0, 0.1, 0.4, 0.8)  # r = 0.1, 0.1, 0.3, 0.4
    # d1 from 0.01, 0.02, 0.03 and 0.04 on, 25 of each; no two alike, for rounding orders equals
    held_out = dots(*[0.01 * k + 1e-5 * i for i in range(25) for k in range(1, 5)])
    originals = Originals(training, held_out, PIXELS)
    samples = torch.tensor([0.12, 0.51, 0.805, 0.65]).view(-1, 1, 1, 1)
    # d1 / d2 < 1/3: 0.02 / 0.12 and 0.005 / 0.405, not 0.11 / 0.29 and 0.15 / 0.25
    figures = found_in(samples, originals)
    assert figures["thresholds"]["near_duplicates"] == pytest.approx(0.01)
    assert figures["near_duplicates"] == 1 / 4
    assert figures["near_duplicates_of_calibration"] == 1 / 100  # the nearest itself
    assert figures["within_a_third"] == 2 / 4
    assert figures["authentic"] == 0  # 0.02 < 0.1, 0.11 < 0.3, 0.005 < 0.4, 0.15 < 0.4
    assert figures["within_a_third_of_calibration"] == 0.5  # 1/9 and 2/8, not 3/7 and 4/6
    assert figures["authentic_of_calibration"] == 0
    assert (figures["n_train"], figures["n_samples"], figures["n_calibration"]) == (4, 4, 100)


def test_a_sample_is_authentic_if_its_original_has_a_nearer_neighbour():
    originals = Originals(dots(0.0, 0.1, 0.9, 1.0), dots(0.5), PIXELS)
    figures = found_in(torch.tensor([0.25, 0.15, 0.75, 0.99]).view(-1, 1, 1, 1), originals)
    assert figures["authentic"] == 2 / 4  # 0.15 > 0.1, 0.05 < 0.1, 0.15 > 0.1, 0.01 < 0.1
    assert figures["authentic_of_calibration"] == 1


def test_authentic_is_the_authors_formula():
    random = torch.Generator().manual_seed(0)
    train, fake = torch.rand(70, 1, 2, 2, generator=random).split([40, 30])
    figures = found_in(fake, Originals(InMemory("a", train), None, PIXELS))
    real_to_real = torch.cdist(train.flatten(1), train.flatten(1)).sort(1).values[:, 1]
    to_real = torch.cdist(fake.flatten(1), train.flatten(1))
    expected = (real_to_real[to_real.argmin(1)] < to_real.amin(1)).double().mean().item()
    assert 0 < expected < 1
    assert figures["authentic"] == expected


def test_quantiles_need_an_image_below_them():
    def thresholds(n):
        held_out = InMemory("h", torch.linspace(0.01, 0.49, n).view(-1, 1, 1, 1))
        originals = Originals(dots(0.0, 0.5, 1.0), held_out, PIXELS)
        return set(found_in(torch.rand(8, 1, 1, 1), originals)["thresholds"])

    assert thresholds(19) == set()
    assert thresholds(20) == thresholds(99) == {"within_5_percent"}
    assert thresholds(100) == {"near_duplicates", "within_5_percent"}


def test_without_held_out_images_each_training_image_stands_in_and_it_is_said():
    values = torch.rand(200, generator=torch.Generator().manual_seed(0))
    originals = Originals(InMemory("t", values.view(-1, 1, 1, 1)), None, PIXELS)
    expected = (values[:, None] - values[None]).abs().double().fill_diagonal_(torch.inf).amin(1)
    torch.testing.assert_close(originals.calibration.nearest, expected, rtol=0, atol=1e-6)
    figures = found_in(values.view(-1, 1, 1, 1), originals)
    assert figures["calibration"] == "each training image and its nearest other one"
    assert figures["near_duplicates"] == 1
    assert "there are no held-out images" in figures["verdict"]


def test_histogram_counts_every_distance():
    samples, known = torch.tensor([0.0, 0.1, 5.0, 9.0]).double(), torch.linspace(0, 4, 400).double()
    found = histogram(samples, known, n_bins=8)
    assert len(found["edges"]) == 9
    assert found["edges"][0] == 0
    width = found["edges"][1]
    assert found["edges"][-1] == pytest.approx(torch.quantile(samples, 0.995).item())
    assert found["samples"] == [0.5, 0, 0, 0, 0.25, 0, 0, 0.25]  # 9 lies beyond the last edge
    assert sum(found["calibration"]) == pytest.approx(1)
    assert found["calibration"][0] == pytest.approx(width / 4, abs=0.01)


# --- Digits


@pytest.fixture(scope="module")
def few():
    return build_dataset("digits", "train").select(torch.arange(64))


@pytest.fixture(scope="module")
def unseen():
    return build_dataset("digits", "held_out")


def test_copies_with_a_little_noise_are_flagged_and_fresh_images_are_not(few, unseen):
    calibrating, fresh = unseen.select(torch.arange(150)), unseen.x0[150:]
    originals = Originals(few, calibrating, PIXELS)
    copies = noisy(few.x0.repeat(3, 1, 1, 1), 0.02)
    figures = found_in(copies, originals)
    assert figures["is_flagged"]
    assert figures["near_duplicates"] == figures["within_a_third"] == 1
    assert figures["near_duplicates_interval"] == [1, 1]
    assert figures["authentic"] < 0.05
    assert figures["verdict"].startswith("copies its training images: 100.0 % of the samples")
    figures = found_in(fresh, originals)
    assert not figures["is_flagged"]
    assert figures["near_duplicates"] < 0.05
    assert figures["within_a_third"] == 0
    assert figures["near_duplicates_of_calibration"] == pytest.approx(2 / 150)
    assert figures["verdict"].startswith("no sign of copied training images")


def test_a_half_of_copies_is_a_half(few, unseen):
    originals = Originals(few, unseen.select(torch.arange(150)), PIXELS)
    figures = found_in(torch.cat([few.x0, unseen.x0[150:214]]), originals)
    low, high = figures["near_duplicates_interval"]
    assert low < figures["near_duplicates"] < high
    assert figures["near_duplicates"] == pytest.approx(0.5, abs=0.03)
    assert figures["is_flagged"]


@pytest.mark.parametrize(
    ("n_copies", "verdict"),
    [(0, "no sign of copied"), (36, "may copy some of its"), (120, "copies its")],
)
def test_a_few_percent_of_copies_are_no_all_clear(few, unseen, n_copies, verdict):
    """Of 480 samples: 36 copies are 7.5 %, where 1 % are expected, as of held-out images."""
    originals = Originals(few, unseen.select(torch.arange(137)), PIXELS)
    mirrored = [unseen.x0[137:].flip(axes) for axes in ((2,), (3,), (2, 3))]  # no near duplicates
    fresh = torch.cat(mirrored)[: 480 - n_copies]
    figures = found_in(torch.cat([few.x0.repeat(2, 1, 1, 1)[:n_copies], fresh]), originals)
    assert figures["near_duplicates"] == pytest.approx(n_copies / 480)
    assert figures["verdict"].startswith(f"{verdict} training images")
    assert figures["is_suspected"] == (n_copies > 0)
    assert figures["is_flagged"] == (n_copies == 120)


def test_pairs_show_each_training_image_once_the_nearest_first(few, unseen):
    originals = Originals(few, unseen, PIXELS, rows=range(10, 60))
    samples = torch.cat([noisy(few.x0[30:31], 0.05), few.x0[20:21], noisy(few.x0[30:31], 0.01)])
    pairs = found_in(samples, originals)["pairs"]
    assert [(pair["sample"], pair["training"]) for pair in pairs] == [(1, 20), (2, 30)]
    assert [pair["n_near_duplicates"] for pair in pairs] == [1, 2]
    assert pairs[0]["distance"] < 1e-6
    copies = thumbs(samples.clamp(0, 1))[[pair["sample"] for pair in pairs]]
    picture = pairs_picture(copies, few, pairs)
    one = 64 + 2  # 8 pixels, 8 times as large, and a margin of 2
    assert picture.size == (2 * one + 2, 2 * one + 2)
    left, right = (picture.crop((x, 2, x + 64, 66)) for x in (2, one + 2))
    assert left.tobytes() == right.tobytes()  # an exact copy beside its original
    for x, image in ((2, samples[2]), (one + 2, few.x0[30])):
        shown = torch.tensor(list(picture.crop((x, one + 2, x + 64, one + 66)).resize((8, 8), 0).getdata()))  # noqa: E501  # fmt: skip
        torch.testing.assert_close(shown / 255, image.clamp(0, 1).flatten(), rtol=0, atol=0.003)


def test_copies_of_dirty_images_are_found_with_their_noise(digits, unseen):
    train = build_dataset("digits", "train").select(torch.arange(300))
    dirty = contaminate(train, {"kind": "gaussian", "sigma": 0.3, "rate": 1.0, "clip": False})
    settings = Settings("pixels", n_resamples=2)
    reference = Reference(digits, settings)

    def figures(samples01, held_out=unseen):
        return evaluate(2 * samples01 - 1, reference, train, held_out=held_out, dirty=dirty)

    copies = figures(noisy(dirty.read_all()["x0"], 0.01))
    assert not copies["memorization"]["is_flagged"]
    assert copies["memorization_of_dirty"]["is_flagged"]
    assert copies["memorization_of_dirty"]["near_duplicates"] > 0.99
    assert copies["memorization_of_dirty"]["verdict"].startswith("copies its dirty training images")
    assert "authentic" not in copies["memorization_of_dirty"]
    for held_out in (unseen, None):  # a model that denoises is nearer to dirty images than others
        fresh = figures(build_dataset("digits", "train").x0[300:600], held_out)
        assert not fresh["memorization"]["is_flagged"]
        assert not fresh["memorization_of_dirty"]["is_flagged"]
    text = "\n".join(memorization_lines(copies))
    assert "no sign of copied training images" in text
    assert "copies its dirty training images" in text


def test_clean_images_stand_in_among_the_dirty_ones(few):
    dirty = contaminate(few, {"kind": "gaussian", "sigma": 0.3, "rate": 1.0, "clip": False})
    seen = dirty.read_all()["x0"].clamp(0, 1).flatten(1)
    expected = torch.cdist(few.x0.flatten(1), seen).fill_diagonal_(torch.inf).amin(1)
    found = Originals(dirty, None, PIXELS, clean=few).calibration
    torch.testing.assert_close(found.nearest.float(), expected, rtol=1e-5, atol=0)


def test_any_extractor_looks_for_copies(digits, few, unseen, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("def make():\n    return lambda images: images[..., ::2].flatten(1)\n")
    settings = Settings("pixels", 2, memorization_extractor=f"{own}:make")
    copies = few.x0.clone()
    copies[..., 1::2] = 0  # in every other column nothing is copied
    found = evaluate(2 * copies - 1, Reference(digits, settings), few, held_out=unseen)
    assert found["memorization"]["near_duplicates"] == 1
    assert found["memorization"]["extractor"] == f"{own}:make"
    assert found["protocol"]["memorization_extractor"] == f"{own}:make"
    assert found["protocol"]["extractor"] == "pixels"
    in_pixels = torch.cdist(unseen.x0.flatten(1), few.x0.flatten(1)).amin(1)
    assert found["nearest_training_distance"]["calibration_mean"] == pytest.approx(
        in_pixels.mean().item(), rel=1e-5
    )
    in_pixels = evaluate(2 * copies - 1, Reference(digits, Settings("pixels", 2)), few,
                         held_out=unseen)  # fmt: skip
    assert in_pixels["memorization"]["near_duplicates"] == 0
    with pytest.raises(UserError, match="unknown extractor 'clasifier'"):
        Reference(digits, Settings("pixels", 2, memorization_extractor="clasifier")).protocol(9)


def test_held_out_images_that_are_training_images_too_are_left_out(few, unseen):
    both = InMemory("both", torch.cat([few.x0[:10], unseen.x0[:190]]))
    figures = found_in(noisy(few.x0, 0.02), Originals(few, both, PIXELS))
    clean = found_in(noisy(few.x0, 0.02), Originals(few, unseen.select(torch.arange(190)), PIXELS))
    assert (figures["n_repeated"], figures["n_calibration"]) == (10, 190)
    assert figures["thresholds"] == clean["thresholds"]
    assert figures["is_flagged"]
    assert "10 held-out images are training images too" in figures["verdict"]


def test_training_images_are_read_once_for_several_models(few, unseen, digits):
    reference = Reference(digits, Settings("pixels", n_resamples=2))
    first = reference.originals(few, unseen, reference.extractor)
    assert reference.originals(few, unseen, reference.extractor) is first
    assert reference.originals(few, None, reference.extractor) is not first


def test_large_dirty_images_are_averaged_down():
    images = torch.rand(2, 3, 64, 64)
    found = small_pixels()(images)
    expected = images.view(2, 3, 32, 2, 32, 2).mean((3, 5)).flatten(1)
    torch.testing.assert_close(found.float(), expected)


# --- A model


class Flat(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = MLP(64, width=256, n_blocks=2)

    def forward(self, x, t):
        return self.body(x.flatten(1), t).view_as(x)


def learned(data, n_steps, seed=0):
    """x0-prediction with plain noise; one image at many noises in each step."""
    torch.manual_seed(seed)
    denoiser = Denoiser(Flat(), schedule_from_config(SCHEDULER), "x0")
    optimizer = torch.optim.AdamW(denoiser.parameters(), 3e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, n_steps)
    images = 2 * data.x0 - 1
    for _ in range(n_steps):
        x0 = images[torch.randint(len(images), (128,))]
        t, eps = torch.randint(1000, (128,)), torch.randn_like(x0)
        alpha, sigma = denoiser.schedule.at(t, like=x0)
        loss = (denoiser(alpha * x0 + sigma * eps, t).x0 - x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    return denoiser.eval()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_model_that_learned_64_digits_by_heart_is_flagged_and_one_of_all_is_not(unseen):
    train = build_dataset("digits", "train")
    found = {}
    for n in (64, len(train)):
        data = train.select(torch.arange(n))
        samples = sample(
            Model.around(learned(data, N_STEPS), (1, 8, 8), SCHEDULER), 300, num_inference_steps=20
        )
        found[n] = found_in((samples + 1) / 2, Originals(data, unseen, PIXELS))
    assert found[64]["near_duplicates"] > 0.9
    assert found[64]["is_flagged"]
    assert found[1500]["near_duplicates"] < 0.05
    assert not found[1500]["is_flagged"]
