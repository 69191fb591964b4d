"""Paper 1's Free-AT against a transcription of its loop in plain PyTorch."""

import copy
import math

import pytest
import torch
from torch import nn

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import StepRandom
from sparring.diffusion.schedules import schedule_from_config
from sparring.objectives import OBJECTIVES
from sparring.objectives.vlb import posterior

ROWS, SHAPE, LR = 6, (2, 4, 4), 1e-3
PUBLISHED = {"step_size": 0.1, "step_per": "image"}


class _Net(nn.Module):
    """Small, smooth, sees the time; twice the channels if it learns its variance."""

    def __init__(self, learned_variance: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4 if learned_variance else 2, 3, padding=1)

    def forward(self, x, t):
        return self.last(torch.tanh(self.first(x) + (t / 1000)[:, None, None, None]))


def transcription(net, x0, eps, t, weight, abar, *, K, alpha, max_norm, target, learned_variance):
    """Section 2 of the notes on paper 1, line by line; one AdamW step per pass."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR)
    a = abar[t].sqrt()[:, None, None, None]
    s = (1 - abar[t]).sqrt()[:, None, None, None]
    x_t = a * x0 + s * eps
    delta = torch.zeros_like(x_t)
    for k in range(1, K + 1):
        delta = delta.detach().requires_grad_(True)
        x_adv = x_t + delta
        out = net(x_adv, t)
        values = None
        if learned_variance:
            out, values = out.chunk(2, dim=1)
        shift = {"corrected_detached": delta.detach(), "corrected": delta, "uncorrected": 0.0}
        loss_i = ((eps + shift[target] / s - out) ** 2).flatten(1).mean(1)
        if learned_variance:
            x_vlb = {"corrected_detached": x_adv.detach(), "corrected": x_adv, "uncorrected": x_t}[
                target
            ]
            loss_i = loss_i + _vlb(out.detach(), values, x0, x_vlb, t, abar) * len(abar) / 1000
        loss = (weight * loss_i).mean()
        net.zero_grad()
        loss.backward()
        if k < K:
            g = delta.grad
            norm = g.flatten(1).norm(dim=1).clamp(min=1e-8)[:, None, None, None]
            delta = delta.detach() + alpha * g / norm
            size = delta.flatten(1).norm(dim=1)[:, None, None, None]
            limit = math.sqrt(x0[0].numel()) * max_norm
            delta = torch.where(size > limit, delta * limit / size, delta)
        optimizer.step()
    return net


def _vlb(eps_hat, values, x0, x_t, t, abar):
    """Nichol & Dhariwal's hybrid term with a frozen mean, from the definition of q."""
    total = []
    for i, time in enumerate(t.tolist()):
        bar, before = abar[time], abar[time - 1] if time > 0 else torch.tensor(1.0).double()
        beta = 1 - bar / before
        c0 = before.sqrt() * beta / (1 - bar)
        ct = (bar / before).sqrt() * (1 - before) / (1 - bar)
        variance = beta * (1 - before) / (1 - bar)
        if time == 0:
            beta1 = 1 - abar[1] / abar[0]
            variance = beta1 * (1 - abar[0]) / (1 - abar[1])
        x0_hat = (x_t[i] - (1 - bar).sqrt() * eps_hat[i]) / bar.sqrt()
        mean, true = c0 * x0_hat + ct * x_t[i], c0 * x0[i] + ct * x_t[i]
        frac = (values[i] + 1) / 2
        logvar = frac * beta.log() + (1 - frac) * variance.log()
        if time == 0:
            centred, inv = x0[i] - mean, torch.exp(-0.5 * logvar)

            def cdf(z):
                return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

            up, down = cdf(inv * (centred + 1 / 255)), cdf(inv * (centred - 1 / 255))
            log_p = torch.where(
                x0[i] < -0.999,
                up.clamp(min=1e-12).log(),
                torch.where(
                    x0[i] > 0.999,
                    (1 - down).clamp(min=1e-12).log(),
                    (up - down).clamp(min=1e-12).log(),
                ),
            )
            total.append(-log_p.mean() / math.log(2))
        else:
            kl = 0.5 * (
                -1
                + logvar
                - variance.log()
                + torch.exp(variance.log() - logvar)
                + (true - mean) ** 2 * torch.exp(-logvar)
            )
            total.append(kl.mean() / math.log(2))
    return torch.stack(total)


@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.parametrize("target", ["corrected_detached", "corrected", "uncorrected"])
@pytest.mark.parametrize("max_norm", [0.1, 0.01], ids=["free", "projected"])
def test_free_at_equals_its_transcription(learned_variance, target, max_norm):
    """Weights after K passes, float64, to 1e-9."""
    schedule = schedule_from_config(
        {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}
    )
    net = _Net(learned_variance).double()
    twin = copy.deepcopy(net)
    objective = OBJECTIVES["dro"](schedule, target=target, max_norm=max_norm, **PUBLISHED)
    g = torch.Generator().manual_seed(3)
    x0 = torch.rand(ROWS, *SHAPE, generator=g, dtype=torch.float64) * 2 - 1
    s = objective.draw({"x0": x0}, StepRandom(0, 0, ROWS, dtype=torch.float64), step=0)
    s.weight = torch.rand(ROWS, generator=g, dtype=torch.float64) + 0.5
    s.t = torch.tensor([0, 1, 40, 300, 700, 998])
    s.alpha, s.sigma = schedule.at(s.t, like=x0)
    s.x_t = s.alpha * x0 + s.sigma * s.eps

    denoiser = Denoiser(net, schedule, "eps", learned_variance=learned_variance)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR)
    for turn in objective.turns({"model": denoiser}, s):
        sum(turn.parts[0]().values()).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    transcription(
        twin,
        x0,
        s.eps,
        s.t,
        s.weight,
        schedule.alphas_cumprod,
        K=3,
        alpha=0.1,
        max_norm=max_norm,
        target=target,
        learned_variance=learned_variance,
    )
    before = _Net(learned_variance).double()
    for ours, theirs, start in zip(
        net.parameters(), twin.parameters(), before.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert (ours - start).abs().max() > 1e-4


def test_delta_of_the_published_setting_is_never_projected():
    """Two ascents of length 0.1 stay far below sqrt(3072) 0.1 = 5.54: the radius is (K-1) alpha."""
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    objective = OBJECTIVES["dro"](schedule, **PUBLISHED)
    seen = []
    robust = objective.robust
    objective.robust = lambda denoiser, s, delta: (
        seen.append(delta.detach()) or robust(denoiser, s, delta)
    )
    denoiser = Denoiser(_Net(False), schedule)
    s = objective.draw({"x0": torch.rand(4, *SHAPE)}, StepRandom(0, 0, 4), 0)
    for turn in objective.turns({"model": denoiser}, s):
        sum(turn.parts[0]().values()).mean().backward()
    lengths = [delta.flatten(1).norm(dim=1).max() for delta in seen]
    assert lengths[0] == 0
    assert float(lengths[1]) == pytest.approx(0.1, rel=1e-4)
    assert 0.1 < lengths[2] <= 0.2 + 1e-6


@pytest.mark.parametrize("units", ["sample", "noise"])
@pytest.mark.parametrize("name", ["dro", "dro_pgd"])
def test_delta_takes_steps_of_its_size_and_stays_in_its_ball(name, units):
    """In both units, at every noise level: in noise units all is sigma_t times as large."""
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    options = {"n_passes": 4} if name == "dro" else {"n_steps": 3}
    objective = OBJECTIVES[name](schedule, step_size=0.1, max_norm=0.15, units=units, **options)
    seen, robust = [], objective.robust
    objective.robust = lambda denoiser, s, delta: (
        seen.append(delta.detach()) or robust(denoiser, s, delta)
    )
    s = objective.draw({"x0": torch.rand(8, *SHAPE)}, StepRandom(0, 0, 8), 0)
    for turn in objective.turns({"model": Denoiser(_Net(False), schedule)}, s):
        sum(turn.parts[0]().values()).mean().backward()
    unit = s.sigma.flatten() if units == "noise" else torch.ones(8)
    rms = [delta.flatten(1).square().mean(1).sqrt() / unit for delta in seen]
    if name == "dro":
        torch.testing.assert_close(rms[1], torch.full((8,), 0.1))
    assert (rms[-1] <= 0.15 * (1 + 1e-5)).all()
    assert (rms[-1] > 0.1).all()


def test_the_default_step_is_the_published_length_at_the_size_of_cifar10():
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    sigma = torch.ones(1, 1, 1, 1)
    sizes = {}
    for side in (32, 8):
        x = torch.zeros(1, 3, side, side)
        for options in ({}, PUBLISHED):
            step, _ = OBJECTIVES["dro"](schedule, **options).climb.at(x, sigma)
            sizes[side, bool(options)] = step
    assert sizes[32, True] == sizes[32, False] == sizes[8, False]
    assert float(sizes[8, True] / sizes[8, False]) == pytest.approx(4)


def test_a_broken_gradient_row_keeps_its_delta():
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    objective = OBJECTIVES["dro"](schedule, n_passes=2, **PUBLISHED)
    deltas = []
    objective.robust = lambda denoiser, s, delta: (
        deltas.append(delta)
        or {
            "denoise": (delta * torch.tensor([1.0, float("nan")]).reshape(2, 1, 1, 1))
            .flatten(1)
            .sum(1)
        }
    )
    s = objective.draw({"x0": torch.rand(2, *SHAPE)}, StepRandom(0, 0, 2), 0)
    for turn in objective.turns({"model": Denoiser(_Net(False), schedule)}, s):
        terms = turn.parts[0]()["denoise"]
        if terms.requires_grad:
            terms.sum().backward()
    assert deltas[1][1].abs().max() == 0
    assert float(deltas[1][0].norm()) == pytest.approx(0.1, rel=1e-4)


def test_pgd_finds_a_worse_point_than_no_attack():
    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    torch.manual_seed(0)
    denoiser = Denoiser(_Net(False), schedule)
    x0 = torch.rand(8, *SHAPE)
    values = {}
    for n_steps in (0, 1, 5):
        objective = OBJECTIVES["dro_pgd"](schedule, n_steps=n_steps, step_size=0.1, max_norm=0.5)
        s = objective.draw({"x0": x0}, StepRandom(0, 0, 8), 0)
        (turn,) = objective.turns({"model": denoiser}, s)
        values[n_steps] = turn.parts[0]()["denoise"].detach()
    assert (values[1] > values[0]).all()
    assert (values[5] > values[1]).all()


def test_posterior_agrees_with_diffusers():
    import diffusers

    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    schedule = schedule_from_config(scheduler.config)
    t = torch.tensor([1, 50, 999])
    p = posterior(schedule, t, like=torch.zeros(3, 1, dtype=torch.float64))
    for i, time in enumerate(t.tolist()):
        for end, name in ((-1.0, "log_variance"), (1.0, "log_beta")):
            theirs = scheduler._get_variance(time, predicted_variance=torch.tensor(end))
            # float32 tables lose a few digits in 1 - abar where the noise is small
            assert float(theirs) == pytest.approx(float(p[name][i]), rel=1e-3)
