"""Folders of splits and of classes, and the columns of classes."""

import io
import itertools

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sparring.commands.contaminate.copies import contaminate
from sparring.data.datasets import build_dataset
from sparring.data.files.folder import split_name
from sparring.data.files.hub import check_one_split, split_of
from sparring.support.errors import UserError

GREY = itertools.count(1)


@pytest.fixture
def tree(tmp_path):
    """Writes an image at each place."""

    def write(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), next(GREY) % 256).save(tmp_path / name)
        return tmp_path

    return write


def read(folder, split="train", **fields):
    return build_dataset("image_folder", split, train_data_dir=str(folder), **fields)


def files(folder, split="train"):
    data = read(folder, split)
    return [data.where(i).removeprefix(f"{folder}/") for i in range(len(data))]


def png(value):
    out = io.BytesIO()
    Image.new("L", (4, 4), value).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def table(tmp_path):
    """Writes a parquet file with an image per row, and returns its path."""

    def write(labels, name="t.parquet"):
        cells = [{"bytes": png(i), "path": None} for i in range(len(labels))]
        pq.write_table(pa.table({"image": cells, "label": labels}), tmp_path / name)
        return str(tmp_path / name)

    return write


# Splits


@pytest.mark.parametrize(
    ("train", "other"),
    [
        ("train", "val"),
        ("Train", "Test"),
        ("training", "dev"),
        ("TRAINING", "testing"),
        ("train2017", "val2017"),
        ("train_images", "test_images"),
        ("images_train", "images_validation"),
        ("trainset", "eval"),
        ("DIV2K_train_HR", "DIV2K_valid_HR"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
        ("trainA", "testA"),
        ("mnist-Train-60000", "mnist-Test-10000"),
    ],
)
def test_folders_of_splits_in_any_spelling(tree, train, other):
    root = tree(f"{train}/cat/0.png", f"{train}/dog/1.png", f"{other}/cat/2.png")
    (root / "annotations").mkdir()
    (root / "annotations" / "all.json").write_text("{}")
    assert files(root) == [f"{train}/cat/0.png", f"{train}/dog/1.png"]
    assert files(root, "held_out") == files(root, other) == [f"{other}/cat/2.png"]
    assert len(files(root, "all")) == 3
    assert read(root).class_names == ["cat", "dog"]
    assert not read(root).remarks


def test_a_folder_that_is_called_held_out_is_held_out(tree):
    root = tree("train/0.png", "test/1.png", "held_out/2.png", "val/3.png")
    assert files(root, "held_out") == ["held_out/2.png"]
    assert split_of("x", ["train", "test", "held_out"], "held_out", False) == "held_out"
    assert split_of("x", ["train", "val", "test"], "held_out", False) == "test"


def test_words_that_are_no_splits():
    for name in ("steam-train", "trainer", "contest", "test tube", "valley", "devices", "0"):
        assert split_name(name) is None


def test_splits_inside_a_folder_and_train_alone(tree):
    root = tree("images/train/0.png", "images/val/1.png")
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "0.txt").write_text("0 0.5 0.5 1 1")
    assert files(root) == ["images/train/0.png"]
    alone = tree("alone/train/cat/0.png", "alone/train/dog/1.png") / "alone"
    assert read(alone).class_names == ["cat", "dog"]


def test_a_class_may_be_called_as_a_split_is(tree):
    root = tree(*(f"{name}/0.png" for name in ("bus", "car", "train", "tram")))
    assert read(root).class_names == ["bus", "car", "train", "tram"]
    assert "'train' of" in read(root).remarks[0]
    root = tree(*(f"many/{i}/0.png" for i in range(19)), "many/test/0.png") / "many"
    assert len(read(root).class_names) == 20
    assert "'test' of" in read(root).remarks[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/0.png", "val/1.png", "unlabeled/2.png"), "may be splits or classes"),
        (("train/0.png", "Train/1.png", "test/2.png"), "may be splits or classes"),
        (("test/0.png", "val/1.png"), "none of training"),
        (("cat/train/0.png", "cat/val/1.png", "dog/train/2.png"), "cat is divided into"),
        (("trainA/0.png", "trainB/1.png", "testA/2.png", "testB/3.png"), "may be splits or"),
        (("seg_train/0.png", "seg_test/1.png", "seg_pred/2.png"), "may be splits or classes"),
    ],
)
def test_what_may_be_splits_or_classes_is_refused(tree, names, message):
    root = tree(*names)
    with pytest.raises(UserError, match=message) as caught:
        read(root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_beside_the_splits_are_said_to_be_left_out(tree):
    root = tree("train/0.png", "val/1.png", "logo.png")
    assert files(root) == ["train/0.png"]
    assert "are left out" in read(root).remarks[0]


# Classes


def test_folders_are_numbered_in_natural_order(tree):
    root = tree(*(f"{i}/x.png" for i in range(12)))
    assert read(root).class_names == [str(i) for i in range(12)]
    words = ["a2", "a10", "a10b", "b1"]
    root = tree(*(f"words/{name}/x.png" for name in words)) / "words"
    assert read(root).class_names == words


def test_a_split_numbers_its_classes_as_train_does(tree):
    trained = (f"train/{name}/x.png" for name in ("ant", "bee", "cow"))
    root = tree(*trained, "test/ape/x.png", "test/cow/x.png", "test/bee/x.png")
    held_out = read(root, "held_out")
    assert held_out.class_names == ["ant", "bee", "cow", "ape"]
    assert held_out.labels.tolist() == [3, 1, 2]
    assert held_out.absent_classes == [0]
    assert any("1 of 4 classes" in one and "'ant'" in one for one in held_out.remarks)


def test_classes_that_agree_in_nothing_but_a_split_are_classes(tree):
    root = tree("steam-train/0.png", "blood-test/1.png", "valley/2.png")
    assert read(root).class_names == ["blood-test", "steam-train", "valley"]
    assert not read(root).remarks


def test_repeats_and_classes_one_folder_deeper_are_said(tree):
    (remark,) = read(tree("k/10_dog/0.png", "k/1_reg/1.png") / "k").remarks
    assert "'1_reg', '10_dog'" in remark
    assert "no repeats" in remark
    root = tree("w/PetImages/Cat/0.png", "w/PetImages/Dog/1.png") / "w"
    (remark,) = read(root).remarks
    assert read(root).num_classes is None
    assert f"all images lie in {root / 'PetImages'}, so its folders 'Cat', 'Dog' are no" in remark
    assert not read(tree("c/cat/deep/0.png", "c/cat/1.png") / "c").remarks


def test_images_beside_class_folders_mean_no_classes_and_that_is_said(tree):
    root = tree("cat/0.png", "dog/1.png", "2.png")
    assert read(root).num_classes is None
    assert "not read as classes, as 1 of 3 images" in read(root).remarks[0]


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        ([1, 2, 3, 1], ["1", "2", "3"], [0, 1, 2, 0]),
        ([90000, 5, 700, 5], ["5", "700", "90000"], [2, 0, 1, 0]),
        ([True, False], ["False", "True"], [1, 0]),
        ([2.0, 0.0, 10.0], ["0", "2", "10"], [1, 0, 2]),
        (["b10", "b2", "a"], ["a", "b2", "b10"], [2, 1, 0]),
        ([b"b", b"a"], ["a", "b"], [1, 0]),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_classes(table, values, names, labels, streaming):
    data = build_dataset("parquet", data_files=table(values), streaming=streaming)
    assert data.class_names == names
    assert data.labels.tolist() == labels
    assert data.read_all()["label"].tolist() == labels


@pytest.mark.parametrize(
    "values", [[0, None, 2], [0.5, 1.0], [-1, 1], [[0], [1]], [0.0, float("nan")]]
)
def test_what_is_no_class_is_said_or_refused(table, values):
    path = table(values)
    data = build_dataset("parquet", data_files=path)
    assert data.num_classes is None
    assert "column 'label'" in data.remarks[0]
    with pytest.raises(UserError, match=r"label_column: column 'label' .* row [01] holds"):
        build_dataset("parquet", data_files=path, label_column="label")


def test_a_class_without_images_is_said(tmp_path):
    import datasets

    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["ant", "bee", "cow"])
    )
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(4)], "label": [0, 2, 2, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "t.parquet"))
    data = build_dataset("parquet", data_files=str(tmp_path / "t.parquet"))
    assert (data.num_classes, data.absent_classes) == (3, [1])
    assert "1 of 3 classes" in data.remarks[0]
    assert "'bee'" in data.remarks[0]
    assert torch.equal(data.labels, torch.tensor([0, 2, 2, 0]))


def test_a_folder_called_held_out_is_the_held_out_split(tree):
    root = tree("train/0.png", "test/1.png", "held_out/2.png")
    assert files(root, "held_out") == ["held_out/2.png"]
    assert files(root, "test") == ["test/1.png"]


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["train", "test"], ["class-0", "class-1"]),
        (["steam-train", "steam-test", "cat"], ["class-1", "class-2", "cat"]),
        (["val", "cat"], ["val", "cat"]),
        (["steam-train", "cat"], ["steam-train", "cat"]),
        (["train", "val", "cat"], ["class-1", "class-2", "cat"]),
    ],
)
def test_the_copy_of_classes_called_as_splits_has_their_images_and_classes(
    table, tmp_path, names, folders
):
    path = table([names[i % len(names)] for i in range(6)])
    data = build_dataset("parquet", data_files=path)
    contaminate({"name": "parquet", "data_files": path}, {"kind": "gaussian"}, tmp_path / "copy")
    copy = read(tmp_path / "copy")
    assert sorted(copy.class_names) == sorted(folders)
    assert len(copy) == len(data) == 6
    assert copy.labels.bincount().tolist() == [6 // len(names)] * len(names)


def test_names_of_many_digits_have_an_order(table):
    data = build_dataset("parquet", data_files=table(["x" + "9" * 5000, "x10", "x9", "x010"]))
    assert data.class_names[:3] == ["x9", "x010", "x10"]


# Patterns and columns that may mean several things


@pytest.mark.parametrize("streaming", [False, True])
def test_a_pattern_of_train_and_test_is_refused_and_files_by_name_are_meant(table, streaming):
    train = table([0, 1], "train-00000-of-00001.parquet")
    test = table([1, 0, 1], "test-00000-of-00001.parquet")
    pattern = train.replace("train-00000-of-00001", "*")

    def n(files):
        return len(build_dataset("parquet", data_files=files, streaming=streaming))

    with pytest.raises(UserError, match="files of train and of test") as caught:
        n(pattern)
    assert pattern in str(caught.value)
    assert n(pattern.replace("*", "train-*")) == 2
    assert n([train, test]) == 5


def test_a_pattern_over_folders_of_splits_is_refused():
    folders = ["/train/x/default/train/0.parquet", "/train/x/default/validation/0.parquet"]
    with pytest.raises(UserError, match="of train and of validation"):
        check_one_split("/train/x/default/*/0.parquet", folders)
    check_one_split("/train/x/*", ["/train/x/test-0.tar", "/train/x/test-1.tar"])
    check_one_split("*", ["trainer.tar", "contest.tar", "valley_1.tar"])


@pytest.mark.parametrize("streaming", [False, True])
def test_the_choice_among_several_columns_is_said(tmp_path, streaming):
    features = datasets.Features(
        {"image": datasets.Image(), "depth": datasets.Image(),
         "fine": datasets.ClassLabel(names=["a"]), "coarse": datasets.ClassLabel(names=["b"])}
    )  # fmt: skip
    row = {"image": {"bytes": png(1)}, "depth": {"bytes": png(2)}, "fine": 0, "coarse": 0}
    path = str(tmp_path / "t.parquet")
    datasets.Dataset.from_list([row, row], features=features).to_parquet(path)
    columns = {"image_column": "depth", "label_column": "coarse"}
    told = build_dataset("parquet", data_files=path, streaming=streaming).remarks
    assert f"{path} has the columns image, depth, of which 'image' is read" in told[0]
    assert f"{path} has the columns fine, coarse, of which 'fine' is read" in told[1]
    chosen = build_dataset("parquet", data_files=path, streaming=streaming, **columns)
    assert not chosen.remarks
    assert chosen.class_names == ["b"]
