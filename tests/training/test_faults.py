"""A short version of the fault campaign; `make bench-faults` is the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[2] / "benchmarks" / "fault_campaign.py"
QUICK = ("while a checkpoint is written", "full disk", "flipped", "SIGTERM", "NaN weights")


@pytest.mark.parametrize(
    ("n", "only"), [(8, QUICK), pytest.param(40, ("",), marks=pytest.mark.slow)]
)
def test_no_fault_costs_a_bit(n, only):
    command = [sys.executable, str(CAMPAIGN), "--n", str(n), "--seed", "1", "--only", *only]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    total = done.stdout.splitlines()
    assert any(line.startswith("| all | ") and line.endswith("| 0 |") for line in total)
