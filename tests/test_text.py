"""Captions to conditions: what diffusers' pipelines give, and nothing else."""

import pytest
import torch
from diffusers import DiffusionPipeline

from sparring.cache import TensorCache
from sparring.errors import UserError
from sparring.pretrained import load
from sparring.text import check_captions
from text_to_image import CAPTIONS, SIDE, stable_diffusion, stable_diffusion_xl

LONG = "a very long caption " * 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return stable_diffusion(tmp_path_factory.mktemp("sd")), stable_diffusion_xl(
        tmp_path_factory.mktemp("sdxl")
    )


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if isinstance(value, dict):
            same(value, theirs[name])
        else:
            assert torch.equal(value, theirs[name]), name


def test_stable_diffusion_1_reads_captions_as_its_pipeline(folders):
    text, pipe = load(folders[0]).text, DiffusionPipeline.from_pretrained(folders[0])
    captions = [*CAPTIONS, "", LONG]
    pairs = [pipe.encode_prompt([caption], "cpu", 1, True) for caption in captions]
    theirs, null = torch.cat([states for states, _ in pairs]), pairs[0][1]
    ours = text(captions)
    same(ours, {"encoder_hidden_states": theirs})
    same(text.null(), {"encoder_hidden_states": null})
    assert not torch.allclose(ours["encoder_hidden_states"][0], ours["encoder_hidden_states"][1])


@pytest.mark.parametrize("zeros", [True, False])
def test_stable_diffusion_xl_reads_captions_as_its_pipeline(tmp_path, zeros):
    folder = stable_diffusion_xl(tmp_path, force_zeros_for_empty_prompt=zeros)
    text, pipe = load(folder).text, DiffusionPipeline.from_pretrained(folder)
    captions = [*CAPTIONS, "", LONG]
    encoded = [pipe.encode_prompt([caption]) for caption in captions]
    states, null, pooled, null_pooled = (torch.cat(part) for part in zip(*encoded, strict=True))
    size = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]]).float()
    told = {"text_embeds": pooled, "time_ids": size.repeat(len(captions), 1)}
    same(text(captions), {"encoder_hidden_states": states, "added_cond_kwargs": told})
    told = {"text_embeds": null_pooled[:1], "time_ids": size}
    same(text.null(), {"encoder_hidden_states": null[:1], "added_cond_kwargs": told})
    assert bool((null == 0).all()) is zeros


def test_the_null_condition_is_there_for_label_dropout(folders):
    for folder in folders:
        model = load(folder)
        condition = model.text(CAPTIONS[:3])
        dropped = torch.tensor([True, False, True])
        mixed = model.denoiser.drop_condition(condition, dropped)
        null = model.text.null()["encoder_hidden_states"][0]
        states = condition["encoder_hidden_states"]
        assert torch.equal(mixed["encoder_hidden_states"], torch.stack([null, states[1], null]))


def test_cached_captions_are_the_same_bits(folders, tmp_path, monkeypatch):
    for folder in folders:
        plain, cached = load(folder).text, load(folder).text
        cached.cache = TensorCache(tmp_path)
        expected = plain(CAPTIONS)
        same(cached(CAPTIONS), expected)
        monkeypatch.setattr(cached, "_encode", None)  # nothing is left to compute
        same(cached(CAPTIONS[::-1]), plain(CAPTIONS[::-1]))
    # both have the same first encoder, and one has two: no key is shared
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2 * len(CAPTIONS)


def test_another_text_encoder_reads_nothing_of_the_first_ones_cache(folders, tmp_path):
    first, other = load(folders[0]).text, load(folders[0]).text
    first.cache = other.cache = TensorCache(tmp_path)
    with torch.no_grad():
        for parameter in other.encoders.parameters():
            parameter.mul_(0.9)
    before = first(["grey"])["encoder_hidden_states"]
    assert not torch.equal(other(["grey"])["encoder_hidden_states"], before)


def test_captions_that_are_missing_are_one_clear_error():
    check_captions(["a", ""], "photos")
    with pytest.raises(UserError, match=r"1 of 2 images of photos have no caption, .* number 1"):
        check_captions(["a", None], "photos")
    with pytest.raises(UserError, match="needs captions, and digits has none"):
        check_captions(None, "digits")


def test_a_pipeline_without_its_text_encoder_is_one_clear_error(folders, tmp_path):
    import shutil

    for part, message in (("tokenizer", "has no tokenizer"), ("text_encoder", "no text_encoder")):
        copy = tmp_path / part
        shutil.copytree(folders[0], copy)
        shutil.rmtree(copy / part)
        with pytest.raises(UserError, match=message):
            load(copy)
    copy = tmp_path / "pickled"
    shutil.copytree(folders[0], copy)
    (copy / "text_encoder/model.safetensors").rename(copy / "text_encoder/pytorch_model.bin")
    with pytest.raises(UserError, match="no safetensors"):
        load(copy)
