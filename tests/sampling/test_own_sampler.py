"""A sampler of one's own is one file: a class that steps as a scheduler of diffusers does."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from test_exact_gaussian import VP, denoiser_for

from sparring.cli import main
from sparring.config.read import resolve
from sparring.diffusion.schedules import schedule_from_config
from sparring.models.pretrained import Model
from sparring.sampling import samplers
from sparring.sampling.sample import sample
from sparring.sampling.schedulers import make_scheduler, name_in_files
from sparring.sampling.settings import Sampling, SamplingSection
from sparring.support.errors import UserError
from support import FLOW

SAMPLER = '''\
from diffusers import DDIMScheduler


class Mine(DDIMScheduler):
    """DDIM that says how often it is asked."""

    def step(self, *args, **words):
        with open("asked.txt", "a") as file:
            file.write(".")
        return super().step(*args, **words)


class Twice(DDIMScheduler):
    """DDIM whose answer is doubled at the end."""

    def step(self, model_output, timestep, sample, *args, **words):
        answer = super().step(model_output, timestep, sample, *args, **words)
        if timestep == self.timesteps[-1]:
            answer.prev_sample = 2 * answer.prev_sample
        return answer


class Nothing:
    pass
'''


@pytest.fixture
def sampler(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SAMPLER)
    return "mine.py:Twice"


def test_it_draws_what_its_file_says(sampler):
    schedule = schedule_from_config(VP)
    model = Model(denoiser_for(schedule, "eps"), VP, (1,), None, "exact")
    words = {"num_inference_steps": 10, "seed": 3, "clip_sample": False}
    whole = sample(model, 8, scheduler="DDIMScheduler", **words)
    Path("asked.txt").unlink(missing_ok=True)
    mine = sample(model, 8, scheduler="mine.py:Mine", **words)
    assert torch.equal(mine, whole)
    assert len(Path("asked.txt").read_text()) >= 10


def test_a_config_may_name_it_and_files_are_named_after_it(sampler):
    network = {"_class_name": "MLP", "dim": 3}
    raw = {"model": {"network": network}, "data": {"name": "plane"}}
    Path("run.yaml").write_text(yaml.safe_dump(raw))
    said = resolve("run.yaml", [f"sampling.scheduler={sampler}"])
    assert said.sampling.scheduler == sampler
    assert name_in_files("a/b c/mine.py:Twice") == "mine-Twice"
    assert name_in_files("ddim") == "ddim"


def test_a_sampler_that_draws_a_known_answer_wrongly_is_refused(sampler):
    network = {"_class_name": "MLP", "dim": 3, "width": 8, "n_blocks": 1}
    raw = {"model": {"network": network}, "data": {"name": "plane"}}
    Path("run.yaml").write_text(yaml.safe_dump(raw))
    words = ["train", "run.yaml", f"sampling.scheduler={sampler}", "--dry-run"]
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 2
    assert "sampling:" in said.output
    assert "mine.py:Twice" in said.output


BUILT_IN = """\
from diffusers import DDIMScheduler


class Halfway(DDIMScheduler):
    families = ("vp",)
    settings = ("stop_ratio",)
"""


def test_a_built_in_one_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "halfway.py").write_text(BUILT_IN)
    monkeypatch.setattr(samplers, "__path__", [*samplers.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{samplers.__name__}.halfway", raising=False)
    assert "halfway" in samplers.names()
    assert SamplingSection(scheduler="halfway").settings == Sampling("halfway")
    made = make_scheduler(Sampling("halfway", stop_ratio=0.5), VP, "eps")
    assert (type(made).__name__, made.stop_ratio) == ("Halfway", 0.5)
    model = Model.around(denoiser_for(schedule_from_config(VP), "eps"), (1,))
    words = {"num_inference_steps": 10, "clip_sample": False}
    x = sample(model, 4, scheduler="halfway", **words)
    assert torch.equal(x, sample(model, 4, scheduler="DDIMScheduler", **words))
    with pytest.raises(ValueError, match="grid_power is a setting of ddim, not of halfway"):
        make_scheduler(Sampling("halfway", grid_power=2.0), VP, "eps")
    with pytest.raises(UserError, match="'halfway' does not go with this model's flow schedule"):
        make_scheduler(Sampling("halfway"), FLOW, "flow")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine.py:Nothing", "it has no set_timesteps, step, config"),
        ("mine.py:Twise", "has no 'Twise' - did you mean 'Twice'?"),
        ("nowhere.py:Twice", "there is no file nowhere.py"),
    ],
)
def test_what_is_no_sampler_is_one_line(sampler, name, said):
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        make_scheduler(Sampling(name), VP, "eps")
    assert said in str(caught.value)
