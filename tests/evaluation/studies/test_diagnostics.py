"""Linear denoisers and the exact Gaussian one: equivariance, Lipschitz constant, straightness."""

import math

import pytest
import torch
from torch import nn

from sparring.data.analytic import SubspaceTruth, SwissRollTruth, TwoMoonsTruth, plane
from sparring.data.analytic import gaussian_mixture as mixture
from sparring.diffusion.denoiser import Denoiser
from sparring.evaluation.studies.diagnostics import (
    arrows,
    diagnostics,
    equivariance_error,
    lipschitz,
    noise_levels,
    score_error,
    straightness,
)
from sparring.evaluation.studies.true_score import has_true_score, log_density, true_score
from support import CASES, SCHEDULES, GaussianNetwork, LinearEps, tiny_unet

MEAN, STD = 0.3, 0.7


def exact(schedule, kind, mean=MEAN, std=STD):
    built = SCHEDULES[schedule]()
    return Denoiser(GaussianNetwork(built, kind, mean, std), built, kind).double()


def points(denoiser, n=8, size=5, ratio=0.6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    t = denoiser.schedule.time_of_ratio(torch.tensor(ratio, dtype=torch.float64)).expand(n)
    x_t = torch.randn(n, size, generator=rng, dtype=torch.float64)
    omega = torch.randn(n, size, generator=rng, dtype=torch.float64)
    return x_t, t, omega, denoiser.schedule.alpha(t)[0].item(), denoiser.schedule.sigma(t)[0].item()


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("ratio", [0.1, 3.0])
def test_the_exact_denoiser_has_the_closed_forms(name, kind, ratio):
    denoiser = exact(name, kind)
    x_t, t, omega, alpha, sigma = points(denoiser, ratio=ratio)
    variance = alpha**2 * STD**2 + sigma**2
    error = equivariance_error(denoiser, x_t, t, omega)
    torch.testing.assert_close(
        error, torch.full_like(error, alpha**2 * STD**2 / variance), rtol=1e-6, atol=0
    )
    found = lipschitz(denoiser, x_t, t, omega)
    torch.testing.assert_close(
        found, torch.full_like(found, alpha * STD**2 / variance), rtol=1e-6, atol=0
    )


def test_a_linear_denoiser_has_its_matrixs_figures():
    """eps = W x: residual (sigma W - 1) omega, d x0_hat / d x_t = (1 - sigma W) / alpha."""
    rng = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 5, generator=rng, dtype=torch.float64)
    denoiser = Denoiser(LinearEps(weight), SCHEDULES["vp"](), "eps")
    x_t, t, omega, alpha, sigma = points(denoiser)
    residual = sigma * omega @ weight.T - omega
    torch.testing.assert_close(
        equivariance_error(denoiser, x_t, t, omega), residual.norm(dim=1) / omega.norm(dim=1)
    )
    jacobian = (torch.eye(5, dtype=torch.float64) - sigma * weight) / alpha
    largest = torch.linalg.svdvals(jacobian)[0]
    found = lipschitz(denoiser, x_t, t, omega, n_iterations=100)
    torch.testing.assert_close(found, largest.expand(8), rtol=1e-5, atol=0)
    assert (lipschitz(denoiser, x_t, t, omega, n_iterations=1) < largest).all()


def test_each_point_has_the_jacobian_of_its_own():
    """Against autograd's whole Jacobian, for a U-Net with attention."""
    network = tiny_unet(
        down_block_types=("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D"),
    )
    denoiser = Denoiser(network.double(), SCHEDULES["vp"](), "v").eval()
    rng = torch.Generator().manual_seed(0)
    x_t, start = torch.randn(2, 2, 1, 8, 8, generator=rng, dtype=torch.float64)
    t = torch.tensor([100.0, 400.0])
    found = lipschitz(denoiser, x_t, t, start, n_iterations=100)
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, i=i: denoiser(x[None], t[i : i + 1]).x0.flatten(), x_t[i]
        )
        largest = torch.linalg.svdvals(jacobian.flatten(1))[0]
        assert found[i].item() == pytest.approx(largest.item(), rel=1e-3)
    assert found[0] != pytest.approx(found[1].item(), rel=1e-2)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_point_of_data_makes_a_straight_path(name, kind):
    denoiser = exact(name, kind, std=0.0)
    noise = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = straightness(denoiser, noise, 10)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "kind"), [("vp", "v"), ("flow", "flow"), ("edm", "edm")])
def test_the_path_of_the_exact_denoiser_is_as_bent_as_its_formula_says(name, kind):
    """x_t = sqrt(alpha^2 s^2 + sigma^2) n: z goes from n down to m n, m = s / sqrt(1 + s^2), and
    back up to s n."""
    denoiser = exact(name, kind, mean=0.0)
    noise = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    least = STD / math.hypot(1, STD)
    expected = (1 - STD) / ((1 - least) + (STD - least))
    assert expected == pytest.approx(0.5425, abs=1e-3)
    found = straightness(denoiser, noise, 400)
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0.03, atol=0)


TRUTHS = {
    "mixture": mixture(),
    "mixture in three dimensions": mixture(3, 5, 0.2, seed=1),
    "plane": plane(3),
    "square": plane(2),
    "moons": TwoMoonsTruth(2, 0),
    "roll": SwissRollTruth(2, 0),
}


@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize(("alpha", "sigma"), [(0.9, 0.1), (0.6, 0.8), (1.0, 5.0)])
def test_the_true_score_is_autograds(name, alpha, sigma):
    truth = TRUTHS[name]
    rng = torch.Generator().manual_seed(0)
    x0 = truth.sample(20, 0).double()
    x = alpha * x0 + sigma * torch.randn(x0.shape, generator=rng, dtype=torch.float64)
    x.requires_grad_(True)
    (expected,) = torch.autograd.grad(log_density(truth, x, alpha, sigma).sum(), x)
    torch.testing.assert_close(
        true_score(truth, x.detach(), alpha, sigma), expected, rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("name", TRUTHS)
def test_the_noised_density_is_that_of_noised_data(name):
    """Integral of q_t = 1 and, by sampling, E over q_t of log q_t: a mixture over many x0."""
    truth, alpha, sigma = TRUTHS[name], 0.8, 0.4
    x0 = truth.sample(20_000, 3).double()
    rng = torch.Generator().manual_seed(0)
    d = x0.shape[1]
    x = alpha * x0[:30] + sigma * torch.randn(30, d, generator=rng, dtype=torch.float64)
    kernel = torch.cdist(x, alpha * x0).square() / (-2 * sigma**2)
    monte_carlo = torch.logsumexp(kernel, 1) - math.log(len(x0))
    monte_carlo -= d / 2 * math.log(2 * math.pi * sigma**2)
    torch.testing.assert_close(log_density(truth, x, alpha, sigma), monte_carlo, rtol=0, atol=0.12)


def test_far_out_the_planes_score_points_back():
    x = torch.tensor([[8.0, -0.5], [-8.0, 0.5]], dtype=torch.float64)
    truth = plane(2)
    score = true_score(truth, x @ truth.basis.double(), 1.0, 0.3) @ truth.basis.double().T
    # the nearest point of the square is at +-1 in the first coordinate: about (1 - 8) / sigma^2
    assert score[0, 0].item() == pytest.approx(-7 / 0.09, rel=0.02)
    torch.testing.assert_close(score[0, 0], -score[1, 0])
    assert abs(score[0, 1]) < 0.5


def test_what_has_no_closed_form_is_said():
    subspace = SubspaceTruth(torch.eye(2), torch.zeros(2), 1.0, torch.zeros(2, 2), torch.zeros(2))
    for truth in (None, SwissRollTruth(3, 0), TwoMoonsTruth(3, 0), subspace):
        assert not has_true_score(truth)
    with pytest.raises(ValueError, match="no closed form"):
        true_score(SwissRollTruth(3, 0), torch.zeros(2, 3), 1.0, 0.5)
    with pytest.raises(ValueError, match=r"sigma/alpha must be >= 0\.01"):
        true_score(SwissRollTruth(2, 0), torch.zeros(2, 2), 1.0, 0.001)


class MixtureEps(nn.Module):
    """eps of a mixture's exact score, times a factor."""

    def __init__(self, schedule, truth, factor=1.0):
        super().__init__()
        self.schedule, self.truth, self.factor = schedule, truth, factor

    def forward(self, x, t):
        alpha, sigma = self.schedule.alpha(t)[0].item(), self.schedule.sigma(t)[0].item()
        return -self.factor * sigma * true_score(self.truth, x, alpha, sigma).to(x.dtype)


def test_the_error_of_the_score_is_that_of_its_factor_and_arrows_show_both():
    schedule, truth = SCHEDULES["vp"](), mixture()
    for factor in (1.0, 1.3):
        denoiser = Denoiser(MixtureEps(schedule, truth, factor), schedule, "eps")
        x_t, t, *_ = points(denoiser, size=2)
        found = score_error(denoiser, x_t, t, truth)
        assert found == pytest.approx(factor - 1, rel=1e-6, abs=1e-9)
    field = arrows(denoiser, truth, 0.5)
    learned, true = torch.tensor(field["learned"]), torch.tensor(field["true"])
    assert learned.shape == true.shape == torch.tensor(field["points"]).shape == (225, 2)
    torch.testing.assert_close(learned, 1.3 * true, rtol=0, atol=1e-3)
    ours = schedule.time_of_ratio(torch.tensor(0.5, dtype=torch.float64))
    alpha, sigma = schedule.alpha(ours).item(), schedule.sigma(ours).item()
    x_t = torch.tensor(field["points"], dtype=torch.float64)
    expected = sigma * true_score(truth, x_t * math.hypot(alpha, sigma), alpha, sigma)
    torch.testing.assert_close(true.double(), expected, rtol=0, atol=1e-3)


def test_all_figures_of_the_exact_denoiser():
    denoiser = exact("vp", "v")
    x0 = MEAN + STD * torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).double()
    found = diagnostics(denoiser, x0, n_times=3, n_path_steps=20)
    assert [row["ratio"] for row in found["times"]] == pytest.approx([0.02, 0.6325, 20], rel=1e-3)
    for row in found["times"]:
        variance = row["alpha"] ** 2 * STD**2 + row["sigma"] ** 2
        assert row["equivariance_error"] == pytest.approx(row["alpha"] ** 2 * STD**2 / variance)
        assert row["lipschitz"] == pytest.approx(row["alpha"] * STD**2 / variance)
        low, high = row["lipschitz_quartiles"]
        assert low <= row["lipschitz"] * (1 + 1e-6)
        assert row["lipschitz"] <= high * (1 + 1e-6)
        assert "score_error" not in row
    assert 0.3 < found["straightness"] < 0.8
    assert "arrows" not in found
    assert found == diagnostics(denoiser, x0, n_times=3, n_path_steps=20)
    assert found != diagnostics(denoiser, x0, n_times=3, n_path_steps=20, seed=1)


class Spy(nn.Module):
    """Remembers the perturbations that it meets."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.seen = schedule, []

    def forward(self, x, t):
        self.seen.append(x.detach())
        return 0 * x


def test_omega_has_the_training_radius_and_noise_levels_fit_the_schedule():
    schedule = SCHEDULES["vp"]()
    spy = Spy(schedule)
    diagnostics(Denoiser(spy, schedule, "eps"), torch.zeros(500, 6), n_times=1, n_path_steps=2)
    (t,) = noise_levels(Denoiser(spy, schedule, "eps"), 1)
    t = schedule.time_of_ratio(torch.tensor(t, dtype=torch.float64))
    omega = (spy.seen[0] - spy.seen[1]) / schedule.sigma(t).item()
    rms = omega.square().mean(1).sqrt()
    assert 0.3 <= rms.min() < 0.32
    assert 0.98 < rms.max() <= 1.0001
    assert abs(omega.mean()) < 0.05
    levels = noise_levels(exact("edm", "edm"), 5)
    assert (levels[0], levels[-1]) == pytest.approx((0.02, 20))


def test_the_score_of_known_data_is_measured():
    schedule, truth = SCHEDULES["flow"](), mixture()
    denoiser = Denoiser(MixtureEps(schedule, truth, 1.1), schedule, "eps")
    found = diagnostics(denoiser, truth.sample(10, 0), truth=truth, n_times=2, n_path_steps=3)
    for row in found["times"]:
        assert row["score_error"] == pytest.approx(0.1, rel=1e-3)
    assert [field["ratio"] for field in found["arrows"]] == [0.1, 0.5, 2.0]


def test_what_makes_no_sense_is_said():
    schedule = SCHEDULES["vp"]()
    jumping = Denoiser(GaussianNetwork(schedule, "v"), schedule, "v", boundary="ddim")
    with pytest.raises(ValueError, match="a consistency model jumps"):
        diagnostics(jumping, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="at least 2 points"):
        diagnostics(exact("vp", "v"), torch.zeros(1, 2))
