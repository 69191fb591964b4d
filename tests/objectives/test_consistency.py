"""Consistency models: closed forms for Gaussian data, and transcriptions in plain PyTorch."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.guidance import guidance_embedding
from sparring.diffusion.noising import l2_norm
from sparring.diffusion.randomness import StepRandom
from sparring.diffusion.solver_steps import Jump, heun, step
from sparring.objectives import (
    OBJECTIVES,
    TIMES,
    ConsistencyDistillation,
    ConsistencyTraining,
)
from sparring.objectives.consistency import huber, pseudo_huber
from support import CASES, SCHEDULES, GaussianNetwork, tiny_unet

MEAN, STD = 0.3, 0.7
CONSISTENCY = [
    "consistency_training",
    "easy_consistency_tuning",
    "consistency_distillation",
    "latent_consistency_distillation",
]


def exact(schedule, ratio, y, low):
    """The probability-flow ODE of N(MEAN, STD^2), from y = x/alpha at `ratio` down to `low`."""
    return MEAN + (y - MEAN) * ((STD**2 + low**2) / (STD**2 + ratio**2)).sqrt()


class Affine(nn.Module):
    """A denoiser whose f is a_i y / spread_i + b_i at the i-th of some times, to be learned."""

    def __init__(self, schedule, times):
        super().__init__()
        self.schedule, self.jump, self.times = schedule, Jump(schedule), times
        self.spread = (STD**2 + schedule.ratio(times) ** 2).sqrt()
        self.slope = nn.Parameter(torch.ones(len(times), dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(len(times), dtype=torch.float64))

    def forward(self, x, t):
        alpha, sigma = self.schedule.at(t, like=x)
        x_t = x / self.schedule.input_scale(sigma)
        i = (t[:, None] - self.times).abs().argmin(1)
        y = x_t / alpha
        f = (self.slope / self.spread)[i, None] * y + self.shift[i, None]
        c_skip, c_out = (c[:, None] for c in self.jump.coefficients(t))
        x0 = (f - c_skip * y) / c_out.clamp(min=1e-9)
        a, b = Denoiser(nn.Identity(), self.schedule, self.kind).pair(alpha, sigma)
        return a * x0 + b * (x_t - alpha * x0) / sigma


def affine(name, levels):
    schedule = SCHEDULES[name]()
    times = schedule.time_of_ratio(levels)
    network = Affine(schedule, times)
    network.kind = {"vp": "v", "flow": "flow", "edm": "edm"}[name]
    return Denoiser(network, schedule, network.kind)


# The consistency function


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_smallest_time_it_is_the_identity_to_the_bit(name, kind, dtype):
    schedule = SCHEDULES[name]()
    jump, x = Jump(schedule), torch.randn(5, 3, dtype=dtype)
    t = jump.first_time.expand(5)
    for times in (t, t.float()):
        prediction = Denoiser(GaussianNetwork(schedule, kind), schedule, kind)(x, times)
        alpha, _ = schedule.at(times, like=x)
        assert torch.equal(jump(prediction, times), x / alpha)


def test_lcms_boundary_is_diffusers(vp):
    from diffusers import LCMScheduler

    theirs = LCMScheduler()
    theirs.set_timesteps(4)
    for t in (0, 1, 19, 999):
        c_skip, c_out = theirs.get_scalings_for_boundary_condition_discrete(t)
        ours = Jump(vp, "lcm").coefficients(torch.tensor([t]))
        assert [float(c) for c in ours] == pytest.approx([float(c_skip), float(c_out)], abs=1e-12)
    x = torch.randn(2, 3)
    prediction = Denoiser(GaussianNetwork(vp, "eps"), vp)(x, torch.zeros(2).long())
    alpha, _ = vp.at(torch.zeros(2).long(), like=x)
    assert torch.equal(Jump(vp, "lcm")(prediction, torch.zeros(2).long()), x / alpha)


@pytest.mark.parametrize("name", ["vp", "flow", "edm"])
def test_it_is_a_ddim_step_to_the_smallest_level(name):
    schedule = SCHEDULES[name]()
    kind = {"vp": "eps", "flow": "flow", "edm": "edm"}[name]
    jump, t = Jump(schedule), schedule.times(torch.rand(6, dtype=torch.float64) * 0.9)
    x = torch.randn(6, 3, dtype=torch.float64)
    prediction = Denoiser(GaussianNetwork(schedule, kind), schedule, kind)(x, t)
    alpha, sigma = schedule.at(jump.first_time.expand(6), like=x)
    torch.testing.assert_close(
        jump(prediction, t), step(prediction, alpha, sigma) / alpha, rtol=1e-9, atol=1e-12
    )


def test_with_edm_it_is_song_et_als_up_to_the_smallest_level():
    schedule, sd = SCHEDULES["edm"](), 0.5
    sigma = torch.tensor([0.05, 0.5, 5.0, 80.0], dtype=torch.float64)
    c_skip, c_out = Jump(schedule).coefficients(schedule.time_of_ratio(sigma))
    denoiser_skip = sd**2 / (sigma**2 + sd**2)
    theirs = sd**2 / ((sigma - 0.002) ** 2 + sd**2)
    assert ((c_skip + c_out * denoiser_skip) - theirs).abs().lt(0.002 / sigma).all()


# Heun's step


@pytest.mark.parametrize("name", ["vp", "flow", "edm"])
def test_heun_is_of_second_order(name):
    schedule = SCHEDULES[name]()
    kind = {"vp": "eps", "flow": "flow", "edm": "edm"}[name]
    denoiser = Denoiser(GaussianNetwork(schedule, kind, MEAN, STD), schedule, kind)
    x0 = torch.randn(4, 3, dtype=torch.float64)

    def error(n_steps):
        times = schedule.time_of_ratio(torch.linspace(3.0, 0.5, n_steps + 1, dtype=torch.float64))
        alpha, sigma = schedule.at(times[:1].expand(4), like=x0)
        x = start = alpha * x0 + sigma
        for now, then in pairwise(times):
            x = heun(denoiser, denoiser(x, now.expand(4)), schedule, then.expand(4))
        last, _ = schedule.at(times[-1:].expand(4), like=x0)
        low, high = (torch.tensor(r, dtype=torch.float64) for r in (0.5, 3.0))
        return (x / last - exact(schedule, high, start / alpha, low)).abs().max()

    ratio = error(8) / error(16)
    assert 3.5 < ratio < 4.6  # twice the steps, a quarter of the error


# What the losses lead to


@pytest.mark.parametrize("name", ["vp", "flow", "edm"])
@pytest.mark.parametrize("method", ["training", "distillation"])
def test_gaussian_data_lead_to_the_closed_form(name, method):
    """Each level's optimum follows from the one below; the chain tends to the ODE's solution."""
    n, schedule = 12, SCHEDULES[name]()
    kind = {"vp": "v", "flow": "flow", "edm": "edm"}[name]
    common = {"metric": "l2", "target": "student", "weighting": "uniform"}
    if method == "training":
        objective = ConsistencyTraining(schedule, n_levels=n, n_levels_end=n, mean=None, **common)
    else:
        objective = ConsistencyDistillation(schedule, n_levels=n, solver="heun", **common)
    levels = objective.levels.ratios(n)
    student = affine(name, levels)
    teacher = Denoiser(GaussianNetwork(schedule, kind, MEAN, STD), schedule, kind)
    nets, optimizer = (
        {"model": student, "teacher": teacher},
        torch.optim.Adam(student.parameters(), lr=0.05),
    )
    n_steps = 700
    for k in range(n_steps):
        rng = StepRandom(0, k, 1024, dtype=torch.float64)
        x0 = MEAN + STD * rng.normal("x0", (1,))
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * (1 - k / n_steps)
        for turn in objective.turns(nets, objective.draw({"x0": x0}, rng, k)):
            optimizer.zero_grad()
            turn.parts[0]()["consistency"].mean().backward()
            optimizer.step()
    found = torch.ones(n + 1, dtype=torch.float64)
    for i in range(n):
        low, high = levels[i], levels[i + 1]
        if method == "training":  # regression of the target on y: Cov(y_s, y_t) / Var(y_t)
            gain = (STD**2 + low * high) / (STD**2 + high**2)
        else:  # Heun's step of dy/dr = r (y - mean) / (std^2 + r^2)
            first = high / (STD**2 + high**2)
            second = low / (STD**2 + low**2) * (1 + (low - high) * first)
            gain = 1 + (low - high) * (first + second) / 2
        found[i + 1] = found[i] * gain
    spread = student.network.spread
    slope, shift = student.network.slope.detach()[1:], student.network.shift.detach()[1:]
    torch.testing.assert_close(slope, (found * spread)[1:], rtol=0, atol=0.02 * STD)
    middle = slope / spread[1:] * MEAN + shift
    torch.testing.assert_close(middle, torch.full_like(middle, MEAN), rtol=0, atol=0.03)
    if method == "distillation":  # and Heun's chain is near the ODE's solution already
        ode = exact(schedule, levels[-1], MEAN + 1, levels[0]) - MEAN
        assert float(found[-1] / ode) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("name", ["vp", "flow", "edm"])
def test_the_chain_of_training_tends_to_the_ode(name):
    """With finer levels the closed form of each becomes the ODE's solution, first order for CT."""
    from sparring.objectives.levels import KarrasLevels

    errors = []
    for n in (100, 200, 400):
        r = KarrasLevels(SCHEDULES[name](), n).ratios(n)
        gain = ((STD**2 + r[:-1] * r[1:]) / (STD**2 + r[1:] ** 2)).prod()
        errors.append(float(gain / ((STD**2 + r[0] ** 2) / (STD**2 + r[-1] ** 2)).sqrt() - 1))
    assert abs(errors[0]) > abs(errors[1]) > abs(errors[2])
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


# Transcriptions


def grads(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_near(one, other, tolerance=1e-6):
    assert one.keys() == other.keys()
    scale = max(float(value.abs().max()) for value in one.values())
    for name, value in one.items():
        assert float((value - other[name]).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize("perturbed", ["student", "target"])
def test_a_pixel_distillation_step_is_its_transcription(vp, perturbed):
    """CM's distillation (Heun, EMA target) in plain PyTorch, with three Free-AT passes."""
    objective = ConsistencyDistillation(
        vp, n_levels=9, n_passes=3, perturbed=perturbed, step_size=0.3, step_per="image",
        max_norm=0.1, metric="pseudo_huber", huber_c=0.05,
    )  # fmt: skip
    nets = {
        role: Denoiser(tiny_unet(sample_size=8).double(), vp)
        for role in ("model", "ema", "teacher")
    }
    for i, role in enumerate(nets):
        torch.manual_seed(i)
        for p in nets[role].parameters():
            p.data += 0.05 * torch.randn_like(p)
    nets["ema"].requires_grad_(False)
    nets["teacher"].requires_grad_(False)
    plain = copy.deepcopy(nets["model"].network)
    rng = StepRandom(3, 5, 4, dtype=torch.float64)
    x0 = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    s = objective.draw({"x0": x0}, rng, 5)

    ours = []
    optimizer = torch.optim.SGD(nets["model"].parameters(), lr=0.1)
    for turn in objective.turns(nets, s):
        optimizer.zero_grad()
        loss = turn.parts[0]()["consistency"].mean()
        loss.backward()
        ours.append((float(loss), grads(nets["model"].network)))
        optimizer.step()

    # in plain PyTorch, VE coordinates y = x / alpha, r = sigma / alpha
    abar = vp.alphas_cumprod
    table = ((1 - abar) / abar).sqrt().log()
    low = math.exp(float(table[0]))
    eps, eps_net, ema_net = s.eps, nets["teacher"].network, nets["ema"].network

    def at(r):  # time, alpha and sigma of a ratio
        i = torch.searchsorted(table, r.log()).clamp(1, 999)
        t = i - 1 + (r.log() - table[i - 1]) / (table[i] - table[i - 1])
        alpha = 1 / (1 + r**2).sqrt()
        return t, alpha[:, None, None, None], (r * alpha)[:, None, None, None]

    grid = (low ** (1 / 7) + torch.arange(10).double() / 9 * (80 ** (1 / 7) - low ** (1 / 7))) ** 7
    index = torch.tensor([int((vp.time_of_ratio(grid) - t).abs().argmin()) for t in s.t])
    r_t, r_s = grid[index], grid[index - 1]
    r_s[index == 1] = low
    (t, alpha_t, sigma_t), (u, alpha_s, sigma_s) = at(r_t), at(r_s)
    u[index == 1] = 0.0
    x_t = alpha_t * x0 + sigma_t * eps
    dr = (r_s - r_t)[:, None, None, None]
    with torch.no_grad():
        d1 = eps_net(x_t, t).sample
        y = x_t / alpha_t + dr * d1
        d2 = eps_net(alpha_s * y, u).sample
        x_s = alpha_s * (x_t / alpha_t + dr * (d1 + d2) / 2)

    def f(net, x, time, alpha, sigma, r):
        x0_hat = (x - sigma * net(x, time).sample) / alpha
        c = (low / r)[:, None, None, None]
        return c * x / alpha + (1 - c) * x0_hat

    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    delta = torch.zeros_like(x_t)
    for loss_before, grads_before in ours:
        delta = delta.detach().requires_grad_(True)
        on_t, on_s = (delta, 0.0) if perturbed == "student" else (0.0, delta)
        goal = f(ema_net, x_s + on_s, u, alpha_s, sigma_s, r_s)
        goal = goal.detach() if perturbed == "student" else goal
        estimate = f(plain, x_t + on_t, t, alpha_t, sigma_t, r_t)
        distance = ((estimate - goal) ** 2).sum((1, 2, 3))
        loss = ((distance + 0.05**2).sqrt() - 0.05).mean()
        optimizer.zero_grad()
        loss.backward()
        assert loss_before == pytest.approx(float(loss), rel=1e-6)
        assert_near(grads_before, grads(plain))
        g = delta.grad / delta.grad.flatten(1).norm(dim=1)[:, None, None, None]
        delta = delta.detach() + 0.3 * g
        norm = delta.flatten(1).norm(dim=1)[:, None, None, None]
        delta = delta * (8 * 0.1 / norm).clamp(max=1)
        optimizer.step()
    assert (s.t > s.t_s).all()


@pytest.mark.parametrize("perturbed", [None, "student", "target"])
def test_a_latent_distillation_step_is_its_transcription(vp, perturbed):
    """diffusers' script for latent consistency distillation, plain and with two Free-AT passes."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    config = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16),
        "layers_per_block": 1, "cross_attention_dim": 6, "norm_num_groups": 4,
        "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    teacher = UNet2DConditionModel(**config).double().requires_grad_(False)
    student = UNet2DConditionModel(**config, time_cond_proj_dim=12).double()
    ema = UNet2DConditionModel(**config, time_cond_proj_dim=12).double().requires_grad_(False)
    null = torch.randn(1, 5, 6, dtype=torch.float64)
    nets = {
        "model": Denoiser(student, vp),
        "ema": Denoiser(ema, vp),
        "teacher": Denoiser(teacher, vp, null_condition={"encoder_hidden_states": null}),
    }
    attack = (
        {"n_passes": 2, "perturbed": perturbed, "step_size": 0.5, "step_per": "image"}
        if perturbed
        else {}
    )
    objective = OBJECTIVES["latent_consistency_distillation"](vp, guidance_embedding=True, **attack)
    latents = torch.randn(5, 4, 8, 8, dtype=torch.float64)
    text = torch.randn(5, 5, 6, dtype=torch.float64)
    s = objective.draw(
        {"x0": latents, "cond": {"encoder_hidden_states": text}},
        StepRandom(1, 2, 5, dtype=torch.float64), 2,
    )  # fmt: skip
    ours = []
    for turn in objective.turns(nets, s):  # the weights stay: only delta moves
        student.zero_grad()
        loss = turn.parts[0]()["consistency"].mean()
        loss.backward()
        ours.append((float(loss.detach()), grads(student)))
    assert len(ours) == (2 if perturbed else 1)

    # the script, line by line
    abar = DDPMScheduler().alphas_cumprod.double()  # the same linear betas as `vp`
    alphas, sigmas = abar.sqrt(), (1 - abar).sqrt()
    start = s.t.long()
    timesteps = torch.where(start - 20 < 0, 0, start - 20)
    assert torch.equal(s.t_s.long(), timesteps)

    def at(table, t):
        return table[t][:, None, None, None]

    def scalings(t):
        scaled = 10.0 * t.double()
        c_skip = 0.5**2 / (scaled**2 + 0.5**2)
        c_out = scaled / (scaled**2 + 0.5**2) ** 0.5
        return c_skip[:, None, None, None], c_out[:, None, None, None]

    def predicted_origin(eps, t, x):
        return (x - at(sigmas, t) * eps) / at(alphas, t)

    def consistent(net, x, t):
        eps = net(x, t, timestep_cond=w_embedding, encoder_hidden_states=text).sample
        c_skip, c_out = scalings(t)
        # the script does not divide by alpha, which is 1 - 5e-5 where c_skip is not nought
        return c_skip * x / at(alphas, t) + c_out * predicted_origin(eps, t, x)

    noisy = at(alphas, start) * latents + at(sigmas, start) * s.eps
    w = s.guidance - 1
    assert ((w >= 5) & (w <= 15)).all()
    w_embedding = embedding_of_the_script(w, 12)
    w = w.reshape(5, 1, 1, 1)
    with torch.no_grad():
        cond = teacher(noisy, start, encoder_hidden_states=text).sample
        uncond = teacher(noisy, start, encoder_hidden_states=null.expand(5, -1, -1)).sample
        cond_x0, uncond_x0 = (predicted_origin(e, start, noisy) for e in (cond, uncond))
        pred_x0 = cond_x0 + w * (cond_x0 - uncond_x0)
        pred_noise = cond + w * (cond - uncond)
        x_prev = at(alphas, timesteps) * pred_x0 + at(sigmas, timesteps) * pred_noise
    delta = torch.zeros_like(noisy)
    for loss_before, grads_before in ours:
        delta = delta.detach().requires_grad_(True)
        student.zero_grad()
        on_x, on_prev = (delta, 0.0) if perturbed == "student" else (0.0, delta)
        target = consistent(ema, x_prev + on_prev, timesteps)
        target = target if perturbed == "target" else target.detach()
        model_pred = consistent(student, noisy + on_x, start)
        loss = torch.mean(torch.sqrt((model_pred - target) ** 2 + 0.001**2) - 0.001)
        loss.backward()
        assert loss_before == pytest.approx(float(loss.detach()), rel=1e-6)
        assert_near(grads_before, grads(student))
        if perturbed:
            delta = delta.detach() + 0.5 * delta.grad / l2_norm(delta.grad)[:, None, None, None]


def embedding_of_the_script(w, dim):
    w = w * 1000.0
    half = dim // 2
    emb = torch.exp(torch.arange(half, dtype=w.dtype) * -(math.log(10000.0) / (half - 1)))
    emb = w[:, None] * emb[None, :]
    return torch.cat([torch.sin(emb), torch.cos(emb)], dim=1)


def test_the_guidance_embedding_is_the_scripts():
    w = torch.tensor([5.0, 7.5, 15.0], dtype=torch.float64)
    torch.testing.assert_close(
        guidance_embedding(w + 1, 256), embedding_of_the_script(w, 256), rtol=0, atol=1e-9
    )


def test_consistency_training_is_icts_loss():
    """The loss of iCT on EDM, by the formula, with the dropout mask shared."""
    schedule = SCHEDULES["edm"]()
    objective = ConsistencyTraining(schedule, n_levels=10, max_train_steps=100)
    network = tiny_unet(dropout=0.5).double().train()
    denoiser = Denoiser(network, schedule, "edm")
    x0 = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    s = objective.draw({"x0": x0}, StepRandom(0, 0, 6, dtype=torch.float64), 0)
    torch.manual_seed(7)
    (turn,) = objective.turns({"model": denoiser}, s)
    loss = turn.parts[0]()["consistency"]

    sigma, below = (4 * s.t).exp(), (4 * s.t_s).exp()

    def f(x, sig):
        torch.manual_seed(7)
        v = sig[:, None, None, None]
        skip, out = 0.25 / (v**2 + 0.25), v * 0.5 / (v**2 + 0.25).sqrt()
        denoised = skip * x + out * network(x / (v**2 + 0.25).sqrt(), sig.log() / 4).sample
        c = 0.002 / v
        return torch.where(v <= 0.002 * (1 + 1e-9), x, c * x + (1 - c) * denoised)

    estimate = f(x0 + sigma[:, None, None, None] * s.eps, sigma)
    goal = f(x0 + below[:, None, None, None] * s.eps, below).detach()
    c = 0.00054 * math.sqrt(64)
    distance = (((estimate - goal) ** 2).sum((1, 2, 3)) + c**2).sqrt() - c
    torch.testing.assert_close(loss, distance / (sigma - below), rtol=1e-9, atol=1e-12)


def test_easy_tuning_starts_as_diffusion():
    """In ECT's first stage small levels are compared with the data themselves."""
    schedule = SCHEDULES["edm"]()
    objective = OBJECTIVES["easy_consistency_tuning"](schedule, max_train_steps=80)
    denoiser = Denoiser(tiny_unet().double(), schedule, "edm")
    x0 = torch.randn(64, 1, 8, 8, dtype=torch.float64)
    s = objective.draw({"x0": x0}, StepRandom(0, 0, 64, dtype=torch.float64), 0)
    (turn,) = objective.turns({"model": denoiser}, s)
    loss = turn.parts[0]()["consistency"]
    assert 0 < s.ends.sum() < 64
    estimate = objective.jump(denoiser(s.x_t, s.t), s.t)
    euclidean = (estimate - x0).flatten(1).norm(dim=1) / (4 * s.t).exp()
    torch.testing.assert_close(loss[s.ends], euclidean[s.ends])
    assert not torch.isclose(loss[~s.ends], euclidean[~s.ends]).any()


def test_the_metrics():
    a, b = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
    square = ((a - b) ** 2).flatten(1)
    torch.testing.assert_close(pseudo_huber(a, b, 0.3), (square.sum(1) + 0.09).sqrt() - 0.3)
    torch.testing.assert_close(huber(a, b, 0.3), ((square + 0.09).sqrt() - 0.3).mean(1))
    a.requires_grad_(True)
    pseudo_huber(a, a.detach(), 0.0).sum().backward()
    assert a.grad.isfinite().all()


# Free-AT


@pytest.mark.parametrize("name", CONSISTENCY[:3])
@pytest.mark.parametrize("perturbed", ["student", "target"])
def test_one_pass_is_plain_training(vp, name, perturbed):
    """K = 1 has no delta: its gradients are plain's, and those of the first of three passes."""
    found = []
    for n_passes in (1, 3):
        objective = OBJECTIVES[name](vp, n_passes=n_passes, perturbed=perturbed)
        nets = {role: Denoiser(tiny_unet().double(), vp) for role in ("model", "ema", "teacher")}
        s = objective.draw(
            {"x0": torch.ones(4, 1, 8, 8, dtype=torch.float64)},
            StepRandom(0, 0, 4, dtype=torch.float64), 0,
        )  # fmt: skip
        turns = objective.turns(nets, s)
        next(turns).parts[0]()["consistency"].mean().backward()
        found.append(grads(nets["model"].network))
        assert len(list(turns)) == n_passes - 1
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("perturbed", ["student", "target"])
def test_delta_raises_the_loss_and_stays_in_its_ball(vp, perturbed):
    objective = ConsistencyDistillation(
        vp, n_passes=4, perturbed=perturbed, step_size=0.06, max_norm=0.05
    )
    nets = {role: Denoiser(tiny_unet().double(), vp) for role in ("model", "ema", "teacher")}
    for p in nets["model"].parameters():
        p.data += 0.1 * torch.randn_like(p)
    x0 = torch.randn(8, 1, 8, 8, dtype=torch.float64)
    s = objective.draw({"x0": x0}, StepRandom(0, 0, 8, dtype=torch.float64), 0)
    losses, deltas = [], []
    for turn in objective.turns(nets, s):  # the weights stay: only delta moves
        loss = turn.parts[0]()["consistency"]
        loss.mean().backward()
        losses.append(float(loss.mean()))
        deltas.append(turn.parts[0].args[-1].detach())
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]
    assert all(float(d.flatten(1).norm(dim=1).max()) <= 8 * 0.05 * (1 + 1e-9) for d in deltas)
    assert not deltas[0].any()
    frozen = {"ema": nets["ema"], "teacher": nets["teacher"]}
    assert all(p.grad is None for net in frozen.values() for p in net.parameters())


def test_a_target_that_is_the_student_gets_no_gradient_through_its_weights(vp):
    """The target's weights are frozen where delta's gradient flows through the target."""
    grown = []
    for n_passes in (1, 2):
        objective = ConsistencyTraining(vp, n_passes=n_passes, perturbed="target")
        denoiser = Denoiser(tiny_unet().double(), vp)
        x0 = torch.ones(4, 1, 8, 8, dtype=torch.float64)
        s = objective.draw({"x0": x0}, StepRandom(0, 0, 4, dtype=torch.float64), 0)
        turns = objective.turns({"model": denoiser}, s)
        next(turns).parts[0]()["consistency"].mean().backward()
        grown.append(grads(denoiser.network))
    for key, value in grown[0].items():
        torch.testing.assert_close(grown[1][key], value, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("consistency_training", {"n_passes": 0}, "n_passes"),
        ("consistency_training", {"metric": "lpips"}, "metric"),
        ("consistency_training", {"boundary": "edm"}, "boundary"),
        ("consistency_training", {"perturbed": "both"}, "perturbed"),
        ("consistency_training", {"snr_gamma": 5.0}, "snr_gamma"),
        ("consistency_training", {"vlb_weight": 1.0}, "vlb_weight"),
        ("consistency_distillation", {"solver": "rk4"}, "solver"),
        ("consistency_distillation", {"guidance_low": 3.0}, "guidance_low"),
    ],
)
def test_out_of_range(vp, name, fields, said):
    with pytest.raises(ValueError, match=said):
        OBJECTIVES[name](vp, **fields)


def test_other_times_are_refused(vp):
    with pytest.raises(ValueError, match="leave out times"):
        ConsistencyTraining(vp, TIMES["lognormal"](vp))


def test_guidance_needs_a_condition(vp):
    objective = OBJECTIVES["latent_consistency_distillation"](vp)
    with pytest.raises(ValueError, match="needs a condition"):
        objective.draw({"x0": torch.zeros(2, 4)}, StepRandom(0, 0, 2), 0)


def test_lcms_boundary_needs_integer_times():
    with pytest.raises(ValueError, match="integer times"):
        ConsistencyTraining(SCHEDULES["edm"](), boundary="lcm")
