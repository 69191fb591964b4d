"""Scores of captioned samples: closed forms, transformers' own algebra, the command line."""

import hashlib
import itertools
import json
import logging
import math

import pytest
import torch
from measuring import judged
from safetensors.torch import save_file
from tiny_clip import open_clip_weights, tiny_clip

from sparring.data.base import InMemory
from sparring.data.datasets import build_dataset
from sparring.diffusion.randomness import generator
from sparring.evaluation import feature_sets
from sparring.evaluation.metrics.cmmd import cmmd, cmmd_figures
from sparring.evaluation.networks import aesthetic as aesthetic_module
from sparring.evaluation.networks.aesthetic import Aesthetic, load_aesthetic
from sparring.evaluation.networks.clip import load_clip
from sparring.evaluation.networks.judges import Judges, Panel, captioned, joined
from sparring.evaluation.networks.open_clip import load_hps
from sparring.evaluation.resampling import half_samples, interval
from sparring.evaluation.store.reference import Reference, Settings
from sparring.models.pretrained import load
from sparring.sampling.sample import sample
from sparring.support.errors import UserError
from text_to_image import CAPTIONS, captioned_folder, run, stable_diffusion, tokenizer


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A Stable Diffusion, six captioned images, and one judge of each kind."""
    root = tmp_path_factory.mktemp("captions")
    stable_diffusion(root)
    captioned_folder(root / "photos")
    tiny_clip(root / "clip", seed=0)
    tiny_clip(root / "pick", seed=1)
    tokens = tokenizer(root / "hps")
    save_file(open_clip_weights(len(tokens)), root / "hps" / "hps.safetensors")
    save_file(head((12, 8, 7, 6, 5, 1)).state_dict(), root / "head.safetensors")
    return root


def head(sizes):
    torch.manual_seed(0)
    return Aesthetic(sizes)


def judges(places):
    return {
        "clip": str(places / "clip"),
        "pick_score": str(places / "pick"),
        "hps": str(places / "hps" / "hps.safetensors"),
        "aesthetic": str(places / "head.safetensors"),
    }


def units(n, dim=5, seed=0):
    points = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(points, dim=1)


# --- CMMD ------------------------------------------------------------------------------------


def test_cmmd_of_points_on_the_axes():
    """Unit vectors at right angles are |x - y|^2 = 2 apart: k = exp(-2 / 200)."""
    e, k = torch.eye(3, dtype=torch.float64), math.exp(-0.01)
    assert cmmd(e[:1], e[1:2]) == pytest.approx(1000 * 2 * (1 - k), rel=1e-9)
    assert cmmd(e[:2], e[:1]) == pytest.approx(1000 * (1 - k) / 2, rel=1e-9)
    assert cmmd(e, e) == pytest.approx(0, abs=1e-9)
    assert cmmd(e[:1], -e[:1]) == pytest.approx(1000 * 2 * (1 - math.exp(-0.02)), rel=1e-9)


def test_cmmd_is_the_reference_codes_mean_over_all_pairs(monkeypatch):
    real, fake = units(7), units(4, seed=1)

    def mean(x, y):
        return torch.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / 200).mean()

    expected = 1000 * (mean(real, real) + mean(fake, fake) - 2 * mean(real, fake)).item()
    assert cmmd(real, fake) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(feature_sets, "CHUNK_ELEMENTS", 25)  # two rows at once
    assert cmmd(real, fake) == pytest.approx(expected, rel=1e-9)
    assert cmmd_figures(real, fake)["cmmd"] == pytest.approx(expected, rel=1e-9)


def test_the_interval_of_cmmd_is_that_of_halves():
    real, fake = units(6), units(8, seed=1)
    found, random = cmmd_figures(real, fake, 3, seed=5), generator("cpu", 5, "cmmd")
    halves = [cmmd(real, fake[torch.randperm(8, generator=random)[:4]]) for _ in range(3)]
    error = 1.96 * torch.tensor(halves, dtype=torch.float64).std().item()
    low, high = found["cmmd_interval"]
    assert (low, high) == pytest.approx((found["cmmd"] - error, found["cmmd"] + error))


def test_the_floor_of_cmmd_is_its_mean_over_all_resamples():
    """Of three points drawn twice with replacement there are nine."""
    real = units(3)
    every = [cmmd(real, real[list(rows)]) for rows in itertools.product(range(3), repeat=2)]
    found = cmmd_figures(real, units(2, seed=1))["cmmd_of_reference"]
    assert found == pytest.approx(sum(every) / 9, rel=1e-9)


# --- The aesthetic predictor -----------------------------------------------------------------


def test_the_predictor_is_affine_with_the_published_names(tmp_path, monkeypatch):
    network, x = head((12, 8, 7, 6, 5, 1)), units(4, 12)
    state = network.state_dict()
    names = [f"layers.{i}.{end}" for i in (0, 2, 4, 6, 7) for end in ("weight", "bias")]
    assert list(state) == names
    expected = x
    for i in (0, 2, 4, 6, 7):
        weight, bias = state[f"layers.{i}.weight"].double(), state[f"layers.{i}.bias"].double()
        expected = expected @ weight.T + bias
    save_file(state, tmp_path / "head.safetensors")
    found = load_aesthetic(str(tmp_path / "head.safetensors"))
    torch.testing.assert_close(found(x), expected[:, 0], rtol=1e-12, atol=1e-12)
    torch.save(state, tmp_path / "head.pth")
    with pytest.raises(UserError, match=r"the public file has 21dd590f\.\.\. \(sac"):
        load_aesthetic(str(tmp_path / "head.pth"))
    sha256 = hashlib.sha256((tmp_path / "head.pth").read_bytes()).hexdigest()
    monkeypatch.setitem(aesthetic_module.PUBLISHED, sha256, "head.pth")
    torch.testing.assert_close(load_aesthetic(str(tmp_path / "head.pth"))(x), found(x))
    assert (Aesthetic().width, sum(p.numel() for p in Aesthetic().parameters())) == (768, 927_969)


def test_wrong_predictors_are_refused_in_one_line(tmp_path):
    state = head((12, 8, 7, 6, 5, 1)).state_dict()
    relu = {name.replace("layers.2.", "layers.3."): value for name, value in state.items()}
    two = head((12, 8, 7, 6, 5, 2)).state_dict()
    torn = {**state, "layers.4.weight": torch.ones(6, 9)}
    for i, (held, words) in enumerate(
        [(relu, "layers.2.weight"), (two, "gives 2 numbers"), (torn, "not the improved")]
    ):
        save_file(held, tmp_path / f"{i}.safetensors")
        with pytest.raises(UserError, match=words) as told:
            load_aesthetic(str(tmp_path / f"{i}.safetensors"))
        assert "\n" not in str(told.value)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(UserError, match="cannot be read"):
        load_aesthetic(str(tmp_path / "text.safetensors"))
    with pytest.raises(UserError, match="there is no file"):
        load_aesthetic(str(tmp_path / "none.pth"))


# --- The panel -------------------------------------------------------------------------------


class Captioned(InMemory):
    """Images in memory with captions."""

    def __init__(self, x0, captions):
        super().__init__("pairs", x0)
        self.captions = captions

    def rows(self, indices, positions):
        return super().rows(indices, positions) | {
            "caption": [self.captions[i] for i in indices.tolist()]
        }


def images(n, seed=0):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_an_image_without_a_caption_is_left_out(places):
    """Its score is NaN and no part of the mean; cmmd and aesthetic need no caption."""
    told = ["red", None, "grey", "white"]
    data = Captioned(images(4), told)
    panel = Panel(Judges(**judges(places)), data, range(4))
    assert [said for _, said in captioned(data, range(4), 3)] == [["red", None, "grey"], ["white"]]
    real = panel.reference
    for name in ("clip_score", "pick_score", "hps"):
        assert real[name].isnan().tolist() == [False, True, False, False]
    assert not real["aesthetic"].isnan().any()
    alone = panel.read(images(4), ["red", "grey", "grey", "white"])
    torch.testing.assert_close(
        real["hps"][[0, 2, 3]], alone["hps"][[0, 2, 3]], rtol=1e-5, atol=1e-4
    )
    samples = panel.read(images(3, 1), ["red", "red", "grey"])
    figures = judged(panel, samples, 5)
    assert figures["hps_interval"][0] < figures["hps"] < figures["hps_interval"][1]
    for name in ("clip_score", "pick_score", "hps"):
        expected = alone[name][[0, 2, 3]].mean().item()
        assert figures[f"{name}_of_reference"] == pytest.approx(expected, rel=1e-5)
        assert figures[name] == pytest.approx(samples[name].mean().item())
        halves = half_samples(lambda half: half.mean().item(), samples[name], 5)
        assert figures[f"{name}_interval"] == pytest.approx(interval(figures[name], halves))
    assert figures["aesthetic_of_reference"] == pytest.approx(real["aesthetic"].mean().item())
    batches = [panel.read(images(3, 1)[:2], ["red", "red"]), panel.read(images(3, 1)[2:], ["grey"])]
    torch.testing.assert_close(joined(batches), samples, rtol=1e-5, atol=1e-4)


def test_an_unreadable_image_and_its_caption_are_left_out(places, tmp_path):
    photos = captioned_folder(tmp_path / "photos")
    data = build_dataset("image_folder", "all", train_data_dir=str(photos), resolution=16)
    whole = [pair for batch in captioned(data, range(6)) for pair in zip(*batch, strict=True)]
    (photos / "2.png").write_bytes(b"no image")
    data = build_dataset("image_folder", "all", train_data_dir=str(photos), resolution=16)
    left = [pair for batch in captioned(data, range(6), 4) for pair in zip(*batch, strict=True)]
    del whole[2]
    assert [caption for _, caption in left] == [caption for _, caption in whole]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(left, whole, strict=True))


def test_without_captions_clip_gives_cmmd_alone(places):
    panel = Panel(Judges(clip=str(places / "clip")), InMemory("bare", images(5)), range(5))
    panel.check(None)
    figures = judged(panel, panel.read(images(4, 1), None))
    judge = load_clip(str(places / "clip"))
    expected = cmmd(judge.images(images(5)), judge.images(images(4, 1)))
    assert figures.keys() == {"cmmd", "cmmd_interval", "cmmd_of_reference"}
    assert figures["cmmd"] == pytest.approx(expected, rel=1e-6)


def test_the_captions_cut_are_counted(places, caplog):
    panel = Panel(Judges(clip=str(places / "clip")), InMemory("bare", images(2)), range(2))
    with caplog.at_level(logging.WARNING):
        panel.check(["red", "b" * 15, "b" * 14])
    assert "evaluation.clip reads 16 tokens: 1 of 3 captions are longer and are cut" in caplog.text


def test_a_predictor_of_another_width_is_refused(places, tmp_path):
    save_file(head((9, 8, 7, 6, 5, 1)).state_dict(), tmp_path / "head.safetensors")
    asked = Judges(clip=str(places / "clip"), aesthetic=str(tmp_path / "head.safetensors"))
    with pytest.raises(UserError, match=r"reads 9 numbers, evaluation.clip .* gives 12"):
        Panel(asked, InMemory("bare", images(2)), range(2)).check(None)


# --- The command line ------------------------------------------------------------------------


MEANS = "def means():\n    return lambda images: images.mean((2, 3))\n"


@pytest.fixture(scope="module")
def words(places):
    (places / "means.py").write_text(MEANS)  # three features: the other figures cost nothing
    return [
        "evaluate", places / "sd", "data.name=image_folder",
        f"data.train_data_dir={places / 'photos'}", "data.resolution=16",
        "sampling.num_inference_steps=2", "evaluation.n_samples=8", "evaluation.n_resamples=2",
        f"evaluation.extractor={places / 'means.py'}:means", "evaluation.k=2", "--json",
    ]  # fmt: skip


def test_evaluate_judges_samples_by_the_captions_they_were_drawn_with(places, words):
    asked = [f"evaluation.{option}={name}" for option, name in judges(places).items()]
    told = run(*words, *asked)
    assert told.exit_code == 0, told.output
    result = json.loads(told.stdout)
    photos = build_dataset("image_folder", train_data_dir=str(places / "photos"), resolution=16)
    captions = Reference(photos, Settings()).captions  # in the order in which they are drawn
    assert sorted(captions) == sorted(CAPTIONS)
    model = load(str(places / "sd"))
    latents = sample(model, 8, num_inference_steps=2, scheduler=result["protocol"]["sampler"],
                     prompts=captions)  # fmt: skip
    with torch.no_grad():
        scaling = model.vae.config.scaling_factor
        fakes = ((model.vae.decode(latents / scaling).sample + 1) / 2).clamp(0, 1)
    shown = [*captions, *captions[:2]]
    data = build_dataset("image_folder", "all", train_data_dir=str(places / "photos"),
                         resolution=16)  # fmt: skip
    reals = data.read_all()["x0"]
    for option, figure, judge in [
        ("clip", "clip_score", load_clip(judges(places)["clip"])),
        ("pick_score", "pick_score", load_clip(judges(places)["pick_score"])),
        ("hps", "hps", load_hps(judges(places)["hps"])),
    ]:
        for key, pixels, captions in [
            (figure, fakes, shown), (f"{figure}_of_reference", reals, CAPTIONS),
        ]:  # fmt: skip
            cosines = (judge.images(pixels) * judge.captions(captions)).sum(1)
            scores = {
                "clip_score": 100 * cosines.clamp(min=0),
                "pick_score": judge.model.logit_scale.exp().item() * cosines,
                "hps": 100 * cosines,
            }[figure]
            assert result[key] == pytest.approx(scores.mean().item(), rel=1e-3, abs=0.02)
        assert len(result[f"{figure}_interval"]) == 2
        said = result["protocol"][option]
        assert said["name"] == judges(places)[option]
        assert (said["checksum"], said["resize"]) == (judge.checksum, judge.resize)
    assert result["cmmd"] > result["cmmd_of_reference"] > 0
    predictor = load_aesthetic(judges(places)["aesthetic"])
    judge = load_clip(judges(places)["clip"])
    assert result["aesthetic"] == pytest.approx(
        predictor(judge.images(fakes)).mean().item(), rel=1e-3
    )
    assert len(result["protocol"]["captions"]) == 16


def test_other_prompts_than_the_references_are_another_protocol(places, words):
    asked = f"evaluation.clip={places / 'clip'}"
    first, second = (
        json.loads(run(*words, asked, *more).stdout)
        for more in ([], ["sampling.prompts=[a red square, white]"])
    )
    floors = [one["clip_score_of_reference"] for one in (first, second)]
    assert floors[0] == pytest.approx(floors[1], rel=1e-6)
    assert first["protocol"]["captions"] != second["protocol"]["captions"]
    bare = json.loads(run(*words).stdout)
    assert "captions" not in bare["protocol"]
    assert "clip_score" not in bare


def refusal(*words):
    told = run(*words)
    assert told.exit_code == 2, told.output
    (line,) = [line for line in told.stderr.splitlines() if "error:" in line]
    return line


def test_wrong_inputs_end_in_one_line(places, words, monkeypatch):
    monkeypatch.setattr("sparring.evaluation.networks.clip.hub_answers", lambda: False)
    named = judges(places)
    line = refusal(*words, "evaluation.clip=nowhere")
    assert "evaluation.clip nowhere" in line
    assert "there is no such folder" in line
    assert "there is no file nowhere.pt" in refusal(*words, "evaluation.hps=nowhere.pt")
    line = refusal(*words, f"evaluation.aesthetic={named['aesthetic']}")
    assert "evaluation.aesthetic reads the embeddings of evaluation.clip" in line


def test_without_captions_or_colour_a_judge_refuses(places, words, tmp_path):
    named = judges(places)
    photos = tmp_path / "photos"
    captioned_folder(photos)
    (photos / "metadata.jsonl").unlink()
    bare = [f"data.train_data_dir={photos}", f"evaluation.hps={named['hps']}"]
    line = refusal(*words, *bare)
    assert "evaluation.hps judges images by their captions and there are none" in line
    grey = Judges(clip=named["clip"])
    with pytest.raises(UserError, match=r"evaluation.clip judges colour images.*1 channel"):
        Panel(grey, InMemory("grey", torch.rand(2, 1, 8, 8)), [0, 1])
    with pytest.raises(UserError, match="has none"):
        Panel(grey, InMemory("plane", torch.rand(2, 3)), [0, 1])
