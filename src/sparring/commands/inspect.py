"""`sparring inspect`: what a set of images holds, how noisy it is, and what to train it with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from .. import __version__
from ..data.audit.audit import NEAR, Audit, audit_images
from ..data.audit.noise_level import LEAST_IMAGES
from ..data.base import Dataset
from ..data.datasets import build_dataset
from ..data.dirt.contaminated import Contaminated, check_contamination, contaminate
from ..data.images import ImageDataset, SizesDiffer
from ..data.survey import common_side, survey
from ..errors import UserError
from .files import KEY, check_outside, claim, digest

FILES = ("report.json", "ranking.jsonl", "dirtiest.png", "cleanest.png", "index.html")
N_SHOWN = 32
N_GROUPS, N_SIZES, N_BINS = 20, 20, 40
LOW_RATE = 0.5
"""Below this share of noisy images, leaving them out is worth a thought."""


def inspect_command(
    data: Mapping[str, Any],
    contamination: Mapping[str, Any],
    output_dir: str | Path | None = None,
    say: Callable[[str], object] = print,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Audit a data set as training would read it.

    Images that differ in size are read at the smallest side there is (but of odd ones, see
    `survey.ODD`), unless data.resolution says otherwise.

    Args:
        data: `name`, `split` and fields as in `build_dataset`.
        contamination: `kind` and fields as in `Contaminated`; kind none leaves the data as they
            are. Where it is Gaussian the estimates are compared with what was done.
        output_dir: Where report.json, ranking.jsonl, dirtiest.png, cleanest.png and index.html go;
            None: nowhere.
        say: Takes the lines for the user while it works.
        overwrite: Whether the report of other data may be replaced there.

    Returns:
        The content of report.json: data, contamination, n_images, n_readable, unreadable, remarks,
        sizes, resolution, duplicates, near_duplicates, n_blank, noise (None where there are too few
        images), suggestion, known (None for data that nobody contaminated here), dirtiest, version,
        made_by and output_dir.

    Raises:
        UserError: if the data are no images or cannot be read, or the folder cannot be written.
    """
    key = digest("inspect", data, contamination)
    out = None if output_dir is None else _made(Path(output_dir), data)
    if out is not None:
        claim(out, key, FILES, "report.json", overwrite=overwrite)
    try:
        audit = audit_images(_dataset(data, contamination))
    except SizesDiffer:
        side = _least_side(data)
        say(f"the images differ in size: looking at squares of the smallest side, {side} pixels")
        data = {**data, "resolution": side}
        audit = audit_images(_dataset(data, contamination))
    ranking = audit.ranking()
    result = summary(audit, ranking) | {"data": dict(data), "contamination": dict(contamination)}
    result[KEY] = key
    if out is not None:
        try:
            _write(out, audit, result, ranking)
        except OSError as error:
            raise UserError(f"cannot write to {out}: {error.strerror or error}") from error
    return result | {"output_dir": None if out is None else str(out)}


def _made(out: Path, data: Mapping[str, Any]) -> Path:
    check_outside(out, data.get("train_data_dir"))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}") from error
    return out


def _dataset(data: Mapping[str, Any], contamination: Mapping[str, Any]) -> Dataset:
    check_contamination(contamination)
    source = build_dataset(**data)
    if not source.is_image:
        raise UserError(f"inspect looks at images, and {source.name} holds vectors")
    return contaminate(source, contamination)


def _least_side(data: Mapping[str, Any]) -> int | None:
    source = build_dataset(**{**data, "resolution": 1})
    if not isinstance(source, ImageDataset):
        return None
    return common_side(survey(source.files, range(len(source))))


def summary(audit: Audit, ranking: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of an audit, see `inspect_command`."""
    dataset, groups = audit.dataset, (audit.duplicates, audit.near_duplicates)
    same, alike = (
        {"n_groups": len(one), "n_extra": sum(map(len, one)) - len(one), "groups": one[:N_GROUPS]}
        for one in groups
    )
    return {
        "n_images": len(dataset),
        "n_readable": len(audit.index),
        "unreadable": audit.unreadable,
        "remarks": list(dataset.remarks),
        "sizes": [
            {"width": width, "height": height, "n_images": n}
            for (width, height), n in audit.sizes.most_common()
        ],
        "looked_at": {"width": dataset.sample_shape[2], "height": dataset.sample_shape[1],
                      "n_channels": dataset.sample_shape[0]},
        "duplicates": same,
        "near_duplicates": {**alike, "rms_of_thumbnails": NEAR},
        "n_blank": int(audit.is_blank.sum()),
        "noise": noise_of(audit),
        "suggestion": suggestion(audit),
        "known": known(audit),
        "dirtiest": ranking[:10],
        "version": __version__,
    }  # fmt: skip


def noise_of(audit: Audit) -> dict[str, Any] | None:
    """The estimates, all on the [0, 1] scale; sigma and rate of the best fit even where nothing
    stands out (found: false)."""
    noise = audit.noise
    if noise is None or audit.energy is None or audit.patch is None:
        return None
    residual = np.sqrt(audit.energy[:, 0])
    low, high = residual.min() * 0.999, residual.max() * 1.001
    counts, edges = np.histogram(residual, np.geomspace(low, high, N_BINS + 1))
    sigma = noise.sigma_of(audit.energy[:, 0])
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {
        "found": noise.is_found,
        "sigma": noise.sigma,
        "rate": noise.rate,
        "n_noisy": int((audit.p_noisy > 0.5).sum()),
        "clean_residual": noise.clean_rms,
        "sigma_per_image_quantiles": dict(
            zip(map(str, shares), np.quantile(sigma, shares).tolist(), strict=True)
        ),
        "residual_histogram": {"edges": edges.tolist(), "n_images": counts.tolist()},
        "gain_per_image": noise.gain,
        "whiteness": noise.whiteness,
        "kept_by_clipping": noise.kept,
        "degrees": noise.degrees,
        "patch": {"height": audit.patch[0], "width": audit.patch[1]},
    }


def suggestion(audit: Audit) -> dict[str, Any]:
    """How to train on these images: objective, its noise, window and radius, and why.

    tau = 2 sigma, since the model sees images in [-1, 1]; the window of `detail` is tau, and its
    radius, in noise units, needs no change: at the window's end it moves x_t by up to tau.
    """
    noise = audit.noise
    if noise is None:
        return {
            "objective": None,
            "because": f"a noise level needs more images ({LEAST_IMAGES} at least)",
        }
    if not noise.is_found:
        return {"objective": "plain", "because": "no noise of one size stands out"}
    tau = 2 * noise.sigma
    return {
        "objective": "detail",
        "noise": round(tau, 4),
        "window": round(tau, 4),
        "radius_low": 0.3,
        "radius_high": 1.0,
        "overrides": ["objective=detail", f"objective.noise={tau:.4g}"],
        "units": "noise and window: sigma/alpha with images in [-1, 1]; radius: noise units",
        "because": "tau = 2 sigma is the noise on the model's range, the window is tau",
    }


def known(audit: Audit) -> dict[str, Any] | None:
    """What was done to the images by the outermost contamination, and how the estimates compare.

    Returns:
        kind, rate, ranking_auc (the probability that a dirty image ranks before a clean one), and
        - where several kinds were dealt out, `kinds`: {kind: {"rate", "ranking_auc"}};
        - of white Gaussian noise `sigma` (a number or a range), rate_error, and
          sigma_relative_error of the one size, or sigma_rms_error of the noisy images' own sizes.
        None for data that nobody contaminated here.
    """
    dataset = audit.dataset
    if not isinstance(dataset, Contaminated):
        return None
    dirty = dataset.dirty[torch.from_numpy(audit.index)].numpy()
    done = {"kind": dataset.kind, **_rank(audit, dirty, dirty)}
    numbers = audit.index[dirty].tolist()
    kinds = np.full(len(dirty), "", dtype=object)
    kinds[dirty] = [dataset.corruption(i).kind for i in numbers]
    names = sorted(set(kinds[dirty]))
    if names not in ([], [dataset.kind]):
        done["kinds"] = {name: _rank(audit, kinds == name, dirty) for name in names}
    if dataset.kind != "gaussian":
        return done
    done["sigma"] = dataset.protocol()["sigma"]
    if audit.noise is None or audit.energy is None:
        return done
    done["rate_error"] = audit.noise.rate - done["rate"]
    if isinstance(done["sigma"], list):
        own = np.array([dataset.details(i)["sigma"] for i in numbers])
        error = audit.noise.sigma_of(audit.energy[dirty, 0]) - own
        done["sigma_rms_error"] = float(np.sqrt(np.mean(error**2))) if len(own) else None
    elif done["sigma"] > 0:
        done["sigma_relative_error"] = audit.noise.sigma / done["sigma"] - 1
    return done


def _rank(audit: Audit, these: np.ndarray, dirty: np.ndarray) -> dict[str, Any]:
    """Share of the images that are these dirty ones, and how they rank against the clean ones."""
    found: dict[str, Any] = {"rate": float(these.mean()), "ranking_auc": None}
    if audit.energy is not None and these.any() and not dirty.all():
        compared = these | ~dirty
        found["ranking_auc"] = float(roc_auc_score(these[compared], audit.energy[compared, 0]))
    return found


def _write(
    out: Path, audit: Audit, result: Mapping[str, Any], ranking: list[dict[str, Any]]
) -> None:
    from ..report.audit import render
    from ..sampling.images import grid

    rows = audit.order()
    n = min(N_SHOWN, max(1, len(rows) // 2))
    for name, chosen in (("dirtiest", rows[:n]), ("cleanest", rows[::-1][:n])):
        asked = audit.index[chosen].tolist()
        grid(2 * audit.dataset.__getitems__(asked)["x0"] - 1, 8).save(out / f"{name}.png")
    (out / "ranking.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in ranking), encoding="utf-8"
    )
    (out / "report.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "index.html").write_bytes(render(result, out).encode("utf-8", errors="replace"))


def as_text(result: Mapping[str, Any]) -> str:
    """The findings in lines."""
    seen = result["looked_at"]
    lines = [
        f"{result['n_readable']} images, looked at as {seen['width']}x{seen['height']} with "
        f"{seen['n_channels']} channel(s)",
        *_file_lines(result),
        *noise_lines(result),
    ]
    if result.get("output_dir"):
        lines.append(f"the page, the ranking and pictures: {result['output_dir']}/index.html")
    return "\n".join(lines)


def _file_lines(result: Mapping[str, Any]) -> list[str]:
    unreadable, sizes = result["unreadable"], result["sizes"]
    lines = [f"unreadable: {len(unreadable)}"]
    lines += [f"  {place}" for place in unreadable[:N_GROUPS]]
    listed = ", ".join(
        f"{one['width']}x{one['height']} ({one['n_images']})" for one in sizes[:N_SIZES]
    )
    more = f" and {len(sizes) - N_SIZES} more" if len(sizes) > N_SIZES else ""
    lines.append(f"sizes in the files: {listed}{more}")
    same, alike = result["duplicates"], result["near_duplicates"]
    lines.append(
        f"duplicates: {same['n_extra']} equal to an earlier image, {alike['n_extra']} nearly so; "
        f"without any content: {result['n_blank']}"
    )
    return lines


def noise_lines(result: Mapping[str, Any]) -> list[str]:
    """What is said about the noise, a sentence or two each."""
    noise, advice, done = result["noise"], result["suggestion"], result["known"]
    if noise is None:
        return [f"noise: unknown, {advice['because']}"]
    spread = noise["sigma_per_image_quantiles"]
    lines = []
    if noise["found"]:
        lines.append(
            f"noise: sigma {noise['sigma']:.3g} on the [0, 1] scale, on "
            f"{100 * noise['rate']:.1f} % of the images ({noise['n_noisy']} rank as noisy)"
        )
    else:
        lines.append(
            "noise: none of one size stands out (the best fit would be sigma "
            f"{noise['sigma']:.2g} on {100 * noise['rate']:.1f} % of the images)"
        )
    lines.append(
        "  per image, 5 / 25 / 50 / 75 / 95 %: "
        + " / ".join(f"{value:.3g}" for value in spread.values())
        + f"; clean images have {noise['clean_residual']:.2g} of their own where it is measured"
    )
    if done is not None:
        lines.append(f"  known: {_done(done)}")
    if advice["objective"] == "detail":
        lines.append(
            f"suggestion: {' '.join(advice['overrides'])} (smoothing below sigma/alpha "
            f"{advice['window']:.3g}, the window; radius {advice['radius_low']:g} to "
            f"{advice['radius_high']:g} noise units, the default)"
        )
        if noise["rate"] < LOW_RATE:
            lines.append("  or leave out the images that rank as noisy, if enough are left")
    else:
        lines.append("suggestion: objective=plain")
    return lines


def _done(done: Mapping[str, Any]) -> str:
    words = [f"{done['kind']} on {100 * done['rate']:.1f} %"]
    if "sigma" in done:
        ends = done["sigma"] if isinstance(done["sigma"], list) else [done["sigma"]]
        words[0] += f" with sigma {' to '.join(f'{end:g}' for end in ends)}"
    if "sigma_relative_error" in done:
        words.append(f"sigma is off by {100 * done['sigma_relative_error']:+.1f} %")
    if done.get("sigma_rms_error") is not None:
        words.append(f"an image's own sigma is off by {done['sigma_rms_error']:.3g} (rms)")
    if "rate_error" in done:
        words.append(f"the rate by {100 * done['rate_error']:+.1f} points")
    if done["ranking_auc"] is not None:
        words.append(f"a dirty image ranks before a clean one with probability "
                     f"{done['ranking_auc']:.3f}")  # fmt: skip
    for kind, one in done.get("kinds", {}).items():
        auc = "" if one["ranking_auc"] is None else f" ({one['ranking_auc']:.3f})"
        words.append(f"{kind} on {100 * one['rate']:.1f} %{auc}")
    return ", ".join(words)
