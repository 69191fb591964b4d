"""One writer to a run folder: who holds it, a heartbeat, and a lock of the file system.

    RUN/.lock/<number>.held       who writes the run: host, process, user, start, a token of its own
    RUN/.lock/<number>.released   who wrote it last
    RUN/.lock/system              the file the system's own lock is on

**The number decides.** A start takes the lock by making the file of the next number, which only one
can do (O_EXCL, atomic on network file systems too), and never takes a number again. So a holder
that slept through the loss of its lock, a suspended laptop say, finds a higher number or another
token when it looks, and it looks before everything it writes (`Writer.check`).

**Is the holder of the newest number still there?** The first of these that knows answers:

1. The system's lock cannot be had: another start holds it, and lives, be it suspended.
2. It can be had, and the holder had the lock of the same file on the same running kernel, which
   lets go of it when a process ends: the holder is gone.
3. The holder's process number belongs to the same kernel and namespace: look for the process.
4. Otherwise (another machine, a container, no such lock) the heartbeat: every `BEAT_SECONDS` a
   thread of the holder touches its file. If the file's time of change stays as it is for
   `STALE_SECONDS` in which the watcher itself was awake, the holder is gone; no clock is compared
   with that of another machine.
"""

import json
import os
import re
import secrets
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..support.errors import LockHeld, LockLost, UserError
from ..support.shared_errors import on_main
from ..support.terminal import echo
from .lock_owner import Owner, machine, namespace, process_start, read_owner, this_start

FOLDER = ".lock"
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
POLL_SECONDS = 0.5
NAMELESS_SECONDS = 3.0  # in which a holder has the system's lock and no file with its name yet
NO_SYSTEM_LOCK = "SPARRING_SYSTEM_LOCK"  # 0: only heartbeats count, where locks do not work
_NAME = re.compile(r"(\d+)\.(held|released)")


class RunLock:
    """The lock of one run folder, for one start: `take`, `check` now and then, `release`.

    It is released at the latest when the object or the process is gone. The folder is made when the
    lock is taken; `clock` and `sleep` are time as this process sees it, in seconds.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        beat_seconds: float = BEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.run_dir, self.folder, self.token = run_dir, run_dir / FOLDER, secrets.token_hex(8)
        self._beat_seconds, self._stale_seconds = beat_seconds, stale_seconds
        self._clock, self._sleep = clock, sleep
        self._system: FileLock | None = None
        self._file: Path | None = None
        self._made: list[Path] = []
        self._watched: tuple[str, int] | None = None
        self._silent, self._is_alive = 0.0, False
        self._said: set[str] = set()
        self._let_go: Callable[[], Any] = lambda: None

    def take(self, wait_seconds: float = 0.0, slice_seconds: float | None = None) -> bool:
        """Take the lock; wait while another start holds it, LockHeld if that is for `wait_seconds`.

        Where only the heartbeat can tell whether a holder lives, that takes up to `stale_seconds`
        even without waiting. False: `slice_seconds` are over and it is undecided. UserError if the
        folder cannot be written.
        """
        began = before = self._clock()
        nameless = 0.0
        while True:
            now = self._clock()
            # a suspended watcher has seen nothing in that time
            passed, before = min(now - before, 2 * POLL_SECONDS), now
            try:
                found = self._look(passed)
            except FileNotFoundError:  # somebody removes the folder at this moment
                found = "again", None
            except OSError as error:
                place, why = error.filename or self.folder, error.strerror or error
                raise UserError(f"{place} cannot be written ({why})") from error
            if found is None:
                return True
            what, owner = found
            if what == "again":
                continue
            nameless = nameless + passed if owner is None else 0.0
            if what == "held" and (owner is not None or nameless >= NAMELESS_SECONDS):
                if now - began >= wait_seconds:
                    raise LockHeld(
                        f"{self.run_dir} is being written by {_named(owner)}: let it end or stop "
                        "it, choose another training.output_dir, or wait for its end with "
                        "training.wait_for_lock=SECONDS"
                    )
                self._say(f"{self.run_dir} is written by {_named(owner)}: waiting for its end")
            elif what == "silent":
                self._say(
                    f"{self.run_dir} belongs to {_named(owner)}, of which only the heartbeat can "
                    f"be seen from here: watching it, for up to {self._stale_seconds:g} s"
                )
            if slice_seconds is not None and now - began >= slice_seconds:
                return False
            self._sleep(POLL_SECONDS)

    def _look(self, passed: float) -> tuple[str, Owner | None] | None:
        """Take the lock if it is free: None.

        Else "held", "silent" (undecided as yet) or "again" (look at once), and by whom.
        """
        self._make_folder()
        free = self._take_system_lock()
        number, state = self._newest()
        owner = None if state != "held" else read_owner(_file(self.folder, number))
        if free is False:
            return "held", owner
        if state == "held":
            lives = None if owner is None else self._lives(owner)
            if lives:
                return "held", owner
            if lives is None and not self._is_stale(number, passed):
                return ("held" if self._is_alive else "silent"), owner
            self._say(f"{_named(owner)} is gone: its lock of {self.run_dir} is taken over")
        return None if self._claim(number) else ("again", None)

    def _make_folder(self) -> None:
        for place in reversed([self.folder, *self.folder.parents]):
            if not place.exists():
                place.mkdir(exist_ok=True)
                self._made.append(place)

    def _take_system_lock(self) -> bool | None:
        """Whether we have it; None where there is none."""
        if os.environ.get(NO_SYSTEM_LOCK) == "0":
            return None
        if self._system is not None and self._system.is_locked:
            return True
        place = self.folder / "system"
        lock = FileLock(place, timeout=0, thread_local=False, preserve_lock_file=True)
        try:
            lock.acquire()
        except Timeout:
            return False
        except PermissionError:
            raise
        except (OSError, NotImplementedError):  # no locks, or no server that keeps them
            return None
        self._system = lock
        return True

    def _system_lock(self) -> list[int] | None:
        """Which file the system's lock is on, if we have it."""
        if self._system is None or not self._system.is_locked:
            return None
        found = os.stat(self.folder / "system")
        return [found.st_dev, found.st_ino]

    def _newest(self) -> tuple[int, str]:
        return max(_numbers(self.folder), default=(0, "released"))

    def _lives(self, owner: Owner) -> bool | None:
        """Whether the holder lives, where its kernel is ours; None if that cannot be known."""
        if owner.machine != machine():
            return None
        if owner.system_lock is not None and owner.system_lock == self._system_lock():
            return False
        if owner.namespace != namespace() or owner.process_start is None:
            return None
        return process_start(owner.process) == owner.process_start

    def _is_stale(self, number: int, passed: float) -> bool:
        """Watch the heartbeat for another moment; whether it has been silent for too long."""
        try:
            seen = (str(number), os.stat(_file(self.folder, number)).st_mtime_ns)
        except FileNotFoundError:  # released just now: the next look knows more
            seen = (str(number), 0)
        if seen != self._watched:
            self._is_alive = self._watched is not None and self._watched[0] == seen[0]
            self._watched, self._silent = seen, 0.0
        else:
            self._silent += passed
        return self._silent >= self._stale_seconds

    def _claim(self, newest: int) -> bool:
        """Make the file of the next number; whether nobody else did."""
        number = newest + 1
        file = _file(self.folder, number)
        try:
            handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except (FileExistsError, FileNotFoundError):
            return False
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(json.dumps(asdict(this_start(self.token, self._system_lock()))) + "\n")
        except OSError:
            file.unlink(missing_ok=True)
            raise
        if any(other > number or (other == number and state == "released")
               for other, state in _numbers(self.folder)):  # fmt: skip
            file.unlink(missing_ok=True)  # we looked long ago
            return False
        for other, state in _numbers(self.folder):
            if other < number:
                _file(self.folder, other, state).unlink(missing_ok=True)
        self._file, stop = file, threading.Event()
        words = (stop, file, self.token, self._beat_seconds)
        threading.Thread(target=_beat, args=words, name="heartbeat", daemon=True).start()
        words = (os.getpid(), stop, file, self.token, self._system)
        self._let_go = weakref.finalize(self, _let_go, *words)
        return True

    def check(self) -> None:
        """Look whether the lock is still ours, else LockLost; cheap: two small files."""
        if self._file is None:
            raise RuntimeError("the lock is not taken")
        number = int(self._file.stem)
        try:
            newest, state = self._newest()
            if newest <= number and _token(self._file) == self.token:
                return
            heir = None if newest < number else read_owner(_file(self.folder, newest, state))
        except FileNotFoundError:
            newest, heir = 0, None
        except OSError as error:
            why = f"{self.folder} cannot be read ({error.strerror})"
            lost = f"{why}, so nobody knows who writes {self.run_dir}"
            raise LockLost(f"{lost}: this start stops and writes nothing more") from error
        why = f"{self.folder} was removed"
        if heir is not None and heir.token != self.token:
            why = f"{heir} has taken it over, as this start gave no sign for too long"
        elif newest > number:
            why = "another start has taken it over, as this one gave no sign for too long"
        lost = f"{self.run_dir} is no longer this start's to write: {why}"
        raise LockLost(f"{lost}. It stops and writes nothing more")

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held, or not ours any more."""
        self._let_go()
        self._file = None
        if self._system is not None:
            self._system.release()
            self._system = None

    def remove(self) -> None:
        """Give it back and leave no trace of a folder in which no run begins."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for place in reversed(self._made):
            with suppress(OSError):  # not there, or somebody else's by now
                place.rmdir()
        self.release()

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            echo(f"sparring: {line}", err=True)


@dataclass(frozen=True)
class Writer:
    """This start of a run, as all its processes know it."""

    token: str  # of this start alone
    lock: RunLock | None = field(default=None, repr=False)  # in the main process

    def check(self) -> None:
        """To be called by all processes together, before something is written.

        LockLost in all of them, if the folder is no longer this start's to write.
        """
        on_main(lambda: None if self.lock is None else self.lock.check())

    def close(self) -> None:
        if self.lock is not None:
            self.lock.release()


def _beat(stop: threading.Event, file: Path, token: str, seconds: float) -> None:
    while not stop.wait(seconds):
        try:
            if _token(file) != token:
                return
            os.utime(file)
        except FileNotFoundError:
            return
        except OSError:  # a disk or a server that refuses now may not refuse the next one
            continue


def _let_go(
    process: int, stop: threading.Event, file: Path, token: str, system: FileLock | None
) -> None:
    """What `release` does; also called when the lock's object or the process ends."""
    if os.getpid() != process:  # a child's copy of it
        return
    stop.set()
    with suppress(OSError):  # whoever comes next sees that no heart beats
        if _token(file) == token:
            file.rename(file.with_suffix(".released"))
    if system is not None:
        system.release()


def _token(file: Path) -> str | None:
    """As `read_owner`, but a file that is not there, or a disk that refuses, is an error."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))["token"]
    except (ValueError, TypeError, KeyError):
        return None


def _numbers(folder: Path) -> list[tuple[int, str]]:
    names = [_NAME.fullmatch(name) for name in os.listdir(folder)]
    return [(int(name[1]), name[2]) for name in names if name is not None]


def _file(folder: Path, number: int, state: str = "held") -> Path:
    return folder / f"{number:06d}.{state}"


def _named(owner: Owner | None) -> str:
    return "another start, which has not said who it is," if owner is None else str(owner)
