"""Whole training programs side by side, and our loop beside its bare network: `make bench-peers`.

    python benchmarks/peers.py --steps 60 --rounds 3
    python benchmarks/peers.py --images FOLDER --only loop

**training**: every program is a process of its own that starts, reads 32x32 PNG files, trains the
same U-Net for `--steps` updates of `--batch` images and leaves finished weights. The programs take
turns, round after round; seconds, images per second and peak memory are of the whole process, the
median over the rounds. They are:

    ours            `sparring train` with its defaults
    diffusers       diffusers' train_unconditional.py, as of 0.42.1
    ddpm_pytorch    the Trainer of denoising-diffusion-pytorch 2.3.1

The two peers' scripts import torchvision, which this environment cannot have; their loops are
written out here with the same calls, defaults of optimiser and average, loaders and logging, and
PIL and numpy in the place of the transforms. All make one checkpoint, at the end, and no pictures.
A name that ends in _float32 or _bf16 has that precision whatever the program's default is.

**loop_of_bare_network**: our loop's speed as a share of its bare network's: forward, mean squared
error and backward pass of the same batch, without drawing, optimiser, average or data. They take
turns within one run, ten updates each.

**sampling**: our DDIM sampling beside diffusers' DDIMPipeline, the same network and steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "results" / "peers.json"
NETWORK = {
    "_class_name": "UNet2DModel", "block_out_channels": [32, 64, 96], "layers_per_block": 2,
    "down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3,
    "norm_num_groups": 8,
}  # fmt: skip
PROGRAMS = (
    "ours", "diffusers", "ddpm_pytorch", "ours_float32", "ours_bf16", "diffusers_bf16",
    "ddpm_pytorch_bf16",
)  # fmt: skip
PRECISIONS = {"float32": "no", "bf16": "bf16"}
N_IMAGES, SIZE, N_BLOCK = 10_000, 32, 10


def write_images(folder: Path, n_images: int = N_IMAGES, size: int = SIZE) -> Path:
    """PNG files of size x size pixels, cut from the photographs that scikit-learn ships."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs, rng = load_sample_images().images, np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n_images):
        photograph = photographs[i % len(photographs)]
        y, x = (rng.integers(side - size) for side in photograph.shape[:2])
        Image.fromarray(photograph[y : y + size, x : x + size]).save(folder / f"{i:06d}.png")
    return folder


# --- The programs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a program is asked for."""

    images: Path
    n_steps: int
    n_batch: int
    out: Path
    precision: str | None = None  # "no", "bf16" or None, the program's own default


def ours_config(job: Job) -> dict[str, Any]:
    training: dict[str, Any] = {
        "train_batch_size": job.n_batch, "max_train_steps": job.n_steps, "seed": 0,
        "output_dir": str(job.out), "validation_steps": None, "checkpointing_steps": None,
    }  # fmt: skip
    if job.precision is not None:
        training["mixed_precision"] = job.precision
    return {
        "model": {"network": NETWORK},
        "data": {"name": "image_folder", "train_data_dir": str(job.images), "resolution": SIZE},
        "objective": "plain",
        "training": training,
    }


def ours_file(job: Job) -> Path:
    """The config file that asks ours for the same."""
    path = job.out.parent / f"{job.out.name}.yaml"
    path.write_text(yaml.safe_dump(ours_config(job)), encoding="utf-8")
    return path


def network() -> Any:
    from diffusers.models.unets.unet_2d import UNet2DModel

    words = {name: value for name, value in NETWORK.items() if name != "_class_name"}
    return UNet2DModel(sample_size=SIZE, in_channels=3, out_channels=3, **words)


def noising() -> Any:
    """The scheduler that both peers noise images with."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler(num_train_timesteps=1000)


def prepared_pixels(image: Any, *, low: float) -> Any:
    """Resize, centre crop, random mirror, to a tensor in [low, 1], as torchvision would."""
    import numpy as np
    import torch
    from PIL import Image

    image = image.convert("RGB")
    if min(image.size) != SIZE:
        scale = SIZE / min(image.size)
        image = image.resize(
            [round(side * scale) for side in image.size], Image.Resampling.BILINEAR
        )
    left, top = ((side - SIZE) // 2 for side in image.size)
    image = image.crop((left, top, left + SIZE, top + SIZE))
    if torch.rand(1) < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return pixels if low == 0 else pixels.sub_(0.5).div_(0.5)


def diffusers(job: Job) -> None:
    """The loop of diffusers' train_unconditional.py with its default numbers."""
    import torch
    from accelerate import Accelerator
    from datasets import load_dataset
    from diffusers.optimization import get_scheduler
    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
    from diffusers.training_utils import EMAModel
    from torch.nn import functional
    from tqdm.auto import tqdm

    accelerator = Accelerator(mixed_precision=job.precision)
    model, noise_scheduler = network(), noising()
    ema_model = EMAModel(
        model.parameters(),
        decay=0.9999,
        use_ema_warmup=True,
        inv_gamma=1.0,
        power=3 / 4,
        model_cls=type(model),
        model_config=model.config,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    dataset: Any = load_dataset(
        "imagefolder",
        data_dir=str(job.images),
        split="train",
        cache_dir=str(job.out.parent / f"{job.out.name}-cache"),
    )
    dataset.set_transform(
        lambda rows: {"input": [prepared_pixels(image, low=-1) for image in rows["image"]]}
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=job.n_batch, shuffle=True)
    lr_scheduler = get_scheduler(
        "cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=job.n_steps
    )
    model, optimizer, loader, lr_scheduler = accelerator.prepare(
        model, optimizer, loader, lr_scheduler
    )
    global_step, bar = 0, tqdm(total=job.n_steps)
    while global_step < job.n_steps:
        model.train()
        for batch in loader:
            clean_images = batch["input"]
            noise = torch.randn(clean_images.shape, device=clean_images.device)
            timesteps = torch.randint(0, 1000, (len(clean_images),), device=clean_images.device)
            noisy_images = noise_scheduler.add_noise(clean_images, noise, timesteps)
            with accelerator.accumulate(model):
                loss = functional.mse_loss(model(noisy_images, timesteps).sample.float(), noise)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                ema_model.step(model.parameters())
                bar.update(1)
                global_step += 1
            bar.set_postfix(loss=loss.detach().item(), lr=lr_scheduler.get_last_lr()[0])
            if global_step == job.n_steps:
                break
    accelerator.save_state(str(job.out / f"checkpoint-{global_step}"))
    unet = accelerator.unwrap_model(model)
    ema_model.copy_to(unet.parameters())
    DDPMPipeline(unet=unet, scheduler=noise_scheduler).save_pretrained(job.out)


def ddpm_pytorch(job: Job) -> None:
    """The Trainer of denoising-diffusion-pytorch with its default numbers, on the same network."""
    import torch
    from accelerate import Accelerator
    from PIL import Image
    from torch.nn import functional
    from tqdm.auto import tqdm

    accelerator = Accelerator(split_batches=True, mixed_precision=job.precision)

    class Files(torch.utils.data.Dataset):
        paths = sorted(job.images.glob("**/*.png"))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            return prepared_pixels(Image.open(self.paths[index]), low=0)

    loader: Any = torch.utils.data.DataLoader(
        Files(), batch_size=job.n_batch, shuffle=True, num_workers=os.cpu_count() or 1
    )
    loader = accelerator.prepare(loader)

    def cycle() -> Iterator[Any]:
        while True:
            yield from loader

    model, noise_scheduler = network(), noising()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99))
    model, optimizer = accelerator.prepare(model, optimizer)
    batches = cycle()
    for step in (bar := tqdm(range(1, job.n_steps + 1))):
        model.train()
        x_start = next(batches) * 2 - 1
        with accelerator.autocast():
            t = torch.randint(0, 1000, (len(x_start),), device=x_start.device)
            noise = torch.randn_like(x_start)
            x_t = noise_scheduler.add_noise(x_start, noise, t)
            loss = functional.mse_loss(model(x_t, t).sample, noise, reduction="none")
            loss = loss.flatten(1).mean(1).mean()
        accelerator.backward(loss)
        bar.set_description(f"loss: {loss.item():.4f}")
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:  # the average's update_every, and its decay
            with torch.no_grad():
                for own, live in zip(average.parameters(), model.parameters(), strict=True):
                    own.lerp_(live, 1 - 0.995)
    job.out.mkdir(parents=True, exist_ok=True)
    kept = {"model": model.state_dict(), "ema": average.state_dict(), "opt": optimizer.state_dict()}
    torch.save(kept, job.out / "model-1.pt")


PEERS = {"diffusers": diffusers, "ddpm_pytorch": ddpm_pytorch}


def run_program(name: str, job: Job) -> dict[str, float]:
    """One program in a process of its own: seconds, images per second, peak memory in bytes."""
    base, _, ending = name.rpartition("_")
    program, precision = (base, PRECISIONS[ending]) if ending in PRECISIONS else (name, None)
    job = replace(job, precision=precision)
    if program == "ours":
        words = ["-m", "sparring", "train", str(ours_file(job))]
    else:
        words = [
            __file__, "--as", program, "--images", str(job.images), "--steps", str(job.n_steps),
            "--batch", str(job.n_batch), "--out", str(job.out),
            "--precision", job.precision or "no",
        ]  # fmt: skip
    started = time.perf_counter()
    with (job.out.parent / f"{job.out.name}.log").open("w") as log:
        process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status != 0:
        raise SystemExit(f"{name} failed:\n{Path(log.name).read_text()[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": seconds,
        "images_per_second": job.n_steps * job.n_batch / seconds,
        "peak_bytes": float(used.ru_maxrss * unit),
    }


def training(images: Path, n_rounds: int, n_steps: int, n_batch: int) -> dict[str, Any]:
    """All programs, in turns; the median of each figure, and the quartiles of the seconds."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    with TemporaryDirectory() as folder:
        for round_ in range(n_rounds):
            for name in PROGRAMS:
                job = Job(images, n_steps, n_batch, Path(folder) / f"{name}-{round_}")
                seen[name].append(figures := run_program(name, job))
                print(f"  round {round_ + 1}, {name}: {figures['seconds']:.1f} s", flush=True)
    return {
        name: {key: median(one[key] for one in rounds) for key in rounds[0]}
        | {"all_seconds": [one["seconds"] for one in rounds]}
        for name, rounds in seen.items()
    }


# --- The loop beside its bare network --------------------------------------------------------


@dataclass
class Turns:
    """Our loop and the bare network, ten updates each in turn; seconds of each turn."""

    network: Any
    precision: str
    loop: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    n_seen: int = 0
    began: float = 0.0

    def before_batch(self, x0: Any) -> None:
        """Called by the loop before it takes a batch."""
        if self.n_seen % N_BLOCK == 0:
            if self.n_seen > 0:
                self.loop.append(time.perf_counter() - self.began)
            self.bare.append(self._bare_seconds(x0))
            self.began = time.perf_counter()
        self.n_seen += 1

    def _bare_seconds(self, x0: Any) -> float:
        import torch
        from torch.nn import functional

        t, target = torch.arange(len(x0)) * 10, torch.randn_like(x0)
        began = time.perf_counter()
        for _ in range(N_BLOCK):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                out = self.network(x0, t, return_dict=False)[0]
            functional.mse_loss(out.float(), target).backward()
            self.network.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    @property
    def share(self) -> float:
        """Median over the turns of bare seconds to the loop's; the first turn warms up."""
        return median(b / a for a, b in zip(self.loop[1:], self.bare[1:], strict=False))


def loop_of_bare_network(images: Path, n_steps: int, n_batch: int) -> dict[str, float]:
    """The share of the bare network's speed that our loop reaches, by precision."""
    from sparring.assembly.build import build_dataset
    from sparring.commands.train.run import trained_of
    from sparring.config.read import resolve
    from sparring.training import Feed, open_run, train

    class Interrupted(Feed):
        def prepared(self, read: Any, rng: Any, dtype: Any) -> dict[str, Any]:
            turns.before_batch(read["x0"].to(dtype))
            return super().prepared(read, rng, dtype)

    shares = {}
    for name, precision in PRECISIONS.items():
        with TemporaryDirectory() as folder:
            job = Job(images, n_steps, n_batch, Path(folder) / "run", precision)
            config = resolve(ours_file(job))
            dataset = build_dataset(config)
            _, trained = trained_of(config, dataset, job.out)
            turns = Turns(copy.deepcopy(trained.denoiser.network), precision)
            feed = Interrupted(dataset, random_flip=config.data.random_flip)
            with open_run(str(job.out)) as run:
                train(trained, feed, config.training, run)
        shares[name] = turns.share
        print(f"  loop, {name}: {turns.share:.3f} of the bare network", flush=True)
    return shares


# --- Sampling --------------------------------------------------------------------------------


def sampling(n_rounds: int, n_samples: int = 64, n_steps: int = 10) -> dict[str, Any]:
    """Seconds of DDIM sampling, ours and diffusers' pipeline, in turns."""
    import torch
    from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    import sparring
    from sparring.diffusion.denoiser import Denoiser
    from sparring.diffusion.schedules import schedule_from_config

    words = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    scheduler = DDIMScheduler(**words, beta_schedule="linear", clip_sample=True)
    net = network().eval()
    denoiser = Denoiser(net, schedule_from_config(scheduler.config))
    model = sparring.Model.around(denoiser, (3, SIZE, SIZE), dict(scheduler.config))
    pipeline = DDIMPipeline(net, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    programs = {
        "ours": lambda: sparring.sample(model, n_samples, num_inference_steps=n_steps),
        "diffusers": lambda: pipeline(
            batch_size=n_samples, num_inference_steps=n_steps, output_type="pt"
        ),
    }
    seen: dict[str, list[float]] = {name: [] for name in programs}
    for round_ in range(n_rounds + 1):
        for name, program in programs.items():
            began = time.perf_counter()
            with torch.no_grad():
                program()
            if round_ > 0:  # the first warms up
                seen[name].append(time.perf_counter() - began)
    return {
        name: {"seconds": median(all_), "images_per_second": n_samples / median(all_)}
        for name, all_ in seen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="a folder of 32x32 PNG files (default: made)")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("training", "loop", "sampling"), help="a part of it")
    parser.add_argument("-o", "--out", type=Path, default=OUTPUT)
    parser.add_argument("--as", dest="name", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS.values(), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.name:
        job = Job(words.images, words.steps, words.batch, words.out, words.precision)
        PEERS[words.name](job)
        return

    from sparring.evaluation.protocol import versions

    with TemporaryDirectory() as folder:
        images = words.images or write_images(Path(folder))
        parts = {
            "loop_of_bare_network": lambda: loop_of_bare_network(images, words.steps, words.batch),
            "sampling": lambda: sampling(words.rounds),
            "training": lambda: training(images, words.rounds, words.steps, words.batch),
        }
        found = json.loads(words.out.read_text()) if words.out.exists() else {}
        for name, part in parts.items():
            if words.only is None or name.startswith(words.only):
                print(name, flush=True)
                found[name] = part()
                found["command"] = (
                    f"python benchmarks/peers.py --steps {words.steps} "
                    f"--batch {words.batch} --rounds {words.rounds}"
                )
                found["versions"] = versions()
                words.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
