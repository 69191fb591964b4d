"""Runs that are killed, starved and damaged, each resumed until it is done: is anything lost?

    make bench-faults                                  # 240 trials, seed 0
    python benchmarks/fault_campaign.py --n 24 --only "flipped byte" --keep

A trial starts a tiny training (`sparring train`, in a forked process: Python and torch are loaded
once), does one fault to it at a random place, looks at how it ended, and resumes it as a user would
until it is finished. It passes if

- the finished run is the undisturbed one to the bit: weights, averages, moments, counts, log,
  pictures of samples;
- every start that failed printed exactly one line `sparring: error: ...`, no traceback, and had one
  of the exit codes 2, 3, 130, 143 (or died by the signal that was sent);
- no good checkpoint went away, and every resumed start began at the newest good one.

The faults are seeded; where a signal comes at a random time, the machine's speed decides the step.
`a full disk` is a tmpfs of a random size (needs the right to mount; otherwise a limit on the size
of a file, which the kernel enforces as well). `a lost process` runs under torchrun with two
processes, whose own messages are not counted; it is compared with two undisturbed ones.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import sparring.commands.train.run_files as train_module
import sparring.training.checkpoint as checkpoints
from sparring.cli import main as sparring
from sparring.data.base import ModelRange
from sparring.training.checkpoint import checkpoint_step, damage

N_STEPS, EVERY = 60, 5
POINTS = f"""
data: {{name: plane, n_points: 256}}
model: {{network: {{_class_name: MLP, width: 32, n_blocks: 1, dropout: 0.1}}}}
objective: {{name: dro, n_passes: 2}}
training:
  {{train_batch_size: 16, max_train_steps: {N_STEPS}, checkpointing_steps: {EVERY}, n_threads: 1,
   learning_rate: 1.0e-3, lr_scheduler: cosine, log_every_steps: 7, validation_steps: null}}
"""
IMAGES = f"""
data: {{name: image_folder, train_data_dir: photos, random_flip: true, dataloader_num_workers: 1}}
contamination: {{kind: gaussian, rate: 0.5, sigma: 0.2}}
model:
  network:
    {{_class_name: UNet2DModel, block_out_channels: [8, 16], norm_num_groups: 4,
     layers_per_block: 1, down_block_types: [DownBlock2D, DownBlock2D],
     up_block_types: [UpBlock2D, UpBlock2D]}}
training:
  {{train_batch_size: 4, max_train_steps: {N_STEPS}, checkpointing_steps: {EVERY}, n_threads: 1,
   learning_rate: 1.0e-3, log_every_steps: 7, validation_steps: 20, report_to: none,
   timestep_sampling: loss_second_moment}}
sampling: {{n_images: 4, num_inference_steps: 2}}
"""
MAY_END = (0, 2, 3, 130, 143, -signal.SIGKILL, -signal.SIGTERM)
TIMED = ("seconds", "images_per_second")


class Failed(Exception):  # noqa: N818 - a verdict
    """What a trial found wrong, in words."""


@dataclass
class Trial:
    """A run in the making.

    Attributes:
        place: The folder of the trial, with run.yaml and the run in `out`.
        moments: Its random numbers.
        n_starts: Starts so far.
        story: What happened, in words.
    """

    place: Path
    moments: random.Random
    n_starts: int = 0
    story: list[str] = field(default_factory=list)

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.place / "out"

    @property
    def good(self) -> dict[int, Path]:
        """Its checkpoints whose contents verify, by step."""
        found = (self.run / "checkpoints").glob("checkpoint-*")
        return {
            checkpoint_step(path): path
            for path in found
            if checkpoint_step(path) >= 0 and damage(path, check_contents=True) is None
        }

    @property
    def newest(self) -> int:
        """The step of the newest good checkpoint, 0 if there is none."""
        return max(self.good, default=0)

    def start(self, *words: str, before: Callable[[], None] | None = None) -> int:
        """`sparring train run.yaml` in a forked process; its number."""
        self.n_starts += 1
        child = os.fork()
        if child == 0:
            os.chdir(self.place)
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(log, stream)
            code = 1
            try:
                if before is not None:
                    before()
                sparring(["train", "run.yaml", "training.output_dir=out", *words])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return child

    @property
    def log(self) -> Path:
        """What the newest start has printed."""
        return self.place.parent / f"{self.place.name}-{self.n_starts}.log"

    def wait(self, child: int, *, before: int = 0) -> int:
        """How a start ended, with what must hold whenever one ends.

        Args:
            child: Its process.
            before: The newest good checkpoint that the fault has left.
        """
        _, status = os.waitpid(child, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        self.judge(code)
        if self.newest < before:
            raise Failed(f"checkpoint {before} was lost, {self.newest} is left")
        return code

    def judge(self, code: int) -> None:
        """One line or none, and an exit code that says why."""
        said = self.log.read_text(errors="replace")
        if "Traceback" in said:
            raise Failed(f"a traceback: {said[said.index('Traceback') :][-1500:]}")
        if code not in MAY_END:
            raise Failed(f"exit code {code}: {said[-500:]}")
        lines = re.findall(r"sparring: error: .*", said)
        if len(lines) != (code > 0):
            raise Failed(f"exit code {code} with {len(lines)} error lines: {said[-500:]}")
        self.story += [f"{code}: {line}" for line in lines]

    def finish(self) -> None:
        """Resume until the run is done, as its messages tell; each start begins where it should."""
        for _ in range(6):
            newest = self.newest
            words = ["training.resume_from_checkpoint=latest"] if newest else [
                "training.overwrite_output_dir=true"
            ]  # fmt: skip
            if self.wait(self.start(*words), before=newest) == 0:
                starts = json.loads((self.run / "run.json").read_text()).get("resumed", [])
                if newest and (not starts or starts[-1]["step"] != newest):
                    raise Failed(f"a silent restart: not from {newest} but {starts[-1:]}")
                return
        raise Failed("not finished after six starts")


def outcome(run: Path) -> dict[str, Any]:
    """All that two equal runs have in common."""
    last = run / "checkpoints" / f"checkpoint-{N_STEPS}"
    state = json.loads((last / "state.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    files = [*last.glob("*.safetensors"), *run.glob("**/*.png"), *run.glob("*.safetensors")]
    files += run.glob("unet/*.safetensors")
    return {
        "files": {
            str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
        "random": json.loads((last / "random-0.json").read_text())["torch"],
        "progress": {k: v for k, v in state["progress"].items() if k not in TIMED},
        "players": state["players"],
        "metrics": [{k: v for k, v in line.items() if k not in TIMED} for line in lines],
    }


# Faults: each leaves the run somewhere on its way; `finish` does the rest


def wait_until(condition: Callable[[], bool], child: int) -> bool:
    """Whether it came true before the process ended."""
    while not condition():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.0005)
    return True


def after_a_step(trial: Trial, child: int) -> None:
    """Until a random checkpoint is there, then a random moment: spread over the run anywhere."""
    target = trial.moments.randrange(0, N_STEPS - EVERY)
    names = trial.run / "checkpoints"
    wait_until(
        lambda: max(map(checkpoint_step, names.glob("checkpoint-*")), default=0) >= target, child
    )
    time.sleep(trial.moments.uniform(0, 0.08))


def signalled(number: int) -> Callable[[Trial], None]:
    """A signal at a random time, now and then while the program still starts."""

    def fault(trial: Trial) -> None:
        child = trial.start()
        if trial.moments.random() < 0.1:
            time.sleep(trial.moments.uniform(0, 1))
        else:
            after_a_step(trial, child)
        before = trial.newest
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        code = trial.wait(child, before=before)
        trial.story.append(f"ended with {code} at checkpoint {trial.newest}")
        if number != signal.SIGKILL and code > 0 and not trial.newest:
            raise Failed("a signal was caught and no checkpoint is there")

    return fault


def killed_while_writing(trial: Trial) -> None:
    """SIGKILL just before or after one of the file operations of a checkpoint."""
    names = ("save_model", "save_file", "_sync", "sha256_of", "_seal", "random_states")
    names += ("remove_leftovers", "complete_checkpoints")
    at, after = trial.moments.randrange(1, 130), trial.moments.random() < 0.5

    def before() -> None:
        n_calls = 0

        def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal n_calls
                n_calls += 1
                if n_calls == at and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                value = call(*args, **kwargs)
                if n_calls == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return value

            return wrapped

        for name in names:
            setattr(checkpoints, name, deadly(getattr(checkpoints, name)))
        Path.rename = deadly(Path.rename)  # pyright: ignore[reportAttributeAccessIssue]

    code = trial.wait(trial.start(before=before))
    trial.story.append(f"ended with {code} at checkpoint {trial.newest}")


def power_cut(trial: Trial) -> None:
    """Killed while writing; what was not synced is empty or cut when the machine comes back."""
    killed_while_writing(trial)
    for path in (trial.run / "checkpoints").glob(".half-*/*"):
        size = path.stat().st_size
        os.truncate(path, trial.moments.choice((0, size // 2, size)))


def full_disk(trial: Trial) -> None:
    """Too little space, found out somewhere in the run; then there is more."""
    with small_disk(trial) as more:
        code = trial.wait(trial.start())
        trial.story.append(f"ended with {code} at checkpoint {trial.newest}")
        more()
        trial.finish()
        shutil.copytree(trial.run, trial.place / "kept")
    shutil.rmtree(trial.run, ignore_errors=True)
    (trial.place / "kept").rename(trial.run)


@contextlib.contextmanager
def small_disk(trial: Trial) -> Iterator[Callable[[], None]]:
    """The run's folder is a small file system; the call makes it large."""
    size = trial.moments.randrange(8, 400)
    trial.run.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(trial.run)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size * 100, limits[1]))
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return
    trial.story.append(f"{size} KiB")
    again = ["mount", "-o", "remount,size=64m", str(trial.run)]
    try:
        yield lambda: subprocess.run(again, check=True) and None
    finally:
        subprocess.run(["umount", str(trial.run)], check=True)


def stopped_half_way(trial: Trial) -> None:
    """A run that was killed after its first checkpoints: what damage is done to."""
    for _ in range(20):
        child = trial.start(*([] if not trial.newest else ["training.overwrite_output_dir=true"]))
        after_a_step(trial, child)
        os.kill(child, signal.SIGKILL)
        trial.wait(child)
        if trial.newest:
            return
    raise Failed("no checkpoint in twenty starts")


def damaged(do: Callable[[Path, random.Random], None]) -> Callable[[Trial], None]:
    """A file of the newest checkpoint is not what was written."""

    def fault(trial: Trial) -> None:
        stopped_half_way(trial)
        newest = trial.good[trial.newest]
        file = trial.moments.choice(sorted(newest.iterdir()))
        do(file, trial.moments)
        trial.story.append(f"{file.name} of {newest.name}; then {trial.newest} was the newest")

    return fault


def truncate(file: Path, moments: random.Random) -> None:
    """Cut at a random place."""
    os.truncate(file, moments.randrange(file.stat().st_size))


def flip(file: Path, moments: random.Random) -> None:
    """One bit of one byte."""
    contents = bytearray(file.read_bytes())
    contents[moments.randrange(len(contents))] ^= 1 << moments.randrange(8)
    file.write_bytes(contents)


def nan_weights(trial: Trial) -> None:
    """A weight of the newest checkpoint is not a number, and its manifest is none the wiser."""
    stopped_half_way(trial)
    newest = trial.good[trial.newest]
    name = trial.moments.choice(("model", "ema", "optimizer"))
    tensors = load_file(newest / f"{name}.safetensors")
    key = trial.moments.choice(sorted(key for key in tensors if not key.endswith("|step")))
    tensors[key].view(-1)[0] = torch.nan
    save_file(tensors, newest / f"{name}.safetensors")
    reseal(newest)
    code = trial.wait(trial.start("training.resume_from_checkpoint=latest"))
    trial.story.append(f"{key} of {name}: ended with {code}")
    if code != 3:
        raise Failed(f"trained on with {key} of {name} not a number (exit code {code})")
    for path in trial.good.values():  # as the message says: from one in which they are finite
        if checkpoint_step(path) >= checkpoint_step(newest):
            shutil.rmtree(path)


def reseal(folder: Path) -> None:
    """The manifest of what is there now."""
    (folder / checkpoints.MANIFEST).unlink()
    checkpoints._seal(folder, {})


def nan_batch(trial: Trial) -> None:
    """A sample that is not a number; then it is mended."""
    bad = trial.moments.randrange(256)
    rows = ModelRange.rows

    def before() -> None:
        def spoilt(self: ModelRange, indices: torch.Tensor, positions: torch.Tensor) -> Any:
            batch = rows(self, indices, positions)
            batch["x0"] = torch.where((indices == bad)[:, None], torch.nan, batch["x0"])
            return batch

        ModelRange.rows = spoilt

    code = trial.wait(trial.start(before=before))
    if code != 3:
        raise Failed(f"sample {bad} was not a number and the exit code is {code}")
    stopped = json.loads((trial.run / "stopped.json").read_text())
    named = [one["index"] for one in stopped["samples"] if one["loss"]]
    if named != [bad]:
        raise Failed(f"sample {bad} was not a number and {named} was named")
    found = subprocess.run(
        [sys.executable, "-m", "sparring", "replay", "out", "--json"],
        cwd=trial.place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode != 0 or f"[{bad}," not in found.stdout.replace(" ", ""):
        raise Failed(f"replay did not find sample {bad}: {found.stdout} {found.stderr[-500:]}")


def unreadable_images(trial: Trial) -> None:
    """Files that are no images from the start, and a kill: replaced, listed, and the same bits."""
    files = sorted((trial.place / "photos").iterdir())
    bad = trial.moments.sample(files, trial.moments.randrange(1, 5))
    for file in bad:  # a PNG that lacks its last bytes alone is still read
        os.truncate(file, trial.moments.randrange(file.stat().st_size // 2))
    signalled(signal.SIGKILL)(trial)
    trial.finish()
    listed = json.loads((trial.run / "data" / "unreadable.json").read_text())
    if {Path(name).name for name in listed} != {file.name for file in bad}:
        raise Failed(f"{[file.name for file in bad]} were unreadable, listed is {listed}")
    shutil.move(trial.run, trial.place / "cut")
    if trial.wait(trial.start()) != 0:
        raise Failed("the undisturbed run on the same files failed")
    if outcome(trial.run) != outcome(trial.place / "cut"):
        raise Failed("not the bits of the undisturbed run on the same files")
    for path in (trial.run, trial.place / "cut"):
        shutil.rmtree(path)


def no_readable_image(trial: Trial) -> None:
    """All images go away between two starts: refused in one line, and they come back."""
    stopped_half_way(trial)
    photos, away = trial.place / "photos", trial.place / "away"
    photos.rename(away)
    photos.mkdir()
    for file in away.iterdir():
        (photos / file.name).write_bytes(b"")
    if trial.wait(trial.start("training.resume_from_checkpoint=latest"), before=trial.newest) != 2:
        raise Failed("no image could be read and that was no error")
    shutil.rmtree(photos)
    away.rename(photos)


def lost_worker(trial: Trial) -> None:
    """The process that reads data is killed."""
    child = trial.start()
    after_a_step(trial, child)
    children = Path(f"/proc/{child}/task/{child}/children")
    before = trial.newest
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for number in children.read_text().split():
            os.kill(int(number), signal.SIGKILL)
    code = trial.wait(child, before=before)
    trial.story.append(f"ended with {code} at checkpoint {trial.newest}")


def lost_process(trial: Trial) -> None:
    """One of two processes under torchrun is killed; then both again, to the bits of two."""
    words = ["training.train_batch_size=8"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
               "2", "-m", "sparring", "train", "run.yaml"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def launch(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *words, *more], cwd=trial.place, env=environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    launcher = launch("training.output_dir=out")
    after_a_step(trial, launcher.pid)
    ranks = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    victim = int(trial.moments.choice(ranks))
    before = trial.newest
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    _, said = launcher.communicate(timeout=300)
    trial.story.append(f"ended with {launcher.returncode} at checkpoint {trial.newest}")
    if trial.newest < before:
        raise Failed("a checkpoint was lost")
    if "src/sparring" in said and "Traceback" in said:
        raise Failed(f"a traceback from sparring: {said[-1500:]}")
    resume = "training.resume_from_checkpoint=latest" if trial.newest else (
        "training.overwrite_output_dir=true"
    )  # fmt: skip
    for more in ([resume, "training.output_dir=out"], ["training.output_dir=whole"]):
        again = launch(*more)
        _, said = again.communicate(timeout=300)
        if again.returncode != 0:
            raise Failed(f"two processes did not go on: {said[-1500:]}")
    if outcome(trial.run) != outcome(trial.place / "whole"):
        raise Failed("not the bits of the undisturbed run of two processes")


def dying_sampling(trial: Trial) -> None:
    """Memory ends while samples are drawn."""

    def before() -> None:
        def too_much(*args: Any, **kwargs: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        train_module.sample = too_much

    code = trial.wait(trial.start(before=before))
    if code != 2 or not trial.newest:
        raise Failed(f"exit code {code} at checkpoint {trial.newest}")


def changed_run(trial: Trial) -> None:
    """Resumed with other data, another model or another seed: refused with the difference."""
    stopped_half_way(trial)
    change = trial.moments.choice((
        "data.seed=1", "data.n_points=255", "training.seed=1", "model.network.width=16",
        "objective.n_passes=3", "training.train_batch_size=8",
    ))  # fmt: skip
    code = trial.wait(trial.start("training.resume_from_checkpoint=latest", change))
    if code != 2 or "is now" not in trial.story[-1]:
        raise Failed(f"{change} was not refused with the difference: {trial.story[-1:]}")
    trial.story.append(change)


@dataclass(frozen=True)
class Kind:
    """A fault, the config it is done to, its share of the trials, and whether it ends by itself."""

    fault: Callable[[Trial], None]
    config: str = POINTS
    weight: int = 4
    is_finished: bool = False


KINDS = {
    "SIGKILL at a random time": Kind(signalled(signal.SIGKILL), weight=8),
    "SIGKILL while a checkpoint is written": Kind(killed_while_writing, weight=8),
    "power cut while a checkpoint is written": Kind(power_cut),
    "SIGTERM": Kind(signalled(signal.SIGTERM)),
    "SIGINT": Kind(signalled(signal.SIGINT), weight=2),
    "a full disk": Kind(full_disk, weight=6, is_finished=True),
    "truncated checkpoint": Kind(damaged(truncate)),
    "flipped byte": Kind(damaged(flip), weight=8),
    "NaN weights": Kind(nan_weights),
    "NaN batch": Kind(nan_batch, weight=2),
    "unreadable images": Kind(unreadable_images, IMAGES, 2, is_finished=True),
    "no readable image": Kind(no_readable_image, IMAGES, 1),
    "a lost data worker": Kind(lost_worker, IMAGES, 3),
    "a lost process": Kind(lost_process, weight=1, is_finished=True),
    "sampling dies": Kind(dying_sampling, IMAGES, 1),
    "another run is resumed": Kind(changed_run, weight=2),
}


def prepare(place: Path, config: str) -> None:
    """run.yaml, and the photos that it may read."""
    place.mkdir(parents=True)
    (place / "run.yaml").write_text(config)
    if "photos" in config:
        (place / "photos").mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
        for number, one in enumerate(pixels):
            Image.fromarray(one).save(place / "photos" / f"{number:02d}.png")


def campaign(
    folder: Path, n: int, seed: int, only: list[str], say: Callable[[str], object]
) -> dict[str, list[Trial | Failed]]:
    """So many trials, dealt to the kinds by weight; what became of each, by kind."""
    chosen = {name: kind for name, kind in KINDS.items() if any(part in name for part in only)}
    whole = {}
    for number, config in enumerate((POINTS, IMAGES)):
        trial = Trial(folder / f"whole-{number}", random.Random())
        prepare(trial.place, config)
        if trial.wait(trial.start()) != 0:
            raise SystemExit(trial.log.read_text())
        whole[config] = outcome(trial.run)
    total = sum(kind.weight for kind in chosen.values())
    results: dict[str, list[Trial | Failed]] = {}
    for name, kind in chosen.items():
        results[name] = []
        for number in range(max(1, round(n * kind.weight / total))):
            place = folder / f"{name.replace(' ', '-')}-{number}"
            trial = Trial(place, random.Random(f"{seed} {name} {number}"))
            prepare(place, kind.config)
            try:
                kind.fault(trial)
                if not kind.is_finished:
                    trial.finish()
                if trial.run.exists() and name != "a lost process":
                    compare(outcome(trial.run), whole[kind.config])
                results[name].append(trial)
                shutil.rmtree(place)
            except Failed as failed:
                say(f"{name}, trial {number}: {failed} ({'; '.join(trial.story)}; {place})")
                results[name].append(failed)
        bad = sum(isinstance(one, Failed) for one in results[name])
        say(f"{name}: {len(results[name])} trials, {bad} failed")
    return results


def compare(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Raises Failed with what differs."""
    for part, value in other.items():
        if one[part] != value:
            if isinstance(value, dict):
                keys = [key for key in value if one[part].get(key) != value[key]]
                raise Failed(f"another outcome in {part}: {', '.join(keys)}")
            raise Failed(f"another outcome in {part}")


def table(results: dict[str, list[Trial | Failed]]) -> str:
    """One row per fault."""
    rows = ["| fault | trials | same bits | starts | exit codes of failed starts | failed |",
            "|---|---|---|---|---|---|"]  # fmt: skip
    for name, trials in results.items():
        fine = [trial for trial in trials if isinstance(trial, Trial)]
        codes = sorted({line.partition(":")[0] for trial in fine for line in trial.story
                        if re.match(r"\d+: sparring", line)})  # fmt: skip
        starts = sum(trial.n_starts for trial in fine)
        n_bad = len(trials) - len(fine)
        rows.append(
            f"| {name} | {len(trials)} | {len(fine)} | {starts} | {', '.join(codes)} | {n_bad} |"
        )
    n, bad = sum(map(len, results.values())), sum(
        isinstance(one, Failed) for trials in results.values() for one in trials
    )  # fmt: skip
    return "\n".join([*rows, f"| all | {n} | {n - bad} | | | {bad} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=240, help="trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="*", default=[""], help="faults whose name has one of these"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder of failed trials")
    words = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    started = time.time()
    results = campaign(
        folder, words.n, words.seed, words.only, lambda line: print(line, flush=True)
    )
    print(f"\n{table(results)}\n\nseed {words.seed}, {time.time() - started:.0f} s")
    failed = any(isinstance(one, Failed) for trials in results.values() for one in trials)
    if words.keep and failed:
        print(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
