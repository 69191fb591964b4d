"""sparring inspect: files, duplicates, sizes, and what it writes."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.commands.inspect import as_text, inspect_command
from sparring.data.audit.audit import audit_images, near_groups
from sparring.data.base import InMemory
from sparring.errors import UserError

NONE = {"kind": "none"}


def test_unreadable_files_duplicates_and_sizes(folder, write_image):
    (folder / "dog" / "8.png").write_bytes(b"broken")
    write_image(folder / "dog" / "again.png", seed=2, mode="L")
    blank = np.full((8, 8), 7, np.uint8)
    Image.fromarray(blank).save(folder / "dog" / "blank.png")
    pixels = np.asarray(Image.open(folder / "cat" / "3.png"))
    Image.fromarray(np.where(pixels < 255, pixels + 1, 254).astype(np.uint8)).save(
        folder / "dog" / "near.png"
    )
    before = sorted(path.as_posix() for path in folder.rglob("*"))
    found = inspect_command({"name": "image_folder", "train_data_dir": str(folder)}, NONE)
    assert (found["n_images"], found["n_readable"]) == (13, 12)
    assert found["unreadable"] == [str(folder / "dog" / "8.png")]
    assert found["sizes"] == [{"width": 8, "height": 8, "n_images": 12}]
    # in the folder's order: cat/0..5, dog/6..9, again, blank, near
    assert found["duplicates"]["groups"] == [[2, 10]]
    assert found["near_duplicates"]["groups"] == [[3, 12]]
    assert found["n_blank"] == 1
    assert found["noise"] is None
    assert found["suggestion"]["objective"] is None
    text = as_text(found)
    assert "unreadable: 1" in text
    assert "1 equal to an earlier image, 1 nearly so; without any content: 1" in text
    assert sorted(path.as_posix() for path in folder.rglob("*")) == before


@pytest.mark.parametrize("n", [3, 60])
def test_images_of_many_sizes_are_read_at_the_smallest(tmp_path, write_image, n):
    for i in range(n):
        write_image(tmp_path / f"{i}.png", seed=i, size=(9 + i % 3, 12))
    (tmp_path / "broken.png").write_bytes(b"no image")
    said = []
    data = {"name": "image_folder", "train_data_dir": str(tmp_path)}
    found = inspect_command(data, NONE, say=said.append)
    assert found["looked_at"] == {"width": 9, "height": 9, "n_channels": 3}
    sizes = {(one["width"], one["height"]): one["n_images"] for one in found["sizes"]}
    assert sizes == {(12, 9): n // 3, (12, 10): n // 3, (12, 11): n // 3}
    assert any("smallest side, 9 pixels" in line for line in said)


class Sound(HTMLParser):
    """Every element that is opened is closed."""

    def __init__(self, html):
        super().__init__()
        self.open = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_folder_holds_the_report_the_ranking_and_pictures(tmp_path):
    out = tmp_path / "new" / "audit"
    noise = {"kind": "gaussian", "rate": 0.9, "sigma": 0.2, "clip": False}
    data = {"name": "digits", "split": "train"}
    found = inspect_command(data, noise, out)
    report = json.loads((out / "report.json").read_text())
    assert report == {key: value for key, value in found.items() if key != "output_dir"}
    assert report["known"]["rate"] == 0.9
    assert abs(report["known"]["sigma_relative_error"]) < 0.05
    assert report["known"]["ranking_auc"] > 0.98
    assert report["suggestion"]["noise"] == pytest.approx(2 * report["noise"]["sigma"], abs=1e-4)
    records = [json.loads(line) for line in (out / "ranking.jsonl").read_text().splitlines()]
    assert [record["rank"] for record in records] == list(range(1500))
    assert sorted(record["index"] for record in records) == list(range(1500))
    sigma = [record["sigma"] for record in records]
    assert sigma == sorted(sigma, reverse=True)
    assert sum("noisy" in record["flags"] for record in records) == report["noise"]["n_noisy"]
    for name in ("dirtiest", "cleanest"):
        assert Image.open(out / f"{name}.png").size[0] > 8 * 64
    page = (out / "index.html").read_text()
    Sound(page)
    assert "% of the images carry noise" in page
    assert "objective=detail objective.noise=0.4" in page
    inspect_command(data, noise, out)  # again, over the first


def test_known_noise_of_many_sizes_is_compared_image_by_image():
    noise = {"kind": "gaussian", "rate": 0.8, "sigma": [0.05, 0.35], "clip": False}
    found = inspect_command({"name": "digits", "split": "train"}, noise, say=lambda line: None)
    done = found["known"]
    assert (done["kind"], done["sigma"]) == ("gaussian", [0.05, 0.35])
    assert 0.01 < done["sigma_rms_error"] < 0.08
    assert "sigma_relative_error" not in done
    said = f"gaussian on 80.0 % with sigma 0.05 to 0.35, an image's own sigma is off by {done['sigma_rms_error']:.3g} (rms)"  # noqa: E501  # fmt: skip
    assert said in as_text(found)


def test_the_parts_of_a_known_mixture_are_ranked_one_by_one():
    parts = [{"kind": "gaussian", "sigma": 0.3}, {"kind": "blur"}]
    dirt = {"kind": "mixture", "rate": 0.5, "parts": parts}
    found = inspect_command({"name": "digits", "split": "train"}, dirt, say=lambda line: None)
    done = found["known"]
    assert (done["kind"], done["rate"]) == ("mixture", 0.5)
    assert {kind: one["rate"] for kind, one in done["kinds"].items()} == {
        "gaussian": 0.25, "blur": 0.25,
    }  # fmt: skip
    assert done["kinds"]["gaussian"]["ranking_auc"] > 0.98
    assert done["kinds"]["blur"]["ranking_auc"] < 0.3  # the quiet ones
    assert 0.3 < done["ranking_auc"] < 0.7
    assert "mixture on 50.0 %" in as_text(found)
    assert "blur on 25.0 %" in as_text(found)


def test_near_groups_are_those_of_all_pairs():
    rng = np.random.RandomState(0)
    base = rng.randint(0, 200, (40, 64))
    x = np.concatenate([base, base[:10] + rng.randint(0, 6, (10, 64)), base[:3] + 30])
    x = x.astype(np.uint8)
    close = np.sqrt(np.square((x[:, None] - x[None].astype(float)) / 255).mean(2)) <= 0.02
    pairs = [[i, j] for i in range(len(x)) for j in range(i + 1, len(x)) if close[i, j]]
    assert len(pairs) == 10
    assert near_groups(x) == pairs
    assert near_groups(x[:1]) == []


def test_copies_in_memory_are_named_once():
    x0 = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x0[7], x0[9] = x0[3], x0[3]
    audit = audit_images(InMemory("copies", x0))
    assert audit.duplicates == [[3, 7, 9]]
    assert audit.near_duplicates == []
    flagged = {one["index"] for one in audit.ranking() if "duplicate" in one["flags"]}
    assert flagged == {7, 9}


def test_nothing_is_written_into_the_data(folder):
    with pytest.raises(UserError, match="lies inside the data"):
        inspect_command({"name": "image_folder", "train_data_dir": str(folder)}, NONE, folder / "x")
    assert not (folder / "x").exists()


def test_a_report_is_replaced_by_one_of_the_same_data_only(tmp_path):
    data, out = {"name": "digits", "max_train_samples": 8}, tmp_path / "audit"
    inspect_command(data, NONE, out)
    inspect_command(data, NONE, out)
    kept = (out / "report.json").read_bytes()
    with pytest.raises(UserError, match=r"audit/\w+\.\w+ is there .*--overwrite"):
        inspect_command({**data, "max_train_samples": 9}, NONE, out)
    assert (out / "report.json").read_bytes() == kept
    inspect_command({**data, "max_train_samples": 9}, NONE, out, overwrite=True)
    assert json.loads((out / "report.json").read_text())["n_images"] == 9
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("my own")
    with pytest.raises(UserError, match=r"site/index\.html is there"):
        inspect_command(data, NONE, tmp_path / "site")
