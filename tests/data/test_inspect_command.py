"""sparring inspect: files, duplicates, sizes, and what it writes."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.commands.inspect.findings import as_text, examples_of, inspect_command
from sparring.data.audit.audit import audit_images, near_groups
from sparring.data.audit.table import NUMBERS, read_table
from sparring.data.base import InMemory
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate
from sparring.support.errors import UserError

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


def test_what_the_files_say_of_their_compression_is_a_hint(tmp_path, write_image):
    pixels = np.random.RandomState(0).randint(0, 256, (16, 16), dtype=np.uint8)
    for i in range(4):
        Image.fromarray(pixels + np.uint8(i)).save(tmp_path / f"{i}.jpg", quality=30 + 10 * (i > 1))
    write_image(tmp_path / "other.png", size=(16, 16), mode="L")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    found = inspect_command({"name": "image_folder", "train_data_dir": str(tmp_path)}, NONE)
    assert found["jpeg_files"]["n_looked_at"] == 6
    assert found["jpeg_files"]["n_jpeg"] == 4
    assert found["jpeg_files"]["quality"]["median"] == 35
    assert "4 of 6 files looked at are JPEG, quality 30 to 40, median 35" in as_text(found)
    assert inspect_command({"name": "digits", "max_train_samples": 8}, NONE)["jpeg_files"] is None


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


def bright_digits(tmp_path):
    """What the simple detectors find: noise where an image is brighter than most."""
    return {"name": "digits", "split": "train"}, tmp_path / "new" / "audit"


@pytest.mark.usefixtures("simple_detectors")
def test_the_folder_holds_the_report_the_table_and_examples(tmp_path):
    data, out = bright_digits(tmp_path)
    noise = {"kind": "gaussian", "rate": 0.5, "sigma": 0.2}
    found = inspect_command(data, noise, out)
    report = json.loads((out / "report.json").read_text())
    assert report == {key: value for key, value in found.items() if key != "output_dir"}
    noisy, *_, clean = report["found"]
    assert (noisy["kind"], clean["kind"]) == ("gaussian", "clean")
    assert set(noisy["sizes"]) == {"sigma"}
    known = report["known"]
    assert known["rate"] == 0.5
    assert 0.5 < known["kinds"]["gaussian"]["auc"] < 1
    dataset = contaminate(build_dataset(**data), noise)
    table = read_table(out / "dirt.csv", dataset)
    assert table.has("gaussian").sum() == noisy["n_images"]
    audit = audit_images(dataset)
    assert table.sigma.tobytes() == audit.table.sigma.tobytes()
    assert sum(report["sigma_histogram"]["n_images"]) == noisy["n_images"]
    names = {path.name: Image.open(path).size for path in (out / "examples").iterdir()}
    assert sorted(names) == sorted(f"{one['kind']}.png" for one in report["found"])
    page = (out / "index.html").read_text()
    Sound(page)
    assert "of the images are not clean" in page
    text = as_text(found)
    assert f"correct {out}/dirt.csv where it is wrong, then: objective=detail objective.dirt={out}/dirt.csv" in text  # noqa: E501  # fmt: skip
    inspect_command(data, noise, out)  # again, over the first


@pytest.mark.usefixtures("simple_detectors")
def test_every_image_has_a_record_when_asked(tmp_path):
    data, _ = bright_digits(tmp_path)
    found = inspect_command({**data, "max_train_samples": 30}, NONE, with_images=True)
    images = found["images"]
    assert [one["index"] for one in images] == list(range(30))
    assert set(images[0]) == {"index", "source", "kinds", *NUMBERS}
    assert set(images[0]["kinds"]) == {"gaussian", "jpeg", "outlier"}
    noisy = [one for one in images if one["kinds"]["gaussian"] > 0.5]
    assert 0 < len(noisy) < 30
    assert all((one["sigma"] > 0) == (one in noisy) for one in images)
    json.dumps(found)
    for one in images:  # level as the quality asks, no weight for what does not belong
        assert (one["level"] > 0) == (one["quality"] > 0)
        assert one["weight"] == (0 if one["kinds"]["outlier"] > 0.5 else 1)
    assert "images" not in inspect_command(data, NONE)


@pytest.mark.usefixtures("simple_detectors")
def test_a_corrected_table_is_not_replaced(tmp_path):
    data, out = bright_digits(tmp_path)
    inspect_command(data, NONE, out)
    table = out / "dirt.csv"
    table.write_text(table.read_text().replace("\n0,", "\n0 ,", 1))
    with pytest.raises(UserError, match=r"dirt\.csv was changed after it was written.*--overwrite"):
        inspect_command(data, NONE, out)
    assert "\n0 ," in table.read_text()
    inspect_command(data, NONE, out, overwrite=True)
    assert "\n0 ," not in table.read_text()
    table.unlink()
    inspect_command(data, NONE, out)
    assert table.exists()


@pytest.mark.usefixtures("simple_detectors")
def test_examples_go_from_the_most_certain_to_the_least(tmp_path):
    x0 = torch.zeros(100, 1, 8, 8)
    x0[:, 0, 0, 0] = torch.linspace(0.2, 1, 100)  # the probability of a JPEG
    x0[:, 0, 0, 1] = 0.3
    audit = audit_images(InMemory("corners", x0))
    jpeg = examples_of(audit)["jpeg"]
    assert len(jpeg) == 32
    assert jpeg[0] == 99
    assert (np.diff(jpeg) < 0).all()
    assert jpeg[-1] < 42


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
