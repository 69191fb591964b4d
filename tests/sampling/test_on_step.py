"""What a sampler hands out before each call of the network has q(x_t)'s mean and spread.

Data N(0.3, 0.7^2) and the exact denoiser: x_t ~ N(0.3 alpha, (0.7 alpha)^2 + sigma^2). Every
sampler is an affine map of its first noise then, so the samplers run on the two noises 0 and 1,
which give the mean and the spread without drawing anything.
"""

import pytest
import torch

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.schedules import (
    EDMSchedule,
    FlowSchedule,
    config_from_schedule,
    schedule_from_config,
)
from sparring.models.pretrained import Model
from sparring.sampling import steps
from sparring.sampling.sample import sample
from sparring.sampling.schedulers import make_scheduler
from sparring.sampling.settings import Sampling
from sparring.sampling.steps import Steps, integrate
from support import GaussianNetwork, watched

MEAN, STD = 0.3, 0.7
N_STEPS = 400
SAMPLERS = {
    "ddim": "vp",
    "euler": "vp",
    "heun": "vp",
    "dpmsolver++": "vp",
    "flow_euler": "flow",
    "euler_edm": "edm",
}


def exact(family):
    schedule, kind = {
        "vp": lambda: (schedule_from_config({"_class_name": "DDPMScheduler"}), "eps"),
        "flow": lambda: (FlowSchedule(shift=3.0), "flow"),
        "edm": lambda: (EDMSchedule(), "edm"),
    }[family]()
    return Denoiser(GaussianNetwork(schedule, kind, MEAN, STD), schedule, kind)


def worst_errors(name):
    """Largest error of the mean and of the spread over all calls, over the spread of q(x_t)."""
    denoiser, seen = exact(SAMPLERS[name]), []
    scheduler = make_scheduler(
        Sampling(name), config_from_schedule(denoiser.schedule, denoiser.kind), denoiser.kind
    )
    scheduler.set_timesteps(N_STEPS)
    start = torch.tensor([[0.0], [1.0]]) * getattr(scheduler, "init_noise_sigma", 1.0)
    integrate(Steps(denoiser, scheduler, Sampling()), start, watched(seen))
    assert len(seen) == len(scheduler.timesteps)
    means, spreads = [], []
    for t, (zero, one) in seen:
        alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
        true = ((alpha * STD) ** 2 + sigma**2).sqrt()
        means.append(abs(zero - alpha * MEAN) / true)
        spreads.append(abs(one - zero - true) / true)
    return max(means).item(), max(spreads).item()


@pytest.mark.parametrize("name", SAMPLERS)
def test_x_t_is_distributed_as_q(name):
    mean_error, spread_error = worst_errors(name)
    # the start N(0, 1) lacks alpha_T mean, and 400 steps leave a little
    assert mean_error < 0.01
    assert spread_error < 0.01


@pytest.mark.parametrize(("name", "undone"), [("euler", "alpha"), ("euler_edm", "input_scale")])
def test_other_scales_fail_this_file(name, undone, monkeypatch):
    """Sensitivity: Euler's own x / alpha, and EDM's scaled input, are not x_t."""
    if undone == "input_scale":
        monkeypatch.setattr(steps, "_unscaled", lambda denoiser, x_in, times: x_in)
    else:
        alpha = exact("vp").schedule.alpha
        monkeypatch.setattr(
            steps, "_unscaled", lambda denoiser, x_in, times: x_in / alpha(times)[:, None]
        )
    assert worst_errors(name)[1] > 0.3


def test_sample_hands_out_every_batch_and_returns_the_same():
    model, seen = Model.around(exact("vp"), (2,)), []
    words = {"num_inference_steps": 3, "batch_size": 4}
    x = sample(model, 6, move=watched(seen), **words)
    assert torch.equal(x, sample(model, 6, **words))
    assert [(t, len(x_t)) for t, x_t in seen] == [
        (999, 4), (666, 4), (332, 4), (999, 2), (666, 2), (332, 2),
    ]  # fmt: skip
