"""What every objective does, to the bit: so a refactoring shows that it changed no number.

    python benchmarks/record.py --check                   says what differs from the record
    python benchmarks/record.py                           records anew, 4 minutes
    python benchmarks/record.py --only 'digits/' --check  some of the runs

A run is 30 updates of a tiny network by the command line alone, so that the modules may move. Its
entry holds, as a SHA-256 and a few values each: the resolved config, the log, every tensor of the
checkpoint, samples, and the figures of the evaluation. Hashes agree on one machine; on another
processor the values agree closely, which is what tests/test_record.py compares. Whoever means to
change a number records anew (benchmarks/results/record.json) and says why in the CHANGELOG.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs"
RESULTS = HERE / "results" / "record.json"
sys.path.insert(0, str(HERE.parent / "tests"))

Entry = dict[str, dict[str, Any]]
"""Item of a run, such as "log", -> {"sha256": ..., "values": {...}}."""


class Run(NamedTuple):
    """A training, `sparring train CONFIG WORD...`, and what is measured of it."""

    config: str
    words: tuple[str, ...]
    after: str | None = None  # a run whose model this one begins with
    n_processes: int = 1
    is_evaluated: bool = True


QUICK = (
    "training.max_train_steps=30", "training.log_every_steps=10", "training.validation_steps=null",
    "training.checkpointing_steps=null", "training.report_to=none", "training.n_threads=1",
    "training.mixed_precision=no",
)  # fmt: skip
DIGITS = (
    *QUICK, "training.train_batch_size=16", "training.lr_warmup_steps=5", "training.ema_decay=0.9",
    "sampling.num_inference_steps=5", "sampling.n_images=4", "evaluation.n_samples=80",
)  # fmt: skip
TINY = ("model.network.block_out_channels=[8,16]", "model.network.norm_num_groups=4")
PLANE = (*DIGITS, "model.network.width=24", "data.n_points=512")
ADT = (
    "objective.num_inference_steps=4",
    "objective.n_trained=2",
    "objective.warmup_batches=3",
    "objective.discriminator.width=8",
)
OF_DENOISER = "objective.discriminator.features=denoiser"  # fmt: skip
DETAIL = ("objective=detail", "objective.start_step=10")
ALONE = ("objective.dirt=none", "objective.noise=0.3", "objective.window=0.5")


def on_digits(*words: str, **fields: Any) -> Run:
    """From scratch."""
    return Run("digits.yaml", (*DIGITS, *TINY, *words), **fields)


def tuned(config: str, *words: str, **fields: Any) -> Run:
    """Goes on from the plain run on digits."""
    start = "model.pretrained_model_name_or_path=runs/digits/plain"
    return Run(config, (*DIGITS, start, *words), after="digits/plain", **fields)


def of_stable_diffusion(*words: str, **fields: Any) -> Run:
    """Of the smallest Stable Diffusion there is, on six captioned images."""
    more = ("sampling.prompts=[a red square, grey]", *words)
    return Run("sd/config.yaml", (*QUICK, *more), is_evaluated=False, **fields)


LCM = (
    "objective=latent_consistency_distillation", "training.conditioning_dropout_prob=0",
    "training.learning_rate=1e-4",
)  # fmt: skip
PUBLISHED = ("objective.step_size=0.1", "objective.step_per=image")  # paper 1's length, at any size
BY_LOSS = ("training.timestep_sampling=loss_second_moment",)
CONSISTENCY = ("objective=consistency_training", "objective.n_passes=2", *PUBLISHED)
RUNS: dict[str, Run] = {
    "digits/plain": on_digits("objective=plain"),
    "digits/input_perturbation": on_digits("objective=input_perturbation"),
    "digits/huber": on_digits("objective=huber"),
    "digits/smoothing_random": on_digits("objective=smoothing_random"),
    "digits/smoothing_adversarial": on_digits("objective=smoothing_adversarial"),
    "digits/invariance": on_digits("objective=invariance"),
    "digits/dro": on_digits("objective=dro", *PUBLISHED, *BY_LOSS),
    "digits/dro_pgd": on_digits("objective=dro_pgd", *PUBLISHED),
    "digits/detail": on_digits(*DETAIL),
    "digits/detail_alone": on_digits(*DETAIL, *ALONE),
    "digits/oracle": on_digits("objective=oracle"),
    "digits/throw_away": on_digits("objective=throw_away"),
    "digits/denoise_first": on_digits("objective=denoise_first"),
    "digits/jpeg": on_digits(*DETAIL, "contamination={kind: jpeg, quality: [10, 40], rate: 0.5}"),
    "digits/consistency_training": on_digits(*CONSISTENCY),
    "digits/easy_consistency_tuning": tuned("consistency_digits.yaml", "row=easy"),
    "digits/consistency_distillation": tuned("consistency_digits.yaml"),
    "digits/adt": tuned("adt_digits.yaml", *ADT),
    "plane/plain": Run("plane.yaml", PLANE),
    "plane/smoothing_adversarial": Run("plane.yaml", (*PLANE, "objective=smoothing_adversarial")),
    "plane/detail": Run("plane.yaml", (*PLANE, *DETAIL, *ALONE)),
    "sd/plain": of_stable_diffusion("objective=plain"),
    "sd/lora": of_stable_diffusion("objective=plain", "model.lora={rank: 2, alpha: 4}"),
    "sd/latent_consistency_distillation": of_stable_diffusion(*LCM),
    "sd/adt": of_stable_diffusion("objective=adt", *ADT, OF_DENOISER),
    "two/plain": on_digits("objective=plain", n_processes=2),
    "two/detail": on_digits(*DETAIL, n_processes=2),
    "two/consistency_training": on_digits(*CONSISTENCY, n_processes=2),
    "two/adt": tuned("adt_digits.yaml", *ADT, n_processes=2),
    "two/sd": of_stable_diffusion("objective=plain", n_processes=2),
}  # fmt: skip


def command_line(*words: object, n_processes: int = 1) -> str:
    """What `sparring WORDS` prints on standard output."""
    texts = [str(word) for word in words]
    if n_processes > 1:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={n_processes}"]
        command = [sys.executable, "-m", *launcher, "-m", "sparring", *texts]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
        return ""
    from sparring.cli import main

    result = CliRunner().invoke(main, texts)
    if result.exit_code != 0:
        raise RuntimeError(f"sparring {' '.join(texts)}: {result.output}") from result.exception
    return result.stdout


def carry_out(name: str, folder: Path) -> Entry:
    """The run `name` in `folder`, where earlier runs lie too, as its entry of the record."""
    run = RUNS[name]
    config = (folder if run.config.startswith("sd/") else CONFIGS) / run.config
    place = Path("runs") / name
    with chdir(folder):
        if run.config.startswith("sd/") and not config.exists():
            from text_to_image import training_places  # type: ignore

            training_places(Path("sd"))
        words = (*run.words, f"training.output_dir={place}")
        command_line("train", config, *words, n_processes=run.n_processes)
        entry = dict(items_of_run(place))
        command_line("sample", place, "-n", 4, "--seed", 1, "-o", place / "drawn")
        entry["samples"] = item_of_samples(place / "drawn")
        if run.is_evaluated:
            entry["figures"] = item_of_figures(
                json.loads(command_line("evaluate", place, "--json"))
            )
    return entry


def items_of_run(place: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The resolved config, the log, and each file of tensors of the newest checkpoint."""
    yield "config", item(flat(yaml.safe_load((place / "config.yaml").read_text())))
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for timed in ("seconds", "images_per_second"):
            line.pop(timed)
    yield "log", item(lines, lines[-1])
    (checkpoint,) = (place / "checkpoints").glob("checkpoint-*")
    for path in sorted(checkpoint.glob("*.safetensors")):
        yield path.stem, item_of_tensors(load_file(path))


def item_of_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    digest, n, total, squares = hashlib.sha256(), 0, 0.0, 0.0
    for key, value in sorted(tensors.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        n, total = n + value.numel(), total + float(value.double().sum())
        squares += float(value.double().square().sum())
    values = {"n": n, "sum": total, "rms": math.sqrt(squares / max(n, 1))}
    return {"sha256": digest.hexdigest(), "values": values}


def item_of_samples(folder: Path) -> dict[str, Any]:
    """Images by their pixels, vectors by their numbers."""
    tensors = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".png" and path.stem.isdigit():
            with Image.open(path) as image:
                data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            tensors[path.stem] = data
        elif path.suffix in (".csv", ".txt"):
            numbers = re.findall(r"-?\d+\.\d+(?:e-?\d+)?", path.read_text())
            tensors[path.stem] = torch.tensor([float(number) for number in numbers])
    assert tensors, f"no samples in {folder}"
    return item_of_tensors(tensors)


def item_of_figures(figures: dict[str, Any]) -> dict[str, Any]:
    """All figures but those of time and place."""
    for word in ("sampling_seconds", "evaluation_seconds", "command"):
        figures.pop(word, None)
    figures["protocol"].pop("versions")
    numbers = {key: value for key, value in figures.items() if isinstance(value, int | float)}
    return item(figures, numbers)


def item(content: Any, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    text = json.dumps(content, sort_keys=True)
    return {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "values": content if values is None else dict(values),
    }


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"training.seed": 0, ...}"""
    leaves = {}
    for key, value in section.items():
        inner = isinstance(value, dict) and value
        leaves |= flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return leaves


def record(
    names: Sequence[str], folder: Path, say: Callable[[str], None] = print
) -> dict[str, Entry]:
    """The entries of `names`, whose runs are left in `folder`."""
    entries: dict[str, Entry] = {}
    offline = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    with mock.patch.dict(os.environ, offline | {"SPARRING_CACHE": str(folder / "cache")}):
        for name in names:
            for each in (RUNS[name].after, name):
                if each is not None and each not in entries:
                    entries[each] = carry_out(each, folder)
                    say(each)
    return {name: entries[name] for name in names}


def differences(old: Mapping[str, Entry], new: Mapping[str, Entry]) -> list[str]:
    """A line for each item whose hash is another, with the values that changed."""
    lines = []
    for name, entry in new.items():
        for key in sorted(old.get(name, {}).keys() | entry.keys()):
            one, other = old.get(name, {}).get(key), entry.get(key)
            if one is None or other is None:
                lines.append(f"{name} {key}: {'is new' if one is None else 'is gone'}")
            elif one["sha256"] != other["sha256"]:
                before, after = one["values"], other["values"]
                changed = [
                    f"{word} {before.get(word, 'absent')} -> {after.get(word, 'absent')}"
                    for word in sorted(before.keys() | after.keys())
                    if before.get(word) != after.get(word)
                ]
                lines.append(f"{name} {key}: {', '.join(changed) or 'the values written agree'}")
    return lines


def machine() -> dict[str, str]:
    capability = torch.backends.cpu.get_cpu_capability()
    return {"python": platform.python_version(), "torch": torch.__version__, "cpu": capability}


def read() -> dict[str, Any]:
    """The record: {"machine": ..., "runs": name -> entry}."""
    return json.loads(RESULTS.read_text())


def write(entries: Mapping[str, Entry]) -> None:
    """A line for each item."""
    runs = ",\n".join(
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entry.items())
        + "\n }"
        for name, entry in entries.items()
    )
    RESULTS.write_text(f'{{"machine": {json.dumps(machine())},\n"runs": {{\n{runs}\n}}}}\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--only", default="", metavar="PATTERN", help="runs whose names match")
    options = parser.parse_args()
    names = [name for name in RUNS if re.search(options.only, name)]
    with tempfile.TemporaryDirectory() as folder:
        entries = record(names, Path(folder))
    old = read() if RESULTS.exists() else {"machine": machine(), "runs": {}}
    if not options.check:
        write(
            {name: (old["runs"] | entries)[name] for name in RUNS if name in old["runs"] | entries}
        )
        return 0
    if old["machine"] != machine():
        print(f"recorded on {old['machine']}, this is {machine()}: hashes may differ")
    found = differences(old["runs"], entries)
    print("\n".join(found) or f"{len(names)} runs agree to the bit")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
