"""The path as a linear map: closed forms, autograd through diffusers' own steps, exact sampling."""

import copy
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from sparring.adversarial.rollouts import OneStepPath, Path, SchedulerPath
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.parametrization import KINDS
from sparring.diffusion.schedules import FlowSchedule, schedule_from_config
from sparring.sampling.schedulers import make_scheduler
from sparring.sampling.settings import Sampling
from support import FLOW, SCHEDULES, SD, GaussianNetwork

MULTISTEP = ("ddim", "ddpm", "euler", "heun", "dpmsolver++", "unipc", "deis", "dpm2")


def scheduler_path(name: str, config: dict[str, Any], kind: str, n: int) -> SchedulerPath:
    scheduler = make_scheduler(Sampling(name), config, kind)
    return SchedulerPath(scheduler, schedule_from_config(config), KINDS[kind], n)


def by_autograd(scheduler: Any, n: int, start: int) -> Tensor:
    """d x_end / d o_k through the scheduler's own step, (n_calls - start,)."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(n)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    calls = range(start, len(scheduler.timesteps))
    answers = [torch.randn(1, 1, 1, 1, dtype=torch.float64, requires_grad=True) for _ in calls]
    x = torch.randn(1, 1, 1, 1, dtype=torch.float64)
    for call, answer in zip(calls, answers, strict=True):
        t = scheduler.timesteps[call]
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        x = scheduler.step(answer, t, x).prev_sample
    return torch.stack(torch.autograd.grad(x.sum(), answers)).flatten()


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("name", MULTISTEP)
def test_probing_is_autograd_through_the_schedulers_step(name: str, kind: str) -> None:
    path = scheduler_path(name, SD, kind, 7)
    for start in (0, path.starts[2]):
        expected = by_autograd(path.scheduler, 7, start)
        torch.testing.assert_close(path.coefficients(start)[-1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["flow_euler", "flow_heun", "unipc", "dpmsolver++"])
def test_probing_of_flow_samplers(name: str) -> None:
    path = scheduler_path(name, FLOW, "flow", 6)
    for start in (0, path.starts[2]):
        expected = by_autograd(path.scheduler, 6, start)
        torch.testing.assert_close(path.coefficients(start)[-1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpm2"])
def test_an_x0_network_is_restated_for_schedulers_that_know_eps_only(name: str) -> None:
    """The same estimate in other words takes the same path."""
    schedule = schedule_from_config(SD)
    x = []
    for kind in ("x0", "v"):
        torch.manual_seed(3)
        path = scheduler_path(name, SD, kind, 30)
        x.append(sampled(path, schedule, kind, 0, n=8))
    torch.testing.assert_close(*x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_closed_form_is_ddim(kind: str) -> None:
    closed = OneStepPath(schedule_from_config(SD), KINDS[kind], 20)
    probed = scheduler_path("ddim", SD, kind, 20)
    assert closed.times.tolist() == probed.times.tolist()
    for start in (0, 13):
        torch.testing.assert_close(
            closed.coefficients(start), probed.coefficients(start), rtol=0, atol=2e-6
        )


def test_closed_form_is_flow_euler() -> None:
    closed = OneStepPath(FlowSchedule(3.0), KINDS["flow"], 28)
    probed = scheduler_path("flow_euler", FLOW, "flow", 28)
    torch.testing.assert_close(closed.times, probed.times.double(), rtol=1e-6, atol=1e-4)
    for start in (0, 13):
        torch.testing.assert_close(
            closed.coefficients(start), probed.coefficients(start), rtol=0, atol=1e-6
        )


def test_weights_of_eps_are_drops_of_the_noise_level() -> None:
    """|w_k| = ratio_k - ratio_{k+1}, ratio = sigma/alpha: the notes' closed form."""
    schedule = schedule_from_config(SD)
    path = OneStepPath(schedule, KINDS["eps"], 50)
    ratio = torch.cat([schedule.ratio(path.times), torch.zeros(1)])
    torch.testing.assert_close(path.coefficients(0)[-1], ratio.diff())


def test_weights_of_flow_sum_to_one() -> None:
    w = OneStepPath(FlowSchedule(3.0), KINDS["flow"], 28).coefficients(0)[-1]
    torch.testing.assert_close(w.sum(), torch.tensor(-1.0, dtype=torch.float64))


@pytest.mark.parametrize("name", MULTISTEP)
def test_the_whole_matrix_predicts_what_the_network_reads(name: str) -> None:
    """Two rollouts with the same noise differ by W times the difference of their answers."""
    path = scheduler_path(name, SD, "v", 6)
    start = path.starts[1]
    w, n = path.coefficients(start), path.n_calls - start
    answers = torch.randn(2, n, dtype=torch.float64)
    seen = []
    for row in answers:
        x_t = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        walk = path.walk(start, x_t, [torch.Generator().manual_seed(5)])
        read = [walk.x_t.item()]
        for answer in row:
            walk.step(answer.view(1, 1, 1, 1))
            read.append(walk.x_t.item())
        seen.append(torch.tensor(read, dtype=torch.float64))
    expected = w @ (answers[1] - answers[0])
    torch.testing.assert_close(seen[1] - seen[0], expected, rtol=1e-5, atol=1e-5)


def sampled(path: Path, schedule: Any, kind: str, start: int, n: int = 4000) -> Tensor:
    """Image to image of Gaussian data with the network that is exactly right."""
    denoiser = Denoiser(GaussianNetwork(schedule, kind), schedule, kind)
    torch.manual_seed(0)
    x0, eps = 0.3 + 0.7 * torch.randn(n, 1, 1, 1), torch.randn(n, 1, 1, 1)
    walk = path.walk(start, path.begin(start, x0, eps), None)
    with torch.no_grad():
        for t in path.times[start:]:
            walk.step(denoiser(walk.x_t, t.expand(n)).output)
    return walk.x_t


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("name", [None, "euler", "heun", "dpmsolver++", "unipc", "ddpm", "dpm2"])
def test_a_rollout_from_anywhere_draws_the_data(name: str | None, share: float) -> None:
    """Mean 0.3 and spread 0.7, wherever on the path it begins."""
    schedule = schedule_from_config(SD)
    path: Path = (
        OneStepPath(schedule, KINDS["v"], 100)
        if name is None
        else scheduler_path(name, SD, "v", 100)
    )
    x = sampled(path, schedule, "v", path.starts[int(share * len(path.starts))])
    assert abs(float(x.mean()) - 0.3) < 0.05
    assert abs(float(x.std()) - 0.7) < 0.05


@pytest.mark.parametrize("kind", ["flow", "edm"])
def test_a_rollout_of_the_other_families(kind: str) -> None:
    schedule = SCHEDULES[kind]()
    denoiser = Denoiser(GaussianNetwork(schedule, kind), schedule, kind)
    paths: list[Path] = [OneStepPath(schedule, denoiser.pair, 100)]
    if kind == "edm":
        config = {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}
        scheduler = make_scheduler(Sampling("euler_edm"), config, kind)
        paths.append(SchedulerPath(scheduler, schedule, denoiser.pair, 100))
    for path in paths:
        for start in (0, 50):
            x = sampled(path, schedule, kind, start)
            assert abs(float(x.mean()) - 0.3) < 0.05
            assert abs(float(x.std()) - 0.7) < 0.05


def test_pure_noise_at_the_first_call() -> None:
    """SD's last alpha is 0.068: x_T = alpha x0 + sigma eps would still show x0."""
    path = OneStepPath(schedule_from_config(SD), KINDS["eps"], 10)
    x0, eps = torch.full((2, 1, 1, 1), 100.0), torch.randn(2, 1, 1, 1)
    torch.testing.assert_close(path.begin(0, x0, eps), eps)
    assert (path.begin(1, x0, eps) - eps).abs().min() > 1


@pytest.mark.parametrize("word", ["clip_sample", "thresholding"])
def test_steps_that_are_not_linear_are_refused(word: str) -> None:
    scheduler = diffusers.DDIMScheduler(**{"clip_sample": False, word: True})
    with pytest.raises(ValueError, match=f"{word}=False"):
        SchedulerPath(scheduler, schedule_from_config(SD), KINDS["eps"], 5)


def test_a_step_that_is_not_linear_is_noticed() -> None:
    class Curved(diffusers.DDIMScheduler):
        def step(self, output: Tensor, *args: Any, **words: Any) -> Any:  # pyright: ignore
            return super().step(output**2, *args, **words)

    path = SchedulerPath(Curved(clip_sample=False), schedule_from_config(SD), KINDS["eps"], 5)
    with pytest.raises(ValueError, match="not linear"):
        path.coefficients(0)


def test_samplers_without_a_middle_are_refused() -> None:
    with pytest.raises(ValueError, match="middle of its path"):
        scheduler_path("pndm", SD, "eps", 5)
