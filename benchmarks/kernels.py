"""The tests that compute: on kernels of other processors, other threads, in another order, busy.

    make test-kernels                                  # every variant once
    make test-kernels ARGS="--passes 3"                # three times; what is done is not repeated
    make test-kernels ARGS="--only 'ATen default'"

The same sum is rounded otherwise by another kernel, and which kernel runs depends on the processor
and on the number of threads. A newer processor plays an older one if its abilities are taken away;
so a test that hangs on the last digit is found on one machine.

Which tests: those of files that import torch (`computing_files`), but for the rooms and files in
`NOT_COMPUTING`. Runs, samplers and pipelines (`WHOLE`) are taken by the variant `older` alone,
which is every library on an older processor at once: they compute with what the formulas compute
with, and take most of the time. Slow tests are left out, as in `make test`. A minute on two idle
cores, `older` three.

The results are one JSON file. A pass of a variant that was green for the present state of `src` and
`tests` is not run again, so the whole may be stopped at any time (Ctrl-C) and called again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "kernels.json"
TESTED = ("src", "tests", "configs", "benchmarks/kernels.py", "pyproject.toml", "constraints.txt")
"""What a result depends on, besides the packages."""

NOT_COMPUTING = (
    "assembly/test_estimate", "config", "data/files/test_decoding", "data/files/test_images",
    "data/files/test_listing", "data/files/test_splits", "data/files/test_survey",
    "data/streams/test_streaming", "data/test_batches", "data/test_contaminate_command",
    "data/test_inspect_command", "data/test_workers", "report", "test_adt_text_to_image",
    "support/test_sharded_tensors", "test_c", "test_known_answers", "test_quality_tables",
    "test_readme", "test_security", "training/test_streamed_training",
)  # fmt: skip
"""Beginnings of names in tests/ that are left out: pages, settings, commands, file formats, hostile
files, counts of bytes and calls; and whole runs of what smaller tests compute too (a sixth of the
time is test_adt_text_to_image alone)."""

WHOLE = (
    "adversarial/test_discriminators", "assembly/test_network_sizes", "data",
    "evaluation/metrics/test_caption", "evaluation/networks/test_clip",
    "evaluation/networks/test_features", "evaluation/networks/test_inception",
    "evaluation/store/test_tensor_tables", "evaluation/studies/test_mismatch",
    "evaluation/test_a", "evaluation/test_d", "evaluation/test_evaluate",
    "evaluation/test_pipelines", "evaluation/test_sweep", "models/test_latents",
    "models/test_lora", "models/test_pretrained", "models/test_text", "objectives/test_adt",
    "objectives/test_consistency", "sampling", "support/test_text_files", "test_latent",
    "test_memory", "test_mismatch_recipe", "test_saved_models", "test_stable_diffusion_3",
    "test_text", "training/test_processes", "training/test_re", "training/test_s",
)  # fmt: skip
"""Beginnings of names in tests/ that only the variant `older` takes."""


@dataclass(frozen=True)
class Variant:
    """One way to run the tests.

    Attributes:
        environment: What the libraries read when they are loaded.
        shuffled: Whether the tests run in a random order, that of the number of the pass.
        busy: Whether another process wants each core.
        whole: Whether the files of `WHOLE` are taken too.
    """

    environment: dict[str, str] = field(default_factory=dict)
    shuffled: bool = False
    busy: bool = False
    whole: bool = False


OLDER = {
    "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE",
}  # fmt: skip
VARIANTS = {
    "ATen default": Variant({"ATEN_CPU_CAPABILITY": "default"}),
    "ATen avx2": Variant({"ATEN_CPU_CAPABILITY": "avx2"}),
    "oneDNN SSE41": Variant({"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "oneDNN AVX2": Variant({"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "oneDNN AVX512_CORE": Variant({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    "MKL compatible": Variant({"MKL_CBWR": "COMPATIBLE"}),
    "1 thread": Variant({"OMP_NUM_THREADS": "1"}),
    "2 threads": Variant({"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}),
    "4 threads": Variant({"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "passive"}),
    "random order": Variant(shuffled=True),
    "busy": Variant(busy=True),
    "older": Variant(OLDER, whole=True),
}
"""The last one is what `.ci/run` takes: three libraries without their newest kernels at once."""


def computing_files(tests: Path = ROOT / "tests", whole: bool = True) -> list[str]:
    """The test files that compute, relative to the project's folder, sorted."""
    left_out = NOT_COMPUTING if whole else NOT_COMPUTING + WHOLE
    found = []
    for path in sorted(tests.rglob("test_*.py")):
        computes = re.search(r"^\s*(import|from) torch\b", path.read_text(), re.MULTILINE)
        if computes and not str(path.relative_to(tests)).startswith(left_out):
            found.append(str(path.relative_to(tests.parent)))
    return found


def run(name: str, number: int, n_jobs: int) -> dict[str, Any]:
    """One pass of a variant: counts, the names of what failed, and where it ran."""
    variant = VARIANTS[name]
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "junit.xml"
        if int(variant.environment.get("OMP_NUM_THREADS", 1)) > 1:
            n_jobs = 1  # two processes of many threads each would wait for each other
        command = [sys.executable, "-m", "pytest", "-n", str(n_jobs), "--dist", "loadgroup"]
        # the time limit is for what hangs: a busy machine may take its time
        command += ["--timeout", "1800", f"--junitxml={said}"]
        if variant.shuffled:
            command.append(f"--shuffle={number}")
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | variant.environment
        began = time.monotonic()
        with every_core_busy() if variant.busy else contextlib.nullcontext():
            done = subprocess.run(
                [*command, *computing_files(whole=variant.whole)], cwd=ROOT, env=environment
            )
        if done.returncode not in (0, 1):  # 1: some tests failed
            raise SystemExit(f"pytest ended with {done.returncode} ({name}, pass {number})")
        cases = list(ElementTree.parse(said).iter("testcase"))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    n_skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "variant": name, "pass": number, "passed": len(cases) - len(failed) - n_skipped,
        "failed": len(failed), "failures": failed, "seconds": round(time.monotonic() - began),
        **surroundings(),
    }  # fmt: skip


@contextlib.contextmanager
def every_core_busy() -> Iterator[None]:
    """As many processes that count for ever as there are cores."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def surroundings() -> dict[str, str]:
    """The state of what is tested, torch and the processor."""
    from importlib.metadata import version

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words, "--", *TESTED], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = "+changes" if git("status", "--porcelain") else ""
    commit = git("log", "-1", "--format=%h") + changed
    return {"commit": commit, "torch": version("torch"), "processor": processor()}


def processor() -> str:
    """The processor in words."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows that were written before."""
    return json.loads(path.read_text()) if path.exists() else []


def is_done(rows: list[dict[str, Any]], name: str, number: int, here: dict[str, str]) -> bool:
    """Whether this pass was green here, with nothing that is not committed."""
    wanted = {"variant": name, "pass": number, "failed": 0, **here}
    known = not here["commit"].endswith("+changes")
    return known and any(row.items() >= wanted.items() for row in rows)


def keep(path: Path, row: dict[str, Any]) -> None:
    """Write a row in the place of an earlier one of the same variant and pass."""
    key = (row["variant"], row["pass"])
    rows = [one for one in read(path) if (one["variant"], one["pass"]) != key]
    rows = sorted([*rows, row], key=lambda one: (one["pass"], list(VARIANTS).index(one["variant"])))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--passes", type=int, default=1, help="how often each variant is run")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=2, help="test processes at a time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for number in range(1, args.passes + 1):
        for name in args.only:
            if is_done(read(args.results), name, number, surroundings()):
                print(f"{name}, pass {number}: done before", flush=True)
                continue
            row = run(name, number, args.jobs)
            keep(args.results, row)
            rows.append(row)
            words = f"{row['passed']} passed, {row['failed']} failed in {row['seconds']} s"
            print(f"{name}, pass {number}: {words}", *row["failures"], sep="\n  ", flush=True)
    sys.exit(any(row["failed"] for row in rows))


if __name__ == "__main__":
    main()
