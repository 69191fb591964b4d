"""`make test-kernels`: which tests it takes, in which order, and what it does not do twice."""

import itertools
import sys
from pathlib import Path

from support import in_random_order

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import kernels  # type: ignore

HERE = {"commit": "abc1234", "torch": "2.13.0", "processor": "one"}


def row(**changes):
    return {"variant": "busy", "pass": 2, "passed": 5, "failed": 0, "seconds": 1, **HERE, **changes}


def test_files_that_compute_are_found_by_what_they_import(tmp_path):
    for name, text in {
        "data/test_a.py": "import torch\n", "test_b.py": "from torch import nn\n",
        "test_d.py": "import os\n", "report/test_e.py": "import torch\n",
        "test_config.py": "import torch\n", "test_f.py": "    import torch.nn as nn\n",
        "test_g.py": "import torchless\n", "support.py": "import torch\n",
    }.items():  # fmt: skip
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / name).write_text(text)
    found = ["tests/data/test_a.py", "tests/test_b.py", "tests/test_f.py"]
    assert kernels.computing_files(tmp_path / "tests") == found
    everything, formulas = kernels.computing_files(), kernels.computing_files(whole=False)
    assert set(formulas) < set(everything)
    rooms = {"adversarial", "assembly", "diffusion", "evaluation", "objectives", "perturbations"}
    rooms |= {"training", "tests"}
    assert {room_of(name) for name in formulas} == rooms
    assert {room_of(name) for name in everything} >= rooms | {"sampling", "data", "models"}


def test_what_is_left_out_is_there():
    tests = kernels.ROOT / "tests"
    names = [str(path.relative_to(tests)) for path in tests.rglob("test_*.py")]
    for beginning in kernels.NOT_COMPUTING + kernels.WHOLE:
        assert any(name.startswith(beginning) for name in names), beginning


def room_of(name):
    """The folder below tests, or tests."""
    return Path(name).parts[-2 if name.count("/") == 1 else 1]


def test_a_pass_that_was_green_here_is_not_run_again(tmp_path):
    file = tmp_path / "new" / "kernels.json"
    kernels.keep(file, row(failed=1, failures=["a::b"]))
    assert not kernels.is_done(kernels.read(file), "busy", 2, HERE)
    kernels.keep(file, row())
    kernels.keep(file, row(variant="4 threads", **{"pass": 1}))
    rows = kernels.read(file)
    assert [one["pass"] for one in rows] == [1, 2]  # in the place of the red one
    assert kernels.is_done(rows, "busy", 2, HERE)
    assert not kernels.is_done(rows, "busy", 1, HERE)
    assert not kernels.is_done(rows, "busy", 2, HERE | {"processor": "another"})
    kernels.keep(file, row(commit="abc1234+changes"))
    changed = HERE | {"commit": "abc1234+changes"}
    assert not kernels.is_done(kernels.read(file), "busy", 2, changed)


def test_a_random_order_is_all_tests_in_an_order_of_the_seed():
    items = [(file, number) for file in "abcd" for number in range(9)]
    orders = [in_random_order(items, lambda item: item[0], seed) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert sorted(order) == items != order
        files = [file for file, _ in itertools.groupby(order, lambda item: item[0])]
        assert sorted(files) == list("abcd")  # each in one piece
