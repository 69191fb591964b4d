"""The demo's three runs, as a folder each."""

from pathlib import Path

import pytest
from fake_runs import make_demo_runs


@pytest.fixture
def demo_runs(tmp_path: Path) -> list[str]:
    return make_demo_runs(tmp_path / "runs")
