"""Captions to conditions: what diffusers' pipelines give, and nothing else."""

import json
import shutil
from unittest.mock import Mock

import pytest
import torch
from diffusers import DiffusionPipeline

from sparring.models.pretrained import load
from sparring.models.text import check_captions
from sparring.sampling.sample import sample
from sparring.support.cache import TensorCache
from sparring.support.errors import UserError
from support import CLOSE
from text_to_image import (
    CAPTIONS,
    SIDE,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
)

LONG = "a very long caption " * 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("text")
    return stable_diffusion(root), stable_diffusion_xl(root), stable_diffusion_3(root)


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if isinstance(value, dict):
            same(value, theirs[name])
        else:
            torch.testing.assert_close(value, theirs[name], **CLOSE, msg=name)


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
    told = {"text_embeds": null_pooled[:1]}  # a row whose caption is left out keeps its size
    same(text.null(), {"encoder_hidden_states": null[:1], "added_cond_kwargs": told})
    assert bool((null == 0).all()) is zeros


@pytest.mark.parametrize("t5", [True, False])
def test_stable_diffusion_3_reads_captions_as_its_pipeline(tmp_path, t5):
    folder = stable_diffusion_3(tmp_path, t5=t5)
    absent = {} if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    text, pipe = load(folder).text, DiffusionPipeline.from_pretrained(folder, **absent)
    captions = [*CAPTIONS, "", 3 * LONG]
    with torch.no_grad():
        encoded = [pipe.encode_prompt(caption, None, None) for caption in captions]
    states, null, pooled, null_pooled = (torch.cat(part) for part in zip(*encoded, strict=True))
    ours = text(captions)
    same(ours, {"encoder_hidden_states": states, "pooled_projections": pooled})
    told = {"encoder_hidden_states": null[:1], "pooled_projections": null_pooled[:1]}
    same(text.null(), told)
    hidden = ours["encoder_hidden_states"]
    assert hidden.shape == (len(captions), 77 + 256, 32)
    assert torch.allclose(hidden[0, 77:], hidden[1, 77:]) is not t5


def test_both_conditions_of_a_batch_share_the_captions(folders, monkeypatch):
    sizes, captions = torch.tensor([[40, 30, 5, 0], [16, 99, 0, 41]]), CAPTIONS[:2]
    for folder in folders:
        text = load(folder).text
        expected = text(captions, sizes), text(captions)
        encode = Mock(wraps=text._encode)
        monkeypatch.setattr(text, "_encode", encode)
        for ours, theirs in zip(text.both(captions, sizes), expected, strict=True):
            same(ours, theirs)
        assert encode.call_count == len(captions)
        if "added_cond_kwargs" in expected[0]:
            learned, drawn = (one["added_cond_kwargs"]["time_ids"] for one in expected)
            end = [SIDE, SIDE]
            assert learned.tolist() == [[40, 30, 5, 0, *end], [16, 99, 0, 41, *end]]
            assert drawn.tolist() == [[*end, 0, 0, *end]] * 2


def test_the_null_condition_is_there_for_label_dropout(folders):
    for folder in folders:
        model = load(folder)
        condition = model.text(CAPTIONS[:3])
        dropped = torch.tensor([True, False, True])
        mixed = model.denoiser.drop_condition(condition, dropped)
        null = model.text.null()["encoder_hidden_states"][0]
        states = condition["encoder_hidden_states"]
        assert torch.equal(mixed["encoder_hidden_states"], torch.stack([null, states[1], null]))


def test_a_row_without_its_caption_keeps_its_size(folders):
    model = load(folders[1])
    condition = model.text(CAPTIONS[:2], torch.tensor([[40, 30, 5, 0], [16, 99, 0, 41]]))
    mixed = model.denoiser.drop_condition(condition, torch.tensor([True, False]))
    told, before = mixed["added_cond_kwargs"], condition["added_cond_kwargs"]
    assert torch.equal(told["time_ids"], before["time_ids"])
    assert told["text_embeds"][0].abs().max() == 0 < before["text_embeds"][0].abs().max()


def test_cached_captions_are_the_same_bits(folders, tmp_path, monkeypatch):
    for folder in folders:
        plain, cached = load(folder).text, load(folder).text
        cached.cache = TensorCache(tmp_path)
        expected = plain(CAPTIONS)
        same(cached(CAPTIONS), expected)
        monkeypatch.setattr(cached, "_encode", None)  # nothing is left to compute
        same(cached(CAPTIONS[::-1]), plain(CAPTIONS[::-1]))
    # the encoders are alike, but not how many there are: no key is shared
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3 * len(CAPTIONS)


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


def test_captions_that_are_cut_are_counted(folders):
    """A letter is a token here, and the two marks are tokens too."""
    fits, long = "x " * 75, "x " * 76
    for folder in folders[:2]:
        text = load(folder).text
        assert text.cut([fits, long, "", "a red square", long]) == [
            "2 of 5 captions are longer than 77 tokens and are cut"
        ]
        assert text.cut([fits, ""]) == text.cut([]) == []
    text = load(folders[2]).text  # T5 sees 256
    assert text.cut([long, "q " * 300], "prompts") == [
        "2 of 2 prompts are longer than 77 tokens and are cut",
        "1 of 2 prompts are longer than 256 tokens and are cut",
    ]


@pytest.mark.parametrize("length", [None, 10**30, 200, 50])
def test_a_tokenizer_may_say_nothing_of_its_length_or_too_much(folders, tmp_path, length):
    copy = shutil.copytree(folders[0], tmp_path / "copy")
    file = copy / "tokenizer/tokenizer_config.json"
    words = json.loads(file.read_text())
    words["model_max_length"] = length
    file.write_text(json.dumps({key: value for key, value in words.items() if value is not None}))
    states = load(copy).text(["a red square", LONG])["encoder_hidden_states"]
    if length == 50:
        assert states.shape[1] == 50
    else:
        assert torch.equal(states, load(folders[0]).text(["a red square", LONG])[
            "encoder_hidden_states"
        ])  # fmt: skip


@pytest.mark.parametrize("prompt", ["a \ud83d", "\ude00"])
def test_half_a_character_in_a_prompt_is_refused(folders, prompt):
    model = load(folders[0])
    with pytest.raises(UserError, match="holds half a character") as caught:
        sample(model, 2, prompts=["whole \U0001f600", prompt], num_inference_steps=1)
    assert str(caught.value).isascii()


@pytest.mark.parametrize("caption", ["a\x00b", "c\x07", "\u202ed", "\u2028", " \t", "\U0001f600"])
def test_odd_characters_are_read_as_by_the_pipeline(folders, caption):
    text, pipe = load(folders[0]).text, DiffusionPipeline.from_pretrained(folders[0])
    theirs, _ = pipe.encode_prompt([caption], "cpu", 1, False)
    assert torch.equal(text([caption])["encoder_hidden_states"], theirs)
    assert text.cut([caption]) == []


def test_a_tokenizer_without_its_vocabulary_is_refused(folders, tmp_path):
    """transformers would make one of two words, in which all captions are alike."""
    shutil.copytree(folders[0], tmp_path / "pipe")
    for file in (tmp_path / "pipe" / "tokenizer").iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()
    with pytest.raises(UserError, match=r"tokenizer lacks vocab.json and merges.txt"):
        load(tmp_path / "pipe")


def test_captions_are_read_by_the_tokenizer_that_the_pipeline_names(folders, tmp_path):
    pipe = tmp_path / "pipe"
    shutil.copytree(folders[0], pipe)
    shutil.rmtree(pipe / "tokenizer")
    (pipe / "tokenizer").mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "barn"]
    (pipe / "tokenizer" / "vocab.txt").write_text("\n".join(words))
    said = {"tokenizer_class": "BertTokenizer", "model_max_length": 77}
    (pipe / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(said))
    index = json.loads((pipe / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "BertTokenizer"]
    (pipe / "model_index.json").write_text(json.dumps(index))
    text = load(pipe).text
    assert text._tokens("a red barn")[0][0, :6].tolist() == [2, 5, 6, 7, 3, 0]
    index["tokenizer"] = ["transformers", "NoTokenizer"]
    (pipe / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="transformers has no tokenizer 'NoTokenizer'"):
        load(pipe)
