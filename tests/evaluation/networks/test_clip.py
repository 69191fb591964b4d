"""CLIP as a judge: what it is shown, what it says, and open_clip's weights under other names."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tiny_clip import SIDE, open_clip_weights, tiny_clip
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

from sparring.evaluation.networks import open_clip as module
from sparring.evaluation.networks.clip import MEAN, STD, load_clip, pad_to
from sparring.evaluation.networks.judges import clip_score, hps, pick_score
from sparring.evaluation.networks.open_clip import from_open_clip, load_hps
from sparring.support.errors import UserError
from text_to_image import tokenizer

CAPTIONS = ["a red square", "grey", "a red square", "white"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def pictures(n, height=SIDE, width=SIDE, seed=0):
    """Images (n, 3, height, width) of 8 bits in [0, 1]: noise, and a ramp below it."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 256, (n, 3, height, width)).astype(np.float32)
    bits[:, :, height // 2 :] = np.linspace(0, 255, width).round()
    return torch.from_numpy(bits) / 255


# --- What it is shown ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (40, 28), (57, 90), (9, 13), (224, 300)])
def test_images_are_made_ready_as_transformers_does(folder, size):
    """To 8 bits; where 14 pixels become one, PIL's rounded weights leave 1/255 on 3 % of them."""
    judge = load_clip(folder)
    images = pictures(2, *size)
    files = [Image.fromarray((255 * one).byte().permute(1, 2, 0).numpy()) for one in images]
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    theirs = processor(files, return_tensors="pt").pixel_values
    std = torch.tensor(STD).view(3, 1, 1)
    steps = (255 * std * (judge.pixels(images) - theirs)).abs()
    assert steps.max() < 1.01
    # otherwise a value half way between two of the 255 steps may be rounded to the other one
    assert (steps > 0.01).float().mean() < (0.05 if size == (224, 300) else 0.005)


def test_hps_sees_the_whole_image_between_black_bars(tmp_path):
    """Of an 8 x 16 image rows 4 to 11 of 16, of 16 x 8 the same columns, exact; bars are 0."""
    images = pictures(2, 8, 16)
    whole = pad_to(images, 16)
    assert torch.equal(whole[:, :, 4:12], images)
    assert whole[:, :, :4].abs().sum() + whole[:, :, 12:].abs().sum() == 0
    assert torch.equal(pad_to(images.mT, 16), whole.mT)
    assert pad_to(torch.ones(1, 3, 10, 5), 4).sum() == 3 * 4 * 2
    odd = pad_to(torch.ones(1, 3, 5, 4), 5)  # a bar of one pixel: on the right, as in its code
    assert odd[0, 0, 0].tolist() == [1, 1, 1, 1, 0]
    folder = tiny_clip(tmp_path)
    black = load_clip(folder, fit="pad").pixels(torch.zeros(1, 3, 8, 8))[0, :, 0, 0]
    torch.testing.assert_close(black, -torch.tensor(MEAN) / torch.tensor(STD))


# --- What it says ----------------------------------------------------------------------------


def test_scores_are_the_algebra_of_logits_per_image(folder):
    judge, images = load_clip(folder), pictures(4)
    model, words = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(pixel_values=judge.pixels(images),
                        **words(CAPTIONS, padding=True, return_tensors="pt"))  # fmt: skip
    logits, scale = outputs.logits_per_image.diagonal().double(), model.logit_scale.exp().item()
    seen, said = judge.images(images), judge.captions(CAPTIONS)
    assert seen.dtype == said.dtype == torch.float64
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(pick_score(seen, said, judge.scale), logits, **close)
    torch.testing.assert_close(hps(seen, said), 100 * logits / scale, **close)
    torch.testing.assert_close(clip_score(seen, said), 100 * (logits / scale).clamp(min=0), **close)
    cosines = logits / scale
    assert cosines.min() < -0.05 < 0.05 < cosines.max()  # the clamp was used, and not always


def test_batches_change_nothing(folder, monkeypatch):
    judge, images = load_clip(folder), pictures(5)
    seen, said = judge.images(images), judge.captions(CAPTIONS)
    monkeypatch.setattr("sparring.evaluation.networks.clip.BATCH_SIZE", 2)
    torch.testing.assert_close(load_clip(folder).images(images), seen, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(load_clip(folder).captions(CAPTIONS), said, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(said[0], said[2], rtol=1e-5, atol=1e-5)


def test_long_captions_are_cut_and_counted(folder):
    """16 tokens are 14 letters between two marks: nothing after them matters."""
    judge = load_clip(folder)
    fits, longer, other = "bcdfhjklmnpqst", "bcdfhjklmnpqstv", "bcdfhjklmnpqstvwx"
    assert judge.n_cut([fits, longer, "grey"]) == 1
    assert judge.n_cut([]) == 0
    at_16, at_17, at_19 = judge.captions([fits, longer, other])
    torch.testing.assert_close(at_17, at_19, rtol=1e-6, atol=1e-6)
    assert (at_16 - judge.captions(["bcdfhjklmnpqs"])[0]).abs().max() > 1e-3


# --- open_clip's names -----------------------------------------------------------------------


def forward(state, images, ids, n_heads):
    """open_clip's CLIP, from its weights alone: unit vectors of images and of captions."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def blocks(x, tower, mask):
        for i in range(2):
            at = f"{tower}.resblocks.{i}"
            n = norm(x, f"{at}.ln_1").transpose(0, 1)
            x = x + F.multi_head_attention_forward(
                n, n, n, n.shape[-1], n_heads, state[f"{at}.attn.in_proj_weight"],
                state[f"{at}.attn.in_proj_bias"], None, None, False, 0.0,
                state[f"{at}.attn.out_proj.weight"], state[f"{at}.attn.out_proj.bias"],
                training=False, need_weights=False, attn_mask=mask,
            )[0].transpose(0, 1)  # fmt: skip
            h = F.linear(norm(x, f"{at}.ln_2"), state[f"{at}.mlp.c_fc.weight"],
                         state[f"{at}.mlp.c_fc.bias"])  # fmt: skip
            x = x + F.linear(F.gelu(h), state[f"{at}.mlp.c_proj.weight"],
                             state[f"{at}.mlp.c_proj.bias"])  # fmt: skip
        return x

    x = F.conv2d(images, state["visual.conv1.weight"], stride=4).flatten(2).mT
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = norm(x + state["visual.positional_embedding"], "visual.ln_pre")
    x = norm(blocks(x, "visual.transformer", None)[:, 0], "visual.ln_post") @ state["visual.proj"]
    n = ids.shape[1]
    y = state["token_embedding.weight"][ids] + state["positional_embedding"][:n]
    y = norm(blocks(y, "transformer", torch.full((n, n), -torch.inf).triu(1)), "ln_final")
    y = y[torch.arange(len(y)), ids.argmax(1)] @ state["text_projection"]
    return F.normalize(x, dim=1), F.normalize(y, dim=1)


def tokens_of(n_words):
    """Captions of open_clip: a start, words, the end, zeros."""
    ids = torch.tensor([[n_words - 2, 3, 4, 5, n_words - 1], [n_words - 2, 7, n_words - 1, 0, 0]])
    return F.pad(ids, (0, 11))


def said_by(model, images, ids):
    with torch.no_grad():
        outputs = model.eval()(pixel_values=images, input_ids=ids)
    return outputs.image_embeds, outputs.text_embeds


def test_renamed_weights_give_what_open_clips_forward_gives():
    state, ids = open_clip_weights(50), tokens_of(50)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    expected = forward(state, images, ids, 16)
    model = from_open_clip(state)
    torch.testing.assert_close(said_by(model, images, ids), expected, rtol=1e-4, atol=1e-5)
    assert model.logit_scale.item() == 3
    # a constant of old files; float16 as in the published file
    halves = {name: value.half() for name, value in state.items()}
    rounded = {name: value.float() for name, value in halves.items()}
    model = from_open_clip(halves | {"attn_mask": torch.zeros(16, 16)})
    assert model.dtype == torch.float16
    found = said_by(model.float(), images, ids)
    torch.testing.assert_close(found, forward(rounded, images, ids, 16), rtol=1e-4, atol=1e-5)


def test_renamed_weights_give_what_open_clip_gives():
    """Where open_clip is installed (it needs torchvision)."""
    theirs = pytest.importorskip("open_clip.model")
    network = theirs.CLIP(
        12,
        theirs.CLIPVisionCfg(layers=2, width=32, head_width=2, patch_size=4, image_size=SIDE),
        theirs.CLIPTextCfg(vocab_size=50, width=32, heads=16, layers=2, context_length=16),
    ).eval()
    state, ids = open_clip_weights(50), tokens_of(50)
    network.load_state_dict(state)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        seen, said = network.encode_image(images, True), network.encode_text(ids, True)
    found = said_by(from_open_clip(network.state_dict()), images, ids)
    torch.testing.assert_close(found, (seen, said), rtol=1e-4, atol=1e-5)


def test_hps_from_its_file_is_converted_once(tmp_path, monkeypatch):
    tokens = tokenizer(tmp_path)  # vocab.json and merges.txt beside the weights
    state = open_clip_weights(len(tokens))
    file = tmp_path / "HPS.pt"
    torch.save({"state_dict": state}, file)
    judge, images = load_hps(str(file)), pictures(2, 8, 16)
    ids = F.pad(tokens(["red", "grey"], padding=True, return_tensors="pt").input_ids, (0, 3))
    seen, said = forward(state, judge.pixels(images), ids, 16)
    torch.testing.assert_close(judge.images(images).float(), seen, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        judge.captions(["red", "grey"]).float(), said, rtol=1e-4, atol=1e-5
    )  # fmt: skip
    assert judge.name == str(file)
    assert "black bars" in judge.resize

    def never(*_):
        raise AssertionError("converted again")

    save_file(state, tmp_path / "HPS.safetensors")
    other = load_hps(str(tmp_path / "HPS.safetensors"))
    assert other.checksum == judge.checksum
    monkeypatch.setattr(module, "from_open_clip", never)
    assert load_hps(str(file)).checksum == judge.checksum
    monkeypatch.setattr("sparring.evaluation.networks.clip.hub_answers", lambda: False)
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(UserError, match=r"vocab\.json and merges\.txt beside"):
        load_hps(str(file))


# --- Wrong inputs ----------------------------------------------------------------------------


class Touched:
    """What a pickle could do."""

    def __reduce__(self):
        return print, ("was run",)


def test_wrong_weights_of_hps_are_refused_in_one_line(tmp_path, capsys):
    tokenizer(tmp_path)
    state = open_clip_weights(197)
    for name, held, words in [
        ("other.pt", {"state_dict": {"fc.weight": torch.ones(1)}}, "is not open_clip's ViT-H-14"),
        ("code.pt", {"state_dict": Touched()}, "cannot be converted"),
        ("list.pt", [1, 2], "is not open_clip's ViT-H-14"),
        ("less.pt", {k: v for k, v in state.items() if k != "ln_final.bias"},
         "final_layer_norm.bias"),
        ("more.pt", state | {"visual.attn_pool.q": torch.ones(1)}, "attn_pool"),
    ]:  # fmt: skip
        torch.save(held, tmp_path / name)
        with pytest.raises(UserError, match=words) as told:
            load_hps(str(tmp_path / name))
        assert "\n" not in str(told.value)
    assert "was run" not in capsys.readouterr().out
    (tmp_path / "torn.pt").write_bytes(b"PK")
    for name, words in [("torn.pt", "cannot be converted"), ("none.pt", "there is no file")]:
        with pytest.raises(UserError, match=words):
            load_hps(str(tmp_path / name))


def test_what_is_no_whole_clip_is_refused_in_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sparring.evaluation.networks.clip.hub_answers", lambda: False)
    with pytest.raises(UserError, match="no such folder, and the hub cannot be reached"):
        load_clip(str(tmp_path / "nowhere"))
    CLIPTextModel.from_pretrained(folder).save_pretrained(tmp_path / "text")
    with pytest.raises(UserError, match="is a clip_text_model: name a CLIPModel"):
        load_clip(str(tmp_path / "text"))
    shutil.copytree(folder, tmp_path / "mute")
    for file in (tmp_path / "mute").glob("*"):
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    with pytest.raises(UserError, match="tokenizer") as told:
        load_clip(str(tmp_path / "mute"))
    assert "\n" not in str(told.value)
    shutil.copytree(folder, tmp_path / "half")
    model = CLIPModel.from_pretrained(folder)
    save_file(
        {k: v for k, v in model.state_dict().items() if "visual_projection" not in k},
        tmp_path / "half" / "model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    with pytest.raises(UserError, match=r"lacks weights, such as visual_projection.weight"):
        load_clip(str(tmp_path / "half"))
    (tmp_path / "half" / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_clip(str(tmp_path / "half"))


def test_the_scale_is_the_exponential_of_what_was_learned(folder):
    assert load_clip(folder).scale == pytest.approx(math.exp(2.6592), rel=1e-6)
