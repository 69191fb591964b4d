"""Multistep consistency sampling: exact for an exact consistency function."""

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import generator
from sparring.diffusion.schedules import config_from_schedule
from sparring.diffusion.solver_steps import Jump, consistency_range
from sparring.models.pretrained import Model, load, save
from sparring.sampling.sample import sample
from support import SCHEDULES, GaussianNetwork, tiny_unet, watched

MEAN, STD, N = 0.3, 0.7, 20000
KINDS = {"vp": "v", "cosine": "eps", "flow": "flow", "edm": "edm"}


class ExactFunction(nn.Module):
    """Its f is the solution of the probability-flow ODE of N(MEAN, STD^2)."""

    def __init__(self, schedule, kind):
        super().__init__()
        self.schedule, self.kind, self.jump = schedule, kind, Jump(schedule)
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t):
        alpha, sigma = self.schedule.at(t, like=x)
        x_t = x / self.schedule.input_scale(sigma)
        low = self.schedule.ratio(self.jump.first_time)
        y, ratio = x_t / alpha, sigma / alpha
        f = MEAN + (y - MEAN) * ((STD**2 + low**2) / (STD**2 + ratio**2)).sqrt()
        c_skip, c_out = (c[:, None] for c in self.jump.coefficients(t))
        x0 = (f - c_skip * y) / c_out
        a, b = Denoiser(nn.Identity(), self.schedule, self.kind).pair(alpha, sigma)
        return a * x0 + b * (x_t - alpha * x0) / sigma


def exact(name):
    schedule = SCHEDULES[name]()
    network = ExactFunction(schedule, KINDS[name])
    return Model.around(Denoiser(network, schedule, KINDS[name], boundary="ddim"), (1,))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_an_exact_function_gives_the_data(name, n_steps):
    x = sample(
        exact(name), N, num_inference_steps=n_steps, batch_size=N, clip_sample=False,
    )  # fmt: skip
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / N**0.5 + 0.01)
    assert float(x.std()) == pytest.approx(STD, rel=4 / (2 * N) ** 0.5 + 0.005)


def test_times_are_those_of_the_grid_or_the_given_ones():
    def visited(n_steps, **words):
        seen = []
        sample(exact("edm"), 2, move=watched(seen), num_inference_steps=n_steps, **words)
        return [float((4 * t).exp()) for t, _ in seen]

    assert visited(2) == pytest.approx([80.0, 0.8])
    middle = ((0.8 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    assert visited(3) == pytest.approx([80.0, 0.8, middle])
    assert visited(3, ratios=[80.0, 0.8, 0.1]) == pytest.approx([80.0, 0.8, 0.1])


def test_between_the_steps_there_is_fresh_noise_at_the_next_level():
    """What the network is given at the second step has q(x_t)'s spread."""
    seen = []
    words = {"num_inference_steps": 2, "ratios": [80.0, 0.5], "batch_size": N}
    sample(exact("edm"), N, move=watched(seen), **words)
    given = [x_t for _, x_t in seen]
    assert float(given[1].std()) == pytest.approx((STD**2 + 0.5**2) ** 0.5, rel=0.02)
    slope = float((given[0] * given[1]).mean() / (given[0] ** 2).mean())
    assert slope == pytest.approx(STD / 80, rel=0.1)  # x0 follows the first noise, z does not


def test_f_is_clipped_on_request():
    x = sample(exact("vp"), 500, num_inference_steps=2, clip_sample=True)
    assert float(x.max()) == 1.0
    free = sample(exact("vp"), 500, num_inference_steps=2, clip_sample=False)
    assert float(free.max()) > 1.0


@pytest.mark.parametrize("n_steps", [1, 2, 4])
@pytest.mark.parametrize(("schedule", "kind"), [("vp", "v"), ("flow", "flow"), ("edm", "edm")])
def test_a_pixel_model_loads_in_plain_diffusers(tmp_path, schedule, kind, n_steps):
    config = config_from_schedule(SCHEDULES[schedule](), kind)
    denoiser = Denoiser(tiny_unet(), SCHEDULES[schedule](), kind, boundary="ddim").eval()
    save(tmp_path, Model(denoiser, config, (1, 8, 8), None), "card")
    pipe = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    model = load(tmp_path)
    assert (model.denoiser.boundary, model.denoiser.kind) == ("ddim", kind)
    ours = sample(model, 2, num_inference_steps=n_steps, seed=1)
    own = [generator("cpu", 1, "sample", i) for i in range(2)]
    theirs = pipe(2, generator=own, num_inference_steps=n_steps, output_type="pt").images
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"ratios": [0.5, 80.0], "num_inference_steps": 2}, "must fall"),
        ({"ratios": [100.0], "num_inference_steps": 1}, r"lie in \[0.002, 80\]"),
        ({"ratios": [80.0], "num_inference_steps": 2}, "1 ratios do not make 2 steps"),
        ({"stop_ratio": 0.3}, "stop_ratio is a setting of ddim, not of consistency"),
        ({"eta": 0.5}, "has no eta"),
        (
            {"scheduler": "euler_edm", "ratios": [80.0]},
            "ratios is a setting of consistency, not of euler_edm",
        ),
    ],
)
def test_wrong_options_are_refused(words, said):
    with pytest.raises(ValueError, match=said):
        sample(exact("edm"), 2, **words)


def test_a_diffusion_model_has_no_consistency_function():
    schedule = SCHEDULES["vp"]()
    denoiser = Denoiser(GaussianNetwork(schedule, "eps"), schedule)
    with pytest.raises(ValueError, match="this one diffuses"):
        sample(Model.around(denoiser, (1,)), 2, scheduler="consistency")


def test_the_range_is_the_schedules():
    assert consistency_range(SCHEDULES["edm"]()) == (0.002, 80.0)
    assert consistency_range(SCHEDULES["flow"]()) == (0.002, 80.0)
    low, high = consistency_range(SCHEDULES["vp"]())
    assert (low, high) == (pytest.approx(0.01, rel=0.01), 80.0)
