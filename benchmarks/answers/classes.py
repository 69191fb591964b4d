"""Classes as folders and columns name them, and folders that are splits; by rules of their own."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from known_answers import Kind, Verdict, refuses, right, wrong
from PIL import Image

SPLITS = {
    "train": ("train", "Train", "TRAIN", "training", "train2017", "train_images", "trainset"),
    "other": ("val", "Val", "valid", "validation", "test", "Test", "testing", "dev", "eval",
              "val2017", "test_images", "testset", "evaluation", "held_out"),
}  # fmt: skip
CLASSES = ("cat", "dog", "n01440764", "Ant", "été", "steam-train", "contest", "trainer", "class 10",
           "class 9", "1", "2", "10", "valley", "développement", "日本")  # fmt: skip


def _image(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (2, 2), value).save(out, "PNG")
    return out.getvalue()


def _put(folder: Path, name: str, value: int) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(_image(value))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers by their value and before words, words by their letters."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.findall(r"[0-9]+|[^0-9]+", name)
    ]


def _in_order(names: Sequence[str]) -> bool:
    """Whether names that differ in numbers only are in the order of these numbers, and words as
    words are."""
    words = [re.sub(r"[0-9]+", "0", name) for name in names]
    pairs = zip(names, names[1:], words, words[1:], strict=False)
    return all(_natural(a) < _natural(b) for a, b, x, y in pairs if x == y)


def _read(folder: Path, split: str = "train") -> tuple[dict[int, Any], Any]:
    """By grey level of each image the name of its class; and the data set."""
    from sparring.data.datasets import build_dataset

    data = build_dataset("image_folder", split, train_data_dir=str(folder))
    batch = data.read_all()
    grey = (batch["x0"][:, 0, 0, 0] * 255).round().long().tolist()
    labels = batch["label"].tolist() if "label" in batch else [None] * len(grey)
    names = [None if label is None else data.class_names[label] for label in labels]
    return dict(zip(grey, names, strict=True)), data


def _noise(rng: random.Random, folder: Path) -> None:
    """Folders and files that are no images, as they lie beside data."""
    for name in ("annotations/a.json", "labels/train/0.txt", ".git/HEAD", "docs/readme.md"):
        if rng.random() < 0.4:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}", encoding="utf-8")


def class_folders(rng: random.Random, folder: Path) -> Verdict:
    names = rng.sample(CLASSES, rng.randint(2, 6))
    if rng.random() < 0.4:
        names = [str(i) for i in rng.sample(range(120), rng.randint(2, 12))]
    expected: dict[int, str] = {}
    for name in names:
        for _ in range(rng.randint(1, 2)):
            _put(folder, f"{name}/{rng.choice(('', 'deep/'))}{len(expected)}.png", len(expected))
            expected[len(expected)] = name
    _noise(rng, folder)
    found, data = _read(folder)
    if found != expected:
        return wrong(f"{found} for {expected}")
    if not _in_order(data.class_names):
        return wrong(f"classes in the order {data.class_names}")
    known = ("of kinds that are not read", "text(s) or table(s) in folders without images")
    odd = [one for one in data.remarks if not any(words in one for words in known)]
    return wrong(f"it says {odd}") if odd else right("read")


def folders_of_splits(rng: random.Random, folder: Path) -> Verdict:
    """Each split has its own images, and classes are numbered as in train."""
    train = rng.choice(SPLITS["train"])
    others = rng.sample(SPLITS["other"], rng.randint(1, 2))
    if len({other.lower() for other in others}) < len(others):
        others = others[:1]
    if rng.random() < 0.3:  # the words within longer names that agree
        around = rng.choice(("DIV2K_{}_HR", "seg_{}", "ILSVRC2012_img_{}", "{}A", "x.{} (1)"))
        word = around.format
        train = word(rng.choice(("train", "Train", "training")))
        others = [word(one) for one in rng.sample(("val", "valid", "Test", "dev"), len(others))]
    place = folder / rng.choice(("", "images", "data/images"))
    names = rng.sample(CLASSES, rng.randint(2, 4)) if rng.random() < 0.7 else [None]
    expected: dict[str, dict[int, str | None]] = {}
    value = 0
    for split in (train, *others):
        there = names if split == train else rng.sample(names, rng.randint(1, len(names)))
        expected[split] = {}
        for name in there:
            _put(place, f"{split}/{name}/{value}.png" if name else f"{split}/{value}.png", value)
            expected[split][value] = name
            value += 1
    _noise(rng, folder if place == folder else place)
    found, data = _read(folder)
    if found != expected[train]:
        return wrong(f"train: {found} for {expected}")
    order = list(data.class_names)
    for other in others:
        found, data = _read(folder, other)
        named = {one: name for one, name in found.items() if name is not None}
        if found.keys() != expected[other].keys() or (names != [None] and found != expected[other]):
            return wrong(f"{other}: {found} for {expected}")
        if named and list(data.class_names) != order:
            return wrong(f"{other} has classes {data.class_names}, train {order}")
    found, _ = _read(folder, "held_out")
    if found.keys() not in [expected[other].keys() for other in others]:
        return wrong(f"held_out: {found} of {expected}")
    everything = {one for split in expected.values() for one in split}
    found, _ = _read(folder, "all")
    if found.keys() != everything:
        return wrong(f"all: {found} of {expected}")
    return right("read")


def classes_called_as_splits(rng: random.Random, folder: Path) -> Verdict:
    """train or test among other classes: read as classes, and said."""
    word = rng.choice(("train", "test", "val", "Train", "dev", "eval"))
    names = [word, *rng.sample(CLASSES, rng.randint(2, 8))]
    expected = dict(enumerate(names))
    for i, name in expected.items():
        _put(folder, f"{name}/{i}.png", i)
    _noise(rng, folder)
    found, data = _read(folder)
    if found != expected:
        return wrong(f"{found} for {expected}")
    said = any(f"'{word}'" in remark and "classes" in remark for remark in data.remarks)
    return right("read") if said else wrong(f"not said: {data.remarks}")


def splits_or_classes(rng: random.Random, folder: Path) -> Verdict:
    train, other = rng.choice(SPLITS["train"]), rng.choice(SPLITS["other"])
    how = rng.randrange(6)
    if how == 4:  # two domains, each divided
        places = [f"{one}{two}" for one in ("train", rng.choice(("val", "test"))) for two in "AB"]
        places.sort()
    elif how == 5:  # a word that is none among such
        places = ["seg_pred", f"seg_{rng.choice(('test', 'val'))}", "seg_train"]
    elif how == 0:  # a third folder with images
        places = [train, other, rng.choice(("unlabeled", "extra", "cat"))]
    elif how == 1:  # two of training
        places = [train, other, rng.choice([one for one in SPLITS["train"] if one != train])]
    elif how == 2:  # none of training
        places = [other, rng.choice([one for one in SPLITS["other"] if one != other])]
    else:  # classes that are divided each
        places = [f"{name}/{split}" for name in ("cat", "dog") for split in (train, other)]
    for i, one in enumerate(places):
        _put(folder, f"{one}/{i}.png", i)
    _noise(rng, folder)
    return refuses(lambda: _read(folder), str(folder), f"'{places[0].rpartition('/')[2]}'")


def images_beside_folders(rng: random.Random, folder: Path) -> Verdict:
    """Beside splits they are left out and said; beside classes there are no classes."""
    is_split = rng.random() < 0.5
    names = ("train", "val") if is_split else ("cat", "dog")
    for i, name in enumerate(names):
        _put(folder, f"{name}/{i}.png", i)
    _put(folder, "logo.png", 9)
    found, data = _read(folder)
    expected = {0: None} if is_split else {0: None, 1: None, 9: None}
    if found != expected:
        return wrong(f"{found} for {expected}")
    words = "left out" if is_split else "not read as classes"
    if not any(words in remark for remark in data.remarks):
        return wrong(f"not said: {data.remarks}")
    return right("left out" if is_split else "read")


# Columns


def _column(rng: random.Random, folder: Path, values: Sequence[Any], **fields: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sparring.data.datasets import build_dataset

    cells = [{"bytes": _image(i), "path": None} for i in range(len(values))]
    pq.write_table(pa.table({"image": cells, "label": pa.array(values)}), folder / "t.parquet")
    streaming = rng.random() < 0.3
    return build_dataset(
        "parquet", data_files=str(folder / "t.parquet"), streaming=streaming, **fields
    )


def patterns_of_splits(rng: random.Random, folder: Path) -> Verdict:
    """Files of train and of another split: by a star refused, by their names read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sparring.data.datasets import build_dataset

    around = rng.choice(
        ("{}-0000{i}-of-00002.parquet", "{}/000{i}.parquet", "b_{}_{i}.parquet", "{}{i}.parquet")
    )
    splits = [rng.choice(("train", "training")), rng.choice(("test", "validation", "val"))]
    files: dict[str, list[str]] = {}
    value = 0
    for split in splits:
        for i in range(rng.randint(1, 2)):
            path = folder / around.format(split, i=i)
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.table({"image": [{"bytes": _image(value), "path": None}]}), path)
            files.setdefault(split, []).append(str(path))
            value += 1
    star = f"{folder}/{'**/' if '/' in around else ''}*.parquet"
    fields: dict[str, Any] = {"streaming": rng.random() < 0.3}
    if rng.random() < 0.5:
        words = (star, "train", splits[1])
        return refuses(lambda: build_dataset("parquet", data_files=star, **fields), *words)
    split = rng.choice(splits)
    named = rng.choice((files[split], files[splits[0]] + files[splits[1]]))
    if rng.random() < 0.3 and "/" not in around:
        named = files[split]
        given: Any = str(folder / around.format(split, i="*"))
    else:
        given = named
    n = len(build_dataset("parquet", data_files=given, **fields))
    return right("read") if n == len(named) else wrong(f"{n} of {given}")


def columns_of_classes(rng: random.Random, folder: Path) -> Verdict:
    n = rng.randint(2, 12)
    ids = rng.sample((0, 1, 2, 3, 4, 5, 9, 10, 11, 700, 90000, 2**40), rng.randint(1, 5))
    how = rng.randrange(5)
    values: list[Any] = [rng.choice(ids) for _ in range(n)]
    known = [str(one) for one in sorted(set(values))]
    if how == 1:
        values = [float(one) for one in values]
    elif how == 2:
        values = [rng.random() < 0.5 for _ in range(n)]
        known = [str(one) for one in (False, True) if one in values]
    elif how == 3:
        values = [str(one) for one in values]
    elif how == 4:
        words = rng.sample(CLASSES, 3)
        values = [rng.choice(words) for _ in range(n)]
        known = sorted(set(values))
    named = [str(int(one)) if isinstance(one, float) else str(one) for one in values]
    explicit = rng.choice(({}, {"label_column": "label"}))
    data = _column(rng, folder, values, **explicit)
    found = [data.class_names[label] for label in data.read_all()["label"].tolist()]
    if found != named:
        return wrong(f"{found} for {values}")
    if sorted(data.class_names) != sorted(known) or not _in_order(data.class_names):
        return wrong(f"classes {data.class_names} for {known}")
    if how < 2 and list(data.class_names) != known:
        return wrong(f"ids in the order {data.class_names}")
    odd = [one for one in data.remarks if "of kinds that are not read" not in one]
    return wrong(f"it says {odd}") if odd else right("read")


def columns_that_are_no_classes(rng: random.Random, folder: Path) -> Verdict:
    values: Any = rng.choice(
        (
            [0, None, 1],
            [0.5, 1.0, 2.0],
            [-1, 0, 1],
            ["cat", None, "dog"],
            [[0], [1], [0, 1]],
            [float("nan"), 1.0, 2.0],
            [{"id": 1}, {"id": 2}, {"id": 3}],
        )
    )
    if rng.random() < 0.5:
        return refuses(lambda: _column(rng, folder, values, label_column="label"), "label", "row")
    data = _column(rng, folder, values)
    if data.num_classes is not None:
        return wrong(f"classes {data.class_names} of {values}")
    said = any("'label'" in remark and "row" in remark for remark in data.remarks)
    return right("left out") if said else wrong(f"not said: {data.remarks}")


def names_of_a_feature(rng: random.Random, folder: Path) -> Verdict:
    """The order of names that the file knows; classes without images are said."""
    import datasets
    import pyarrow.parquet as pq

    from sparring.data.datasets import build_dataset

    names = rng.sample(CLASSES, rng.randint(2, 6))
    values = [rng.randrange(len(names)) for _ in range(rng.randint(1, 6))]
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(names))
    )
    cells = [{"bytes": _image(i), "path": None} for i in range(len(values))]
    table = datasets.Dataset.from_dict({"image": cells, "label": values}, features=features)
    pq.write_table(table.data.table, folder / "t.parquet")
    data: Any = build_dataset("parquet", data_files=str(folder / "t.parquet"))
    absent = [name for i, name in enumerate(names) if i not in values]
    if list(data.class_names) != list(names) or data.labels.tolist() != values:
        return wrong(f"{data.class_names}, {data.labels.tolist()} for {names}, {values}")
    if [data.class_names[i] for i in data.absent_classes] != absent:
        return wrong(f"absent {data.absent_classes} for {absent}")
    said = any(f"{len(absent)} of {len(names)} classes" in one for one in data.remarks)
    return right("read") if said == bool(absent) else wrong(f"absent {absent}: {data.remarks}")


def classes_by_name(rng: random.Random, folder: Path) -> Verdict:
    """What a model answers to: names first, numbers where no name is one."""
    from types import SimpleNamespace

    from sparring.commands.sample.draw import class_of

    by_id = rng.random() < 0.5
    names = (
        [str(i) for i in sorted(rng.sample(range(1, 40), 4))]
        if by_id
        else rng.sample([name for name in CLASSES if not name.isdigit()], 4)
    )
    absent = rng.sample(range(4), rng.randrange(2))
    model: Any = SimpleNamespace(num_classes=4, class_names=names, absent_classes=absent)
    said = rng.choice((*names, *(str(i) for i in range(5)), "cow", "-1", ""))
    number = names.index(said) if said in names else None
    if number is None and not by_id and said in ("0", "1", "2", "3"):
        number = int(said)
    if number is None:
        return refuses(lambda: class_of(said, model, "run"), f"'{said}'", names[0])
    if number in absent:
        return refuses(lambda: class_of(said, model, "run"), "never trained", f"'{said}'")
    found = class_of(said, model, "run")
    return right("read") if found == number else wrong(f"'{said}' of {names} is {found}")


KINDS: dict[str, Kind] = {
    "class folders": class_folders,
    "folders of splits": folders_of_splits,
    "classes called as splits": classes_called_as_splits,
    "splits or classes": splits_or_classes,
    "images beside folders": images_beside_folders,
    "patterns of splits": patterns_of_splits,
    "columns of classes": columns_of_classes,
    "columns that are no classes": columns_that_are_no_classes,
    "names of a feature": names_of_a_feature,
    "classes by name": classes_by_name,
}
