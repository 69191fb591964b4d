"""The distance of x_t while sampling to q(x_t), where it is known in closed form.

Data N(mean, std^2) and a denoiser that is exact, or whose noise is 10 % too large: then DDIM's x_t
is Gaussian and its spread follows from a recursion of numbers.
"""

import math

import pytest
import torch
from torch import nn

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.schedules import EDMSchedule, FlowSchedule, schedule_from_config
from sparring.evaluation.metrics.kernel_distance import gaussian_mmd
from sparring.evaluation.networks.extractors import Extractor
from sparring.evaluation.studies.mismatch import Counts, mismatch
from sparring.models.pretrained import Model
from sparring.sampling.settings import Sampling
from support import GaussianNetwork, tiny_unet

STD, DIM, N = 0.7, 3, 1000
VP = {"_class_name": "DDPMScheduler"}


class Scaled(nn.Module):
    """An exact eps-network, times a factor."""

    def __init__(self, schedule, factor):
        super().__init__()
        self.exact, self.factor = GaussianNetwork(schedule, "eps", mean=0.0, std=STD), factor

    def forward(self, x, t):
        return self.factor * self.exact(x, t)


def denoiser(factor=1.0):
    schedule = schedule_from_config(VP)
    return Model.around(Denoiser(Scaled(schedule, factor), schedule, "eps"), (DIM,))


def gaussian_data(n, seed):
    return STD * torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))


def curve(model, n_steps, **words):
    words = {"n": N, "n_resamples": 2, "max_times": 8} | words
    sampling = Sampling(num_inference_steps=n_steps, batch_size=800)
    return mismatch(model, gaussian_data, sampling, Counts(**words))


def test_a_perfect_model_in_many_steps_stays_within_the_floor():
    result = curve(denoiser(), 500, n_resamples=3)
    assert len(result["times"]) == 8
    for row in result["times"]:
        floor = row["sliced_wasserstein_of_reference"]
        assert 0.6 * floor < row["sliced_wasserstein"] < 1.5 * floor
        assert abs(row["mmd_squared"]) < 0.005
        assert abs(row["mmd_squared_of_reference"]) < 0.005
    mean = result["mean"]
    assert mean["sliced_wasserstein"] == pytest.approx(
        mean["sliced_wasserstein_of_reference"], rel=0.15
    )


def spreads_of_ddim(factor, times, schedule):
    """x_s = alpha_s x0_hat + sigma_s eps_hat with eps_hat = factor sigma / (alpha^2 std^2 +
    sigma^2) x_t: one number a step."""
    spread, found = 1.0, []
    for i, t in enumerate(times):
        found.append(spread)
        if i + 1 < len(times):
            alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
            alpha_s = schedule.alpha(times[i + 1]).item()
            sigma_s = schedule.sigma(times[i + 1]).item()
            eps = factor * sigma / (alpha**2 * STD**2 + sigma**2)
            spread *= alpha_s * (1 - sigma * eps) / alpha + sigma_s * eps
    return found


def test_a_wrong_denoiser_is_as_far_off_as_the_recursion_says():
    """E|a z - b z| of two centred Gaussians: |a - b| sqrt(2 / pi), in every direction."""
    model = denoiser(factor=1.1)
    result = curve(model, 8, n=2000)
    times = torch.tensor([row["t"] for row in result["times"]]).long()
    assert times.tolist() == [999, 874, 749, 624, 499, 374, 249, 124]
    spreads = spreads_of_ddim(1.1, times, model.denoiser.schedule)
    expected = []
    for row, spread in zip(result["times"], spreads, strict=True):
        true = math.hypot(row["alpha"] * STD, row["sigma"])
        expected.append(abs(spread - true) * math.sqrt(2 / math.pi))
        floor = row["sliced_wasserstein_of_reference"]
        assert row["sliced_wasserstein"] == pytest.approx(
            max(expected[-1], floor), rel=0.1, abs=floor / 2
        )
    assert expected[-1] > 5 * result["times"][-1]["sliced_wasserstein_of_reference"]
    assert result["times"][-1]["mmd_squared"] > 0.003
    low, high = result["times"][-1]["sliced_wasserstein_interval"]
    assert low < result["times"][-1]["sliced_wasserstein"] < high
    assert high - low < expected[-1]


@pytest.mark.parametrize("family", ["vp", "flow", "edm"])
def test_schedules_are_measured_on_one_scale(family):
    """The floor of N samples is about 1.8 spreads / sqrt(N), of spreads between STD and 1."""
    schedule = {
        "vp": lambda: schedule_from_config(VP), "flow": FlowSchedule, "edm": EDMSchedule,
    }[family]()  # fmt: skip
    kind = {"vp": "eps", "flow": "flow", "edm": "edm"}[family]
    exact = Denoiser(GaussianNetwork(schedule, kind, 0.0, STD), schedule, kind)
    result = curve(Model.around(exact, (DIM,)), 40, max_times=3)
    for row in result["times"]:
        scale = math.hypot(row["alpha"], row["sigma"])
        spread = math.hypot(row["alpha"] * STD, row["sigma"]) / scale
        assert STD <= spread <= 1
        assert row["sliced_wasserstein"] < 0.12
        assert 1.2 < row["sliced_wasserstein_of_reference"] * math.sqrt(N) / spread < 2.4
        if row["alpha"] > 0:
            assert row["ratio"] == pytest.approx(row["sigma"] / row["alpha"])
        else:
            assert row["ratio"] is None


def test_mmd_of_two_gaussians_is_its_closed_form():
    """E exp(-|z|^2 / 2 h^2) of z ~ N(0, s^2 I): (1 + s^2 / h^2)^(-D/2)."""
    a, b, bandwidth, D = 1.0, 1.4, 1.3, 2

    def mean_kernel(variance):
        return sum((1 + variance / h**2) ** (-D / 2) for h in (0.65, 1.3, 2.6))

    expected = mean_kernel(2 * a**2) + mean_kernel(2 * b**2) - 2 * mean_kernel(a**2 + b**2)
    rng = torch.Generator().manual_seed(0)
    draws = [
        gaussian_mmd(*(s * torch.randn(500, D, generator=rng) for s in (a, b)), bandwidth)
        for _ in range(40)
    ]
    standard_error = torch.tensor(draws).std().item() / math.sqrt(40)
    assert standard_error < 0.03 * expected
    assert sum(draws) / 40 == pytest.approx(expected, abs=3 * standard_error)


def test_mmd_is_unbiased_and_its_bandwidth_is_the_median():
    rng = torch.Generator().manual_seed(0)
    values = torch.tensor([gaussian_mmd(*torch.randn(2, 20, 2, generator=rng)) for _ in range(400)])
    assert abs(values.mean()) < 3 * values.std() / 20
    assert values.min() < 0
    x = torch.tensor([[0.0], [1.0], [3.0]])  # distances 1, 2, 3
    y = torch.tensor([[0.5], [5.0]])
    assert gaussian_mmd(x, y) == gaussian_mmd(x, y, 2.0) != gaussian_mmd(x, y, 1.0)
    with pytest.raises(ValueError, match="bandwidth must be > 0"):
        gaussian_mmd(torch.zeros(3, 1), y)


def test_images_have_pixels_at_all_times_and_features_where_they_can_be_seen():
    schedule = schedule_from_config(VP)
    model = Model.around(Denoiser(tiny_unet(), schedule, "eps"), (1, 8, 8))
    reference = torch.rand(50, 1, 8, 8) * 2 - 1
    seen = []

    def function(images):
        seen.append((images.min().item(), images.max().item()))
        return images.flatten(1)[:, :3]

    result = mismatch(
        model, reference, Sampling(num_inference_steps=5, batch_size=8, clip_sample=True),
        Counts(n=12, n_resamples=2), extractor=Extractor("own", function, "none"),
    )  # fmt: skip
    assert [row["t"] for row in result["times"]] == [999, 799, 599, 399, 199]
    assert all("sliced_wasserstein" in row and "mmd_squared" not in row for row in result["times"])
    assert [row["ratio"] <= 1 for row in result["times"]] == [
        "frechet_distance" in row for row in result["times"]
    ]
    assert "frechet_distance" in result["times"][-1]
    assert min(low for low, _ in seen) >= 0
    assert max(high for _, high in seen) <= 1


def test_at_most_so_many_times_and_the_last_is_among_them():
    times = [row["t"] for row in curve(denoiser(), 50, n=40, max_times=20)["times"]]
    assert len(times) == 17
    assert times[0] == 979
    assert times[-1] == 19


def test_the_same_seeds_give_the_same_curve():
    one, other = (curve(denoiser(), 5, n=40) for _ in range(2))
    assert one == other
    assert one["times"] != curve(denoiser(), 5, n=40, seed=1)["times"]


def test_wrong_counts_are_said():
    with pytest.raises(ValueError, match="n must be >= 4"):
        curve(denoiser(), 5, n=3)


def test_q_is_made_of_the_reference():
    """Of data twice as wide as what the model knows, the distance is known at every t."""

    def wide(n, seed):
        return 2 * gaussian_data(n, seed)

    how = Sampling(num_inference_steps=200), Counts(N, 2, max_times=2)
    for reference in (wide, wide(50_000, 0)):
        for row in mismatch(denoiser(), reference, *how)["times"]:
            spreads = [math.hypot(k * STD * row["alpha"], row["sigma"]) for k in (1, 2)]
            expected = (spreads[1] - spreads[0]) * math.sqrt(2 / math.pi)
            floor = row["sliced_wasserstein_of_reference"]
            assert row["sliced_wasserstein"] == pytest.approx(
                max(expected, floor), rel=0.1, abs=floor / 2
            )
    assert expected > 0.5
