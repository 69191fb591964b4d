"""`sparring attack` on small untrained runs: its curves are those of samples made by hand."""

import json

import pytest
import torch
from click.testing import CliRunner
from test_evaluate_command import make_run, unet

from sparring.cli import main
from sparring.commands.attack.curves import as_text, attack_command
from sparring.data.datasets import build_dataset
from sparring.diffusion.noising import mse
from sparring.evaluation.feature_sets import Gaussian
from sparring.evaluation.metrics.frechet_distance import frechet_distance
from sparring.evaluation.networks.extractors import Extractor
from sparring.evaluation.store.reference import Reference, Settings
from sparring.evaluation.studies import robustness as curves
from sparring.models.networks import MLP
from sparring.models.pretrained import load
from sparring.report.attacks import grouped, read_attacks
from sparring.sampling.sample import sample
from sparring.sampling.trajectory_attacks import Attack, TrajectoryAttack
from sparring.support.errors import UserError

SMALL = ["attack.n_samples=20", "attack.n_seeds=2", "attack.radii=[0.4]", "attack.where=[1]"]
FGSM = ["attack.kind=fgsm", *SMALL]


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    evaluation = {"n_samples": 40, "n_resamples": 2, "extractor": "pixels"}
    return make_run(folder, unet, (1, 8, 8), {"name": "digits"}, evaluation=evaluation)


@pytest.fixture(scope="module")
def plane_run(tmp_path_factory):
    data = {"name": "plane", "dim": 3, "n_points": 64}
    folder = tmp_path_factory.mktemp("runs") / "plane"
    return make_run(folder, lambda: MLP(3, width=8, n_blocks=1), (3,), data)


@pytest.fixture(scope="module")
def digits_result(digits_run):
    words = [*FGSM, "attack.corruptions=[shift]", "attack.n_path_steps=all"]
    return attack_command([digits_run], words)["models"][digits_run]


def test_the_curves_are_those_of_samples_made_by_hand(digits_run, digits_result):
    model, data = load(digits_run), build_dataset("digits", "all")
    reference = Reference(data, Settings("pixels", n_resamples=2))
    words = {"num_inference_steps": 3, "scheduler": "ddim"}
    attack, control, start = digits_result["curves"]
    names = [(curve["name"], curve["kind"]) for curve in digits_result["curves"]]
    assert names == [("fgsm", "attack"), ("random", "control"), ("start shift", "corruption")]
    by_seed = {"fgsm": [], "random": []}
    for seed in (0, 1):
        clean = sample(model, 20, seed=seed, **words)
        for kind, ahead in (("fgsm", None), ("random", 1)):
            one = Attack(0.4, kind, where=(1,), n_path_steps=ahead, seed=seed)
            x = sample(model, 20, seed=seed, move=TrajectoryAttack(one), **words)
            features = reference.extractor(((x + 1) / 2).clamp(0, 1))
            distance = frechet_distance(Gaussian.of(reference.features), features)
            by_seed[kind].append((distance, float(mse(x, clean).mean()) ** 0.5))
    for curve, kind in ((attack, "fgsm"), (control, "random")):
        point = curve["points"][1]
        distances, shifts = zip(*by_seed[kind], strict=True)
        assert point["radius"] == 0.4
        assert point["frechet_distance_of_seeds"] == pytest.approx(distances, rel=1e-4)
        assert point["shift_rms_of_seeds"] == pytest.approx(shifts, rel=1e-4)
        spread = abs(distances[0] - distances[1]) / 2**0.5
        assert point["frechet_distance_std"] == pytest.approx(spread, rel=1e-2)
        assert point["frechet_distance"] == pytest.approx(sum(distances) / 2, rel=1e-4)
    clean_points = [curve["points"][0] for curve in (attack, control, start)]
    assert clean_points[0] == clean_points[1] == clean_points[2]
    assert clean_points[0]["shift_rms"] == 0
    # to the end of the path: what is attacked is the shift, and the control is its start
    assert attack["points"][1]["gain"] == pytest.approx(
        sum(one**2 for one in attack["points"][1]["shift_rms_of_seeds"]) / 2, rel=1e-4
    )
    assert attack["points"][1]["gain_at_start"] == pytest.approx(
        sum(one**2 for one in control["points"][1]["shift_rms_of_seeds"]) / 2, rel=1e-4
    )


def test_a_run_keeps_its_curves_with_protocol_and_picture(digits_run, digits_result):
    (found,) = read_attacks(load_folder(digits_run), "digits", 0)
    assert found.data == digits_result
    assert found.picture is not None
    protocol = digits_result["protocol"]
    assert (protocol["n_fake"], protocol["steps"], protocol["sampler"]) == (20, 3, "ddim")
    assert protocol["attack"] == {
        "kind": "fgsm", "norm": "linf", "units": "noise", "per": "element",
        "aim": "final", "n_attack_steps": 1,
        "n_path_steps": None, "n_expectation": None, "where": [1], "n_seeds": 2,
        "corruptions": ["shift"], "transfer_from": None,
    }  # fmt: skip
    assert protocol["seeds"] == {"evaluation": 0, "sampling": 0, "attack": 0}
    assert digits_result["command"].startswith(f"sparring attack {digits_run} attack.kind=fgsm")
    assert digits_result["frechet_distance_of_reference"] > 0
    (group,) = grouped([found])
    assert "fgsm on final, looking to the end" in group.label.replace(",", "", 1)
    text = as_text({"models": {"digits": digits_result}})
    assert "digits: frechet_distance by radius (linf, noise units)" in text
    assert "start shift" in text


def load_folder(run):
    from pathlib import Path

    return Path(run) / "attacks"


def test_vectors_models_without_a_run_and_a_page(plane_run, tmp_path):
    other = make_run(
        tmp_path / "other", lambda: MLP(3, width=8, n_blocks=2), (3,),
        {"name": "plane", "dim": 3, "n_points": 64},
    )  # fmt: skip
    (tmp_path / "other" / "config.yaml").unlink()  # a model of whatever origin
    words = ["data.name=plane", "data.dim=3", "data.n_points=64", *FGSM, "attack.norm=l2"]
    words += ["sampling.num_inference_steps=3", "evaluation.n_resamples=2"]
    result = attack_command([plane_run, other], words, tmp_path / "out")["models"]
    assert list(result) == [plane_run, other]
    for one in result.values():
        assert one["quality"] == "sliced_wasserstein"
        assert one["curves"][0]["points"][1]["off_manifold_rms"] > 0
        assert "picture" not in one
    assert len(list((tmp_path / "out").glob("*.json"))) == 2
    page = (tmp_path / "out" / "attack.html").read_text()
    assert "&#34;plane, fgsm " in page  # under the pointer
    assert "&#34;other, random " in page
    assert page.count('<svg class="chart"') == 1


def test_transfer_from_the_model_itself_is_the_attack_itself(plane_run, tmp_path):
    direct = attack_command([plane_run], FGSM, tmp_path / "a")["models"][plane_run]
    words = [*FGSM, f"attack.transfer_from={plane_run}"]
    own = attack_command([plane_run], words, tmp_path / "b")["models"][plane_run]
    a, b = (one["curves"][0]["points"][1] for one in (direct, own))
    assert {k: v for k, v in a.items() if not k.startswith("gain")} == b
    other = make_run(
        tmp_path / "other", lambda: MLP(3, width=16, n_blocks=1), (3,),
        {"name": "plane", "dim": 3, "n_points": 64},
    )  # fmt: skip
    words = [*FGSM, f"attack.transfer_from={other}"]
    far = attack_command([plane_run], words, tmp_path / "c")["models"][plane_run]
    assert far["curves"][0]["points"][1]["shift_rms"] != a["shift_rms"]
    assert far["curves"][1] == direct["curves"][1]  # the control is the same


def test_features_are_attacked_and_must_be_differentiable(digits_run, tmp_path):
    words = [*FGSM, "attack.aim=features", "attack.n_seeds=1"]
    found = attack_command([digits_run], words, tmp_path)["models"][digits_run]
    point = found["curves"][0]["points"][1]
    assert point["gain"] > point["gain_at_start"]
    assert point["frechet_distance_std"] is None
    for function in (
        lambda x: (255 * x).round().flatten(1),
        lambda x: x.detach().flatten(1),
    ):
        with pytest.raises(ValueError, match="do not follow a small change"):
            curves.check_differentiable(Extractor("own", function, "none"), (1, 8, 8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attack.where=[7]"], "where: 7 is not in 0 to 2, the sampler's calls"),
        (["attack.where=[1.5]"], "where: 1.5 is not in [0, 1]"),
        (["attack.where=[]"], "attack.where"),
        (["attack.where=everywhere"], "attack.where"),
        (["attack.radii=[0]"], "attack.radii"),
        (["attack.radii=0.1"], "attack.radii"),
        (["attack.kind=cw"], "attack.kind must be one of random, fgsm, pgd"),
        (["attack.radius=0.1"], "unknown key 'attack.radius' - did you mean 'radii'?"),
        (["attack.kind=fgsm", "attack.n_attack_steps=3"], "goes with attack.kind=pgd"),
        (["attack.kind=random", "attack.aim=final"], "random noise has no aim"),
        (["attack.n_expectation=2"], "n_expectation needs n_path_steps > 1"),
        (["attack.n_expectation=2", "attack.n_path_steps=2"], "this sampler draws none"),
        (["attack.aim=denoising", "attack.n_path_steps=2"], "leave n_path_steps at 1"),
        (["attack.aim=features"], "aim features is of models that make images"),
        (["attack.corruptions=[blur]"], "is of images"),
        (["attack.corruptions=[fog]"], "attack.corruptions"),
        (["attack.transfer_from=nowhere/at/all"], "nowhere/at/all"),
        (["evaluation.n_samples=3"], "the attack draws attack.n_samples"),
        (["evaluation.mismatch=true"], "goes with sparring evaluate"),
        (["evaluation.sweep.num_inference_steps=[5]"], "goes with sparring evaluate"),
        (["evaluation.diagnostics=true"], "goes with sparring evaluate"),
        (["training.seed=1"], "attack takes attack.*, data.*, sampling.*, evaluation.*"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(plane_run, words, message):
    words = ["attack", plane_run, "attack.n_samples=20", "attack.radii=[0.1]", *words]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 2, told.output
    (line,) = told.stderr.splitlines()[-1:]
    assert line.startswith("sparring: error: ")
    assert message in line


def test_a_model_of_another_shape_does_not_transfer(plane_run, digits_run):
    with pytest.raises(UserError, match="cannot be transferred"):
        attack_command([plane_run], [*FGSM, f"attack.transfer_from={digits_run}"])


def test_the_command_line_prints_json(plane_run, tmp_path):
    words = ["attack", plane_run, *FGSM, "attack.kind=random", "-o", str(tmp_path), "--json"]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 0, told.output
    (curve,) = json.loads(told.stdout)["models"][plane_run]["curves"]
    assert curve["kind"] == "control"
    assert torch.tensor(curve["points"][1]["shift_rms"]) > 0


def test_a_page_of_attacks_is_replaced_by_the_same_attacks_only(plane_run, tmp_path):
    out = tmp_path / "out"
    attack_command([plane_run], FGSM, out)
    attack_command([plane_run], FGSM, out)
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UserError, match=r"attack.html is there .*--overwrite"):
        attack_command([plane_run], [*FGSM, "attack.seed=5"], out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept
    attack_command([plane_run], [*FGSM, "attack.seed=5"], out, overwrite=True)
    assert len(list(out.glob("*.json"))) == 2  # the figures of both are there
