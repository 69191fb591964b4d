"""What each objective is told of its images, from an audit, a table or the truth."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from shards import write_tars
from sparring.assembly import dirt_knowledge
from sparring.assembly.build import build_dataset
from sparring.assembly.dirt_knowledge import (
    KEPT,
    calibrated,
    epoch_of,
    levels_in,
    with_knowledge,
    words_of,
)
from sparring.commands.train.dry_run import dry_run_text
from sparring.commands.train.run import train_command
from sparring.config.checks import check
from sparring.data.audit.table import clean_table, read_table, write_table
from sparring.data.trust.controls import Chosen, Denoised
from sparring.data.trust.trusted import ByTruth
from sparring.objectives import OBJECTIVES
from sparring.support.errors import UserError
from sparring.training import open_run

TINY = {
    "data": {"name": "digits", "max_train_samples": 40},
    "contamination": {"kind": "gaussian", "rate": 0.5, "sigma": 0.2},
    "model": {
        "network": {
            "_class_name": "UNet2DModel", "block_out_channels": [8], "norm_num_groups": 4,
            "layers_per_block": 1, "down_block_types": ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"],
        }
    },
    "training": {
        "train_batch_size": 8, "max_train_steps": 2, "checkpointing_steps": None,
        "validation_steps": None, "report_to": "none", "log_every_steps": 1, "use_ema": False,
    },
}  # fmt: skip


def config_of(objective, output_dir=None, **sections):
    if isinstance(objective, str):
        objective = {"name": objective}
    raw = {**TINY, "objective": objective}
    for name, words in sections.items():
        raw[name] = {**raw.get(name, {}), **words}
    if output_dir is not None:
        raw["training"] = {**raw["training"], "output_dir": str(output_dir)}
    return check(raw, "test")


@pytest.fixture
def audits(monkeypatch):
    """Each audit finds what was really done, but for the first image, which it calls noisy; the
    data sets that were looked at."""
    seen = []

    def audit(dataset, n_workers=0):
        seen.append(dataset)
        table = ByTruth(dataset).table
        table.kinds.setdefault("gaussian", np.zeros(len(table), np.float32))[0] = 1
        table.sigma[0] = 0.3
        return SimpleNamespace(table=table, judge=None, is_whole=True)

    monkeypatch.setattr(dirt_knowledge, "audit_images", audit)
    return seen


def told(config, folder, **more):
    with open_run(str(folder), None, False) as run:
        return with_knowledge(config, build_dataset(config), run, **more)


def test_others_train_on_the_data_as_they_are(tmp_path, audits):
    for objective in ("plain", "huber", {"name": "detail", "dirt": "none"}):
        config = config_of(objective)
        dataset = told(config, tmp_path / "run")
        assert "trust" not in dataset.read_all(4)
        assert dataset.fingerprint() == build_dataset(config).fingerprint()
    assert not audits


def test_detail_is_told_what_an_audit_found_and_keeps_it(tmp_path, audits, capsys):
    config = config_of("detail")
    dataset = told(config, tmp_path / "run")
    trust = dataset.read_all()["trust"]
    dirty = ByTruth(build_dataset(config)).table.sigma > 0
    assert torch.equal(trust.sigma[1:] > 0, torch.from_numpy(dirty)[1:])
    assert float(trust.sigma[0]) == pytest.approx(0.6)
    n = int((trust.sigma > 0).sum())
    said = capsys.readouterr().err
    assert f"sparring: dirt: gaussian: {n} images" in said
    assert f"sparring: dirt: clean: {40 - n} images" in said
    kept = read_table(tmp_path / "run" / KEPT, build_dataset(config))
    assert np.array_equal(2 * kept.sigma, trust.sigma.numpy())
    assert len(audits) == 1


def test_a_table_that_a_person_corrected_is_followed(tmp_path, audits):
    images = build_dataset(config_of("detail"))
    table = clean_table(40, ("gaussian",))
    table.kinds["gaussian"][7], table.sigma[7], table.weight[9] = 1, 0.25, 0
    write_table(table, images, tmp_path / "mine.csv")
    dirt = {"dirt": str(tmp_path / "mine.csv")}
    trust = told(config_of({"name": "detail", **dirt}), tmp_path / "a").read_all()["trust"]
    assert trust.sigma.nonzero().tolist() == [[7]]
    assert (trust.weight == 0).nonzero().tolist() == [[9]]
    left = told(config_of({"name": "throw_away", **dirt}), tmp_path / "b")
    assert len(left) == 38
    assert not audits
    (tmp_path / "mine.csv").write_text("index,sigma\n0,-1\n")
    with pytest.raises(UserError, match=r"mine.csv, line 2, column sigma"):
        told(config_of({"name": "detail", **dirt}), tmp_path / "c")


def test_the_controls_take_the_same_table(tmp_path, audits):
    pytest.importorskip("skimage")
    left = told(config_of("throw_away"), tmp_path / "a")
    assert isinstance(left.dataset, Chosen)
    dirty = (ByTruth(build_dataset(config_of("plain"))).table.sigma > 0) | (np.arange(40) == 0)
    assert left.dataset.numbers.tolist() == np.flatnonzero(~dirty).tolist()
    denoised = told(config_of("denoise_first"), tmp_path / "b")
    assert isinstance(denoised.dataset, Denoised)
    batch = denoised.read_all()
    assert "trust" not in batch
    moved = (batch["x0"] != build_dataset(config_of("plain")).read_all()["x0"]).flatten(1).any(1)
    assert torch.equal(moved, torch.from_numpy(dirty))


@pytest.mark.parametrize("objective", ["oracle", {"name": "detail", "dirt": "truth"}])
def test_a_control_is_told_the_truth_and_needs_no_audit(tmp_path, audits, objective):
    trust = told(config_of(objective), tmp_path / "run").read_all()["trust"]
    truth = ByTruth(build_dataset(config_of("plain"))).table
    assert np.array_equal(trust.sigma.numpy(), 2 * truth.sigma)
    with pytest.raises(UserError, match="is told nothing that could be wrong"):
        told(config_of(objective, data={"trusted": [0]}), tmp_path / "trusted")
    with pytest.raises(UserError, match="is told nothing that could be wrong"):  # a dry run
        words_of(config_of(objective, data={"trusted": [0]}))
    assert not audits


def test_vectors_are_told_nothing(tmp_path, audits):
    points = {"data": {"name": "two_moons"}, "contamination": {"kind": "none", "sigma": None}}
    config = config_of("detail", **points)
    config.model.network = {"_class_name": "MLP"}
    assert "trust" not in told(config, tmp_path / "run").read_all(4)
    denoise = {"name": "denoise_first", "dirt": "truth"}
    for objective in ("throw_away", {"name": "detail", "dirt": "a.csv"}, denoise):
        config.objective = config_of(objective).objective
        with pytest.raises(UserError, match="two_moons holds vectors"):
            told(config, tmp_path / "run")


def test_trusted_images_are_clean_whatever_the_audit_says(tmp_path, audits):
    numbers = told(config_of("detail", data={"trusted": [0, 3]}), tmp_path / "a")
    assert numbers.read_all()["trust"].sigma[[0, 3]].tolist() == [0, 0]
    images = build_dataset(config_of("plain")).dataset.read_all()["x0"]
    (tmp_path / "good").mkdir()
    for i in (0, 3):
        pixels = images[i, 0].mul(255).round().byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "good" / f"{i}.png")
    folder = told(config_of("detail", data={"trusted": str(tmp_path / "good")}), tmp_path / "b")
    assert folder.fingerprint() == numbers.fingerprint()
    (tmp_path / "good" / "0.png").unlink()
    pixels[:] = 0
    Image.fromarray(pixels).save(tmp_path / "good" / "3.png")
    with pytest.raises(UserError, match=r"no image of .*good is among those of digits"):
        told(config_of("detail", data={"trusted": str(tmp_path / "good")}), tmp_path / "c")
    with pytest.raises(UserError, match="names image 40, and digits has 0 to 39"):
        told(config_of("detail", data={"trusted": [40]}), tmp_path / "d")
    for objective in ("plain", "oracle", {"name": "detail", "dirt": "none"}):
        with pytest.raises(UserError, match=r"data.trusted corrects what an objective is told"):
            told(config_of(objective, data={"trusted": [0]}), tmp_path / "e")


@pytest.mark.parametrize(
    ("objective", "trusted", "message"),
    [
        ("throw_away", None, "no image of webdataset can be thrown away: a stream is read as it"),
        ("detail", [0], "data.trusted needs data that are read in any order, and webdataset is"),
    ],
)
def test_what_a_stream_cannot_do_is_said_in_one_line_before_it_is_looked_at(
    tmp_path, monkeypatch, audits, objective, trusted, message
):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    files = write_tars(tmp_path / "tars", sizes=[2, 3], size=(8, 8))
    data = {"name": "webdataset", "data_files": files, "max_train_samples": None}
    config = config_of(objective, data={**data, "trusted": trusted})
    with pytest.raises(UserError, match=message) as refused:
        told(config, tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not audits


def test_what_an_audit_finds_in_trusted_images_as_well_is_no_dirt():
    """Probabilities 0.0, 0.01 ... 0.99 of 100 images."""
    table = clean_table(100, ("gaussian", "jpeg"))
    p = np.arange(100, dtype=np.float32) / 100
    table.kinds["gaussian"][:], table.sigma[:] = p, 0.2
    trusted = np.arange(0, 80, 2)  # up to 0.78: one in forty may be called noisy
    found = calibrated(table, trusted)
    assert found.has("gaussian").nonzero()[0].tolist() == list(range(77, 100))
    assert np.array_equal(found.sigma > 0, found.has("gaussian"))
    assert not found.has("jpeg").any()
    low = calibrated(table, np.arange(30))  # found in none of these: nothing changes
    assert np.array_equal(low.has("gaussian"), table.has("gaussian"))
    assert np.array_equal(low.kinds["gaussian"], p)


def test_images_that_differ_from_trusted_ones_are_used_from_a_level_on(
    tmp_path, audits, monkeypatch, capsys
):
    """What the audit does not know, here a blur, is found beside thirty trusted images."""
    dirt = {"kind": "blur", "blur_sigma": 1.0, "sigma": None}
    whole = {"max_train_samples": 300}
    config = config_of("detail", contamination=dirt, data=whole)
    blurred = ByTruth(build_dataset(config)).table.blur_sigma > 0
    trusted = np.flatnonzero(~blurred)[::5].tolist()
    assert len(trusted) == 30
    blind = SimpleNamespace(table=clean_table(300), judge=None, is_whole=True)
    monkeypatch.setattr(dirt_knowledge, "audit_images", lambda *_: blind)
    config = config_of("detail", contamination=dirt, data={**whole, "trusted": trusted})
    trust = told(config, tmp_path / "a").read_all()["trust"]
    assert not trust.level[trusted].any()
    assert (trust.level[blurred] > 0.5).float().mean() > 0.75
    assert (trust.level[~blurred] == 0).float().mean() > 0.7
    assert "images without known dirt differ from trusted ones" in capsys.readouterr().err
    kept = read_table(tmp_path / "a" / KEPT, build_dataset(config))
    assert np.array_equal(kept.level, trust.level.numpy())
    few = config_of("detail", contamination=dirt, data={**whole, "trusted": trusted[:19]})
    blind.table = clean_table(300)
    assert not told(few, tmp_path / "b").read_all()["trust"].level.any()
    assert "only if there are 20 of each" in capsys.readouterr().err


def test_latents_are_told_levels_and_weights_alone(tmp_path, audits, capsys):
    trust = told(config_of("detail"), tmp_path / "a", is_latent=True).read_all()["trust"]
    assert not trust.sigma.any()
    n_noisy = int((ByTruth(build_dataset(config_of("detail"))).table.sigma > 0)[1:].sum()) + 1
    said = f"noise ({n_noisy} images) and hidden pixels (0) are not told to a latent model"
    assert said in capsys.readouterr().err
    images = build_dataset(config_of("detail"))
    table = clean_table(40)
    table.level[3], table.weight[4] = 0.7, 0
    write_table(table, images, tmp_path / "levels.csv")
    asked = config_of({"name": "detail", "dirt": str(tmp_path / "levels.csv")})
    trust = told(asked, tmp_path / "b", is_latent=True).read_all()["trust"]
    assert trust.level[3] == np.float32(0.7)
    assert trust.weight[4] == 0
    table.sigma[5] = 0.1
    write_table(table, images, tmp_path / "levels.csv")
    with pytest.raises(UserError, match="levels and weights of images, and 1 have noise, 0 hidden"):
        told(asked, tmp_path / "c", is_latent=True)


def test_holes_are_not_told_to_a_latent_model_and_that_is_said(tmp_path, audits, capsys):
    blocks = {"kind": "missing_blocks", "block_size": 0.25, "sigma": None}
    config = config_of("detail", contamination=blocks)
    table = ByTruth(build_dataset(config)).table
    n_hidden = int(table.has("missing_blocks").sum())
    whole = told(config, tmp_path / "a")
    assert whole.read_all()["trust"].seen is not None
    capsys.readouterr()
    trust = told(config, tmp_path / "b", is_latent=True).read_all()["trust"]
    assert trust.seen is None
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "latent model" in line]
    assert f"noise (1 images) and hidden pixels ({n_hidden}) are not told" in said
    write_table(table, build_dataset(config), tmp_path / "holes.csv")
    asked = {"name": "detail", "dirt": str(tmp_path / "holes.csv")}
    with pytest.raises(UserError, match=rf"0 have noise, {n_hidden} hidden pixels"):
        told(config_of(asked, contamination=blocks), tmp_path / "c", is_latent=True)


def test_a_dry_run_says_who_knows_and_looks_at_no_image(tmp_path, audits):
    dirt = tmp_path / "mine.csv"
    for objective, words in (
        ({"name": "detail", "start_step": 2}, "the images are looked at before training"),
        ("oracle", "what was really done to each sample"),
        (
            {"name": "detail", "start_step": 2, "dirt": "truth"},
            "what was really done to each sample",
        ),
        ({"name": "throw_away", "dirt": str(dirt)}, f"as {dirt} says"),
        ("plain", None),
    ):
        dirt.touch()
        said = dry_run_text(config_of(objective, tmp_path / "run"))
        assert (f"# dirt          {words}\n" in said) if words else "# dirt" not in said
    dirt.unlink()
    with pytest.raises(UserError, match=r"there is no table .*mine.csv"):
        dry_run_text(config_of({"name": "throw_away", "dirt": str(dirt)}, tmp_path / "run"))
    assert not audits


def test_nothing_is_decided_before_it_is_checked():
    with pytest.raises(UserError, match="without it this is objective=plain"):
        config_of({"name": "throw_away", "dirt": "none"})
    with pytest.raises(UserError, match=r"data.trusted"):
        config_of("detail", data={"trusted": [-1]})


@pytest.mark.parametrize("objective", ["detail", "throw_away", "oracle"])
def test_a_resumed_run_is_the_whole_run_and_another_table_is_refused(tmp_path, audits, objective):
    def start(folder, **training):
        words = {"name": objective}
        if objective == "detail":
            words["start_step"] = 2
        return train_command(config_of(words, tmp_path / folder, training=training))

    start("whole", max_train_steps=4)
    start("cut", max_train_steps=2)
    start("cut", max_train_steps=4, resume_from_checkpoint="latest")
    weights = [
        torch.cat([value.flatten() for value in _weights(tmp_path / run).values()])
        for run in ("whole", "cut")
    ]
    assert torch.equal(*weights)
    assert len(audits) == (0 if objective == "oracle" else 2)
    card = (tmp_path / "cut" / "README.md").read_text()
    assert ("What training was told of them | gaussian: " in card) == (objective != "throw_away")
    if objective == "detail":
        kept = tmp_path / "cut" / KEPT
        table = read_table(kept, build_dataset(config_of("plain")))
        table.sigma[np.flatnonzero(table.sigma)[0]] += 0.01
        write_table(table, build_dataset(config_of("plain")), kept)
        with pytest.raises(UserError, match=r"cannot resume .*what is known of them"):
            start("cut", max_train_steps=6, resume_from_checkpoint="latest")


def _weights(folder):
    from safetensors.torch import load_file

    return load_file(next(folder.rglob("diffusion_pytorch_model.safetensors")))


def test_the_objective_is_told_from_which_levels_the_set_teaches(audits, tmp_path):
    dataset = told(config_of("detail"), tmp_path / "run")
    levels = levels_in(dataset)
    assert len(levels) == len(dataset) == 40
    assert (levels[:19] == 0).all()  # half is clean, but for the one that is called noisy
    torch.testing.assert_close(levels[20:-1], torch.full((19,), 0.4))
    assert levels[-1] == pytest.approx(0.6)
    assert levels_in(told(config_of("plain"), tmp_path / "plain")) is None


def test_clean_images_come_more_often_in_an_epoch(audits, tmp_path, vp, capsys):
    config = config_of("detail")
    dataset = told(config, tmp_path / "run")
    counts = epoch_of(OBJECTIVES["detail"](vp, few=10), dataset).bincount(minlength=40)
    is_clean = torch.from_numpy(dataset.dataset.source.table.is_clean)
    assert counts[is_clean].min() > counts[~is_clean].max() >= 1
    ratio = f"{float(counts.max() / counts.min()):.2g} times as often"
    assert ratio in capsys.readouterr().err
    assert epoch_of(OBJECTIVES["plain"](vp), dataset) is None
    plain = told(config_of("plain"), tmp_path / "plain")
    assert epoch_of(OBJECTIVES["detail"](vp, few=10), plain) is None
