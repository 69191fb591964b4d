"""Our figures beside those of torch-fidelity, clean-fid, prdc and lpips, on the same images.

    pip install -e '.[eval-ref]'
    python benchmarks/inception_reference.py IMAGES.parquet --weights WEIGHTS.safetensors

| package | what of it is compared |
|---|---|
| torch-fidelity | resize, Inception features, FID, KID, Inception Score |
| clean-fid | its own Inception network after our resize, FID and KID of its features |
| prdc | precision, recall, density, coverage of the same 768 features |
| lpips | distances of image pairs, on both trunks, with the package's own linear layers |

Inception weights that the file lacks (and all, without a file) are random, with random batch norms,
the trunks of LPIPS are random; they are equal on both sides. clean-fid resizes otherwise (Pillow's
bicubic, with smoothing), so that its FID of the same files is another number by design.
torch-fidelity needs torchvision only for its data sets: where torchvision is missing, a stand-in
is imported and clean-fid and lpips are left out. Writes benchmarks/results/inception_reference.md.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sparring.evaluation.metrics.frechet_distance import frechet_distance
from sparring.evaluation.metrics.inception_score import inception_score
from sparring.evaluation.metrics.kernel_distance import kernel_distance
from sparring.evaluation.metrics.neighbours import precision_recall_density_coverage
from sparring.evaluation.networks.inception import LAST_STAGE, InceptionV3, resize_tf1
from sparring.evaluation.networks.inception_weights import last_stage, load_inception
from sparring.evaluation.networks.lpips import LPIPS, MIN_SIDE, NETS

OUTPUT = Path(__file__).parent / "results" / "inception_reference.md"
LIMIT = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="parquet file with a column `image`")
    parser.add_argument("--weights", help="safetensors, whole or up to some layer")
    parser.add_argument("--n", type=int, default=100, help="images in each of the two sets")
    options = parser.parse_args()
    fidelity = import_fidelity()
    state, known = weights(options.weights)
    images = read(options.images, 2 * options.n)
    images[options.n :] = degraded(images[options.n :])
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        theirs = their_features(fidelity, state, Path(folder), images)
        ours = our_features(state, Path(folder), images)
    rows = [resize_row(fidelity, images)]
    rows += [row(name, theirs[name], ours[name]) for name in theirs]
    rows += figure_rows(fidelity, theirs, ours, options.n)
    tables = {f"torch-fidelity {fidelity.__version__}": rows}
    tables[f"prdc {version('prdc')}"] = prdc_rows(ours["768"], options.n)
    if importlib.util.find_spec("torchvision") is not None:
        tables[f"clean-fid {version('clean-fid')}"] = clean_fid_rows(state, images, ours)
        tables[f"lpips {version('lpips')}"] = lpips_rows(images)
    lines = []
    for package, rows in tables.items():
        lines += [
            f"| figure | {package} | sparring | relative difference |",
            "|---|---|---|---|",
            *[f"| {name} | {a} | {b} | {d:.1e} |" for name, a, b, d in rows],
            "",
        ]
    lines.append(
        f"2 x {options.n} images of {Path(options.images).name} (the second set: 8 grey levels); "
        f"Inception weights: {known}; trunks of LPIPS: random. For features and distances: mean of "
        "all values, and the largest difference over the largest value. "
        f"torch {torch.__version__}, CPU."
    )
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), f"\n{time.perf_counter() - started:.0f} s", sep="\n")
    every = [one for rows in tables.values() for one in rows]
    if worst := [name for name, _, _, d in every if not d <= LIMIT]:
        sys.exit(f"more than {LIMIT} apart: {', '.join(worst)}")


def import_fidelity() -> Any:
    if importlib.util.find_spec("torchvision") is None:
        for name in ("", ".datasets", ".transforms", ".transforms.functional", ".models", ".ops"):
            sys.modules[f"torchvision{name}"] = MagicMock()
    return importlib.import_module("torch_fidelity")


def weights(path: str | None) -> tuple[dict[str, Tensor], str]:
    """State dict with the public file's names (conv and bn apart), and where it came from."""
    torch.manual_seed(0)
    given = safetensors.torch.load_file(path) if path else {}
    state = {}
    for name, value in InceptionV3().state_dict().items():
        layer, _, part = name.rpartition(".")
        if layer == "fc":
            state[name] = 0.3 * torch.randn_like(value)
        elif part == "weight":
            n_out, fan_in = len(value), value[0].numel()
            if name in given:  # batch norm that does nothing: 0.999 + 1e-3 = 1
                scale, shift, mean, var = 1.0, given[f"{layer}.bias"].float(), 0.0, 0.999
                value = given[name].float()
            else:
                value = (2 / fan_in) ** 0.5 * torch.randn_like(value)
                scale, shift = 0.5 + torch.rand(n_out), 0.1 * torch.randn(n_out)
                mean, var = 0.1 * torch.randn(n_out), 0.5 + torch.rand(n_out)
            state[f"{layer}.conv.weight"] = value
            for key, number in (("weight", scale), ("bias", shift), ("running_mean", mean),
                                ("running_var", var)):  # fmt: skip
                state[f"{layer}.bn.{key}"] = torch.zeros(n_out) + number
            state[f"{layer}.bn.num_batches_tracked"] = torch.tensor(0)
    last = last_stage(given)
    if last is None:
        return state, "random"
    return state, "the public ones" if last == "fc" else f"the public ones to {last}, then random"


def read(path: str, n: int) -> Tensor:
    """Images (n, 3, H, W), uint8."""
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(path, columns=["image"])["image"][:n].to_pylist()
    pictures = [Image.open(io.BytesIO(one["bytes"])).convert("RGB") for one in column]
    return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in pictures])


def degraded(images: Tensor) -> Tensor:
    return images // 32 * 32


def their_features(
    fidelity: Any, state: dict[str, Tensor], folder: Path, images: Tensor
) -> dict[str, Tensor]:
    torch.save(state, folder / "weights.pth")
    names = [*map(str, LAST_STAGE), "logits_unbiased"]
    network = fidelity.FeatureExtractorInceptionV3(
        "inception", names, feature_extractor_weights_path=str(folder / "weights.pth")
    )
    with torch.no_grad():
        parts = [network(part) for part in images.split(20)]
    return {name: torch.cat(values) for name, values in zip(names, zip(*parts), strict=True)}  # noqa: B905


def our_features(state: dict[str, Tensor], folder: Path, images: Tensor) -> dict[str, Tensor]:
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    found = {}
    for n_features in LAST_STAGE:
        network = load_inception(n_features, folder / "weights.safetensors")
        with torch.no_grad():
            parts = [network(part / 255) for part in images.split(20)]
            found[str(n_features)] = torch.cat(parts)
            if n_features == 2048:
                found["logits_unbiased"] = network.logits_unbiased(found["2048"])
    return found


Row = tuple[str, str, str, float]


def row(name: str, theirs: Tensor, ours: Tensor) -> Row:
    difference = (theirs - ours).abs().max() / theirs.abs().max()
    label = name if "logits" in name else f"features, {name}"
    means = f"{theirs.double().mean():.6f}", f"{ours.double().mean():.6f}"
    return label, *means, difference.item()


def numbers(name: str, theirs: float, ours: float) -> Row:
    return name, f"{theirs:.8g}", f"{ours:.8g}", abs(theirs - ours) / abs(theirs)


def resize_row(fidelity: Any, images: Tensor) -> Row:
    module = importlib.import_module("torch_fidelity.interpolate_compat_tensorflow")
    few = images[:8].float()
    theirs = module.interpolate_bilinear_2d_like_tensorflow1x(few, (299, 299), align_corners=False)
    name, a, b, difference = row("resize", theirs, resize_tf1(few))
    return name.removeprefix("features, "), a, b, difference


def figure_rows(
    fidelity: Any, theirs: dict[str, Tensor], ours: dict[str, Tensor], n: int
) -> list[Row]:
    fid, kid, isc = (importlib.import_module(f"torch_fidelity.metric_{m}") for m in ("fid", "kid", "isc"))  # noqa: E501  # fmt: skip
    rows = []
    for n_features in LAST_STAGE:
        a, b = theirs[str(n_features)], ours[str(n_features)]
        statistics = [fid.fid_features_to_statistics(part.double()) for part in (a[:n], a[n:])]
        their_fid = fid.fid_statistics_to_metric(*statistics, verbose=False)[fid.KEY_METRIC_FID]
        name = "FID" if n_features == 2048 else f"FID-{n_features}"
        rows.append(numbers(name, their_fid, frechet_distance(b[:n], b[n:])))
    a, b = theirs["768"], ours["768"]
    their_kid = kid.kid_features_to_metric(
        a[:n].double(), a[n:].double(), kid_subsets=1, kid_subset_size=n, verbose=False
    )[kid.KEY_METRIC_KID_MEAN]
    rows.append(numbers("KID of the 768", their_kid, kernel_distance(b[:n], b[n:])))
    scores = isc.isc_features_to_metric(theirs["logits_unbiased"], splits=10, shuffle=False)
    mean, deviation = inception_score(ours["logits_unbiased"], n_splits=10, seed=None)
    rows.append(numbers("Inception Score", scores[isc.KEY_METRIC_ISC_MEAN], mean))
    rows.append(numbers("its deviation", scores[isc.KEY_METRIC_ISC_STD], deviation))
    return rows


def clean_fid_rows(state: dict[str, Tensor], images: Tensor, ours: dict[str, Tensor]) -> list[Row]:
    """clean-fid's port of the network on our resized images, and its FID and KID of what it finds.

    Its weights come from an address: ours are put in their place.
    """
    module: Any = importlib.import_module("cleanfid.inception_pytorch")
    fid = importlib.import_module("cleanfid.fid")
    vars(module)["load_state_dict_from_url"] = lambda *_, **__: state
    network = module.InceptionV3([0, 1, 2, 3], resize_input=False, normalize_input=False).eval()
    parts = []
    with torch.no_grad():
        for part in images.split(20):
            blocks = network((resize_tf1(part.float()) - 128) / 128)
            parts.append([block.mean((2, 3)) for block in blocks])
    rows, n = [], len(images) // 2
    for n_features, values in zip(LAST_STAGE, zip(*parts, strict=True), strict=True):
        theirs, own = torch.cat(values), ours[str(n_features)]
        rows.append(row(str(n_features), theirs, own))
        both = [half.double().numpy() for half in (theirs[:n], theirs[n:])]
        statistics = [(half.mean(0), np.cov(half, rowvar=False)) for half in both]
        their_fid = float(fid.frechet_distance(*statistics[0], *statistics[1]))
        name = "" if n_features == 2048 else f"-{n_features}"
        rows.append(numbers(f"FID{name}", their_fid, frechet_distance(own[:n], own[n:])))
        their_kid = float(fid.kernel_distance(*both, num_subsets=1, max_subset_size=n))
        rows.append(numbers(f"KID{name}", their_kid, kernel_distance(own[:n], own[n:])))
    return rows


def prdc_rows(features: Tensor, n: int) -> list[Row]:
    prdc = importlib.import_module("prdc")
    real, fake = features[:n].double(), features[n:].double()
    rows = []
    for k in (3, 5):
        theirs = prdc.compute_prdc(real.numpy(), fake.numpy(), nearest_k=k)
        ours = precision_recall_density_coverage(real, fake, k)
        rows += [numbers(f"{name}, k = {k}", float(theirs[name]), ours[name]) for name in ours]
    return rows


def lpips_rows(images: Tensor) -> list[Row]:
    """Distances of pairs from the two sets, not each with its own copy, enlarged before both."""
    package = importlib.import_module("lpips")
    images = F.interpolate(images / 255, (MIN_SIDE, MIN_SIDE), mode="bilinear")
    n = len(images) // 2
    x, y = images[:n], images[n:].roll(1, 0)
    rows = []
    for name in NETS:
        torch.manual_seed(0)
        theirs = package.LPIPS(net=name, pnet_rand=True, verbose=False)
        state = {}
        for key, value in theirs.state_dict().items():  # net.slice2.3.weight
            layer = key.split(".", 2)[2] if key.startswith("net.") else key
            state[f"features.{layer}" if key.startswith("net.") else key] = value
        ours = LPIPS(name).eval()
        ours.load_state_dict({key: state[key] for key in ours.state_dict()})
        with torch.no_grad():
            pairs = list(zip(x.split(20), y.split(20), strict=True))
            of_theirs = torch.cat([theirs(2 * a - 1, 2 * b - 1).flatten() for a, b in pairs])
            of_ours = torch.cat([ours(a, b) for a, b in pairs])
        _, a, b, difference = row(name, of_theirs, of_ours)
        rows.append((f"LPIPS on {name}, {n} pairs", a, b, difference))
        rows.append(numbers("its mean", of_theirs.double().mean().item(),
                            of_ours.double().mean().item()))  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
