"""The whole of `evaluate` on samples whose figures are known."""

import json
import logging
import math

import pytest
import torch
from measuring import evaluate

from sparring.data.base import InMemory
from sparring.data.datasets import build_dataset
from sparring.evaluation.metrics.frechet_distance import frechet_distance
from sparring.evaluation.networks import classifier
from sparring.evaluation.store.reference import Reference, Settings
from sparring.support.errors import UserError

SETTINGS = Settings(n_resamples=4)


def in_model_range(dataset):
    return 2 * dataset.read_all()["x0"] - 1


def test_the_reference_itself_is_a_perfect_sample(digits):
    figures = evaluate(in_model_range(digits), digits, digits, SETTINGS)
    assert figures["frechet_distance"] < 1e-6
    assert figures["precision"] == figures["recall"] == figures["coverage"] == 1
    assert figures["density"] > 1
    # unbiased for independent samples; a set's own copies lie nearer than those would
    assert figures["kernel_distance"] < 0
    assert figures["nearest_training_distance"]["median"] < 1e-4
    assert figures["nearest_training_distance"]["calibration_median"] > 0.5
    assert 0 < figures["frechet_distance_of_reference"] < figures["frechet_distance_of_halves"]
    json.dumps(figures, allow_nan=False)


def test_noise_shows_in_every_figure(digits):
    clean = in_model_range(digits)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noise[::2] = 0  # half of the samples
    dirty = clean + 2 * 0.2 * 2**0.5 * noise  # 0.2 on the [0, 1] scale, rms of all
    figures = evaluate(dirty, digits, None, SETTINGS)
    assert figures["empty_pixel_rms"] == pytest.approx(0.2, rel=0.02)
    n_empty = ((digits.x0 == 0).double().mean(0) >= 0.97).sum().item()
    assert figures["n_empty_pixels"] == n_empty == 14
    added = figures["quiet_rms"] ** 2 - figures["quiet_rms_of_clean"] ** 2
    assert added == pytest.approx(0.2**2, rel=0.04)
    assert figures["frechet_distance"] > 10 * figures["frechet_distance_of_reference"]
    assert figures["kernel_distance_interval"][0] > 0
    for name in ("frechet_distance", "precision", "recall", "density", "coverage"):
        low, high = figures[f"{name}_interval"]
        assert low <= figures[name] <= high, name
    assert figures["precision"] < 0.98
    assert "nearest_training_distance" not in figures


def test_frechet_distance_is_that_of_clipped_pixels(unlabelled):
    samples = torch.randn(80, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    figures = evaluate(samples, unlabelled, None, Settings("pixels", n_resamples=2))
    seen = ((samples + 1) / 2).clamp(0, 1).flatten(1)
    expected = frechet_distance(unlabelled.read_all()["x0"].flatten(1), seen)
    assert figures["frechet_distance"] == pytest.approx(expected, rel=1e-6)
    assert figures["empty_pixel_rms"] is None


def test_protocol_says_how_each_figure_was_made(digits, monkeypatch):
    monkeypatch.setattr(classifier, "N_STEPS", 60)
    small = digits.select(torch.arange(200))
    generation = {"sampler": "ddim", "steps": 50, "seeds": {"sampling": 3}}
    protocol = evaluate(
        in_model_range(small)[:150], Reference(small, SETTINGS, "all"), generation=generation
    )["protocol"]
    assert protocol["n_real"] == 200
    assert protocol["n_fake"] == 150
    assert protocol["split"] == "all"
    assert protocol["data_fingerprint"] == small.fingerprint()
    assert protocol["extractor"] == "classifier"
    assert len(protocol["extractor_checksum"]) == 16
    assert 0.2 < protocol["classifier_held_out_accuracy"] <= 1
    assert (protocol["sampler"], protocol["steps"]) == ("ddim", 50)
    assert protocol["seeds"] == {"evaluation": 0, "sampling": 3}
    assert protocol["versions"].keys() == {"python", "sparring", "torch", "diffusers"}
    assert protocol["resize"] == "none"


def test_planes_have_their_contract(digits):
    data = build_dataset("plane", dim=3, n_points=300)
    normal = torch.linalg.svd(data.truth.basis).Vh[2]
    figures = evaluate(data.truth.sample(300, 9) + 0.05 * normal, data, None, SETTINGS)
    assert figures["off_manifold_rms"] == pytest.approx(0.05, rel=1e-4)
    assert figures["in_manifold_std"] == pytest.approx(1 / math.sqrt(3), rel=0.1)
    assert figures["in_manifold_std_true"] == pytest.approx(1 / math.sqrt(3))
    assert figures["sliced_wasserstein"] > 0
    assert "frechet_distance" not in figures
    assert figures["protocol"]["n_projections"] == 500


def test_images_in_a_known_subspace_have_both_kinds_of_figures():
    data = build_dataset("digits_subspace", n_components=8).select(torch.arange(300))
    figures = evaluate(2 * data.x0 - 1, data, None, Settings("pixels", n_resamples=2))
    assert figures["off_manifold_rms"] < 1e-6
    assert figures["frechet_distance"] < 1e-6
    assert figures["n_empty_pixels"] == 3  # those that no digit uses, 0 after the projection too
    assert figures["empty_pixel_rms"] == 0
    assert figures["sliced_wasserstein"] < 0.2


def test_a_large_reference_is_replaced_by_a_seeded_subset(unlabelled):
    settings = Settings("pixels", n_resamples=2, max_reference=60)
    reference = Reference(unlabelled, settings)
    assert len(reference) == 60
    rows = reference.features.float()
    whole = unlabelled.read_all()["x0"].flatten(1)
    matches = (rows[:, None] == whole[None]).all(2)
    assert matches.any(1).all()
    assert matches.any(0).sum() == 60
    assert evaluate(in_model_range(unlabelled), reference)["protocol"]["n_real"] == 60


def test_training_images_calibrate_with_unseen_ones(digits):
    train, held_out = digits.select(torch.arange(300)), digits.select(torch.arange(300, 360))
    samples = in_model_range(held_out)
    nearest = evaluate(
        samples, Reference(digits, Settings("pixels", n_resamples=2)), train, held_out=held_out
    )["nearest_training_distance"]
    assert nearest["mean"] == pytest.approx(nearest["calibration_mean"], rel=1e-5)
    assert nearest["median"] == pytest.approx(nearest["calibration_median"], rel=1e-5)
    assert (nearest["calibration"], nearest["n_train"]) == ("held-out images", 300)


# --- Refused


def test_samples_of_another_shape_are_one_clear_line(digits):
    with pytest.raises(
        UserError, match=r"samples have shape \(3, 8, 8\) but digits has \(1, 8, 8\)"
    ):
        evaluate(torch.zeros(50, 3, 8, 8), digits)
    with pytest.raises(UserError, match=r"samples have shape \(\)"):
        evaluate(torch.zeros(50), digits)


def test_broken_samples_are_counted_and_named(digits):
    samples = torch.zeros(50, 1, 8, 8)
    samples[7, 0, 3, 3], samples[9] = math.nan, math.inf
    with pytest.raises(
        UserError, match=r"2 of 50 samples are not finite \(the first is sample 7\)"
    ):
        evaluate(samples, digits)


def test_too_few_samples_or_reference_images_are_refused(digits):
    with pytest.raises(UserError, match=r"5 samples are too few: needs at least 6 \(evaluation\.k"):
        evaluate(torch.zeros(5, 1, 8, 8), digits)
    with pytest.raises(UserError, match=r"3 reference samples in digits are too few"):
        evaluate(torch.zeros(50, 1, 8, 8), digits.select(torch.arange(3)))
    with pytest.raises(UserError, match="1 samples are too few: needs at least 2"):
        evaluate(torch.zeros(1, 3), build_dataset("plane", dim=3))


def test_too_few_images_for_the_features_is_warned_of(unlabelled, caplog):
    with caplog.at_level(logging.WARNING):
        evaluate(
            in_model_range(unlabelled)[:12], unlabelled, None, Settings("pixels", n_resamples=2)
        )
    assert "12 images for 16 features" in caplog.text


def test_vectors_without_a_truth_cannot_be_measured():
    with pytest.raises(UserError, match="neither images nor a known truth"):
        evaluate(torch.zeros(9, 3), InMemory("points", torch.zeros(9, 3)))


def test_one_resample_makes_no_interval():
    with pytest.raises(UserError, match=r"n_resamples must be >= 2, got 1"):
        Settings(n_resamples=1)
