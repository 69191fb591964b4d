"""Which network learns fastest on a CPU: distance after the same time, `make bench-networks`.

    python benchmarks/networks.py --data FOLDER --rates
    python benchmarks/networks.py --data FOLDER --only cifar10 --minutes 10

Each candidate trains plain on clean images (CIFAR-10 at 32x32, Fashion-MNIST at 28x28) for as many
updates as it makes in `--minutes` of one core, and its samples are measured. The number of updates
follows from the speed that `--rates` measures first, on an idle machine: one thread, forward and
backward pass of 64 images in turns, so that a machine that is busy later favours nobody. Rows are
added to results/networks.json; those that are there are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "results" / "networks.json"
N_BATCH = 64


class PatchedUNet(nn.Module):
    """pixel_shuffle(UNet2DModel(pixel_unshuffle(x, p), t), p): the finest level of a U-Net takes
    most of its time, so a quarter of its pixels (p = 2) pays for wider levels."""

    def __init__(
        self, sample_size: int, in_channels: int, out_channels: int, patch_size: int,
        block_out_channels: list[int], layers_per_block: int, attention_levels: list[int],
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = {
            "sample_size": sample_size, "in_channels": in_channels, "out_channels": out_channels,
            "patch_size": patch_size, "block_out_channels": block_out_channels,
            "layers_per_block": layers_per_block, "attention_levels": attention_levels,
        }  # fmt: skip
        kinds = ["Attn" if i in attention_levels else "" for i in range(len(block_out_channels))]
        self.patch_size = patch_size
        self.unet = UNet2DModel(
            sample_size=sample_size // patch_size,
            in_channels=in_channels * patch_size**2,
            out_channels=out_channels * patch_size**2,
            block_out_channels=tuple(block_out_channels),
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            layers_per_block=layers_per_block,
            attention_head_dim=32,
            norm_num_groups=8,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out = self.unet(F.pixel_unshuffle(x, self.patch_size), t, return_dict=False)[0]
        return F.pixel_shuffle(out, self.patch_size)


class DiT(nn.Module):
    """A transformer on patches whose blocks are scaled, shifted and gated by the time (Peebles and
    Xie, 2023), without classes, which diffusers' own cannot do without."""

    def __init__(
        self, sample_size: int, in_channels: int, out_channels: int, patch_size: int, width: int,
        n_blocks: int, n_heads: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = {
            "sample_size": sample_size, "in_channels": in_channels, "out_channels": out_channels,
            "patch_size": patch_size, "width": width, "n_blocks": n_blocks, "n_heads": n_heads,
        }  # fmt: skip
        self.patch_size, self.n_heads, self.width = patch_size, n_heads, width
        n_tokens = (sample_size // patch_size) ** 2
        self.place = nn.Parameter(0.02 * torch.randn(n_tokens, width))
        self.first = nn.Linear(in_channels * patch_size**2, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width, n_heads) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.last = nn.Linear(width, out_channels * patch_size**2)
        nn.init.zeros_(self.last.weight)
        self.frequencies: Tensor
        octaves = torch.linspace(0, -9.21, width // 2)
        self.register_buffer("frequencies", octaves.exp(), persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t.to(x.dtype)[:, None] * self.frequencies
        context = self.time(torch.cat([angles.cos(), angles.sin()], 1))
        patches = F.pixel_unshuffle(x, self.patch_size)
        tokens = self.first(patches.flatten(2).transpose(1, 2)) + self.place
        for block in self.blocks:
            tokens = block(tokens, context)
        out = self.last(self.norm(tokens)).transpose(1, 2).unflatten(2, patches.shape[2:])
        return F.pixel_shuffle(out, self.patch_size)


class _Block(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.by_time = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        nn.init.zeros_(self.by_time[1].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.by_time[1].bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        scale, shift, gate, scale2, shift2, gate2 = self.by_time(context)[:, None].chunk(6, -1)
        seen = self.norm(x) * (1 + scale) + shift
        q, k, v = self.qkv(seen).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + gate * self.out(mixed)
        return x + gate2 * self.mlp(self.norm(x) * (1 + scale2) + shift2)


def unet(*widths: int, layers: int) -> dict[str, Any]:
    return {
        "_class_name": "UNet2DModel", "block_out_channels": list(widths),
        "down_block_types": ["DownBlock2D"] * len(widths), "norm_num_groups": 8,
        "up_block_types": ["UpBlock2D"] * len(widths), "layers_per_block": layers,
        "attention_head_dim": 32,
    }  # fmt: skip


def patched(*widths: int, layers: int, attention: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "_class_name": f"{Path(__file__).resolve()}:PatchedUNet", "patch_size": 2,
        "block_out_channels": list(widths), "layers_per_block": layers,
        "attention_levels": list(attention),
    }  # fmt: skip


def dit(patch_size: int, width: int, n_blocks: int) -> dict[str, Any]:
    return {
        "_class_name": f"{Path(__file__).resolve()}:DiT", "patch_size": patch_size, "width": width,
        "n_blocks": n_blocks,
    }  # fmt: skip


CANDIDATES: dict[str, dict[str, dict[str, Any]]] = {
    "cifar10": {
        "U-Net 32-64-96, 2 layers": unet(32, 64, 96, layers=2),
        "U-Net 48-96-192, 1 layer": unet(48, 96, 192, layers=1),
        "patches, 64-128-192, 2 layers": patched(64, 128, 192, layers=2),
        "patches, 96-192, 2 layers": patched(96, 192, layers=2),
        "patches, 96-192-192, 1 layer": patched(96, 192, 192, layers=1),
        "patches, 64-128, 2 layers, attention": patched(64, 128, layers=2, attention=(1,)),
        "DiT, patches of 4, 256 x 6": dit(4, 256, 6),
        "DiT, patches of 2, 128 x 6": dit(2, 128, 6),
    },
    "fashion": {
        "U-Net 32-64-96, 1 layer": unet(32, 64, 96, layers=1),
        "patches, 48-96, 1 layer": patched(48, 96, layers=1),
        "patches, 64-128, 1 layer": patched(64, 128, layers=1),
        "patches, 64-128, 2 layers": patched(64, 128, layers=2),
        "DiT, patches of 4, 128 x 6": dit(4, 128, 6),
    },
}
DATA = {
    "cifar10": {
        "name": "parquet", "data_files": "$DATA/cifar10/train-*.parquet", "image_column": "image",
        "resolution": 32, "n_channels": 3,
    },
    "fashion": {
        "name": "parquet", "data_files": "$DATA/fashion_mnist/train-*.parquet",
        "image_column": "image", "resolution": 28, "n_channels": 1, "max_train_samples": 10_000,
    },
}  # fmt: skip
EXTRACTORS = {
    "cifar10": f"{HERE.parent / 'recipes' / 'cifar10_resnet.py'}:features",
    "fashion": "classifier",
}
N_SAMPLES = 2000


def config_of(data: str, network: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A run of a candidate, but for its length."""
    words = {k: str(v).replace("$DATA", str(folder)) if k == "data_files" else v
             for k, v in DATA[data].items()}  # fmt: skip
    rate = 5e-4 if "DiT" in network["_class_name"] else 1e-3
    return {
        "model": {"network": dict(network), "prediction_type": "v_prediction"},
        "data": words,
        "objective": "plain",
        "training": {
            "seed": 0, "train_batch_size": N_BATCH, "learning_rate": rate, "n_threads": 1,
            "lr_scheduler": "cosine", "lr_warmup_steps": 100, "ema_decay": 0.999,
            "report_to": "none", "validation_steps": None, "checkpointing_steps": 500,
        },
        "sampling": {"scheduler": "dpmsolver++", "num_inference_steps": 20},
        "evaluation": {"n_samples": N_SAMPLES, "extractor": EXTRACTORS[data]},
    }  # fmt: skip


def images_per_second(data: str, network: Mapping[str, Any], folder: Path) -> float:
    """Forward and backward passes of one thread in bf16 where it is multiplied in hardware."""
    from sparring.assembly.network import build_network
    from sparring.config.checks import check
    from sparring.diffusion.precision import multiplies

    torch.set_num_threads(1)
    config = check(config_of(data, network, folder), "a candidate")
    shape = (DATA[data]["n_channels"], DATA[data]["resolution"], DATA[data]["resolution"])
    net = build_network(config, shape, None)
    x, t = torch.randn(N_BATCH, *shape), torch.arange(N_BATCH) * 10
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies(torch.bfloat16, "cpu")):
            out = net(x, t)
            out = out if isinstance(out, Tensor) else out.sample
        F.mse_loss(out.float(), x).backward()
        net.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
    return N_BATCH / median(seconds[1:])


def train_and_measure(place: Path, config: dict[str, Any]) -> dict[str, float]:
    """The figures of a run, which is trained first where it is not there."""
    place.mkdir(parents=True, exist_ok=True)
    file, run = place / "config.yaml", place / "run"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    program = [sys.executable, "-m", "sparring"]
    if not (run / "training.json").is_file():
        words = [f"training.output_dir={run}"]
        words += ["training.resume_from_checkpoint=auto"] if run.is_dir() else []
        subprocess.run([*program, "train", str(file), *words], check=True)
    told = subprocess.run(
        [*program, "evaluate", str(run), "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(told.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder of cifar10/ and others"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/networks"))
    parser.add_argument("--rates", action="store_true", help="only measure the speeds")
    parser.add_argument("--only", choices=CANDIDATES)
    parser.add_argument("--name", help="only the candidates whose name holds this")
    parser.add_argument("--minutes", type=float, default=10, help="of one core, for each")
    parser.add_argument("-o", "--out", type=Path, default=OUTPUT)
    words = parser.parse_args()
    os.environ["SPARRING_CIFAR10_RESNET"] = str(words.data / "weights/cifar10_resnet56.safetensors")
    found = json.loads(words.out.read_text()) if words.out.exists() else {"rates": {}, "rows": []}

    def keep() -> None:
        words.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    wanted = [
        (data, name, network)
        for data, networks in CANDIDATES.items()
        for name, network in networks.items()
        if words.only in (None, data) and (words.name or "") in name
    ]
    for data, name, network in wanted:
        if words.rates:
            speed = images_per_second(data, network, words.data)
            found["rates"][f"{data}/{name}"] = speed
            print(f"{data}/{name}: {speed:.0f} images a second", flush=True)
            keep()
            continue
        key = {"data": data, "network": name, "minutes": words.minutes}
        if any(key.items() <= row.items() for row in found["rows"]):
            continue
        n_steps = round(60 * words.minutes * found["rates"][f"{data}/{name}"] / N_BATCH)
        config = config_of(data, network, words.data)
        config["training"]["max_train_steps"] = n_steps
        place = words.runs / data / f"{name.replace(' ', '-').replace(',', '')}-{words.minutes:g}"
        figures = train_and_measure(place, config)
        print(figures)
        found = json.loads(words.out.read_text()) if words.out.exists() else found
        found["rows"].append(key | {"n_updates": n_steps, "figures": figures})
        keep()


if __name__ == "__main__":
    main()
