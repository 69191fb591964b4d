"""The distance of samples made dirty to the dirty images, where the answer is known.

Images of d independent values N(m, v) with noise of variance n have N(m, v + n) as the law of their
pixels, so a model that draws N(m + shift, v + extra) has in expectation, but for the bias of finite
sets, the distance

    d shift^2 + d (sqrt(v + n) - sqrt(v + extra + n))^2
"""

import shutil
from pathlib import Path

import pytest
import torch
from measuring import evaluate
from test_evaluate_command import make_run, unet

from sparring.assembly.dirt_knowledge import KEPT
from sparring.commands.evaluate.figures import as_text, evaluate_command
from sparring.commands.evaluate.plan import own_table
from sparring.data.audit.table import clean_table, write_table
from sparring.data.base import InMemory
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import Contaminated
from sparring.evaluation.metrics.frechet_distance import ProximalDistance, frechet_distance
from sparring.evaluation.store.comparison import Comparison
from sparring.evaluation.store.proximal import Proximal
from sparring.evaluation.store.reference import Reference, Settings
from sparring.models.networks import MLP
from sparring.support.errors import UserError

N, SHAPE, D = 4000, (1, 3, 3), 9
SIGMA, STD = 0.05, 0.08
SETTINGS = Settings("pixels", n_resamples=4)


def drawn(n, seed, shift=0.0, extra=0.0):
    normal = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return 0.5 + shift + (STD**2 + extra) ** 0.5 * normal


def table_of(n, sigma=SIGMA):
    table = clean_table(n, ["gaussian"])
    table.kinds["gaussian"][:], table.sigma[:], table.clipped[:] = 1, sigma, False
    return table


@pytest.fixture(scope="module")
def dirty():
    normal = torch.randn(N, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Reference(InMemory("noisy", drawn(N, 0) + SIGMA * normal), SETTINGS)


def distance(dirty, samples, table=None):
    proximal = Proximal(dirty, table or table_of(N))
    return figures_of(proximal, samples)


def figures_of(proximal, samples):
    seen = {"proximal_features": proximal.look(samples)}
    return ProximalDistance().measure(seen, Comparison(proximal.dirty, proximal=proximal))


def test_the_true_model_is_as_near_as_the_dirty_images_themselves(dirty):
    found = distance(dirty, drawn(N, 2))
    assert found["proximal_distance"] < D * 0.005**2  # a mean that is wrong by 0.005
    assert found["proximal_distance_of_reference"] < D * 0.005**2
    low, high = found["proximal_distance_interval"]
    assert low < found["proximal_distance"] < high


def test_wrong_means_and_spreads_have_the_distance_of_the_formula(dirty):
    floor = distance(dirty, drawn(N, 2))["proximal_distance"]
    for shift in (0.05, 0.1):
        found = distance(dirty, drawn(N, 3, shift))["proximal_distance"]
        assert found - floor == pytest.approx(D * shift**2, rel=0.06)
    for extra in (0.005, 0.01):  # noise that the model has learned too
        spread = (STD**2 + SIGMA**2) ** 0.5 - (STD**2 + extra + SIGMA**2) ** 0.5
        found = distance(dirty, drawn(N, 4, extra=extra))["proximal_distance"]
        assert found - floor == pytest.approx(D * spread**2, rel=0.06)


def test_without_making_them_dirty_the_true_model_would_not_be_the_nearest(dirty):
    """The model of the dirty images is nearest to them, unless its samples are made dirty too."""
    clean, copied = drawn(N, 5), drawn(N, 6, extra=SIGMA**2)
    plain = [frechet_distance(dirty.features, one.flatten(1)) for one in (clean, copied)]
    assert plain[0] > plain[1]
    proximal = [distance(dirty, one)["proximal_distance"] for one in (clean, copied)]
    assert proximal[0] < proximal[1]


def test_images_that_are_left_out_are_left_out_on_both_sides(dirty, caplog):
    """Far outliers among the dirty images cost nothing once the table gives them no weight."""
    images = torch.cat([dirty.dataset.read_all()["x0"], torch.full((60, *SHAPE), 9.0)])
    reference = Reference(InMemory("with outliers", images), SETTINGS)
    table = table_of(len(images))
    with_them = distance(reference, drawn(N, 2), table)["proximal_distance"]
    table.weight[N:] = 0
    without = distance(reference, drawn(N, 2), table)["proximal_distance"]
    assert with_them > 20 * without
    assert without == pytest.approx(distance(dirty, drawn(N, 2))["proximal_distance"], abs=2e-4)
    assert "leaves out 60 of 4060 images" in caplog.text


def test_evaluate_has_the_figure_and_the_protocol_names_the_table(dirty):
    samples = 2 * drawn(500, 2) - 1
    clean = InMemory("clean", drawn(N, 7))
    proximal = Proximal(dirty, table_of(N))
    figures = evaluate(samples, clean, None, SETTINGS, proximal=proximal)
    expected = figures_of(proximal, (samples + 1) / 2)
    assert {name: figures[name] for name in expected} == expected
    again = Proximal(dirty, table_of(N)).protocol()
    other = Proximal(dirty, table_of(N, 2 * SIGMA)).protocol()
    assert figures["protocol"]["proximal"] == again["proximal"] != other["proximal"]
    assert "proximal" not in evaluate(samples, clean, None, SETTINGS)["protocol"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    evaluation = {"n_samples": 40, "n_resamples": 2, "extractor": "pixels"}
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return make_run(folder, unet, (1, 8, 8), {"name": "digits"}, evaluation=evaluation)


def written(path, sigma):
    """A table of the images that `make_run` contaminates."""
    dirty = Contaminated(build_dataset("digits"), "gaussian", rate=0.9, seed=0, sigma=0.5)
    table = clean_table(len(dirty), ["gaussian"])
    table.kinds["gaussian"][dirty.dirty.numpy()] = 1
    table.sigma[dirty.dirty.numpy()] = sigma
    path.parent.mkdir(exist_ok=True)
    write_table(table, dirty, path)
    return str(path)


def test_a_run_without_a_table_says_where_one_comes_from(run):
    with pytest.raises(UserError, match=r"has no data/dirt.csv .* `sparring inspect"):
        evaluate_command([run], ["evaluation.proximal=auto"])


def test_the_command_reads_the_runs_own_table_or_the_one_that_is_named(run, tmp_path):
    runs = [str(shutil.copytree(run, tmp_path / name)) for name in "ab"]
    for folder, sigma in zip(runs, (0.5, 0.25), strict=True):
        written(Path(folder) / "data" / "dirt.csv", sigma)
    auto = evaluate_command(runs[:1], ["evaluation.proximal=auto"])
    named = evaluate_command([run], [f"evaluation.proximal={runs[1]}/data/dirt.csv"])
    assert auto["frechet_distance"] == named["frechet_distance"]
    assert auto["proximal_distance"] != named["proximal_distance"]
    text = as_text(auto)
    assert f"proximal_distance{'':<19}{auto['proximal_distance']:>10.4g}   [" in text
    in_parts = evaluate_command(runs[:1], ["evaluation.proximal=auto", "sampling.batch_size=16"])
    assert in_parts["proximal_distance"] == pytest.approx(auto["proximal_distance"], rel=1e-5)
    with pytest.raises(UserError, match=r"cannot be compared \(proximal: "):
        evaluate_command(runs, ["evaluation.proximal=auto"])


def test_a_checkpoint_finds_the_table_of_its_run(tmp_path):
    folder = tmp_path / "run" / "checkpoints" / "checkpoint-5"
    folder.mkdir(parents=True)
    (tmp_path / "run" / KEPT).parent.mkdir()
    (tmp_path / "run" / KEPT).write_text("index\n")
    assert own_table(str(folder)) == own_table(str(tmp_path / "run")) == tmp_path / "run" / KEPT


def test_vectors_have_no_dirty_images(tmp_path):
    data = {"name": "plane", "dim": 3, "n_points": 64}
    plane = make_run(tmp_path / "plane", lambda: MLP(3, width=8, n_blocks=1), (3,), data)
    with pytest.raises(UserError, match="compares with the images that a run was trained on"):
        evaluate_command([plane], ["evaluation.proximal=auto"])
