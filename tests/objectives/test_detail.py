"""Our own mode against its closed forms."""

import math

import pytest
import torch

from sparring.data.trust.trust import Trust
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import StepRandom
from sparring.objectives import OBJECTIVES
from sparring.objectives.smoothing import choose_rows
from support import CASES, SCHEDULES, AtRatio, GaussianNetwork, LinearEps

D = 4
ONLY_R = {"noise": None, "window": math.inf, "weight": 1.0, "start_step": 0}
"""Every row has its regulariser, and the data no noise of their own."""


@pytest.mark.parametrize("law", ["isotropic", "fixed direction"])
def test_a_linear_denoiser_learns_the_variance_divided_by_one_plus_lambda(vp, law):
    """k = sigma (1 + l) / (alpha^2 v + sigma^2 (1 + l)): trained by the objective itself, with
    l = lam for an isotropic omega, l = lam d along a fixed direction and 0 across it."""
    torch.manual_seed(0)
    time, lam, variance = 200, 3.0, torch.tensor([1.0, 0.5, 0.2, 0.05], dtype=torch.float64)
    alpha, sigma = (float(f(torch.tensor([time]))) for f in (vp.alpha, vp.sigma))
    objective = OBJECTIVES["detail"](vp, lam=lam, fraction=1.0, n_iterations=0, **ONLY_R)
    n = 4096
    # moments made exact, so that the optimum of the sample is the optimum of the formula
    x0 = _whitened(n, seed=1) * variance.sqrt()
    eps = _whitened(n, seed=2, orthogonal_to=x0)
    denoiser = Denoiser(LinearEps(torch.zeros(D, D, dtype=torch.float64)), vp, "eps")
    s = objective.draw({"x0": x0}, StepRandom(0, 0, n, dtype=torch.float64), 0)
    s.t = torch.full((n,), time)
    s.alpha, s.sigma = vp.at(s.t, like=x0)
    s.eps, s.x_t = eps, s.alpha * x0 + s.sigma * eps
    s.rows, s.share = torch.arange(n), torch.ones(n, dtype=torch.float64)
    s.radius = torch.full((n,), 0.1, dtype=torch.float64)
    if law == "isotropic":
        s.omega0 = 0.1 * _whitened(n, seed=3)
        s.omega0 = s.omega0 / s.omega0.norm(dim=1, keepdim=True)  # p_i = 1/d by symmetry
        shrink = torch.full((D,), 1 + lam, dtype=torch.float64)
        tolerance = 0.03
    else:
        s.omega0 = torch.zeros(n, D, dtype=torch.float64)
        s.omega0[:, 1] = 0.1
        shrink = torch.ones(D, dtype=torch.float64)
        shrink[1] = 1 + lam * D
        tolerance = 1e-4
    optimizer = torch.optim.LBFGS(
        denoiser.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12
    )

    def closure():
        optimizer.zero_grad()
        (turn,) = objective.turns({"model": denoiser}, s)
        loss = sum(turn.parts[0]().values()).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = sigma * shrink / (alpha**2 * variance + sigma**2 * shrink)
    learned = denoiser.network.weight.detach().diagonal()
    torch.testing.assert_close(learned, expected, rtol=tolerance, atol=0)


class Shifted(GaussianNetwork):
    """The exact denoiser of the clean data, plus a wrong line of slope and offset `wrong`."""

    def __init__(self, *args):
        super().__init__(*args)
        self.wrong = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x, t):
        return super().forward(x, t) + self.wrong[0] + self.wrong[1] * x


@pytest.mark.parametrize("ratio", [0.35, 1.0, 4.0])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_above_their_own_noise_dirty_data_teach_the_clean_denoiser(name, kind, ratio):
    """With every sample dirty, the loss has no slope at the denoiser of the clean N(0.3, 0.7^2);
    taken for clean data, it has one. The moments are exact, so the slope is."""
    schedule, n, tau = SCHEDULES[name](), 64, 0.3
    clean, own, eps = _whitened(n, seed=1)[:, :3].split(1, dim=1)
    denoiser = Denoiser(Shifted(schedule, kind), schedule, kind)
    slopes = {}
    for noise in (tau, 1e-6):
        objective = OBJECTIVES["detail"](
            schedule, AtRatio(schedule, ratio), noise=noise, start_step=0
        )
        s = objective.draw(
            {"x0": 0.3 + 0.7 * clean + tau * own}, StepRandom(0, 0, n, dtype=torch.float64), 0
        )
        s.eps = eps
        s.carries(s.incomplete.noise)
        terms = objective.denoising(objective.bind(denoiser, s)(s.x_t), s)
        (slope,) = torch.autograd.grad(terms["denoise"].mean(), denoiser.network.wrong)
        slopes[noise] = slope.abs().max()
    assert slopes[tau] < 1e-7 * slopes[1e-6]


def test_the_variational_bound_is_of_rows_without_noise_of_their_own(vp):
    """Its x0 is the data, not the data with noise."""
    network = torch.nn.Conv2d(1, 2, 1).double()
    network.forward = lambda x, t: torch.nn.Conv2d.forward(network, x)
    denoiser = Denoiser(network, vp, "eps", learned_variance=True)
    x0 = torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    objective = OBJECTIVES["detail"](vp, noise=0.5, start_step=0)
    s = objective.draw({"x0": x0}, StepRandom(0, 0, 64), 0)
    (turn,) = objective.turns({"model": denoiser}, s)
    assert torch.equal(turn.parts[0]()["vlb"] == 0, (s.sigma / s.alpha).flatten() > 0.5)


def test_rows_below_their_own_noise_count_less(vp):
    """`weight` of a plain step's loss, below the noise or the window, whichever is higher."""
    n, denoiser = 64, Denoiser(LinearEps(torch.eye(D).double()), vp, "eps")
    x0 = torch.randn(n, D, generator=torch.Generator().manual_seed(0)).double()

    def terms(name, **options):
        objective = OBJECTIVES[name](vp, **options)
        s = objective.draw({"x0": x0}, StepRandom(0, 0, n), 0)
        (turn,) = objective.turns({"model": denoiser}, s)
        return (s.sigma / s.alpha).flatten(), turn.parts[0]()

    ratio, plain = terms("plain")
    for noise, window in ((0.5, "auto"), (0.5, 1.0), (0.5, 0.2), (None, 0.5)):
        common = {"noise": noise, "window": window, "start_step": 0, "fraction": 1.0}
        edge = max(noise or 0, 0 if window == "auto" else window)
        whole, part = (terms("detail", weight=w, **common)[1] for w in (1.0, 0.1))
        for name in ("denoise", "equivariance"):
            torch.testing.assert_close(part[name][ratio < edge], 0.1 * whole[name][ratio < edge])
            torch.testing.assert_close(part[name][ratio >= edge], whole[name][ratio >= edge])
        below = ratio <= (noise or math.inf)
        torch.testing.assert_close(whole["denoise"][below], plain["denoise"][below])


def test_rows_outside_the_window_get_no_regulariser(vp):
    """Their term is zero, that of the rows inside is not; nor does it move the weights."""
    n = 64
    objective = OBJECTIVES["detail"](vp, start_step=0, noise=None, window=0.5, fraction=1.0)
    s = objective.draw({"x0": torch.randn(n, D).double()}, StepRandom(0, 0, n), 0)
    ratio = (s.sigma / s.alpha).flatten()
    inside = ratio < 0.5
    assert 0 < inside.sum() < n
    network = LinearEps(torch.eye(D).double())
    denoiser = Denoiser(network, vp, "eps")

    def term_and_gradient():
        (turn,) = objective.turns({"model": denoiser}, s)
        term = turn.parts[0]()["equivariance"]
        return term, torch.autograd.grad(term.sum(), network.weight)[0]

    term, gradient = term_and_gradient()
    assert (term[~inside] == 0).all()
    assert (term[inside] > 0).all()
    s.x_t[~inside] += 10.0  # what the network says there counts for nothing
    torch.testing.assert_close(term_and_gradient()[1], gradient, rtol=0, atol=0)
    assert gradient.any()


def test_rows_carry_m_over_n(vp):
    """n of the m rows in the window stand for all m, whatever the split over processes."""
    n_rows = 64
    objective = OBJECTIVES["detail"](vp, start_step=0, noise=1.0, fraction=0.125)
    x0 = torch.randn(n_rows, D)
    whole = objective.draw({"x0": x0}, StepRandom(0, 5, n_rows), 5)
    m = int(((whole.sigma / whole.alpha).flatten() < 1.0).sum())
    assert len(whole.rows) == 8
    torch.testing.assert_close(whole.share, torch.full((8,), m / 8))
    parts = []
    for rank in range(4):
        rows = slice(rank * 16, rank * 16 + 16)
        s = objective.draw({"x0": x0[rows]}, StepRandom(0, 5, n_rows, rows), 5)
        keep = s.share > 0
        parts += [
            (int(r) + rank * 16, float(w))
            for r, w in zip(s.rows[keep], s.share[keep], strict=False)
        ]
    assert sorted(parts) == [
        (int(r), float(w)) for r, w in zip(whole.rows, whole.share, strict=False)
    ]


def test_a_process_without_a_row_contributes_zero_not_nan(vp):
    objective = OBJECTIVES["detail"](vp, start_step=0, noise=1e-3)  # no time is that clean
    s = objective.draw({"x0": torch.randn(8, D).double()}, StepRandom(0, 0, 8), 0)
    denoiser = Denoiser(LinearEps(torch.eye(D).double()), vp, "eps")
    (turn,) = objective.turns({"model": denoiser}, s)
    assert (turn.parts[0]()["equivariance"] == 0).all()


def test_choose_rows_is_an_unbiased_choice():
    allowed = torch.zeros(32, dtype=torch.bool)
    allowed[::3] = True
    m, total = int(allowed.sum()), torch.zeros(32)
    for step in range(2000):
        rows, share = choose_rows(StepRandom(0, step, 32), allowed, most=4)
        total.index_add_(0, rows, share)
    torch.testing.assert_close(total[allowed] / 2000, torch.ones(m), rtol=0.15, atol=0)
    assert total[~allowed].sum() == 0
    assert math.isclose(float(total.sum()) / 2000, m, rel_tol=1e-5)


def test_omega_is_the_power_iterate_at_its_radius(vp):
    torch.manual_seed(0)
    weight = torch.randn(D, D, dtype=torch.float64)
    weight = weight + weight.T
    objective = OBJECTIVES["detail"](vp, lam=5.0, fraction=1.0, n_iterations=2, **ONLY_R)
    s = objective.draw({"x0": torch.randn(16, D).double()}, StepRandom(0, 0, 16), 0)
    torch.testing.assert_close(s.omega0.norm(dim=1), s.radius * D**0.5, rtol=1e-5, atol=0)
    (turn,) = objective.turns({"model": Denoiser(LinearEps(weight), vp, "eps")}, s)
    omega = s.omega0
    for _ in range(2):
        omega = omega @ weight
        omega = omega / omega.norm(dim=1, keepdim=True) * s.radius[:, None] * D**0.5
    residual = s.sigma * (omega @ weight.T) - omega
    expected = 5.0 * (residual**2).sum(1) / (omega**2).sum(1)
    torch.testing.assert_close(turn.parts[0]()["equivariance"], expected)


class Bent(LinearEps):
    """A denoiser that is not linear: the length of omega counts, not its direction alone."""

    def forward(self, x, t):
        return torch.tanh(super().forward(x, t))


def test_each_iteration_takes_the_change_from_x_t_to_where_omega_leads(vp):
    weight = torch.randn(D, D, generator=torch.Generator().manual_seed(0)).double()
    denoiser = Denoiser(Bent(weight), vp, "eps")
    objective = OBJECTIVES["detail"](vp, fraction=1.0, n_iterations=3, **ONLY_R)
    s = objective.draw({"x0": torch.randn(16, D).double()}, StepRandom(0, 0, 16), 0)
    x_t, sigma, omega = s.x_t[s.rows], s.sigma[s.rows], s.omega0
    for _ in range(3):
        change = torch.tanh((x_t + sigma * omega) @ weight.T) - torch.tanh(x_t @ weight.T)
        omega = s.radius[:, None] * D**0.5 * change / change.norm(dim=1, keepdim=True)
    torch.testing.assert_close(objective.omega(denoiser, s), omega)


class Dropping(LinearEps):
    """With dropout before the matrix."""

    def __init__(self, weight):
        super().__init__(weight)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x, t):
        return super().forward(self.dropout(x), t)


def test_dropout_does_not_turn_omega(vp):
    """And is there again when the model learns."""
    weight = torch.randn(D, D, generator=torch.Generator().manual_seed(0)).double()
    objective = OBJECTIVES["detail"](vp, fraction=1.0, **ONLY_R)
    s = objective.draw({"x0": torch.randn(16, D).double()}, StepRandom(0, 0, 16), 0)
    expected = objective.omega(Denoiser(LinearEps(weight), vp, "eps"), s)
    denoiser = Denoiser(Dropping(weight), vp, "eps")
    torch.testing.assert_close(objective.omega(denoiser, s), expected)
    assert all(part.training for part in denoiser.modules())


class Listening(LinearEps):
    """Which precision each call is to be answered in."""

    def forward(self, x, t):
        self.precisions.append((len(x), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        return super().forward(x, t)


def test_omega_in_bfloat16_has_the_same_direction_and_nothing_else_is(vp):
    weight = torch.randn(D, D, generator=torch.Generator().manual_seed(0))
    x0 = torch.randn(16, D, generator=torch.Generator().manual_seed(1))
    exact, rounded = (
        OBJECTIVES["detail"](vp, fraction=1.0, bf16_omega=bf16, **ONLY_R) for bf16 in (False, True)
    )
    s = exact.draw({"x0": x0}, StepRandom(0, 0, 16), 0)
    network = Listening(weight)
    network.precisions = []
    denoiser = Denoiser(network, vp, "eps")
    expected = exact.omega(denoiser, s)
    assert not any(low for _, low, _ in network.precisions)
    omega = rounded.omega(denoiser, s)
    assert torch.cosine_similarity(omega, expected).min() > 0.99
    assert not omega.equal(expected)
    torch.testing.assert_close(omega.square().mean(1).sqrt(), s.radius)  # its length is exact
    network.precisions.clear()
    (turn,) = rounded.turns({"model": denoiser}, s)
    turn.parts[0]()
    n = len(s.rows)
    asked = [(2 * n, True, False), (n, True, False)]  # the base point once
    assert network.precisions == [*asked, (16 + n, False, True)]


def _whitened(n, seed, orthogonal_to=None):
    """n vectors with mean 0 and covariance exactly 1, uncorrelated with the given ones."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=g, dtype=torch.float64)
    x = x - x.mean(0)
    if orthogonal_to is not None:
        x = x - orthogonal_to @ torch.linalg.lstsq(orthogonal_to, x).solution
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T


def _trust(level, **changes):
    """Rows used from these noise levels on, (B,)."""
    zero = torch.zeros(len(level))
    fields = {"sigma": zero, "slope": zero, "correlation": zero, "clipped": zero > 0}
    return Trust(**(fields | {"level": level, "weight": zero + 1} | changes))


def test_each_row_has_a_level_of_its_own(vp):
    """Below it R and the loss at `weight`, above it the loss; nothing of R on clean rows or on
    rows that count for nothing."""
    n = 64
    level = torch.tensor([0.0, 0.5, 2.0, 2.0]).repeat(n // 4)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(n // 4)
    x0 = torch.randn(n, D, generator=torch.Generator().manual_seed(0)).double()
    denoiser = Denoiser(LinearEps(torch.eye(D).double()), vp, "eps")
    objective = OBJECTIVES["detail"](vp, start_step=10, fraction=1.0, weight=0.2, noise=None,
                                     window=1.0)  # fmt: skip
    batch = {"x0": x0, "trust": _trust(level, weight=weight)}
    plain = OBJECTIVES["plain"](vp)
    terms = {}
    for step in (9, 10):
        s = objective.draw(batch, StepRandom(0, 10, n), step)
        (turn,) = objective.turns({"model": denoiser}, s)
        terms[step] = turn.parts[0]()
    s_plain = plain.noised({"x0": x0}, StepRandom(0, 10, n), 10, s.t, torch.ones(n))
    (turn,) = plain.turns({"model": denoiser}, s_plain)
    expected = turn.parts[0]()["denoise"]
    drawn = plain.draw({"x0": x0}, StepRandom(0, 10, n), 10).t
    assert torch.equal(s.t.sort().values, drawn.sort().values)
    assert not torch.equal(s.t, drawn)
    ratio = (s.sigma / s.alpha).flatten()
    below = ratio < level
    torch.testing.assert_close(
        terms[10]["denoise"], expected * weight * torch.where(below, 0.2, 1.0), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(terms[9]["denoise"], terms[10]["denoise"])
    assert "equivariance" not in terms[9]
    assert torch.equal(terms[10]["equivariance"] > 0, below & (weight > 0))


def test_rows_of_other_micro_batches_are_left_to_these(vp):
    """Two processes, two micro-batches: each draw chooses among the rows of its own."""
    level = torch.full((8,), 1e3)
    objective = OBJECTIVES["detail"](vp, start_step=0, fraction=0.5, noise=None, window=1.0)
    for micro in range(2):
        rows = slice(8 * micro, 8 * micro + 8)
        rng = StepRandom(0, 0, 16, rows, micro=micro)
        s = objective.draw({"x0": torch.randn(8, D), "trust": _trust(level)}, rng, 0)
        kept = s.rows[s.share > 0]
        assert len(kept) == 4
        torch.testing.assert_close(s.share[s.share > 0], torch.full((4,), 2.0))


def test_it_says_where_images_that_are_called_clean_carry_noise(vp):
    """The audit's check: the plain loss of those rows."""
    from sparring.objectives.spectrum import Scales

    objective = OBJECTIVES["detail"](vp, start_step=500)
    found = {}

    def scales(n_elements, lam):
        return Scales(found.get("noise"), 1.0, found.get("noise"))

    for noise in (None, 0.4):
        objective.auto, objective.spectrum.scales = None, scales
        found["noise"] = noise
        objective.draw({"x0": torch.randn(8, D), "trust": _trust(torch.zeros(8))},
                       StepRandom(0, 500, 8), 500)  # fmt: skip
        assert bool(objective.news) == (noise is not None)
    assert "called clean" in objective.news[0]
    denoiser = Denoiser(LinearEps(torch.eye(D)), vp, "eps")
    level = torch.tensor([0.0, 1e3]).repeat(32)
    rng = StepRandom(0, 499, 64)
    s = objective.draw({"x0": torch.randn(64, D), "trust": _trust(level)}, rng, 499)
    (turn,) = objective.turns({"model": denoiser}, s)
    turn.parts[0]()
    assert 0 < int(objective.spectrum.sums[0].sum()) <= 32  # of the clean rows only


def test_a_network_of_few_updates_does_not_check_the_audit(vp):
    """Its own error at low noise looks like noise in the data."""
    objective = OBJECTIVES["detail"](vp, start_step=160)
    objective.spectrum.scales = lambda n_elements, lam: 1 / 0  # pyright: ignore
    batch = {"x0": torch.randn(8, D), "trust": _trust(torch.zeros(8))}
    objective.draw(batch, StepRandom(0, 160, 8), 160)
    assert objective.news == []


def test_the_more_images_teach_at_a_level_the_less_do_the_others_count(vp):
    """`weight` / (1 + n / few), n the images of the set that teach there."""
    n = 64
    objective = OBJECTIVES["detail"](vp, start_step=10, noise=None, window=1.0, weight=0.2, few=4)
    objective.teaching_levels = torch.tensor([0.0, 0.0, 0.1, 0.5, torch.inf])
    batch = {"x0": torch.randn(n, D), "trust": _trust(torch.full((n,), 1e4))}
    s = objective.draw(batch, StepRandom(0, 0, n), 0)
    ratio = (s.sigma / s.alpha).flatten()
    n_teaching = 2.0 + (ratio > 0.1).float() + (ratio > 0.5).float()
    torch.testing.assert_close(s.weight, 0.2 / (1 + n_teaching / 4))


def test_clean_images_come_more_often_and_what_never_teaches_never(vp):
    """Each as often as `how_often` says, in quarters of what it would be if all came alike."""
    objective = OBJECTIVES["detail"](vp, few=1)
    level = torch.cat([torch.zeros(20), torch.full((79,), 0.8), torch.zeros(1)])
    trust = _trust(level)._replace(weight=torch.cat([torch.ones(99), torch.zeros(1)]))
    counts = objective.epoch(trust, 8, 8).bincount(minlength=100)
    ratio = vp.ratio(torch.arange(vp.n_train_timesteps))
    below = float((ratio <= 0.8).double().mean())
    clean, dirty = 4 * 100 * (below / 20 + (1 - below) / 99), 4 * 100 * (1 - below) / 99
    assert counts[:20].unique().tolist() == [pytest.approx(clean, abs=1)]
    assert counts[20:99].unique().tolist() == [pytest.approx(dirty, abs=1)]
    assert counts[99] == 0
    assert objective.epoch(_trust(torch.zeros(50)), 8, 8) is None


def test_a_noisy_image_leaves_noise_below_twice_its_own_to_a_clean_one(vp):
    """Rows of noise 0.4 are not above it alone, but, while clean rows can be had, twice above."""
    n = 64
    objective = OBJECTIVES["detail"](vp, start_step=10, noise=None, window=1.0)
    sigma = torch.where(torch.arange(n) < n // 2, 0.4, 0.0)
    batch = {"x0": torch.randn(n, 1, 8, 8), "trust": _trust(torch.zeros(n))._replace(sigma=sigma)}
    s = objective.draw(batch, StepRandom(0, 0, n), 0)
    ratio = (s.sigma / s.alpha).flatten()
    plain = OBJECTIVES["plain"](vp).draw(batch, StepRandom(0, 0, n), 0)
    before = (plain.sigma / plain.alpha).flatten()
    assert (before[: n // 2] < 0.8).sum() > 0
    assert (ratio[: n // 2] > 0.8).all()
    torch.testing.assert_close(ratio.sort().values, before.sort().values)


def test_where_enough_images_teach_there_is_no_r(vp):
    """R at noises at which fewer than `few` images of the set teach, on rows that do not."""
    n, level = 64, torch.full((64,), 2.0)
    objective = OBJECTIVES["detail"](vp, start_step=0, noise=None, window=1.0, few=3, fraction=1)
    batch = {"x0": torch.randn(n, D), "trust": _trust(level)}
    objective.teaching_levels = torch.tensor([0.0, 0.0, 0.5, 2.0])
    s = objective.draw(batch, StepRandom(0, 0, n), 0)
    ratio = (s.sigma / s.alpha).flatten()
    assert (ratio[s.rows[s.share > 0]] < 0.5).all()
    assert s.share.sum() == (ratio < 0.5).sum()
    objective.teaching_levels = torch.tensor([0.0, 0.0, 0.0, 2.0])
    s = objective.draw(batch, StepRandom(0, 0, n), 0)
    assert not hasattr(s, "rows")
    objective.teaching_levels = torch.tensor([0.0, 2.0])  # fewer than few in all
    s = objective.draw(batch, StepRandom(0, 0, n), 0)
    assert s.share.sum() == ((s.sigma / s.alpha).flatten() < 2.0).sum()
