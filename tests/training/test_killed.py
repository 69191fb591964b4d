"""SIGKILL at ten random moments, resumed each time, ends where the undisturbed run does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import assert_same, outcome


@pytest.mark.parametrize(
    ("n_kills", "n_steps"),
    [(10, 120), pytest.param(40, 1600, marks=pytest.mark.slow)],
)
def test_killed_run_ends_with_the_same_weights(tmp_path, n_kills, n_steps):
    script = Path(__file__).with_name("killed_run.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(n_kills), str(n_steps)],
        check=True,
        stdout=subprocess.PIPE,
    )
    story = json.loads(done.stdout)
    kills = story["killed_after_checkpoint"]
    assert story["exit_code"] == 0
    assert len(kills) == n_kills
    assert kills == sorted(kills)
    assert 0 < kills[-1] < n_steps  # it was in the middle, and made progress
    whole, killed = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert whole["progress"]["step"] == n_steps
    assert_same(whole, killed)
