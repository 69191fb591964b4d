r"""How fast does the quality of samples fall under attack? Curves of quality against radius.

    robustness(model, reference, Trial(Attack(radius=0, kind="pgd"), [0.1, 0.2])) -> curves

Each seed draws the same n samples again and again: unattacked, under the attack at every radius,
under random noise of the same size (the control), and, where asked for, from corrupted starting
noise. A curve has a point for each radius with the mean over the seeds and their spread, which is
of sampling and attack, not of training.

Read an attack against its control. A sample may be pushed far to become another good sample.

| figure | asks |
|---|---|
| `frechet_distance` | images: how far are the samples' features from the reference's |
| `empty_pixel_rms` | images: how much noise is left where the reference is empty |
| `sliced_wasserstein`, `off_manifold_rms` | data with a known truth: see `analytic` |
| `shift_rms` | how far is each sample from the unattacked one of the same noise, model's range |
| `gain`, `gain_at_start` | what the attack maximises, at w and at its random start; means |

The Frechet distance of few samples is too high, for all radii alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...data.analytic import LinearTruth
from ...diffusion.noising import wide
from ...models.model import Model
from ...sampling.sample import sample
from ...sampling.steps import Move, Steps
from ...sampling.trajectory_attacks import Attack, CorruptedStart, Replay, TrajectoryAttack
from ..feature_sets import Gaussian
from ..metrics.flat_manifold import flat_manifold_errors
from ..metrics.frechet_distance import frechet_distance, frechet_distance_of_resamples
from ..metrics.leftover_noise import empty_pixel_rms
from ..metrics.sliced_wasserstein import fresh_sets, sliced_wasserstein
from ..networks.extractors import Extractor
from ..store.reference import Reference

LEADING = ("frechet_distance", "sliced_wasserstein")  # the first of these is drawn
N_PATH_COLUMNS = 6

Images = Callable[[Tensor], Tensor]  # from a model's samples to what is measured: decodes latents


@dataclass(frozen=True)
class Trial:
    """What is done to a model, and how often."""

    attack: Attack  # its radius is not used; its seed is that of the first repetition
    radii: Sequence[float]  # > 0, in the attack's units; 0 is added
    n: int = 256  # samples of each repetition
    n_seeds: int = 3  # repetitions: sampling and attack with seeds s, s + 1, ...
    corruptions: Sequence[str] = ()  # of the starting noise, see `CorruptedStart`
    # which the attacker has, and whose perturbations are replayed; None: the attacked one itself
    source: Model | None = None

    @property
    def curves(self) -> dict[str, str]:
        """Name of each curve -> its kind."""
        kind = self.attack.kind
        names = {} if kind == "random" else {kind: "attack"}
        corrupted = {f"start {name}": "corruption" for name in self.corruptions}
        return names | {"random": "control"} | corrupted

    @property
    def n_runs(self) -> int:
        """How often `robustness` samples."""
        return self.n_seeds * (1 + len({*self.radii}) * len(self.curves))

    def described(self) -> dict[str, Any]:
        """The attack's half of the protocol."""
        attack = self.attack
        told = ("kind", "norm", "units", "per", "aim", "n_attack_steps", "n_path_steps")
        told = told[:4] if attack.kind == "random" else (*told, "n_expectation")  # looks at nothing
        where = attack.where if isinstance(attack.where, str) else list(attack.where)
        how_often = {"n_seeds": self.n_seeds, "corruptions": list(self.corruptions)}
        return {key: getattr(attack, key) for key in told} | {"where": where} | how_often


def robustness(
    model: Model,
    reference: Reference,
    trial: Trial,
    *,
    sampling: Mapping[str, Any] | None = None,
    images: Images = lambda samples: samples,
    on_run: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """The curves of one model.

    `sampling` are further arguments of `sample`: scheduler, seed, ...; `images` decodes latents;
    `on_run` is called after each run of the sampler.

    Returns:
        JSON-ready: `curves`, each with name, kind ("attack", "control", "corruption") and
        `points` of {"radius", FIGURE, FIGURE_std (None for one seed), FIGURE_of_seeds}; `quality`,
        the leading figure; `QUALITY_of_reference`, its floor.
    """
    words = dict(sampling or {})
    first_seed, radii, n = words.pop("seed", 0), sorted({0.0, *trial.radii}), trial.n
    names = trial.curves
    found: dict[str, dict[float, list[dict[str, float]]]] = {
        name: {radius: [] for radius in radii} for name in names
    }
    real = Gaussian.of(reference.features) if reference.dataset.is_image else None
    for j in range(trial.n_seeds):
        own = replace(trial.attack, seed=trial.attack.seed + j)
        # random noise of the same size at the same calls: the attack's own random starts
        control = Attack(0.0, "random", own.norm, where=own.where, seed=own.seed)
        words["seed"] = first_seed + j
        clean = sample(model, n, **words)
        unattacked = _figures(clean, clean, reference, real, images)
        on_run()
        for name, kind in names.items():
            found[name][0.0].append(unattacked)
            for radius in radii[1:]:
                if kind == "corruption":
                    what = name.removeprefix("start ")
                    move = CorruptedStart(what, radius, own.seed, own.units, own.per)
                elif kind == "control":
                    move = attack_at(control, radius, None, n, words)
                else:
                    move = attack_at(own, radius, trial.source, n, words)
                samples = sample(model, n, move=move, **words)
                figures = _figures(samples, clean, reference, real, images)
                found[name][radius].append(figures | _gains(move))
                on_run()
    quality = next(name for name in LEADING if name in unattacked)
    result: dict[str, Any] = {"quality": quality}
    if quality == "frechet_distance":
        seed, n_resamples = reference.settings.seed, reference.settings.n_resamples
        floors = frechet_distance_of_resamples(reference.features, n, n_resamples, seed)
        result["frechet_distance_of_reference"] = floors.mean().item()
    curves = [
        {
            "name": name,
            "kind": kind,
            "points": [{"radius": radius, **_over_seeds(rows)} for radius, rows in points.items()],
        }
        for (name, kind), points in zip(names.items(), found.values(), strict=True)
    ]
    return result | {"curves": curves}


def rehearse(model: Model, trial: Trial, **words: Any) -> None:
    """Attack two samples, so that what cannot work says so before anything long begins."""
    source = trial.source
    for one in filter(None, (model, source)):
        sample(one, 2, move=TrajectoryAttack(trial.attack), **words)
    if source is not None and source.sample_shape != model.sample_shape:
        shapes = f"{tuple(source.sample_shape)}, not {tuple(model.sample_shape)}"
        wrong = f"{source.source} makes samples of shape {shapes}"
        raise ValueError(f"{wrong}: its attack cannot be transferred")


def feature_map(extractor: Extractor) -> Callable[[Tensor], Tensor]:
    """An extractor as a function of samples in [-1, 1] that gradients pass through."""
    return lambda x: extractor.function(((x + 1) / 2).clamp(0, 1))


def check_differentiable(extractor: Extractor, sample_shape: tuple[int, ...]) -> None:
    """Refuse an extractor whose features do not follow small changes of an image.
    Raises ValueError for one that rounds its input, or computes without gradients."""
    x = torch.rand(2, *sample_shape, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.enable_grad():
        x.requires_grad_(True)
        y = feature_map(extractor)(x)
        value = wide(y).square().sum()
        follows = y.requires_grad and bool(torch.autograd.grad(value, x)[0].any())
    if not follows:
        raise ValueError(
            f"the features of extractor {extractor.name} do not follow a small change of the image "
            f"(range: {extractor.range}), so they have no gradient to attack: take aim final "
            "or another extractor"
        )


def on_the_way(
    model: Model, move: Move | None, n: int, sampling: Mapping[str, Any], images: Images
) -> Tensor:
    """The model's estimates of x0 at calls evenly along the path, and the sample last, decoded:
    (n, columns, *sample_shape)."""
    seen: list[Tensor] = []

    def watch(steps: Steps, call: int, x: Tensor) -> Tensor:
        x = x if move is None else move(steps, call, x)
        n_calls = len(steps.times)
        columns = torch.linspace(0, n_calls - 1, min(N_PATH_COLUMNS, n_calls)).round().long()
        if call in columns.tolist():
            seen.append(steps.prediction(x, call).x0)
        return x

    samples = sample(model, n, move=watch, **{**sampling, "batch_size": n})
    return torch.stack([images(one.cpu()) for one in (*seen, samples)], 1)


def attack_at(
    attack: Attack, radius: float, source: Model | None, n: int, words: Mapping[str, Any]
) -> Move:
    """The attack at a radius on n samples, or what it finds on `source`, to be replayed."""
    found = TrajectoryAttack(replace(attack, radius=radius))
    if source is None:
        return found
    sample(source, n, move=found, **words)
    return Replay(found.perturbations)


def _figures(
    samples: Tensor, clean: Tensor, reference: Reference, real: Gaussian | None, images: Images
) -> dict[str, float]:
    shift = (samples - clean).cpu().double().square().mean().sqrt().item()
    data, settings = reference.dataset, reference.settings
    found: dict[str, float] = {}
    measured = images(samples).float().cpu()
    if real is not None:
        samples01 = (measured + 1) / 2
        features = reference.extractor(samples01.clamp(0, 1))
        found["frechet_distance"] = frechet_distance(real, features)
        if reference.empty_pixels.any():
            found["empty_pixel_rms"] = empty_pixel_rms(samples01, reference.empty_pixels) or 0.0
    if data.truth is not None:
        x0 = ((measured + 1) / 2 if data.is_image else measured).flatten(1)
        fresh, _ = fresh_sets(data.truth, len(x0), settings.seed)
        found["sliced_wasserstein"] = sliced_wasserstein(fresh, x0, seed=settings.seed)
        if isinstance(data.truth, LinearTruth):
            found["off_manifold_rms"] = flat_manifold_errors(x0, data.truth)["off_manifold_rms"]
    return found | {"shift_rms": shift}


def _gains(move: Move) -> dict[str, float]:
    if not isinstance(move, TrajectoryAttack) or not move.gains:
        return {}
    at_start, at_w = (torch.stack(each) for each in zip(*move.gains.values(), strict=True))
    return {"gain_at_start": at_start.mean().item(), "gain": at_w.mean().item()}


def _over_seeds(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Mean, standard deviation and the values themselves of each figure."""
    point: dict[str, Any] = {}
    for key in rows[0]:
        values = torch.tensor([row[key] for row in rows], dtype=torch.float64)
        point[key] = values.mean().item()
        point[f"{key}_std"] = values.std().item() if len(values) > 1 else None
        point[f"{key}_of_seeds"] = values.tolist()
    return point
