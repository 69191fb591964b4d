"""Inputs as people have them, with known answers; benchmarks/ runs them by the thousand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import known_answers  # type: ignore


@pytest.mark.parametrize("domain", known_answers.DOMAINS)
def test_nothing_is_misread_in_silence(domain):
    failed = []
    known_answers.campaign(len(known_answers.kinds_of(domain)), 7, [domain], failed.append)
    assert not failed, "\n".join(failed)
