"""Folders and tables of images: every kind of file, broken ones, sizes, channels, labels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.data import transforms
from sparring.data.batches import make_loader
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import contaminate
from sparring.data.files import decoding, images
from sparring.models.text import sizes_of
from sparring.support.errors import UserError


def test_a_folder_gives_its_pixels_and_its_subfolders_as_classes(folder):
    data = build_dataset("image_folder", train_data_dir=str(folder))
    assert len(data) == 10
    assert data.sample_shape == (1, 8, 8)
    assert data.class_names == ["cat", "dog"]
    batch = data.read_all()
    assert batch["label"].tolist() == [0] * 6 + [1] * 4
    for i in range(10):
        expected = np.random.RandomState(i).randint(0, 256, (8, 8), dtype=np.uint8)
        assert torch.equal(batch["x0"][i, 0], torch.tensor(expected) / 255)
    assert data.where(7) == str(folder / "dog" / "7.png")


def test_images_without_class_folders_have_no_labels(folder, write_image):
    write_image(folder / "loose.png", mode="L")
    data = build_dataset("image_folder", train_data_dir=str(folder))
    assert data.num_classes is None
    assert "label" not in data[0]


def test_held_images_and_decoded_images_are_the_same(folder, monkeypatch):
    (folder / "cat" / "2.png").write_bytes(b"broken")
    (folder / "dog" / "9.png").write_bytes(b"broken")
    held = build_dataset("image_folder", train_data_dir=str(folder))
    monkeypatch.setattr(images, "HOLD_BYTES", 0)
    read = build_dataset("image_folder", train_data_dir=str(folder))
    assert held.held is not None
    assert read.held is None
    assert (contaminate(held, {"kind": "gaussian"}).is_decoded, read.is_decoded) == (False, True)
    assert held.fingerprint() == read.fingerprint()
    for keys in (range(10), [2], [9, 9, 1], [(3, 77)]):
        one, other = held.__getitems__(keys), read.__getitems__(keys)
        assert one["unreadable"] == other["unreadable"]
        assert all(torch.equal(one[key], other[key]) for key in ("x0", "index", "label"))


@pytest.mark.parametrize("hold_bytes", [0, 2**20])
def test_images_of_eight_and_of_sixteen_bits_stand_beside_each_other(
    tmp_path, monkeypatch, hold_bytes
):
    """65535 of sixteen bits is white, as 255 of eight is; only what no rounding changes is held."""
    monkeypatch.setattr(images, "HOLD_BYTES", hold_bytes)
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(eight).save(tmp_path / "a.png")
    for values, is_held in ((eight.astype(np.uint16) * 257, True), ([[30000] * 16] * 16, False)):
        values = np.array(values, dtype=np.uint16)
        Image.fromarray(values).save(tmp_path / "b.png")
        data = build_dataset("image_folder", train_data_dir=str(tmp_path), resolution=16)
        assert (data.held is not None) == (is_held and hold_bytes > 0)
        x0 = data.read_all()["x0"]
        assert x0.dtype == torch.float32
        assert torch.equal(x0[0, 0], torch.tensor(eight) / 255)
        assert torch.equal(x0[1, 0], torch.tensor(values.astype(np.float32) / 65535))


@pytest.mark.parametrize("hold_bytes", [0, 2**20])
def test_an_unreadable_image_is_replaced_by_the_next_and_listed(folder, monkeypatch, hold_bytes):
    monkeypatch.setattr(images, "HOLD_BYTES", hold_bytes)
    broken = [folder / "cat" / "2.png", folder / "cat" / "3.png", folder / "dog" / "9.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    data = build_dataset("image_folder", train_data_dir=str(folder))
    batch = data.__getitems__([1, 2, 3, 9])
    assert batch["index"].tolist() == [1, 4, 4, 0]
    assert batch["label"].tolist() == [0, 0, 0, 0]
    assert torch.equal(batch["x0"][1], batch["x0"][2])
    assert torch.equal(batch["x0"][3], data[0]["x0"])
    listed = [str(path) for path in broken]
    assert batch["unreadable"] == [listed[0], listed[1], listed[1], listed[2]]
    assert all(path.exists() for path in broken)
    whole = data.read_all()
    assert whole["index"].tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert len(whole["x0"]) == len(whole["label"]) == 7
    assert set(whole["unreadable"]) == set(listed)
    own, empty, moved = data.chunks([9, 1, 2, 3, 0], 2)
    assert [one["index"].tolist() for one in (own, empty, moved)] == [[1], [], [0]]
    assert [one["label"].tolist() for one in (own, empty, moved)] == [[0], [], [0]]
    assert set(empty["unreadable"]) == set(listed[:2])
    assert torch.equal(own["x0"][0], data[1]["x0"])


def test_no_readable_image_names_the_folder(tmp_path):
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"no readable image in folder '{tmp_path}': tried 2 file"):
        build_dataset("image_folder", train_data_dir=str(tmp_path))


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=f"no image in folder '{tmp_path}'"):
        build_dataset("image_folder", train_data_dir=str(tmp_path))
    missing = tmp_path / "missing"
    with pytest.raises(UserError, match=f"no folder '{missing}'"):
        build_dataset("image_folder", train_data_dir=str(missing))
    with pytest.raises(UserError, match="train_data_dir is missing"):
        build_dataset("image_folder")


def _save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.png", "zebra.png"])
def test_an_image_in_colour_anywhere_means_three_channels(folder, write_image, name):
    rgb = write_image(folder / "dog" / name, mode="RGB")
    options = {"train_data_dir": str(folder)}
    data = build_dataset("image_folder", **options)
    assert data.sample_shape == (3, 8, 8)
    assert data.remarks[-1] == (
        "10 of 11 images are grey and others are in colour: all are read with 3 channels"
    )
    place = next(i for i in range(11) if data.where(i).endswith(name))
    assert torch.equal(data[place]["x0"], torch.tensor(rgb).permute(2, 0, 1) / 255)
    grey = build_dataset("image_folder", n_channels=1, **options)
    assert grey.read_all()["x0"].shape == (11, 1, 8, 8)
    assert not any("colour" in remark for remark in grey.remarks)


def test_sizes_that_differ_need_a_resolution(folder, write_image):
    pixels = write_image(folder / "dog" / "wide.png", size=(20, 30), mode="L")
    with pytest.raises(UserError, match=r"wide.png is 30x20, the first 8x8\): set data.resolution"):
        build_dataset("image_folder", train_data_dir=str(folder))
    data = build_dataset("image_folder", train_data_dir=str(folder), resolution=8)
    assert data.held is None
    wide = transforms.resize(torch.tensor(pixels)[None] / 255, 8)
    assert torch.equal(
        data[10]["x0"], transforms.crop(wide, 8, *transforms.center(*wide.shape[-2:], 8))
    )


def test_random_crops_follow_from_seed_and_position(tmp_path, write_image):
    x = torch.tensor(write_image(tmp_path / "a.png", size=(8, 40), mode="L"))[None] / 255
    options = {"train_data_dir": str(tmp_path), "resolution": 8, "center_crop": False}
    data, again = (build_dataset("image_folder", **options) for _ in range(2))
    keys = [(0, position) for position in range(300)]
    crops = data.__getitems__(keys)["x0"]
    assert torch.equal(crops, again.__getitems__(keys)["x0"])
    assert torch.equal(crops[5:9], data.__getitems__(keys[5:9])["x0"])
    other = build_dataset("image_folder", seed=1, **options)
    assert not torch.equal(crops, other.__getitems__(keys)["x0"])
    windows = x[0].unfold(1, 8, 1).permute(1, 0, 2)
    place = (crops == windows).flatten(2).all(2)  # (300, 33)
    assert (place.sum(1) == 1).all()
    assert int(place.any(0).sum()) == 33


def script_corner(height, width, resolution):
    """(top, left) of a centre crop, as diffusers' train_text_to_image_sdxl.py reckons it."""
    y1 = max(0, round((height - resolution) / 2.0))
    x1 = max(0, round((width - resolution) / 2.0))
    return y1, x1


def test_framing_says_how_each_image_was_before(tmp_path, write_image):
    sizes = [(20, 30), (8, 20), (17, 17), (30, 12), (8, 8)]
    for i, size in enumerate(sizes):
        write_image(tmp_path / f"{i}.png", seed=i, size=size, mode="L")
    options = {"train_data_dir": str(tmp_path), "resolution": 8}
    centred = build_dataset("image_folder", **options).read_all()["framing"]
    for (height, width), told in zip(sizes, centred.tolist(), strict=True):
        shorter = min(height, width)
        resized = round(height * 8 / shorter), round(width * 8 / shorter)
        top, left = script_corner(*resized, 8)
        assert told == [height, width, top, left, resized[1] - 8 - left]
    anywhere = build_dataset("image_folder", center_crop=False, **options)
    batch = anywhere.__getitems__([(i, 7 + i) for i in range(5)])
    assert batch["framing"][:, 2:].tolist() != centred[:, 2:].tolist()
    for i, told in enumerate(batch["framing"].tolist()):
        whole = transforms.resize(decoding.decode(str(tmp_path / f"{i}.png")), 8)
        assert tuple(told[:2]) == sizes[i]
        assert torch.equal(batch["x0"][i], transforms.crop(whole, 8, *told[2:4]))
    mirrored = sizes_of(batch | {"mirrored": torch.ones(5, dtype=torch.bool)})
    for i, told in enumerate(mirrored.tolist()):  # the script mirrors first and crops then
        whole = transforms.resize(decoding.decode(str(tmp_path / f"{i}.png")), 8).flip(-1)
        assert torch.equal(batch["x0"][i].flip(-1), transforms.crop(whole, 8, *told[2:]))
    assert torch.equal(sizes_of(batch), batch["framing"][:, :4])
    assert sizes_of({"x0": batch["x0"]}) is None


def test_framing_of_images_that_keep_their_size(folder):
    whole = build_dataset("image_folder", train_data_dir=str(folder))
    assert whole.held is not None
    assert whole.__getitems__([3, 1])["framing"].tolist() == [[8, 8, 0, 0, 0]] * 2
    dirty = contaminate(whole, {"kind": "gaussian"})
    assert torch.equal(dirty.__getitems__([3])["framing"], torch.tensor([[8, 8, 0, 0, 0]]))


def test_crops_in_training_differ_between_epochs_but_not_between_workers(tmp_path, write_image):
    for i in range(4):
        write_image(tmp_path / f"{i}.png", seed=i, size=(8, 40), mode="L")
    data = build_dataset(
        "image_folder", train_data_dir=str(tmp_path), resolution=8, center_crop=False
    )
    here = [batch["x0"] for batch in make_loader(data, 0, 4, n_batches=5)]
    workers = [batch["x0"] for batch in make_loader(data, 0, 4, n_batches=5, n_workers=2)]
    assert all(torch.equal(a, b) for a, b in zip(here, workers, strict=True))
    order = [batch["index"].argsort() for batch in make_loader(data, 0, 4, n_batches=5)]
    assert not torch.equal(here[0][order[0]], here[1][order[1]])


def test_held_out_share_cuts_a_folder_once(folder):
    options = {"train_data_dir": str(folder), "held_out_share": 0.3}
    train, held_out, whole = (
        build_dataset("image_folder", split, **options) for split in ("train", "held_out", "all")
    )
    assert [len(train), len(held_out), len(whole)] == [7, 3, 10]
    parts = {train.where(i) for i in range(7)} | {held_out.where(i) for i in range(3)}
    assert parts == {whole.where(i) for i in range(10)}
    with pytest.raises(UserError, match=r"no held-out part: set data.held_out_share"):
        build_dataset("image_folder", "held_out", train_data_dir=str(folder))


def test_an_unreadable_image_is_not_replaced_by_a_held_out_one(folder):
    options = {"train_data_dir": str(folder), "held_out_share": 0.5}
    train = build_dataset("image_folder", **options)
    files = {train.where(i) for i in range(5)}
    broken = train.where(1)
    with open(broken, "wb"):
        pass
    batch = build_dataset("image_folder", **options).__getitems__([1])
    assert batch["index"].tolist() == [2]
    assert train.where(2) in files


def test_a_tree_of_splits_is_read_split_by_split(tmp_path, write_image):
    for split, n in (("train", 4), ("test", 2)):
        for i in range(n):
            write_image(tmp_path / split / "ab"[i % 2] / f"{i}.png", seed=i)
    sizes = {
        split: len(build_dataset("image_folder", split, train_data_dir=str(tmp_path)))
        for split in ("train", "test", "held_out", "all")
    }
    assert sizes == {"train": 4, "test": 2, "held_out": 2, "all": 6}
    train = build_dataset("image_folder", train_data_dir=str(tmp_path))
    assert train.class_names == ["a", "b"]
    with pytest.raises(UserError, match="has no split 'val'"):
        build_dataset("image_folder", "val", train_data_dir=str(tmp_path))


# Tables


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Writes rows to a parquet file; the library's cache stays in the test's own folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()

    def write(rows, features=None, name="data.parquet"):
        path = tmp_path / name
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
        return str(path)

    return write


def _pictures(n, start=0):
    pixels = np.random.RandomState(start).randint(0, 256, (n, 5, 6, 3), dtype=np.uint8)
    cells = [{"bytes": _save(Image.fromarray(one), "PNG"), "path": None} for one in pixels]
    return cells, torch.tensor(pixels).permute(0, 3, 1, 2) / 255


def test_parquet_with_images_and_classes(table, tmp_path):
    import datasets

    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["x", "y", "z"])}
    )
    for shard in range(2):
        cells, _ = _pictures(3, shard)
        table({"picture": cells, "kind": [0, 2, 1]}, features, f"part-{shard}.parquet")
    data = build_dataset("parquet", data_files=str(tmp_path / "part-*.parquet"))
    batch = data.read_all()
    assert data.class_names == ["x", "y", "z"]
    assert batch["label"].tolist() == [0, 2, 1, 0, 2, 1]
    expected = torch.cat([_pictures(3, shard)[1] for shard in range(2)])
    assert torch.equal(batch["x0"], expected)


def test_framing_of_a_table(table, tmp_path, write_image):
    write_image(tmp_path / "wide.png", size=(8, 20), mode="L")
    path = table({"image": [{"bytes": (tmp_path / "wide.png").read_bytes(), "path": None}]})
    data = build_dataset("parquet", data_files=path, resolution=8)
    assert data.__getitems__([0])["framing"].tolist() == [[8, 20, 0, 6, 6]]


def test_parquet_without_metadata_words_as_classes_captions_and_a_broken_row(table):
    cells, expected = _pictures(4)
    cells[1] = {"bytes": b"broken", "path": None}
    words = ["pear", "apple", "pear", "fig"]
    path = table({"img": cells, "label": words, "text": ["a", "b", "c", "d"]})
    data = build_dataset("parquet", data_files=[path], caption_column="text")
    assert data.class_names == ["apple", "fig", "pear"]
    batch = data.__getitems__([0, 1])
    assert torch.equal(batch["x0"], expected[[0, 2]])
    assert batch["label"].tolist() == [2, 2]
    assert batch["caption"] == ["a", "c"]
    assert batch["unreadable"] == [f"{path}, row 1"]
    train = build_dataset("parquet", data_files=path, held_out_share=0.25, label_column="text")
    held_out = build_dataset("parquet", "held_out", data_files=path, held_out_share=0.25)
    assert (len(train), len(held_out)) == (3, 1)


def test_integer_labels_are_classes_and_other_columns_are_not(table):
    cells, _ = _pictures(3)
    path = table({"image": cells, "label": [0, 11, 3], "score": [0.5, 1.0, 2.0]})
    data = build_dataset("parquet", data_files=path)
    assert data.class_names == ["0", "3", "11"]
    assert data.labels.tolist() == [0, 2, 1]
    with pytest.raises(UserError, match=r"label_column: column 'score' .* must hold classes"):
        build_dataset("parquet", data_files=path, label_column="score")
    with pytest.raises(
        UserError, match=r"data.image_column: no column 'picture' .*it has image, l"
    ):
        build_dataset("parquet", data_files=path, image_column="picture")
    with pytest.raises(UserError, match=r"column 'score' .* holds no images"):
        build_dataset("parquet", data_files=path, image_column="score")


def test_missing_tables_are_one_line(tmp_path, table):
    for name, fields in (
        ("parquet", {"data_files": str(tmp_path / "none-*.parquet")}),
        ("huggingface", {"dataset_name": str(tmp_path / "nothing-here")}),
    ):
        with pytest.raises(UserError, match=f"cannot load .*{tmp_path}") as caught:
            build_dataset(name, **fields)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"data.data_files is missing"):
        build_dataset("parquet")
    with pytest.raises(UserError, match=r"data.dataset_name is missing"):
        build_dataset("huggingface")


def test_a_hugging_face_set_by_name_has_its_own_splits(table, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for split, n in (("train", 5), ("test", 2)):
        cells, _ = _pictures(n)
        table({"image": cells, "label": [0, 1] * 2 + [0]} if n == 5 else
              {"image": cells, "label": [1, 0]}, name=f"set/{split}.parquet")  # fmt: skip
    name = str(root)
    sizes = {
        split: len(build_dataset("huggingface", split, dataset_name=name))
        for split in ("train", "test", "held_out", "all")
    }
    assert sizes == {"train": 5, "test": 2, "held_out": 2, "all": 5}
    cut = build_dataset("huggingface", "held_out", dataset_name=name, held_out_share=0.2)
    assert len(cut) == 1
    with pytest.raises(UserError, match=r"has no split 'val' \(it has train, test\)"):
        build_dataset("huggingface", "val", dataset_name=name)
