"""One writer to a run folder: who holds it, who is gone, who slept, what the others are told."""

import json
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tiny_runs import metrics, run

from sparring.support.errors import LockHeld, LockLost, UserError
from sparring.training import lock as locks
from sparring.training import open_run
from sparring.training.lock import RunLock, Writer, _beat
from sparring.training.lock_owner import machine, read_owner, this_start

HOUR = 3600 * 10**9


class Time:
    """A clock that only sleeping moves; `at_each` happens after every sleep."""

    def __init__(self, at_each=lambda now: None):
        self.now, self.at_each = 0.0, at_each

    def sleep(self, seconds):
        self.now += seconds
        self.at_each(self.now)

    def lock(self, run_dir, **words):
        return RunLock(run_dir, clock=lambda: self.now, sleep=self.sleep, **words)


@pytest.fixture
def heartbeat_only(monkeypatch):
    monkeypatch.setenv(locks.NO_SYSTEM_LOCK, "0")


def held_elsewhere(run_dir: Path, number: int = 1, **changes) -> Path:
    """The file of a holder on another machine."""
    words = {"machine": "another", "host": "far", "process": 7, "user": "ann", **changes}
    folder = run_dir / ".lock"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{number:06d}.held"
    file.write_text(json.dumps(asdict(replace(this_start("other", None), **words))))
    return file


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / ".lock").iterdir() if path.name != "system")


# Two starts


def test_the_second_start_says_who_holds_it(tmp_path):
    first = RunLock(tmp_path)
    assert first.take()
    with pytest.raises(LockHeld) as error:
        RunLock(tmp_path).take()
    owner = read_owner(tmp_path / ".lock" / "000001.held")
    line = str(error.value)
    for word in (tmp_path, owner.process, owner.host, owner.user, owner.started):
        assert str(word) in line
    assert "training.wait_for_lock=SECONDS" in line
    assert "\n" not in line
    first.check()
    first.release()
    assert names(tmp_path) == ["000001.released"]
    assert RunLock(tmp_path).take()


def test_the_second_start_says_who_holds_it_without_the_systems_lock(tmp_path, heartbeat_only):
    """The process is looked for; nobody waits for its heart."""
    first, time = RunLock(tmp_path), Time()
    assert first.take()
    with pytest.raises(LockHeld, match=f"process {os.getpid()} on"):
        time.lock(tmp_path).take()
    assert time.now == 0.0


def test_a_run_is_refused_while_another_writes_it_and_not_afterwards(tmp_path):
    settings = {"checkpointing_steps": 4, "resume_from_checkpoint": "auto"}
    refused = []

    def second_start(*_):
        for words in ({}, {"overwrite_output_dir": True}, {"resume_from_checkpoint": "auto"}):
            with pytest.raises(LockHeld) as error:
                run(tmp_path, **words)
            refused.append(error.value.exit_code)

    run(tmp_path, **settings, validation_steps=6, sample_fn=second_start)
    assert refused == [2] * 6
    run(tmp_path, **settings, max_train_steps=16)
    assert [line["step"] for line in metrics(tmp_path)] == [5, 10, 12, 15, 16]


def test_the_lock_is_given_back_after_an_error(tmp_path):
    def broken(*_):
        raise ValueError("of the program")

    with pytest.raises(ValueError, match="of the program"):
        run(tmp_path, validation_steps=3, sample_fn=broken)
    assert names(tmp_path) == ["000001.released"]
    run(tmp_path, overwrite_output_dir=True)
    assert names(tmp_path) == ["000002.released"]


def test_a_refused_start_leaves_no_trace(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        open_run(tmp_path / "runs" / "typo", "latest")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "model_index.json").touch()
    with pytest.raises(UserError, match="no run"):
        open_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model_index.json"]


def test_one_of_two_that_look_at_once_wins(tmp_path, heartbeat_only):
    """Both have seen the number 4; a third has seen it long ago, when two runs have come since."""
    held_elsewhere(tmp_path, 4).rename(tmp_path / ".lock" / "000004.released")
    locks_ = [RunLock(tmp_path) for _ in range(4)]
    assert [lock._claim(4) for lock in locks_[:2]] == [True, False]
    locks_[0].release()
    assert locks_[2]._claim(5)
    assert not locks_[3]._claim(4)
    locks_[2].check()
    assert names(tmp_path) == ["000006.held"]


def test_a_number_that_was_released_meanwhile_is_not_taken_again(tmp_path, heartbeat_only):
    late, early = RunLock(tmp_path), RunLock(tmp_path)
    early._make_folder()
    assert early._claim(0)
    early.release()
    assert not late._claim(0)
    assert names(tmp_path) == ["000001.released"]


def test_threads_that_start_together_have_one_writer(tmp_path):
    barrier, won, lost = threading.Barrier(4), [], []

    def start():
        lock = RunLock(tmp_path)
        barrier.wait()
        try:
            lock.take()
            won.append(lock)
        except LockHeld as error:
            lost.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 3)
    won[0].check()


# A holder that is gone


def test_a_killed_holder_of_the_systems_lock_is_gone_at_once(tmp_path, capsys):
    """Its file is as it was; the kernel has let go of the lock."""
    first, time = RunLock(tmp_path), Time()
    assert first.take()
    file = tmp_path / ".lock" / "000001.held"
    contents = file.read_text()
    first.release()
    file.with_suffix(".released").unlink()
    file.write_text(contents)
    heir = time.lock(tmp_path)
    assert heir.take()
    assert time.now == 0.0
    heir.check()
    assert "is gone: its lock of" in capsys.readouterr().err
    assert names(tmp_path) == ["000002.held"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
@pytest.mark.parametrize("start", [0, 1])
def test_a_process_that_has_ended_is_gone_at_once(tmp_path, heartbeat_only, start):
    """Or its number belongs to another process by now."""
    process = os.getpid() if start else 2**22 + 1
    words = {"machine": machine(), "process": process, "process_start": start}
    held_elsewhere(tmp_path, **words)
    time = Time()
    assert time.lock(tmp_path).take()
    assert time.now == 0.0


def test_process_numbers_of_another_namespace_prove_nothing(tmp_path, heartbeat_only):
    words = {"machine": machine(), "namespace": "pid:[1]", "process": 2**22 + 1}
    held_elsewhere(tmp_path, **words)
    time = Time()
    assert time.lock(tmp_path).take()
    assert time.now >= locks.STALE_SECONDS


@pytest.mark.parametrize("system", ["0", "1"])
def test_a_silent_holder_elsewhere_is_gone_after_the_stated_time(
    tmp_path, monkeypatch, capsys, system
):
    monkeypatch.setenv(locks.NO_SYSTEM_LOCK, system)
    held_elsewhere(tmp_path)
    time = Time()
    assert time.lock(tmp_path).take()
    assert locks.STALE_SECONDS <= time.now <= locks.STALE_SECONDS + 2 * locks.POLL_SECONDS
    said = capsys.readouterr().err
    assert "belongs to process 7 on far (of ann, started" in said
    assert said.count("watching it, for up to 60 s") == 1


@pytest.mark.parametrize("skew", [-5 * HOUR, 0, 5 * HOUR])
def test_a_beating_holder_elsewhere_is_not_gone_whatever_its_clock_says(tmp_path, skew):
    file = held_elsewhere(tmp_path)
    start = file.stat().st_mtime_ns + skew
    os.utime(file, ns=(start, start))

    def beat(now):
        if now % locks.BEAT_SECONDS == 0:
            os.utime(file, ns=(start, start + int(now * 1e9)))

    time = Time(beat)
    with pytest.raises(LockHeld, match="process 7 on far"):
        time.lock(tmp_path).take()
    assert time.now == locks.BEAT_SECONDS
    with pytest.raises(LockHeld):
        time.lock(tmp_path).take(wait_seconds=200)
    assert 200 <= time.now - locks.BEAT_SECONDS <= 210
    assert names(tmp_path) == ["000001.held"]


def test_a_file_that_cannot_be_read_is_somebody(tmp_path, heartbeat_only):
    """A holder killed between making its file and filling it; or one that is about to."""
    held_elsewhere(tmp_path).write_text("")
    time = Time()
    assert time.lock(tmp_path).take()
    assert time.now >= locks.STALE_SECONDS


def test_a_watcher_that_slept_has_seen_nothing(tmp_path):
    """Its host was suspended for an hour, and the holder's perhaps too."""
    held_elsewhere(tmp_path)
    time, jumps = Time(), []

    def suspended(now):
        if now > 10 and not jumps:
            jumps.append(now)
            time.now += 3600

    time.at_each = suspended
    assert time.lock(tmp_path).take()
    assert time.now >= 3600 + locks.STALE_SECONDS - 2


# Waiting


def test_a_start_that_waits_gets_its_turn(tmp_path, capsys):
    first = RunLock(tmp_path)
    assert first.take()
    time = Time(lambda now: first.release() if now == 30 else None)
    lock = time.lock(tmp_path)
    assert lock.take(wait_seconds=40)
    assert time.now == 30
    lock.check()
    assert capsys.readouterr().err.count("waiting for its end") == 1


def test_a_start_waits_no_longer_than_it_was_told(tmp_path):
    first, time = RunLock(tmp_path), Time()
    assert first.take()
    with pytest.raises(LockHeld):
        time.lock(tmp_path).take(wait_seconds=40)
    assert time.now == 40


def test_several_processes_hear_from_the_one_that_waits(tmp_path):
    first, time = RunLock(tmp_path), Time()
    assert first.take()
    lock = time.lock(tmp_path)
    assert not lock.take(wait_seconds=400, slice_seconds=60)
    assert time.now == 60
    first.release()
    assert lock.take(wait_seconds=340, slice_seconds=60)


# A holder that slept


def taken_over(run_dir: Path, holder: RunLock) -> RunLock:
    """Another start, to which the holder looked gone."""
    heir = RunLock(run_dir)
    assert heir._claim(int(holder._file.stem))
    return heir


def test_a_holder_that_slept_notices_and_touches_nothing(tmp_path, heartbeat_only):
    sleeper = RunLock(tmp_path)
    assert sleeper.take()
    heir = taken_over(tmp_path, sleeper)
    with pytest.raises(LockLost, match=r"process \d+ on .* has taken it over") as error:
        sleeper.check()
    assert "\n" not in str(error.value)
    sleeper.release()
    heir.check()
    assert names(tmp_path) == ["000002.held"]


def test_a_holder_that_slept_hears_of_an_heir_that_has_ended(tmp_path, heartbeat_only):
    sleeper = RunLock(tmp_path)
    assert sleeper.take()
    taken_over(tmp_path, sleeper).release()
    with pytest.raises(LockLost, match=r"process \d+ on .* has taken it over"):
        sleeper.check()


def test_a_holder_notices_that_its_folder_was_removed_and_used_again(tmp_path, heartbeat_only):
    sleeper = RunLock(tmp_path)
    assert sleeper.take()
    file = tmp_path / ".lock" / "000001.held"
    file.unlink()
    with pytest.raises(LockLost, match="was removed"):
        sleeper.check()
    heir = RunLock(tmp_path)
    assert heir.take()
    assert file.exists()  # the same number again, of another token
    with pytest.raises(LockLost, match="has taken it over"):
        sleeper.check()
    sleeper.release()
    heir.check()


class Beats:
    """In place of the event that ends the heartbeat: lets it beat a few times."""

    def __init__(self, n):
        self.left = n

    def wait(self, seconds):
        self.left -= 1
        return self.left < 0


def test_the_heart_beats_through_a_full_disk_and_not_for_others(tmp_path, monkeypatch):
    file = held_elsewhere(tmp_path)
    touched = []

    def utime(path):
        touched.append(path)
        if len(touched) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "utime", utime)
    _beat(Beats(3), file, "other", 5.0)
    assert touched == [file] * 3
    _beat(Beats(3), file, "somebody else's", 5.0)
    file.unlink()
    _beat(Beats(3), file, "other", 5.0)
    assert len(touched) == 3


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_run_that_lost_its_folder_writes_nothing_more(
    tmp_path, heartbeat_only, when, monkeypatch
):
    """Taken over before a checkpoint is begun, or while it is being written."""
    from sparring.training import checkpoint

    heirs, seal = [], checkpoint.save_file
    holder = open_run(tmp_path)

    def take_over(*_):
        heirs.append(taken_over(tmp_path, holder.lock))

    def save_file(tensors, file):
        if "checkpoint-8" in str(file) and not heirs:
            take_over()
        seal(tensors, file)

    if when == "while":
        monkeypatch.setattr(checkpoint, "save_file", save_file)
    from tiny_runs import Points, make_objective, tiny_denoiser, tiny_settings

    from sparring.training import Feed, Hooks, Trained, train

    settings = tiny_settings(checkpointing_steps=4, validation_steps=6, log_every_steps=1)
    hooks = Hooks(
        sample_fn=take_over if when == "before" else None,
        save_fn=lambda _: pytest.fail("a lost run is saved"),
    )
    trained = Trained(tiny_denoiser(), make_objective())
    with pytest.raises(LockLost):
        train(trained, Feed(Points()), settings, holder, hooks)
    last = 6 if when == "before" else 8
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, last + 1))
    found = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert [name for name in found if not name.startswith(".half-")] == ["checkpoint-4"]
    # what it has half written bears its own mark, and is not the heir's
    assert all(holder.token in name for name in found if name.startswith(".half-"))
    assert not (tmp_path / "training.json").exists()
    heirs[0].check()


def test_a_run_that_lost_its_folder_begins_no_checkpoint(tmp_path, heartbeat_only):
    """What another start has half written would go, as the leftover of a killed one."""
    half = tmp_path / "checkpoints" / ".half-heirs-checkpoint-8"

    def take_over(*_):
        (tmp_path / ".lock" / "000002.held").touch()
        half.mkdir()

    words = {"checkpointing_steps": 4, "validation_steps": 6, "log_every_steps": 100}
    with pytest.raises(LockLost):
        run(tmp_path, **words, sample_fn=take_over)
    found = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert sorted(found) == [half.name, "checkpoint-4"]


# Who the lock belongs to


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_process_does_not_give_the_lock_away(tmp_path):
    """As a data worker's copy of everything would, when it ends."""
    lock = RunLock(tmp_path)
    assert lock.take()
    child = os.fork()
    if child == 0:
        try:
            lock.release()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    lock.check()
    with pytest.raises(LockHeld):
        RunLock(tmp_path).take()


def test_a_lock_that_nobody_keeps_is_given_back(tmp_path):
    open_run(tmp_path / "a")
    assert names(tmp_path / "a") == ["000001.released"]
    with open_run(tmp_path / "b"):
        assert names(tmp_path / "b") == ["000001.held"]
    assert names(tmp_path / "b") == ["000001.released"]


def test_a_file_system_without_locks_leaves_the_heartbeat(tmp_path, monkeypatch):
    def no_locks(self):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.FileLock, "acquire", no_locks)
    lock = RunLock(tmp_path)
    assert lock.take()
    owner = read_owner(tmp_path / ".lock" / "000001.held")
    assert owner.system_lock is None
    with pytest.raises(LockHeld):
        RunLock(tmp_path).take()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "000001.held")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        with pytest.raises(UserError, match=r"000001.held cannot be written \(No space left"):
            RunLock(tmp_path).take()
    assert RunLock(tmp_path).take()


def test_a_writer_without_a_lock_is_one_of_the_other_processes():
    writer = Writer("token")
    writer.check()
    writer.close()


def test_the_lock_is_not_pushed(tmp_path, monkeypatch):
    import huggingface_hub

    from sparring.commands.train.run_files import push

    pushed = {}
    monkeypatch.setattr(
        huggingface_hub, "create_repo", lambda name, **_: type("", (), {"repo_id": name})
    )
    monkeypatch.setattr(huggingface_hub, "upload_folder", lambda **words: pushed.update(words))
    push(tmp_path, "me/it")
    assert ".lock/**" in pushed["ignore_patterns"]
