"""What must hold for every objective and parametrisation, in float64."""

import copy
import math

import pytest
import torch

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import StepRandom
from sparring.models.networks import MLP
from sparring.objectives import OBJECTIVES
from support import CASES, SCHEDULES, LinearEps

DIM, ROWS = 3, 16
METHODS = sorted(set(OBJECTIVES) - {"oracle", "adt"})  # told more, two players: files of their own
AT_WORK = {
    "detail": {"noise": 0.3, "window": 3.0, "start_step": 0},
    "latent_consistency_distillation": {"guidance_low": 1.0, "guidance_high": 1.0},
}
"""Options with which a method does from the first step, unconditionally, what it is there for."""


def _denoiser(schedule, kind, dropout=0.0):
    torch.manual_seed(0)
    return Denoiser(MLP(DIM, 16, 1, dropout=dropout).double(), schedule, kind)


def _others(objective, denoiser):
    """The networks that a distillation calls beside the student."""
    roles = ["ema"] * objective.needs_ema + ["teacher"] * objective.needs_teacher
    return {role: copy.deepcopy(denoiser).requires_grad_(False).eval() for role in roles}


def _batch(n=ROWS):
    g = torch.Generator().manual_seed(1)
    return {"x0": torch.randn(n, DIM, generator=g, dtype=torch.float64)}


def _rng(n=ROWS, rows=None, step=0):
    return StepRandom(0, step, n, rows, dtype=torch.float64)


def _gradients(objective, denoiser, batch=None, rng=None):
    denoiser.zero_grad()
    s = objective.draw(batch or _batch(), rng or _rng(), step=0)
    nets = {"model": denoiser, **_others(objective, denoiser)}
    for turn in objective.turns(nets, s):
        for part in turn.parts:
            sum(part().values()).mean().backward()
    return torch.cat([p.grad.flatten() for p in denoiser.parameters() if p.grad is not None])


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize(
    "method", ["smoothing_random", "smoothing_adversarial", "invariance", "detail"]
)
def test_at_lambda_zero_the_gradients_are_those_of_plain(name, kind, method):
    schedule = SCHEDULES[name]()
    denoiser = _denoiser(schedule, kind)
    plain = _gradients(OBJECTIVES["plain"](schedule), denoiser)
    only = {"noise": None, "window": math.inf, "weight": 1.0, "start_step": 0}
    extra = only if method == "detail" else {}
    same = _gradients(OBJECTIVES[method](schedule, lam=0.0, **extra), denoiser)
    torch.testing.assert_close(same, plain, rtol=1e-12, atol=1e-12)
    other = _gradients(OBJECTIVES[method](schedule, lam=1.0, **extra), denoiser)
    assert (other - plain).norm() > 1e-6 * plain.norm()


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("method", ["dro", "dro_pgd"])
def test_without_ascent_dro_is_the_plain_step(name, kind, method):
    schedule = SCHEDULES[name]()
    denoiser = _denoiser(schedule, kind)
    plain = _gradients(OBJECTIVES["plain"](schedule), denoiser)
    once = {"n_passes": 1} if method == "dro" else {"n_steps": 0}
    same = _gradients(OBJECTIVES[method](schedule, **once), denoiser)
    torch.testing.assert_close(same, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_dro_target_is_the_noise_that_maps_x0_to_the_perturbed_point(name, kind):
    """A network that knows x0 has no loss at x_t + delta, whatever delta is."""
    schedule = SCHEDULES[name]()
    objective = OBJECTIVES["dro"](schedule)
    s = objective.draw(_batch(), _rng(), step=0)

    class Oracle(torch.nn.Module):
        def forward(self, x, t):
            x_t = x / schedule.input_scale(s.sigma)
            eps = (x_t - s.alpha * s.x0) / s.sigma
            a, b = denoiser.pair(s.alpha, s.sigma)
            return a * s.x0 + b * eps

    denoiser = Denoiser(Oracle(), schedule, kind)
    delta = 0.3 * torch.randn_like(s.x_t)
    torch.testing.assert_close(s.x_t + delta, s.alpha * s.x0 + s.sigma * (s.eps + delta / s.sigma))
    assert objective.robust(denoiser, s, delta)["denoise"].max() < 1e-16
    wrong = OBJECTIVES["dro"](schedule, target="uncorrected")
    if kind != "x0":  # there the target is x0 either way
        assert wrong.robust(denoiser, s, delta)["denoise"].min() > 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_add_up_to_the_global_batch(method, vp):
    """Two halves, as two processes or micro-batches see them, give the whole's gradient."""
    denoiser = _denoiser(vp, "v")
    extra = {"n_passes": 1} if method == "dro" else {}
    objective = OBJECTIVES[method](vp, **extra, **AT_WORK.get(method, {}))
    whole = _gradients(objective, denoiser)
    x0 = _batch()["x0"]
    halves = [
        _gradients(objective, denoiser, {"x0": x0[rows]}, _rng(rows=rows))
        for rows in (slice(0, ROWS // 2), slice(ROWS // 2, ROWS))
    ]
    torch.testing.assert_close(sum(halves) / 2, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_draws_nothing(method, vp):
    """The same draws give the same value; another step gives another."""
    denoiser, objective = _denoiser(vp, "eps"), OBJECTIVES[method](vp, **AT_WORK.get(method, {}))
    nets, x0 = _others(objective, denoiser), _batch()["x0"]

    def losses(step):
        return [float(x.detach()) for x in objective(denoiser, x0, step=step, nets=nets)]

    assert losses(4) == losses(4)
    assert losses(4) != losses(5)


@pytest.mark.parametrize("method", METHODS)
def test_short_training_lowers_the_loss(method, vp):
    torch.manual_seed(0)
    denoiser = Denoiser(MLP(2, 48, 2), vp, "eps")
    optimizer = torch.optim.Adam(denoiser.parameters(), 3e-3)
    objective = OBJECTIVES[method](vp, **AT_WORK.get(method, {}))
    x0 = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(64, 1)
    losses, nets = [], {"teacher": Denoiser(MLP(2, 48, 2), vp, "eps"), "ema": denoiser}
    for step in range(150):
        for loss in objective(denoiser, x0, step=step, nets=nets):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < 0.75 * sum(losses[:20])


def test_attack_and_perturbed_pass_share_a_dropout_mask(vp):
    """With one mask in all passes, a zero perturbation changes nothing at all."""
    denoiser = _denoiser(vp, "eps", dropout=0.5).train()
    objective = OBJECTIVES["smoothing_adversarial"](
        vp, lam=1.0, lam_scaling="constant", radius="constant", radius_scale=0.0, min_bias=0.0
    )
    s = objective.draw(_batch(), _rng(), step=0)
    (turn,) = objective.turns({"model": denoiser}, s)
    assert turn.parts[0]()["equivariance"].abs().max() == 0


def test_a_fraction_of_the_batch_is_unbiased(vp):
    """Averaged over steps, q = 1/4 estimates the regulariser of the whole batch."""
    denoiser = _denoiser(vp, "eps")

    def mean_term(fraction):
        objective = OBJECTIVES["smoothing_random"](vp, fraction=fraction)
        total = 0.0
        for step in range(400):
            s = objective.draw(_batch(), _rng(step=step), step)
            (turn,) = objective.turns({"model": denoiser}, s)
            total += float(turn.parts[0]()["equivariance"].mean().detach())
        return total / 400

    assert abs(mean_term(0.25) / mean_term(1.0) - 1) < 0.1


def test_the_regulariser_starts_late(vp):
    denoiser = _denoiser(vp, "eps")
    objective = OBJECTIVES["detail"](vp, start_step=10, noise=None, window=math.inf)
    for step, expected in ((9, {"denoise"}), (10, {"denoise", "equivariance"})):
        s = objective.draw(_batch(), _rng(step=step), step)
        (turn,) = objective.turns({"model": denoiser}, s)
        assert set(turn.parts[0]()) == expected


def test_snr_weighting_is_the_papers_for_eps_v_and_x0(vp):
    s = OBJECTIVES["plain"](vp).draw(_batch(), _rng(), step=0)
    snr = ((s.alpha / s.sigma) ** 2).flatten()
    expected = {
        "eps": snr.clamp(max=5) / snr,
        "v": snr.clamp(max=5) / (snr + 1),
        "x0": snr.clamp(max=5),
    }
    for kind, weight in expected.items():
        denoiser = _denoiser(vp, kind)
        terms = {}
        for gamma in (None, 5.0):
            (turn,) = OBJECTIVES["plain"](vp, snr_gamma=gamma).turns({"model": denoiser}, s)
            terms[gamma] = turn.parts[0]()["denoise"]
        torch.testing.assert_close(terms[5.0], weight * terms[None])


def test_input_perturbation_is_that_of_diffusers(vp):
    """x_t = alpha x0 + sigma (eps + gamma xi), target eps."""
    objective = OBJECTIVES["input_perturbation"](vp, gamma=0.1)
    denoiser = _denoiser(vp, "eps")
    s = objective.draw(_batch(), _rng(), step=0)
    (turn,) = objective.turns({"model": denoiser}, s)
    xi = _rng().normal("omega", (DIM,))
    noisy = s.alpha * s.x0 + s.sigma * (s.eps + 0.1 * xi)
    expected = ((denoiser.network(noisy, s.t) - s.eps) ** 2).mean(1)
    torch.testing.assert_close(turn.parts[0]()["denoise"], expected)


@pytest.mark.parametrize("schedule_name", ["snr", "exponential", "constant"])
@pytest.mark.parametrize("loss_type", ["huber", "smooth_l1"])
def test_huber_is_that_of_sd_scripts(vp, schedule_name, loss_type):
    objective = OBJECTIVES["huber"](vp, huber_schedule=schedule_name, loss_type=loss_type)
    denoiser = _denoiser(vp, "eps")
    s = objective.draw(_batch(), _rng(), step=0)
    (turn,) = objective.turns({"model": denoiser}, s)
    abar = vp.alphas_cumprod[s.t]
    c = {
        "snr": 0.9 / (1 + ((1 - abar) / abar) ** 0.5) ** 2 + 0.1,
        "exponential": torch.exp(torch.log(torch.tensor(0.1)) / 1000 * s.t),
        "constant": torch.full_like(abar, 0.1),
    }[schedule_name][:, None].double()
    error = denoiser.network(s.x_t, s.t) - s.eps
    loss = 2 * ((error**2 + c**2).sqrt() - c)
    loss = c * loss if loss_type == "huber" else loss
    torch.testing.assert_close(turn.parts[0]()["denoise"], loss.mean(1), rtol=1e-6, atol=1e-9)


def test_linear_denoiser_has_the_residual_of_algebra(vp):
    """eps_hat = W x: the equivariance residual is (sigma W - 1) omega, the gap sigma W omega."""
    torch.manual_seed(0)
    weight = torch.randn(DIM, DIM, dtype=torch.float64)
    denoiser = Denoiser(LinearEps(weight), vp, "eps")
    for method, minus in (("smoothing_random", 1.0), ("invariance", 0.0)):
        extra = {"attack": "random"} if method == "invariance" else {}
        objective = OBJECTIVES[method](vp, lam=2.0, lam_scaling="constant", **extra)
        s = objective.draw(_batch(), _rng(), step=0)
        (turn,) = objective.turns({"model": denoiser}, s)
        term = turn.parts[0]()["invariance" if method == "invariance" else "equivariance"]
        residual = s.sigma * (s.omega0 @ weight.T) - minus * s.omega0
        torch.testing.assert_close(term, 2.0 * (residual**2).mean(1))


def test_paper_scaling_and_the_literal_reading(vp):
    torch.manual_seed(0)
    weight = torch.randn(DIM, DIM, dtype=torch.float64)
    denoiser = Denoiser(LinearEps(weight), vp, "eps")
    objective = OBJECTIVES["smoothing_random"](vp, lam=0.3, move="sample")
    s = objective.draw(_batch(), _rng(), step=0)
    (turn,) = objective.turns({"model": denoiser}, s)
    residual = s.omega0 @ weight.T - s.omega0  # x_t moves by omega itself
    expected = 0.3 * 3**0.5 / s.radius * (residual**2).mean(1)
    torch.testing.assert_close(turn.parts[0]()["equivariance"], expected)


@pytest.mark.parametrize("attack", ["random", "adversarial"])
def test_the_relative_weight_is_that_of_detail(vp, attack):
    """mse(residual) / mse(omega) is (sigma k - 1)^2 for eps_hat = k x, whatever omega's size."""
    denoiser = Denoiser(LinearEps(0.5 * torch.eye(DIM, dtype=torch.float64)), vp, "eps")
    for size in (0.1, 1.0):
        objective = OBJECTIVES[f"smoothing_{attack}"](
            vp, lam=2.0, lam_scaling="relative", radius="constant", radius_scale=size
        )
        s = objective.draw(_batch(), _rng(), step=0)
        (turn,) = objective.turns({"model": denoiser}, s)
        expected = 2.0 * (0.5 * s.sigma.flatten() - 1) ** 2
        torch.testing.assert_close(turn.parts[0]()["equivariance"], expected)


def test_the_adversary_climbs_the_gap_and_stays_in_its_ball(vp):
    """For a linear denoiser FGSM from omega0 goes along sign(W^T W omega0)."""
    torch.manual_seed(0)
    weight = torch.randn(DIM, DIM, dtype=torch.float64)
    denoiser = Denoiser(LinearEps(copy.deepcopy(weight)), vp, "eps")
    objective = OBJECTIVES["smoothing_adversarial"](vp, lam=1.0, lam_scaling="constant")
    s = objective.draw(_batch(), _rng(), step=0)
    (turn,) = objective.turns({"model": denoiser}, s)
    radius = s.radius[:, None]
    omega = s.omega0 + 1.25 * radius * (s.omega0 @ weight.T @ weight).sign()
    omega = torch.maximum(torch.minimum(omega, radius), -radius)
    expected = ((s.sigma * (omega @ weight.T) - omega) ** 2).mean(1)
    torch.testing.assert_close(turn.parts[0]()["equivariance"], expected)


def test_options_out_of_range_are_refused(vp):
    for method, bad in [
        ("plain", {"snr_gamma": -1}),
        ("plain", {"cond_dropout": 2}),
        ("input_perturbation", {"gamma": -0.1}),
        ("huber", {"huber_c": 0}),
        ("huber", {"huber_schedule": "x"}),
        ("smoothing_random", {"lam": -1}),
        ("smoothing_random", {"fraction": 0}),
        ("smoothing_adversarial", {"min_bias": -1}),
        ("smoothing_adversarial", {"move": "x"}),
        ("detail", {"radius_low": -0.1}),
        ("detail", {"window": 0}),
        ("detail", {"noise": 0}),
        ("detail", {"weight": 0}),
        ("detail", {"fraction": 0}),
        ("dro", {"n_passes": 0}),
        ("dro", {"max_norm": -1}),
        ("dro", {"target": "x"}),
        ("dro_pgd", {"n_steps": -1}),
    ]:
        with pytest.raises(ValueError, match=r"must|needs"):
            OBJECTIVES[method](vp, **bad)
