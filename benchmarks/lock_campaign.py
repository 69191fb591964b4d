"""Two or three starts of one run, at random moments: never two writers, never a dead lock.

    python benchmarks/lock_campaign.py                 92 trials, benchmarks/results/lock.json
    python benchmarks/lock_campaign.py --only stale --again
    python benchmarks/lock_campaign.py --without-lock -o /tmp/none.json      must fail

It goes on where it was broken off: trials that are in the result file are not repeated.

machine   two or three starts on one machine
machines  each start in namespaces of its own (processes, mounts, host name), as two machines see
          one folder; half of the trials without the system's lock: only heartbeats count
killed    SIGKILL for the holder at a random moment, then another start
stale     SIGSTOP for a holder of which only the heartbeat is seen; another start takes over, and
          the holder wakes up at a random moment; or the system's lock is seen: nobody takes over

A start is `sparring train` (a tiny MLP), or a fake that holds the same lock and writes lines and
folders as training does, only faster. Each has a learning rate of its own, which stands in every
line of metrics.jsonl and in every checkpoint; a fake has its number.

**Who writes when** is seen by a watcher, this process: at least every 20 ms it notes which start's
lines and checkpoints have appeared. A trial fails if the times of two starts overlap, if the
finished log is not one block of each start with growing steps, if a start that was refused wrote
anything or said more than one line, if none won, or if afterwards no further start can take the
lock at once (or, where only a heartbeat is seen, within the stated time).

Python and torch are loaded once: a start is a fork of this process. Linux; namespaces need root.
"""

import argparse
import ctypes
import functools
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sparring.cli
import sparring.commands.train.run
import sparring.training.lock as locks
from sparring import __version__
from sparring.support.errors import LockHeld, LockLost
from sparring.training import run_folder
from sparring.training.lock import RunLock

RESULT = Path(__file__).parent / "results" / "lock.json"
N_TRIALS = {"machine": 50, "machines": 20, "killed": 11, "stale": 11}
BEAT, STALE = 0.2, 3.0  # seconds, in place of 5 and 60
LIMIT = 120.0  # of a start, in seconds
WATCH = 0.02
RATE = 1e-3  # learning rate of the first start; each further one has a tenth more
NEWPID, NEWUTS, NEWNS = 0x20000000, 0x04000000, 0x00020000
PRIVATE = 1 << 18 | 1 << 14
CONFIG = """
model: {{network: {{_class_name: MLP, dim: 3, width: 16, n_blocks: 1}}}}
data: {{name: plane, max_train_samples: 200}}
objective: {{name: plain}}
training: {{output_dir: {run}, train_batch_size: 16, log_every_steps: 10,
  checkpointing_steps: 40, validation_steps: null, report_to: none, n_threads: 1,
  resume_from_checkpoint: auto}}
"""


@dataclass
class Start:
    """One start: its number, its process and what it said.

    Attributes:
        is_real: `sparring train`, not the fake.
        is_elsewhere: In namespaces of its own.
        system_lock: Whether the system's lock is seen.
        wait: Of training.wait_for_lock.
    """

    number: int
    folder: Path
    is_real: bool
    is_elsewhere: bool = False
    system_lock: bool = True
    wait: float = 0.0
    process: int = 0
    code: int | None = None

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def rate(self) -> float:
        return round(RATE * (1 + self.number / 10), 6)

    @property
    def said(self) -> str:
        text = (self.folder / f"start-{self.number}.txt").read_text(errors="replace")
        return text.replace("\r", "\n")

    def begin(self) -> None:
        """Fork, and forget the parent."""
        self.process = os.fork()
        if self.process == 0:
            code = 99
            try:
                output = os.open(self.folder / f"start-{self.number}.txt", os.O_CREAT | os.O_WRONLY)
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.environ[locks.NO_SYSTEM_LOCK] = str(int(self.system_lock))
                code = elsewhere(self.work, self.number) if self.is_elsewhere else self.work()
            finally:
                sys.stdout.flush()
                os._exit(code)

    def work(self) -> int:
        quick = functools.partial(LOCK, beat_seconds=BEAT, stale_seconds=STALE)
        if not self.is_real:
            return fake(self, quick(self.run))
        run_folder.RunLock = quick  # pyright: ignore[reportAttributeAccessIssue]
        sys.argv = ["sparring", "train"]
        words = [f"training.learning_rate={self.rate}", f"training.wait_for_lock={self.wait}"]
        words += [f"training.max_train_steps={400 * (self.number + 1)}"]  # something for each
        try:
            sparring.cli.main(["train", str(self.folder / "config.yaml"), *words])
        except SystemExit as error:
            return int(error.code or 0)
        return 0

    def signal(self, number: int) -> None:
        """To the process that writes, not to the one that made its namespaces."""
        os.kill(self.inner(), number)

    def inner(self) -> int:
        if not self.is_elsewhere:
            return self.process
        words = Path(f"/proc/{self.process}/task/{self.process}/children").read_text().split()
        return int(words[0])

    def look(self) -> None:
        """Note its exit code, if it has one."""
        if self.code is None and self.process:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self.code = os.waitstatus_to_exitcode(status)


class NoLock(RunLock):
    """Everybody gets it, nobody loses it: the campaign must then fail."""

    def take(self, wait_seconds: float = 0.0, slice_seconds: float | None = None) -> bool:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        return True

    def check(self) -> None:
        pass


LOCK: type[RunLock] = RunLock


def fake(start: Start, lock: RunLock) -> int:
    """Hold the lock and write as training does: 100 lines, and a folder with each fifth."""
    try:
        lock.take(start.wait)
    except LockHeld as error:
        print(f"sparring: error: {error}")
        return error.exit_code
    log, folder = start.run / "metrics.jsonl", start.run / "checkpoints"
    folder.mkdir(exist_ok=True)
    before = max([line["step"] for line in lines_of(start.run)], default=0)
    try:
        for step in range(before + 1, before + 101):
            lock.check()
            with log.open("a") as file:
                file.write(json.dumps({"step": step, "lr": start.rate}) + "\n")
            if step % 5 == 0:
                half = folder / f".half-{lock.token}-checkpoint-{step}"
                half.mkdir()
                state = {"config": {"training.learning_rate": start.rate}}
                (half / "state.json").write_text(json.dumps(state))
                time.sleep(0.01)
                lock.check()
                half.rename(folder / f"checkpoint-{step}")
            time.sleep(0.01)
    except LockLost as error:
        print(f"sparring: error: {error}")
        return error.exit_code
    lock.release()
    return 0


def elsewhere(work: Callable[[], int], number: int) -> int:
    """Work as process 1 of a host of another name, as `unshare --pid --uts --fork --mount-proc`."""
    libc = ctypes.CDLL(None, use_errno=True)

    def must(answer: int) -> None:
        if answer != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    must(libc.unshare(NEWPID | NEWUTS | NEWNS))
    child = os.fork()
    if child == 0:
        code = 98
        try:
            name = f"node{number}".encode()
            must(libc.sethostname(name, len(name)))
            must(libc.mount(b"none", b"/", None, PRIVATE, None))
            must(libc.mount(b"proc", b"/proc", b"proc", 0, None))
            code = work()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256


# What can be seen from outside


def lines_of(run: Path) -> list[dict[str, Any]]:
    try:
        text = (run / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


@dataclass
class Watcher:
    """Which start's lines and checkpoints appeared when, in seconds."""

    run: Path
    seen: dict[Any, None] = field(default_factory=dict)
    times: dict[float, list[float]] = field(default_factory=dict)
    position: tuple[int, int] = (0, 0)

    def look(self) -> None:
        now = time.monotonic()
        try:
            with (self.run / "metrics.jsonl").open() as file:
                known, size = self.position[0], os.fstat(file.fileno()).st_ino
                begin = self.position[1] if known == size else 0
                file.seek(begin)
                text = file.read()
                whole = text[: text.rfind("\n") + 1]
                self.position = (size, begin + len(whole))
        except FileNotFoundError:
            whole = ""
        for line in map(json.loads, whole.splitlines()):
            self._note(("line", line["step"], line["lr"]), line["lr"], now)
        for folder in (self.run / "checkpoints").glob("checkpoint-*"):
            try:
                state = json.loads((folder / "state.json").read_text())
                what = (folder.name, folder.stat().st_ino)
            except FileNotFoundError:  # just taken away, as there are newer ones
                continue
            self._note(what, state["config"]["training.learning_rate"], now)

    def _note(self, what: Any, rate: float, now: float) -> None:
        if what not in self.seen:
            self.seen[what] = None
            self.times.setdefault(round(rate, 6), []).append(now)


def faults(watcher: Watcher, starts: Sequence[Start], killed: Sequence[Start]) -> list[str]:
    """What is wrong after a trial, in words."""
    found = []
    spans = sorted((min(times), max(times), rate) for rate, times in watcher.times.items())
    for (_, end, one), (begin, _, other) in itertools.pairwise(spans):
        if begin < end:
            found.append(f"starts {one} and {other} wrote at the same time")
    lines = lines_of(watcher.run)
    steps, rates = [line["step"] for line in lines], [round(line["lr"], 6) for line in lines]
    if any(b <= a for a, b in itertools.pairwise(steps)):
        found.append("the log's steps do not grow")
    blocks = [rate for i, rate in enumerate(rates) if i == 0 or rates[i - 1] != rate]
    if len(blocks) != len(set(blocks)):
        found.append(f"the log is mixed: {blocks}")
    for start in starts:
        errors = [line for line in start.said.splitlines() if "error" in line]
        if start in killed:
            continue
        if start.code not in (0, 2) or "Traceback" in start.said:
            found.append(f"start {start.number} ended with {start.code}: {start.said[-300:]}")
        elif start.code == 2 and (len(errors) != 1 or not TOLD.search(errors[0])):
            found.append(f"start {start.number} said: {start.said[-300:]}")
        if start.code == 2 and "is being written by" in start.said and start.rate in watcher.times:
            found.append(f"start {start.number} was refused and wrote")
    return found


TOLD = re.compile(
    r"is being written by process \d+ on \S+ \(of \w+, started .*wait_for_lock"
    r"|is no longer this start's to write: (process \d+ on \S+|another start)"
)


# Trials


def watch(watcher: Watcher, starts: Sequence[Start], until: Callable[[], bool]) -> bool:
    """Look on until it is so; whether it was in time."""
    end = time.monotonic() + LIMIT
    while not until():
        if time.monotonic() > end:
            return False
        watcher.look()
        for start in starts:
            start.look()
        time.sleep(WATCH)
    watcher.look()
    return True


def trial(kind: str, number: int, folder: Path) -> dict[str, Any]:
    """One trial, and what became of it."""
    rng = random.Random(f"{kind} {number}")
    (folder / "config.yaml").write_text(CONFIG.format(run=folder / "run"))
    is_real = number % 5 < 2 if kind in ("machine", "machines") else number % 3 == 0
    n = 3 if kind == "machine" and number % 4 == 3 else 2
    alone = kind in ("machines", "stale") or (kind == "killed" and number % 3 == 2)
    # without the system's lock: only heartbeats, or the look for the process
    system = {
        "machine": number % 10 != 9, "machines": number % 2 == 0,
        "killed": number % 3 == 0, "stale": number >= 8,
    }[kind]  # fmt: skip
    starts = [Start(i, folder, is_real, alone, system) for i in range(n)]
    if kind in ("machine", "machines") and number % 5 in (1, 3):
        starts[-1].wait = 60.0
    watcher, killed, wrong = Watcher(folder / "run"), [], []

    def ended(some: Sequence[Start] = starts) -> bool:
        return all(start.code is not None for start in some)

    def writes(start: Start) -> bool:
        return len(watcher.times.get(start.rate, ())) > 3 or start.code is not None

    first, second = starts[:2]
    began = time.monotonic()
    if kind in ("machine", "machines"):
        due = [0.0, *(rng.choice((0.0, rng.uniform(0, 2.5))) for _ in starts[1:])]
        for start, delay in zip(starts, due, strict=True):
            watch(watcher, starts, lambda delay=delay: time.monotonic() - began >= delay)
            start.begin()
    elif kind == "killed":
        first.begin()
        watch(watcher, starts, lambda: writes(first))
        wait_a_little(watcher, starts, rng.uniform(0, 0.5))
        first.signal(signal.SIGKILL)
        killed = [first]
        watch(watcher, starts, lambda: ended([first]))
        second.begin()
    else:
        first.begin()
        watch(watcher, starts, lambda: writes(first))
        wait_a_little(watcher, starts, rng.uniform(0, 0.3))
        first.signal(signal.SIGSTOP)
        second.begin()
        if number % 2:  # it wakes up while the other writes, or at any moment before or after
            watch(watcher, starts, lambda: writes(second))
        else:
            wait_a_little(watcher, starts, rng.uniform(0, 8))
        first.signal(signal.SIGCONT)
    if not watch(watcher, starts, ended):
        wrong.append("a start did not end")
        for start in starts:
            if start.code is None:
                os.kill(start.process, signal.SIGKILL)
                killed.append(start)
                os.waitpid(start.process, 0)
    # never a dead lock: whoever comes next gets it, and its turn is the last
    last = Start(len(starts), folder, is_real, alone, system)
    last.begin()
    if not watch(watcher, [last], lambda: last.code is not None):
        wrong.append("the lock is dead")
        os.kill(last.process, signal.SIGKILL)
    elif last.code != 0:
        wrong.append(f"the last start ended with {last.code}: {last.said[-300:]}")
    elif "watching it" in last.said:
        wrong.append("the last start had to watch a lock that had been given back")
    wrong += faults(watcher, [*starts, last], killed)
    winners = [start for start in starts if start.rate in watcher.times]
    if not winners:
        wrong.append("nobody won")
    return {
        "kind": kind,
        "number": number,
        "real": is_real,
        "elsewhere": alone,
        "system_lock": system,
        "starts": len(starts),
        "codes": [start.code for start in starts],
        "refused": sum("is being written by" in start.said for start in starts),
        "in_turn": max(len(winners) - 1, 0),
        "lost": sum("no longer this start's" in start.said for start in starts),
        "wrong": wrong,
    }


def wait_a_little(watcher: Watcher, starts: Sequence[Start], seconds: float) -> None:
    end = time.monotonic() + seconds
    watch(watcher, starts, lambda: time.monotonic() >= end)


def table(trials: Sequence[Mapping[str, Any]]) -> str:
    """The result, as it stands in docs/results/reliability.md."""
    lines = [
        "| kind | trials | of them `sparring train` | heartbeat only | starts | refused | in turn "
        "| woke up and stopped | two writers, dead locks |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in [*N_TRIALS, "all"]:
        own = [each for each in trials if kind in (each["kind"], "all")]
        count = [
            len(own), sum(each["real"] for each in own),
            sum(not each["system_lock"] for each in own),
            *(sum(each[name] for each in own) for name in ("starts", "refused", "in_turn", "lost")),
            sum(bool(each["wrong"]) for each in own),
        ]  # fmt: skip
        lines.append(f"| {kind} | " + " | ".join(map(str, count)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=N_TRIALS, default=list(N_TRIALS))
    parser.add_argument("--again", action="store_true", help="forget the earlier results of these")
    parser.add_argument(
        "--without-lock", action="store_true", help="to see that the watcher sees it"
    )
    parser.add_argument("--n", type=int, help="trials of each kind")
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.without_lock:
        global LOCK
        LOCK = NoLock
    done = json.loads(args.output.read_text())["trials"] if args.output.exists() else []
    if args.again:
        done = [each for each in done if each["kind"] not in args.only]
    known = {(each["kind"], each["number"]) for each in done}
    for kind in args.only:
        for number in range(min(args.n or N_TRIALS[kind], N_TRIALS[kind])):
            if (kind, number) in known:
                continue
            folder = Path(tempfile.mkdtemp(prefix="lock-"))
            done.append(trial(kind, number, folder))
            if done[-1]["wrong"]:
                print(f"{kind} {number}: {done[-1]['wrong']} (kept in {folder})", flush=True)
            else:
                shutil.rmtree(folder)
            text = json.dumps({"version": __version__, "trials": done}, indent=1)
            args.output.write_text(text + "\n")
    print(table(done))
    sys.exit(any(each["wrong"] for each in done))


if __name__ == "__main__":
    main()
