"""Wrong configs, command lines and images by the hundred; benchmarks/ runs them by the thousand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import config_campaign  # type: ignore
import image_campaign  # type: ignore


def total(counts, outcome):
    return sum(each[outcome] for each in counts.values())


def test_wrong_configs_and_command_lines_end_in_one_line():
    failed, n = [], 6 * len(config_campaign.KINDS)
    counts = config_campaign.campaign(n, seed=7, say=failed.append)
    assert not failed, "\n".join(failed)
    assert total(counts, "done") + total(counts, "refused") == n
    assert counts["unchanged"]["done"] == 6
    assert counts["key misspelt"]["refused"] == counts["key unknown"]["refused"] == 6


def test_malformed_images_are_read_rightly_or_listed_or_refused():
    failed, n = [], 4 * len(image_campaign.TURNS)
    counts = image_campaign.campaign(n, seed=7, say=failed.append)
    assert not failed, "\n".join(failed)
    assert counts["good, all formats and modes"]["read"] == 12
    assert counts["decompression bomb"]["read"] == 0
    assert total(counts, "read") + total(counts, "listed") + total(counts, "refused") == n


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_configs_and_fifty_real_commands():
    failed = []
    config_campaign.campaign(2100, seed=0, n_real=60, say=failed.append)
    assert not failed, "\n".join(failed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nine_hundred_images():
    failed = []
    image_campaign.campaign(900, seed=0, say=failed.append)
    assert not failed, "\n".join(failed)
