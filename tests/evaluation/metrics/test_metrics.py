"""Every formula against a closed form, a hand-made case, or another way to compute it."""

import math

import pytest
import scipy.linalg
import torch

from sparring.evaluation import feature_sets, resampling
from sparring.evaluation.feature_sets import Gaussian, nearest
from sparring.evaluation.metrics import kernel_distance as kernel_module
from sparring.evaluation.metrics.frechet_distance import (
    frechet_distance,
    frechet_distance_infinity,
    frechet_distance_of_halves,
    frechet_distance_of_resamples,
)
from sparring.evaluation.metrics.inception_score import inception_score
from sparring.evaluation.metrics.kernel_distance import (
    gaussian_mmd,
    kernel_distance,
    kernel_distance_of_subsets,
    median_distance,
    subset_size_for,
)
from sparring.evaluation.metrics.neighbours import (
    precision_recall_density_coverage,
    squared_radii,
)
from sparring.evaluation.metrics.sliced_wasserstein import sliced_wasserstein

F64 = torch.float64


def normal(seed, n, d):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def with_moments(mean, covariance, n=50, seed=0):
    """Samples whose mean and unbiased covariance are exactly these."""
    d = len(mean)
    x = normal(seed, n, d)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return x @ torch.linalg.cholesky(covariance).T + mean


# --- Frechet distance


def test_frechet_distance_of_gaussians_on_shared_axes_is_the_closed_form():
    """Commuting covariances: d = |m1 - m2|^2 + sum (s1 - s2)^2."""
    m1, m2 = torch.tensor([1.0, -2.0, 0.5], dtype=F64), torch.tensor([0.0, 1.0, 0.5], dtype=F64)
    s1, s2 = torch.tensor([1.0, 2.0, 0.3], dtype=F64), torch.tensor([1.5, 0.4, 0.3], dtype=F64)
    turn = torch.linalg.qr(normal(5, 3, 3)).Q
    real = with_moments(m1, turn @ torch.diag(s1**2) @ turn.T)
    fake = with_moments(m2, turn @ torch.diag(s2**2) @ turn.T, seed=1)
    expected = (m1 - m2).square().sum() + (s1 - s2).square().sum()
    assert frechet_distance(real, fake) == pytest.approx(expected.item(), abs=1e-10)


def test_frechet_distance_agrees_with_scipys_root_for_covariances_that_do_not_commute():
    real, fake = normal(0, 40, 6) @ normal(1, 6, 6), normal(2, 30, 6) @ normal(3, 6, 6) + 0.3
    s1, s2 = torch.cov(real.T).numpy(), torch.cov(fake.T).numpy()
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = (real.mean(0) - fake.mean(0)).square().sum().item()
    expected += (s1 + s2 - 2 * root).trace()
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_to_itself_is_zero_also_with_a_singular_covariance():
    features = normal(0, 10, 64)  # rank 9 of 64
    assert frechet_distance(features, features) < 1e-9
    assert frechet_distance(features, features + 2) == pytest.approx(4 * 64, rel=1e-9)


def test_frechet_distance_accepts_moments_in_place_of_features():
    real, fake = normal(0, 40, 4), normal(1, 30, 4) * 2
    expected = frechet_distance(real, fake)
    found = frechet_distance(Gaussian.of(real), Gaussian.of(fake))
    assert found == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="differ in size: 3 and 4"):
        frechet_distance(normal(0, 9, 3), normal(0, 9, 4))
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        frechet_distance(normal(0, 1, 3), normal(0, 9, 3))
    broken = normal(0, 9, 3)
    broken[4, 1] = math.nan
    with pytest.raises(ValueError, match="1 of 9 feature rows are not finite"):
        frechet_distance(normal(0, 9, 3), broken)
    with pytest.raises(ValueError, match=r"\(N, D\), got \(9,\)"):
        frechet_distance(normal(0, 9, 3)[:, 0], broken)


def test_floor_of_resamples_falls_as_one_over_the_number_of_samples():
    """For a resample with replacement E d = tr S / n + the covariances' part, both ~ 1 / n."""
    real = normal(0, 1000, 4)
    small = frechet_distance_of_resamples(real, 250, n_resamples=60, seed=1)
    large = frechet_distance_of_resamples(real, 1000, n_resamples=60, seed=1)
    assert small.shape == (60,)
    assert small.mean() / large.mean() == pytest.approx(4, rel=0.15)
    # mean: d / n; covariance: E |S - 1|^2 / 4 = d (d + 1) / (4 n)
    assert large.mean() == pytest.approx((4 + 5) / 1000, rel=0.15)


def test_floor_of_halves_is_about_four_times_that_of_a_resample():
    """Two halves differ by 1 / (n/2) + 1 / (n/2), a resample from its source by 1 / n."""
    real = normal(0, 1000, 4)
    halves = frechet_distance_of_halves(real, n_splits=60)
    resample = frechet_distance_of_resamples(real, 1000, n_resamples=60).mean().item()
    assert halves / resample == pytest.approx(4, rel=0.2)


# --- Kernel distance


def test_kernel_distance_is_its_sum_over_pairs():
    real, fake = normal(0, 5, 3), normal(1, 4, 3) + 0.5

    def kernel(x, y):
        return (torch.dot(x, y).item() / 3 + 1) ** 3

    within_real = [kernel(real[i], real[j]) for i in range(5) for j in range(5) if i != j]
    within_fake = [kernel(fake[i], fake[j]) for i in range(4) for j in range(4) if i != j]
    between = [kernel(x, y) for x in real for y in fake]
    expected = sum(within_real) / 20 + sum(within_fake) / 12 - 2 * sum(between) / 20
    assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_has_expectation_zero_for_equal_distributions():
    values = torch.tensor(
        [kernel_distance(normal(i, 12, 2), normal(1000 + i, 8, 2)) for i in range(900)]
    )
    error = values.std() / 900**0.5
    assert values.mean().abs() < 3 * error
    assert values.min() < 0  # an estimate with the diagonal is never negative
    assert error < 0.1


def test_kernel_distance_of_subsets_has_the_mean_of_the_whole():
    real, fake = normal(0, 300, 3), normal(1, 240, 3) + 0.5
    whole = kernel_distance(real, fake)
    subsets = kernel_distance_of_subsets(real, fake, n_subsets=300, subset_size=60)
    assert subsets.shape == (300,)
    assert subsets.mean().item() == pytest.approx(whole, abs=3 * subsets.std().item() / 300**0.5)
    assert subsets.std().item() < whole / 2
    assert torch.equal(
        subsets, kernel_distance_of_subsets(real, fake, n_subsets=300, subset_size=60)
    )


def test_subsets_hold_at_most_half_of_the_smaller_set():
    assert subset_size_for(1797, 5000) == 898
    assert subset_size_for(10_000, 5000) == 1000
    assert subset_size_for(3, 3) == 2


# --- Neighbours: points on a line, counted by hand

REAL = torch.tensor([[0.0], [1.0], [3.0], [10.0]])  # radii to the first neighbour 1, 1, 2, 7
FAKE = torch.tensor([[0.5], [2.0], [-5.0]])  # radii 1.5, 1.5, 5.5


def four(name, real, fake, k):
    return precision_recall_density_coverage(real, fake, k)[name]


def test_radii_reach_to_the_kth_other_point():
    assert squared_radii(REAL, 1).tolist() == [1, 1, 4, 49]
    assert squared_radii(REAL, 2).tolist() == [9, 4, 9, 81]
    with pytest.raises(ValueError, match="at least 5 samples, got 4"):
        squared_radii(REAL, 4)
    with pytest.raises(ValueError, match="k must be >= 1"):
        squared_radii(REAL, 0)


def test_precision_recall_density_coverage_of_hand_made_points():
    # real balls: [-1, 1], [0, 2], [1, 5], [3, 17]
    # 0.5 is in two of them, 2 in two, -5 in none
    assert four("precision", REAL, FAKE, k=1) == pytest.approx(2 / 3)
    assert four("density", REAL, FAKE, k=1) == pytest.approx(4 / 3)
    # the first three balls hold a fake, the last none
    assert four("coverage", REAL, FAKE, k=1) == pytest.approx(3 / 4)
    # fake balls: [-1, 2], [0.5, 3.5], [-10.5, 0.5]: 0, 1 and 3 are inside, 10 is not
    assert four("recall", REAL, FAKE, k=1) == pytest.approx(3 / 4)
    # balls of k = 2 around the reals: [-3, 3], [-1, 3], [0, 6], [1, 19]: 0.5 in three, 2 in four
    assert four("density", REAL, FAKE, k=2) == pytest.approx(7 / 3 / 2)


def test_a_ball_holds_its_boundary_and_one_ball_is_enough():
    # the fake ball [0.5, 3.5] just reaches 3.5; 20 and 21 are in none
    assert four("recall", torch.tensor([[3.5], [20.0], [21.0]]), FAKE, k=1) == pytest.approx(1 / 3)
    # 17 is on the edge of the real ball [3, 17] and in no other; 40 is in none
    assert four("precision", REAL, torch.tensor([[17.0], [40.0]]), k=1) == 0.5


def test_the_four_at_once_are_the_four_alone_also_in_chunks(monkeypatch):
    real, fake = normal(0, 80, 3), normal(1, 50, 3) * 0.7
    alone = {
        name: four(name, real, fake, 3) for name in ("precision", "recall", "density", "coverage")
    }
    assert len(set(alone.values())) == 4
    radii = squared_radii(real, 3)
    assert precision_recall_density_coverage(real, fake, 3) == alone
    monkeypatch.setattr(feature_sets, "BLOCK", 27)
    assert precision_recall_density_coverage(real, fake, 3, radii) == alone


CHUNKED = {
    "frechet_distance": frechet_distance,
    "kernel_distance": kernel_distance,
    "gaussian_mmd": lambda real, fake: gaussian_mmd(real, fake, 2.0),
    "nearest_distances": lambda real, fake: nearest(fake, real, 1)[0][:, 0],
    "squared_radii": lambda real, _: squared_radii(real, 20),
    "four": lambda real, fake: list(precision_recall_density_coverage(real, fake, 4).values()),
    "sliced_wasserstein": lambda real, fake: sliced_wasserstein(real, fake, 30),
}


@pytest.mark.parametrize("offset", [0, 30])
def test_figures_of_all_pairs_are_those_of_plain_loops(monkeypatch, offset):
    """Whatever is saved by halves, strips and squares, far from the origin too."""
    monkeypatch.setattr(feature_sets, "BLOCK", 13)
    monkeypatch.setattr(feature_sets, "STRIP_ELEMENTS", 50)
    real, fake = normal(0, 40, 30) + offset, normal(1, 30, 30) * 0.8 + 0.1 + offset

    def mean(one, other, kernel):
        values = [
            kernel(x, y)
            for i, x in enumerate(one) for j, y in enumerate(other) if one is not other or i != j
        ]  # fmt: skip
        return float(torch.stack(values).mean())

    def mmd(kernel):
        return mean(real, real, kernel) + mean(fake, fake, kernel) - 2 * mean(real, fake, kernel)

    def gaussians(x, y):
        squares = (x - y).square().sum()
        return sum((-squares / (2 * h**2)).exp() for h in (2.0, 4.0, 8.0))

    assert gaussian_mmd(real, fake, 4.0) == pytest.approx(mmd(gaussians), rel=1e-8)
    cubes = mmd(lambda x, y: (x @ y / 30 + 1) ** 3)
    assert kernel_distance(real, fake) == pytest.approx(cubes, rel=1e-6)
    distances = (real[:, None] - real).norm(dim=2).fill_diagonal_(torch.inf)
    radii = distances.sort(1).values[:, 2]
    found = (real[:, None] - fake).norm(dim=2) <= radii[:, None]
    four = precision_recall_density_coverage(real, fake, 3)
    assert four["precision"] == pytest.approx(found.any(0).double().mean().item())
    assert four["density"] == pytest.approx(found.double().sum().item() / 3 / len(fake))
    assert four["coverage"] == pytest.approx(found.any(1).double().mean().item())


@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_of_float32_change_no_figure(monkeypatch, name):
    """Chunks become float64, and what is done to each number of a block goes in strips."""
    real, fake = normal(0, 90, 30).float(), normal(1, 70, 30).float() * 0.9
    whole = torch.as_tensor(CHUNKED[name](real.double(), fake.double()), dtype=F64)
    monkeypatch.setattr(feature_sets, "BLOCK", 27)
    monkeypatch.setattr(feature_sets, "CHUNK_ELEMENTS", 300)
    monkeypatch.setattr(feature_sets, "STRIP_ELEMENTS", 100)
    chunked = torch.as_tensor(CHUNKED[name](real, fake), dtype=F64)
    torch.testing.assert_close(chunked, whole, rtol=1e-10, atol=1e-12)
    assert chunked.abs().max() > 1e-3


def test_the_bandwidth_of_many_points_is_that_of_evenly_spaced_ones(monkeypatch):
    points = normal(0, 100, 2)
    monkeypatch.setattr(kernel_module, "MAX_FOR_MEDIAN", 40)
    expected = torch.pdist(points[[*range(0, 100, 3)]]).median().item()
    assert median_distance(points) == pytest.approx(expected, rel=1e-9)


def test_density_and_coverage_of_equal_distributions_have_their_expectations():
    """E density = 1 and E coverage = 1 - C(N-1.., k) terms -> 1 - 2^-k for N = M -> infinity."""
    figures = precision_recall_density_coverage(normal(0, 1500, 2), normal(1, 1500, 2), 3)
    assert figures["density"] == pytest.approx(1, abs=0.06)
    assert figures["coverage"] == pytest.approx(1 - 2**-3, abs=0.04)


def test_nearest_distances_of_hand_made_points():
    queries = torch.tensor([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0]])
    points = torch.tensor([[0.0, 1.0], [3.0, 4.0], [10.0, 5.0], [8.0, 0.0]])
    assert nearest(queries, points, 1)[0][:, 0].tolist() == pytest.approx([1, 0, 2])


# --- Sliced Wasserstein distance


def test_sliced_wasserstein_of_a_shifted_copy_is_the_mean_projection_of_the_shift():
    """W1 of a shift is |<theta, shift>|; its mean is |shift| 2 / pi on the circle, |shift| / 2 on
    the sphere."""
    for d, mean_cosine in ((1, 1), (2, 2 / math.pi), (3, 0.5)):
        x = normal(0, 64, d)
        shift = torch.zeros(d, dtype=F64)
        shift[0] = 1.5
        distance = sliced_wasserstein(x, x + shift, n_projections=40_000)
        assert distance == pytest.approx(1.5 * mean_cosine, rel=0.01)


def test_sliced_wasserstein_of_two_gaussians_of_different_spread():
    """In one dimension W1(N(0, a^2), N(0, b^2)) = |a - b| sqrt(2 / pi)."""
    levels = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    ordered = math.sqrt(2) * torch.erfinv(2 * levels - 1)
    x, y = ordered[:, None], 3 * ordered[torch.randperm(20_000)][:, None]
    expected = 2 * math.sqrt(2 / math.pi)
    assert sliced_wasserstein(x, y, n_projections=3) == pytest.approx(expected, rel=1e-3)


def test_sliced_wasserstein_in_one_dimension_agrees_with_scipy():
    x, y = normal(0, 70, 1), normal(1, 70, 1).exp()
    expected = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0])
    assert sliced_wasserstein(x, y, n_projections=1) == pytest.approx(expected, rel=1e-12)


def test_sliced_wasserstein_interpolates_between_sets_of_different_size():
    x, y = normal(0, 5000, 1), normal(1, 700, 1) * 2 + 1
    expected = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0])
    assert sliced_wasserstein(x, y, n_projections=1) == pytest.approx(expected, rel=0.01)
    assert sliced_wasserstein(y, x, n_projections=1) == pytest.approx(expected, rel=0.01)
    # by hand: quantiles of {0, 1} at levels 1/8, 3/8, 5/8, 7/8 are 0, 0.25, 0.75, 1
    two, four = torch.tensor([[1.0], [0.0]]), torch.zeros(4, 1)
    assert sliced_wasserstein(two, four, n_projections=1) == pytest.approx(0.5)
    four = torch.tensor([[1.0], [0.25], [0.75], [0.0]])
    assert sliced_wasserstein(two, four, n_projections=1) == pytest.approx(0, abs=1e-12)


def test_sliced_wasserstein_depends_on_its_seed_alone():
    x, y = normal(0, 50, 3), normal(1, 50, 3) + 1
    assert sliced_wasserstein(x, y, 20, seed=4) == sliced_wasserstein(x, y, 20, 4)
    assert sliced_wasserstein(x, y, 20, seed=4) != sliced_wasserstein(x, y, 20, 5)


# --- Intervals


def test_interval_of_a_mean_is_the_textbook_one():
    x = normal(0, 400, 1)
    mean = x.mean().item()
    halves = resampling.half_samples(lambda half: half.mean().item(), x, n_resamples=2000)
    low, high = resampling.interval(mean, halves)
    assert (low + high) / 2 == pytest.approx(mean, abs=1e-12)
    assert (high - low) / 2 == pytest.approx(1.96 * x.std().item() / 400**0.5, rel=0.06)


def test_interval_corrects_for_the_size_of_the_subsets():
    x = normal(0, 400, 1)[:, 0]
    random = torch.Generator().manual_seed(0)
    subsets = torch.stack(
        [x[torch.randperm(400, generator=random)[:50]].mean() for _ in range(3000)]
    )
    low, high = resampling.interval(0.0, subsets, size=50, n=400)
    assert (high - low) / 2 == pytest.approx(1.96 * x.std().item() / 400**0.5, rel=0.06)


def test_interval_of_a_frechet_distance_holds_as_much_as_fresh_samples_scatter():
    real = Gaussian.of(normal(0, 4000, 3))
    fresh = [frechet_distance(real, normal(i, 500, 3) + 0.5) for i in range(1, 200)]
    fake = normal(999, 500, 3) + 0.5
    halves = resampling.half_samples(lambda half: frechet_distance(real, half), fake, 200)
    distance = frechet_distance(real, fake)
    low, high = resampling.interval(distance, halves)
    assert low < distance < high
    assert (high - low) / 2 == pytest.approx(1.96 * torch.tensor(fresh).std().item(), rel=0.25)


def test_an_interval_needs_two_resamples():
    with pytest.raises(ValueError, match="at least 2 resamples, got 1"):
        resampling.interval(1.0, torch.ones(1))


# --- Few samples, and the Inception Score


def test_the_extrapolated_distance_loses_the_bias_of_few_samples():
    torch.manual_seed(0)
    d, m = 16, 400
    real = Gaussian(torch.zeros(d, dtype=F64), torch.eye(d, dtype=F64))
    scale, mean = torch.linspace(0.5, 1.5, d, dtype=F64), 0.1
    exact = d * mean**2 + (scale - 1).square().sum().item()
    plain, extrapolated = [], []
    for seed in range(20):
        fake = mean + scale * torch.randn(m, d, dtype=F64)
        plain.append(frechet_distance(real, fake))
        extrapolated.append(frechet_distance_infinity(real, fake, seed=seed))
    bias = sum(plain) / 20 - exact
    assert bias > 0.1
    assert abs(sum(extrapolated) / 20 - exact) < 0.3 * bias


def test_inception_score_counts_classes():
    certain = 100 * torch.eye(5, dtype=F64).repeat(8, 1)
    assert inception_score(certain, n_splits=4, seed=None) == pytest.approx((5, 0), abs=1e-6)
    assert inception_score(certain[:1].repeat(9, 1), n_splits=3) == pytest.approx((1, 0), abs=1e-6)
    assert inception_score(torch.zeros(9, 5), n_splits=3) == pytest.approx((1, 0), abs=1e-6)


def test_inception_score_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=F64)
    mean = p.mean(0)
    expected = (p * (p / mean).log()).sum(1).mean().exp().item()
    found, _ = inception_score(p.log() + 3, n_splits=1)
    assert found == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="at least 10 samples, got 2"):
        inception_score(p)
