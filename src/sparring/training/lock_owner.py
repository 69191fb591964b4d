"""What the holder of a run folder's lock says of itself: its process, and the kernel under it."""

import getpass
import json
import os
import platform
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """What a holder says of itself."""

    token: str  # random, of this start alone
    host: str  # this and the next three are for people
    process: int
    user: str
    started: str
    machine: str  # the running kernel; no two that run at the same time have the same
    namespace: str  # in which the process number counts
    process_start: int | None  # in the kernel's ticks; None where it does not say
    system_lock: list[int] | None  # device and number of the locked file

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (of {self.user}, started {self.started})"


def read_owner(file: Path) -> Owner | None:
    """Who a lock file names; None if it is gone, or not whole (yet)."""
    try:
        return Owner(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def this_start(token: str, system_lock: list[int] | None) -> Owner:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a number without a name, in containers
        user = str(os.getuid()) if hasattr(os, "getuid") else "?"
    return Owner(
        token=token,
        host=platform.node() or "?",
        process=os.getpid(),
        user=user,
        started=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        machine=machine(),
        namespace=namespace(),
        process_start=process_start(os.getpid()),
        system_lock=system_lock,
    )


def machine() -> str:
    """The running kernel: another one after each boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{platform.node()} {uuid.getnode():x}"


def namespace() -> str:
    """In which process numbers count: a container has its own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return sys.platform


def process_start(process: int) -> int | None:
    """When a process of this namespace began, in ticks; None if it has ended, or is not known."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    return None if words[0] in "ZX" else int(words[19])
