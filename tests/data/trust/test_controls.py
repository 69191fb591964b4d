"""What is left when dirty images are thrown away, and what a library makes of them."""

import numpy as np
import pytest
import torch

from sparring.data.audit.table import clean_table
from sparring.data.base import InMemory, Wrapper
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate
from sparring.data.trust.controls import Chosen, Denoised, clean_numbers, denoised
from sparring.data.trust.trusted import ByTable, ByTruth
from sparring.support.errors import UserError


def digits(**dirt):
    return contaminate(build_dataset("digits", split="held_out"), {"seed": 2, **dirt})


class Named(Wrapper):
    """Samples with places and captions."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self.captions = [f"number {i}" for i in range(len(dataset))]

    def rows(self, indices, positions):
        batch = self.dataset.rows(indices, positions)
        return {**batch, "caption": [self.captions[i] for i in batch["index"].tolist()]}

    def where(self, index):
        return f"{index}.png"

    def fingerprint(self):
        return self.dataset.fingerprint()


def test_what_is_left_are_the_clean_images_numbered_anew():
    dirty = Named(digits(kind="gaussian", rate=0.9, sigma=0.2))
    numbers = clean_numbers(ByTruth(dirty).table)
    left, whole = Chosen(dirty, numbers), dirty.read_all()
    batch = left.read_all()
    assert len(left) == len(dirty) // 10 + 1 == len(batch["x0"])  # 297 images
    assert batch["index"].tolist() == list(range(len(left)))
    for name in ("x0", "label"):
        assert torch.equal(batch[name], whole[name][numbers])
    assert batch["caption"] == [whole["caption"][i] for i in numbers]
    assert left.captions == batch["caption"]
    assert left.where(3) == f"{numbers[3]}.png"
    assert left.fingerprint() != Chosen(dirty, numbers[1:]).fingerprint() != dirty.fingerprint()


def test_a_class_of_which_nothing_is_left_is_absent():
    points = InMemory("points", torch.zeros(4, 2), torch.tensor([0, 1, 1, 2]), ["a", "b", "c"])
    assert Chosen(points, np.array([0, 3])).absent_classes == [1]


def test_nothing_left_and_streams_are_refused():
    dirty = digits(kind="gaussian", rate=1.0)
    with pytest.raises(UserError, match="no image of digits is called clean"):
        Chosen(dirty, clean_numbers(ByTruth(dirty).table))
    dirty.sharding = object()  # pyright: ignore
    with pytest.raises(UserError, match="a stream is read as it is"):
        Chosen(dirty, np.arange(3))


def test_denoising_moves_noisy_images_towards_the_clean_ones_and_leaves_the_others():
    pytest.importorskip("skimage")
    clean = build_dataset("digits", split="held_out").read_all(60)["x0"]
    dirty = digits(kind="gaussian", rate=0.5, sigma=0.2)
    before = dirty.read_all(60)["x0"]
    dataset = Denoised(dirty, ByTruth(dirty))
    after = dataset.read_all(60)["x0"]
    is_dirty = dirty.dirty[:60]  # pyright: ignore
    assert torch.equal(after[~is_dirty], before[~is_dirty])

    def rms(x):
        return float((x - clean)[is_dirty].square().mean().sqrt())

    assert rms(after) < 0.95 * rms(before)
    assert torch.equal(dataset.read_all(60)["x0"], after)
    assert float(after.min()) >= 0
    assert float(after.max()) <= 1


def test_holes_are_painted_over_and_noise_that_is_not_told_stays():
    pytest.importorskip("skimage")
    ramp = torch.linspace(0, 1, 16).expand(1, 16, 16).contiguous()
    holes = torch.zeros(16, 16, dtype=torch.bool)
    holes[6:10, 6:10] = True
    hurt = torch.where(holes, 0.9, ramp)
    mended = denoised(hurt, 0.0, holes)
    assert torch.equal(mended[:, ~holes], ramp[:, ~holes])
    assert torch.allclose(mended[:, holes], ramp[:, holes], atol=0.02)  # a ramp is biharmonic
    dataset = Denoised(InMemory("one", hurt[None]), ByTable(clean_table(1)))
    assert torch.equal(dataset.read_all()["x0"], hurt[None])


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage", None)
    with pytest.raises(UserError, match=r"needs scikit-image: pip install 'sparring\[denoise\]'"):
        Denoised(digits(kind="gaussian"), ByTable(clean_table(297)))
