"""Runs side by side: their order, what a failure says, and that nothing is left running."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from sparring.commands.demo.side_by_side import Run, how_to_go_on, work
from sparring.config.read import dump, resolve
from sparring.support.errors import UserError


def a_run(folder, name, *scripts):
    commands = [[sys.executable, "-c", script] for script in scripts]
    return Run(name, name, folder / name, folder / f"{name}.txt", commands, n_steps=1)


@pytest.mark.parametrize(
    ("finish_first", "order"), [(False, ["a0", "b0", "a1", "b1"]), (True, ["a0", "a1", "b0", "b1"])]
)
def test_the_order_of_the_commands(tmp_path, finish_first, order):
    told = tmp_path / "told"

    def tell(word):
        return f"open({str(told)!r}, 'a').write('{word} ')"

    runs = [a_run(tmp_path, name, tell(f"{name}0"), tell(f"{name}1")) for name in "ab"]
    work(runs, 1, lambda: "", finish_first=finish_first)
    assert told.read_text().split() == order


@pytest.mark.parametrize(("n_slots", "order"), [(2, "free waits"), (1, "waits free")])
def test_what_waits_for_nothing_starts_before_the_rest_is_prepared(tmp_path, n_slots, order):
    """But one core is for preparing: with no other, all begin afterwards, in their order."""
    told, ready = tmp_path / "told", tmp_path / "ready"

    def tell(word):
        return f"open({str(told)!r}, 'a').write('{word} ')"

    free, waits = a_run(tmp_path, "free", tell("free")), a_run(tmp_path, "waits", tell("waits"))
    free.waits = False

    def prepare():
        while n_slots > 1 and not told.exists():
            time.sleep(0.05)
        assert n_slots > 1 or not told.exists()
        ready.touch()

    work([waits, free], n_slots, lambda: "", prepare=prepare)
    assert ready.exists()
    assert told.read_text().split() == order.split()


def test_what_needs_a_model_starts_once_that_is_trained_and_beside_what_follows(tmp_path):
    model, attacked = tmp_path / "model", tmp_path / "attacked"
    evaluate = f"""
import pathlib, time
while not pathlib.Path({str(attacked)!r}).exists():
    time.sleep(0.05)
"""
    attack = f"import os; assert os.path.exists({str(model)!r}); open({str(attacked)!r}, 'w')"
    train = f"import time; time.sleep(1); open({str(model)!r}, 'w')"
    trained = a_run(tmp_path, "trained", train, evaluate)
    needs_it = a_run(tmp_path, "attack", attack)
    needs_it.after = trained
    work([needs_it, trained], 2, lambda: "")
    assert trained.is_done
    assert needs_it.is_done


def test_what_fails_before_takes_along_what_has_begun(tmp_path):
    free = a_run(tmp_path, "free", "import time; time.sleep(999)")
    free.waits = False

    def prepare():
        raise UserError("no files")

    with pytest.raises(UserError, match="no files"):
        work([free, a_run(tmp_path, "waits", "")], 2, lambda: "", prepare=prepare)
    assert free.process.returncode is not None


def test_a_failure_says_the_last_line_and_where_the_rest_is(tmp_path):
    bad = a_run(
        tmp_path, "bad", "print('much'); raise SystemExit('sparring: error: no such thing')"
    )
    with pytest.raises(UserError, match=r"bad failed: no such thing \(all it said is in .*bad.txt"):
        work([bad], 1, lambda: "")


def test_told_to_stop_it_takes_its_runs_along(tmp_path):
    script = f"""
        import sys
        sys.path.insert(0, {str(os.path.dirname(__file__))!r})
        from pathlib import Path
        from test_side_by_side import a_run
        from sparring.commands.demo.side_by_side import work
        folder = Path({str(tmp_path)!r})
        mark = folder / "pid"
        child = f"import os, time; open({{str(mark)!r}}, 'w').write(str(os.getpid()))"
        child += "; time.sleep(999)"
        work([a_run(folder, "long", child)], 1, lambda: "")
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    child = tmp_path / "pid"
    while not (child.is_file() and child.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.read_text()), 0)


@pytest.mark.parametrize("began_with", ["no", "bf16"])
def test_a_run_goes_on_whatever_auto_meant_when_it_began(tmp_path, began_with):
    config = resolve("plane", [f"training.output_dir={tmp_path}"])
    kept = config.model_copy(deep=True)
    kept.training.mixed_precision = began_with
    (tmp_path / "config.yaml").write_text(dump(kept))
    words = ("demo", "--output-dir")
    assert how_to_go_on(tmp_path, config, *words) == ["training.overwrite_output_dir=true"]
    config.training.seed = 1
    with pytest.raises(UserError, match="with other settings"):
        how_to_go_on(tmp_path, config, *words)
