"""Samplers that would draw a known Gaussian wrongly are mended, or refused with what works."""

from typing import Any

import pytest
import torch

from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.schedules import FlowSchedule, schedule_from_config
from sparring.models.pretrained import Model
from sparring.sampling import samplers
from sparring.sampling.known_answer import (
    FACTOR,
    FLOOR,
    check_ends_in_noise,
    check_sampler,
    draw,
    reference_distance,
)
from sparring.sampling.sample import sample
from sparring.sampling.schedulers import families_of, make_scheduler
from sparring.sampling.settings import Sampling
from sparring.support.errors import UserError
from support import FLOW, SD, GaussianNetwork

COSINE = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}
LINEAR = {"_class_name": "DDPMScheduler"}
EDM = {"_class_name": "EDMEulerScheduler"}


def spread_of(config, kind, name, n_steps, **options):
    """Through the public function, of data N(0.3, 0.5^2)."""
    schedule = schedule_from_config(config)
    network = GaussianNetwork(schedule, kind, mean=0.3, std=0.5)
    model = Model.around(Denoiser(network, schedule, kind), (2,), config)
    sampling = Sampling(
        name, n_steps, clip_sample=False, batch_size=2000, scheduler_options=options
    )
    x = sample(model, 2000, sampling)
    return x.mean().item(), x.std().item()


@pytest.mark.parametrize(
    ("name", "n_steps", "n_train", "shift"),
    [
        ("unipc", 170, 1000, 6.0),  # two of its integer times were alike
        ("dpmsolver++", 250, 1000, 6.0),
        ("dpmsolver++", 60, 10, 1.0),  # it began at sigma = 0.9 and told the network whole times
        ("dpmsolver++", 8, 4, 1.0),
        ("unipc", 60, 100, 3.0),
        ("dpmsolver++", 20, 1, 1.0),
        ("unipc", 20, 1, 1.0),
    ],
)
def test_multistep_samplers_are_right_on_any_flow(name, n_steps, n_train, shift):
    mean, spread = spread_of(
        FLOW | {"num_train_timesteps": n_train, "shift": shift}, "flow", name, n_steps
    )
    assert abs(mean - 0.3) < 0.04  # 4,000 numbers: 0.008 and 0.006 by chance
    assert abs(spread - 0.5) < 0.04


def test_the_network_is_told_the_time_of_the_noise_level_that_the_sampler_believes():
    karras: dict[str, Any] = {"use_karras_sigmas": True}
    for config, kind, options in ((FLOW, "flow", {}), (SD, "eps", karras)):
        schedule = schedule_from_config(config)
        steps = make_scheduler(Sampling("dpmsolver++", scheduler_options=options), config, kind)
        steps.set_timesteps(30)
        sigmas = steps.sigmas[:-1].double()
        believed = sigmas if isinstance(schedule, FlowSchedule) else sigmas**2 / (1 + sigmas**2)
        told = schedule.sigma(steps.timesteps)
        torch.testing.assert_close(
            told if isinstance(schedule, FlowSchedule) else told**2, believed, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("option", ["use_karras_sigmas", "use_exponential_sigmas"])
@pytest.mark.parametrize("name", ["dpmsolver++", "unipc", "deis"])
def test_noise_levels_of_ones_own_on_cosine_betas_are_right_or_refused(name, option):
    for n_steps in (10, 50):
        refusal = None
        try:
            mean, spread = spread_of(COSINE, "eps", name, n_steps, **{option: True})
            assert abs(spread - 0.5) < 0.25
            assert abs(mean - 0.3) < 0.12
        except UserError as error:
            refusal = str(error)
        assert refusal is None or f"leave {option} out" in refusal


@pytest.mark.parametrize(
    ("config", "kind", "name", "n_steps", "options", "words"),
    [
        (COSINE, "eps", "euler", 10, {"use_karras_sigmas": True}, "leave use_karras_sigmas out"),
        (COSINE, "eps", "heun", 10, {}, "take ddim"),
        (COSINE | {"num_train_timesteps": 100}, "eps", "pndm", 67, {}, "take 33 steps"),
        (FLOW | {"num_train_timesteps": 1}, "flow", "flow_euler", 20, {}, "take dpmsolver++"),
        (SD, "eps", "lcm", 100, {}, "take 50 steps"),
        (LINEAR | {"num_train_timesteps": 10}, "eps", "ddim", 10, {}, "change model.scheduler"),
    ],
)
def test_what_would_be_wrong_is_refused_with_what_works(
    config, kind, name, n_steps, options, words
):
    with pytest.raises(UserError) as caught:
        spread_of(config, kind, name, n_steps, **options)
    assert words in str(caught.value)
    assert f"{n_steps} steps of {name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_clipping_is_no_mistake():
    for name in ("ddim", "ddpm", "heun"):
        for n_steps in (2, 20):
            check_sampler(Sampling(name, n_steps, clip_sample=True), LINEAR, "eps")


@pytest.mark.parametrize("config", [LINEAR, FLOW, EDM], ids=["linear", "flow", "edm"])
def test_few_steps_of_any_sampler_are_no_mistake(config):
    family = {"FlowMatchEulerDiscreteScheduler": "flow", "EDMEulerScheduler": "edm"}
    family = family.get(config["_class_name"], "vp")
    kind = {"vp": "eps", "flow": "flow", "edm": "edm"}[family]
    for name in samplers.names():
        for n_steps in (1, 2, 4, 8) if family in families_of(name) else ():
            boundary = "ddim" if name == "consistency" else None
            check_sampler(Sampling(name, n_steps), config, kind, boundary=boundary)


def test_what_is_asked_for_on_purpose_is_not_compared():
    check_sampler(Sampling("ddim", 10, stop_ratio=0.5, grid_power=3.0), SD, "eps")
    ratios = Sampling("consistency", 2, ratios=[20.0, 0.5])
    check_sampler(ratios, LINEAR, "eps", boundary="ddim")


def test_consistency_models_may_clip():
    for n_steps in (1, 2, 4, 8):
        for name, boundary in (("consistency", "ddim"), ("lcm", "lcm"), (None, "ddim")):
            sampling = Sampling(name, n_steps, clip_sample=True)
            check_sampler(sampling, LINEAR, "v", boundary=boundary)


def test_the_reference_is_ddim_and_ddpm_as_they_are():
    for stochastic, name in ((False, "ddim"), (True, "ddpm")):
        for n_steps in (1, 5, 40):
            drawn = draw(Sampling(name, n_steps), LINEAR, "eps")
            expected = reference_distance(schedule_from_config(LINEAR), n_steps, stochastic)
            assert abs(drawn.spread / 0.5 - 1) == pytest.approx(expected, abs=0.02)
    assert FLOOR < 0.2
    assert FACTOR < 2


def test_a_schedule_must_end_in_noise():
    for config in (LINEAR, SD, COSINE, COSINE | {"num_train_timesteps": 4}, FLOW, EDM):
        check_ends_in_noise(schedule_from_config(config))
    for n_train in (10, 100):
        with pytest.raises(UserError, match=f"at the last of its {n_train} times"):
            check_ends_in_noise(schedule_from_config(LINEAR | {"num_train_timesteps": n_train}))
    with pytest.raises(UserError, match="sigma_max is 1"):
        check_ends_in_noise(schedule_from_config(EDM | {"sigma_max": 1.0}))


def test_lcm_draws_from_a_table_shorter_than_its_grid():
    mean, spread = spread_of_jumps("lcm", COSINE | {"num_train_timesteps": 20}, 4)
    assert (mean, spread) == pytest.approx((0.3, 0.5), abs=0.02)


def spread_of_jumps(name, config, n_steps):
    drawn = draw(Sampling(name, n_steps), config, "eps", boundary="lcm")
    return drawn.mean, drawn.spread


def test_a_scheduler_object_of_whose_times_two_are_alike_takes_each_step_once():
    import diffusers

    steps = diffusers.DPMSolverMultistepScheduler(  # pyright: ignore[reportPrivateImportUsage]
        use_flow_sigmas=True, flow_shift=6.0, prediction_type="flow_prediction"
    )
    schedule = FlowSchedule(shift=6.0)
    network = GaussianNetwork(schedule, "flow", mean=0.3, std=0.5)
    model = Model.around(Denoiser(network, schedule, "flow"), (2,))
    x = sample(model, 500, Sampling(steps, 250, batch_size=500))
    assert abs(x.std().item() - 0.5) < 0.08


def test_a_class_of_diffusers_that_needs_another_library_is_refused(monkeypatch):
    class NeedsMore(type):
        def __getattr__(cls, name):
            raise ImportError("NeedsMoreScheduler needs\ntorchsde")

    stand_in = NeedsMore("NeedsMoreScheduler", (), {})
    monkeypatch.setattr("diffusers.NeedsMoreScheduler", stand_in, raising=False)
    with pytest.raises(UserError, match=r"sampler NeedsMoreScheduler: .* needs torchsde"):
        make_scheduler(Sampling("NeedsMoreScheduler"), {"_class_name": "DDPMScheduler"}, "eps")
