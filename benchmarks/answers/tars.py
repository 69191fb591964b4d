"""Tar shards as people make them: with webdataset, with plain tar, on a Mac, with dots in names.

Each image is a grey level of its own, so that what is read says which member it was.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from known_answers import Kind, Verdict, refuses, right, wrong
from PIL import Image

Answer = dict[int, str | None]
"""By the grey level of each image that must come out: its caption."""


def _image(value: int, kind: str = "png") -> bytes:
    out = io.BytesIO()
    Image.new("L", (2, 2), value).save(out, {"png": "PNG", "bmp": "BMP", "webp": "WEBP"}[kind])
    return out.getvalue()


def _write(rng: random.Random, path: Path, members: Sequence[tuple[str, bytes]]) -> str:
    """A tar with these members, and folders and headers as tools write them."""
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(path, "w", format=form) as tar:
        folders = {name.rpartition("/")[0] for name, _ in members if "/" in name}
        for folder in sorted(folders) if rng.random() < 0.5 else ():
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def _read(path: str | Sequence[str], **fields: Any) -> tuple[Answer, list[str]]:
    from sparring.data.datasets import build_dataset

    data = build_dataset("webdataset", data_files=path, **fields)
    batch = data.read_all()
    grey = (batch["x0"][:, 0, 0, 0] * 255).round().long().tolist()
    if len(set(grey)) < len(grey):
        raise AssertionError(f"an image comes twice: {grey}")
    captions = batch.get("caption", [None] * len(grey))
    return dict(zip(grey, captions, strict=True)), list(data.remarks)


def _compare(path: str | Sequence[str], expected: Answer, *said: str, **fields: Any) -> Verdict:
    found, remarks = _read(path, **fields)
    if found != expected:
        return wrong(f"{found} for {expected}")
    for words in said:
        if not any(words in remark for remark in remarks):
            return wrong(f"'{words}' is in none of {remarks}")
    if not said and remarks:
        return wrong(f"nothing was to be said of this, and it says {remarks}")
    return right("left out" if any("left out" in words for words in said) else "read")


def _case(rng: random.Random, ending: str) -> str:
    return rng.choice((ending, ending, ending.upper(), ending.capitalize()))


def _stems(rng: random.Random, n: int, dots: bool = False) -> list[str]:
    """Names without an ending, no two with the same beginning up to the first dot."""
    stems = set()
    while len(stems) < n:
        folder = rng.choice(("", "./", "a/", "set.v2/", "b.c/d/"))
        name = rng.choice(("{:06d}", "IMG_{}", "photo {}", "été{}", "{}"))
        stems.add(folder + name.format(rng.randrange(99)))
    return sorted(stems)


def _text(rng: random.Random, i: int) -> str:
    return f"{i} " + rng.choice(("a barn", "été\u2028fox", "one\ntwo", "日本 🦊", "x, y"))


def grouped(rng: random.Random, folder: Path) -> Verdict:
    """As webdataset writes them, over several shards; some without a text."""
    expected: Answer = {}
    paths = []
    for shard in range(rng.randint(1, 3)):
        members: list[tuple[str, bytes]] = []
        for stem in _stems(rng, rng.randint(1, 4)):
            value = 10 * len(expected)
            kind = rng.choice(("png", "png", "bmp"))
            own = [(f"{stem}.{_case(rng, kind)}", _image(value, kind))]
            expected[value] = _text(rng, value) if rng.random() < 0.8 else None
            if (text := expected[value]) is not None:
                content = text.encode(rng.choice(("utf-8", "utf-8-sig", "utf-16")))
                own.append((f"{stem}.{_case(rng, 'txt')}", content))
            if rng.random() < 0.3:
                own.append((f"{stem}.json", b'{"width": 2}'))
            if rng.random() < 0.3:
                own.append((f"{stem}.npy", b"\x93NUMPY"))
            rng.shuffle(own)
            members += own
        paths.append(_write(rng, folder / f"s-{shard}.tar", members))
    n = sum(text is None for text in expected.values())
    said = [f"{n} of {len(expected)} images have no caption"] if 0 < n < len(expected) else []
    return _compare(paths, expected, *said)


def apart(rng: random.Random, folder: Path) -> Verdict:
    """Images first, or texts first, or in any order."""
    stems = _stems(rng, rng.randint(2, 5))
    expected: Answer = {10 * i: _text(rng, i) for i in range(len(stems))}
    images = [(f"{stem}.png", _image(10 * i)) for i, stem in enumerate(stems)]
    texts = [(f"{stem}.txt", str(expected[10 * i]).encode()) for i, stem in enumerate(stems)]
    rng.shuffle(texts)
    how = rng.randrange(4)
    n_lost = rng.randrange(3) if how == 3 else 0
    texts += [(f"lost-{i}.txt", b"whose") for i in range(n_lost)]
    members = images + texts if how % 2 else texts + images
    if how == 2:
        rng.shuffle(members)
    path = _write(rng, folder / "s.tar", members)
    return _compare(path, expected, *([f"{n_lost} text(s) have no image"] if n_lost else []))


def dots(rng: random.Random, folder: Path) -> Verdict:
    """Versions, times and abbreviations in names: each image has a text of its own name."""
    names = set()
    while len(names) < rng.randint(2, 5):
        name = rng.choice(("v{}.{}", "Photo {}.{}", "St. Ives {}{}", "a.b.c{}{}", "{}.{}_x"))
        names.add(name.format(rng.randrange(3), rng.randrange(9)))
    stems = sorted(names)
    expected: Answer = {10 * i: _text(rng, i) for i in range(len(stems))}
    pairs = [
        [(f"{stem}.png", _image(10 * i)), (f"{stem}.txt", str(expected[10 * i]).encode())]
        for i, stem in enumerate(stems)
    ]
    n_plain = rng.randrange(3)
    for i in range(n_plain):
        value = 200 + i
        expected[value] = text = _text(rng, value)
        pairs.append([(f"plain{i}.png", _image(value)), (f"plain{i}.txt", text.encode())])
    rng.shuffle(pairs)
    members = [member for pair in pairs for member in pair]
    if rng.random() < 0.4:
        members = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    path = _write(rng, folder / "s.tar", members)
    return _compare(path, expected, f"{len(stems)} image(s) are samples of their own")


def dots_without_texts(rng: random.Random, folder: Path) -> Verdict:
    """Times in names: all are read, or it is said that they might be roles."""
    from sparring.support.errors import UserError

    names = {f"Photo {rng.randrange(9, 12)}.{rng.randrange(60):02d}" for _ in range(6)}
    if rng.random() < 0.2:
        names = {f"v{major}.{minor}" for major in (1, 2) for minor in (0, 1)}
    members = [(f"{name}.png", _image(10 * i)) for i, name in enumerate(sorted(names))]
    path = _write(rng, folder / "s.tar", members)
    try:
        return _compare(path, {10 * i: None for i in range(len(names))}, "samples of their own")
    except UserError as error:
        found = str(error)
    return right("refused") if "take the dots out" in found else wrong(f"refused: {found}")


def several_images(rng: random.Random, folder: Path) -> Verdict:
    """A mask or depth beside the image: the one that has the sample's own name, or as asked."""
    stems = _stems(rng, rng.randint(1, 3))
    expected: Answer = {}
    others: Answer = {}
    members = []
    role = rng.choice(("mask", "depth.left", "seg"))
    for i, stem in enumerate(stems):
        expected[10 * i] = others[10 * i + 1] = _text(rng, i)
        own = [
            (f"{stem}.png", _image(10 * i)),
            (f"{stem}.{role}.png", _image(10 * i + 1)),
            (f"{stem}.txt", str(expected[10 * i]).encode()),
        ]
        rng.shuffle(own)
        members += own
    path = _write(rng, folder / "s.tar", members)
    if rng.random() < 0.4:
        return _compare(path, others, image_column=f"{role}.png")
    return _compare(path, expected, f"{len(stems)} image(s) are not read")


def roles_without_a_main_image(rng: random.Random, folder: Path) -> Verdict:
    roles = rng.choice((("left", "right"), ("rgb", "depth", "mask"), ("a", "b")))
    stems = _stems(rng, rng.randint(2, 3))
    with_text = rng.random() < 0.5
    members: list[tuple[str, bytes]] = []
    expected: Answer = {}
    chosen = rng.choice(roles)
    for i, stem in enumerate(stems):
        for j, role in enumerate(roles):
            members.append((f"{stem}.{role}.png", _image(10 * i + j)))
            if role == chosen:
                expected[10 * i + j] = "text" if with_text else None
        if with_text:
            members.append((f"{stem}.txt", b"text"))
    path = _write(rng, folder / "s.tar", members)
    if rng.random() < 0.5:
        return _compare(path, expected, image_column=f"{chosen}.png")
    return refuses(lambda: _read(path), "s.tar", "data.image_column")


def of_a_mac(rng: random.Random, folder: Path) -> Verdict:
    """AppleDouble members, __MACOSX, hidden folders, files without an ending."""
    stems = _stems(rng, rng.randint(1, 3))
    expected: Answer = {10 * i: _text(rng, i) for i in range(len(stems))}
    members = []
    n_hidden = n_bare = 0
    for i, stem in enumerate(stems):
        place, slash, base = stem.rpartition("/")
        for ending, content in (("png", _image(10 * i)), ("txt", str(expected[10 * i]).encode())):
            if rng.random() < 0.7:
                members.append((f"{place}{slash}._{base}.{ending}", b"\0" * 50))
                n_hidden += 1
            members.append((f"{stem}.{ending}", content))
    if rng.random() < 0.5:
        members.append(("__MACOSX/x.png", _image(255)))
        n_hidden += 1
    if rng.random() < 0.5:
        members.append(("README", b"about"))
        n_bare += 1
    path = _write(rng, folder / "s.tar", members)
    said = [f"{n_hidden} hidden file(s) are left out"] * (n_hidden > 0)
    said += [f"{n_bare} file(s) are left out, whose names have no ending"] * (n_bare > 0)
    return _compare(path, expected, *said)


def kinds_that_are_not_read(rng: random.Random, folder: Path) -> Verdict:
    stems = _stems(rng, rng.randint(2, 5))
    n_read = rng.randint(1, len(stems) - 1)
    expected: Answer = {}
    members: list[tuple[str, bytes]] = []
    counts: dict[str, int] = {}
    for i, stem in enumerate(stems):
        if i < n_read:
            expected[10 * i] = f"{i}"
            members.append((f"{stem}.png", _image(10 * i)))
        else:
            kind = rng.choice(("svg", "mp4", "psd"))
            counts[kind] = counts.get(kind, 0) + 1
            members.append((f"{stem}.{_case(rng, kind)}", b"?"))
        members.append((f"{stem}.txt", f"{i}".encode()))
    path = _write(rng, folder / "s.tar", members)
    words = "sample(s) are left out, without an image that is read: ."
    return _compare(path, expected, *(f"{n} {words}{kind}" for kind, n in counts.items()))


def classes(rng: random.Random, folder: Path) -> Verdict:
    """Ids with gaps, in cls or json, beside the image or apart."""
    from sparring.data.datasets import build_dataset

    ids = rng.sample((0, 1, 2, 3, 7, 10, 11, 700, 90000), rng.randint(1, 4))
    stems = _stems(rng, rng.randint(len(ids), 6))
    own = [ids[i % len(ids)] for i in range(len(stems))]
    column = rng.choice((None, "kind"))
    labels = [
        (f"{stem}.cls", f"{one}\n".encode())
        if column is None
        else (f"{stem}.json", json.dumps({"kind": one}).encode())
        for stem, one in zip(stems, own, strict=True)
    ]
    images = [(f"{stem}.png", _image(10 * i)) for i, stem in enumerate(stems)]
    pairs = [member for pair in zip(images, labels, strict=True) for member in pair]
    path = _write(rng, folder / "s.tar", rng.choice((pairs, images + labels)))
    data = build_dataset("webdataset", data_files=path, label_column=column)
    batch = data.read_all()
    grey = (batch["x0"][:, 0, 0, 0] * 255).round().long().tolist()
    called = [data.class_names[label] for label in batch["label"].tolist()]
    if dict(zip(grey, called, strict=True)) != {10 * i: str(one) for i, one in enumerate(own)}:
        return wrong(f"{called} for {own}")
    if list(data.class_names) != [str(one) for one in sorted(set(own))]:
        return wrong(f"classes {data.class_names} for {own}")
    return right("read")


def captions_in_json(rng: random.Random, folder: Path) -> Verdict:
    stems = _stems(rng, rng.randint(1, 3))
    good: list[Any] = ["text", ["one"], ["one", "two"], None, [], "été\u2028"]
    bad: list[Any] = [3, {"en": "a"}, [["a"]], True, ["a", 1]]
    values = [rng.choice(good) for _ in stems]
    is_bad = rng.random() < 0.4
    if is_bad:
        values[rng.randrange(len(values))] = rng.choice(bad)
    elif not any(values):
        values[0] = "text"
    members: list[tuple[str, bytes]] = []
    for i, (stem, value) in enumerate(zip(stems, values, strict=True)):
        said = {"caption": value} if value is not None or rng.random() < 0.5 else {}
        members += [(f"{stem}.png", _image(i)), (f"{stem}.json", json.dumps(said).encode())]
    path = _write(rng, folder / "s.tar", members)
    if is_bad:
        return refuses(lambda: _read(path, caption_column="caption"), "s.tar", "caption of")
    found, _ = _read(path, caption_column="caption")
    for i, value in enumerate(values):
        allowed = value if isinstance(value, list) and value else [value or None]
        if found[i] not in allowed:
            return wrong(f"{found[i]!r} for {value!r}")
    return right("read")


def twice(rng: random.Random, folder: Path) -> Verdict:
    """A member that comes again, next to itself."""
    stems = _stems(rng, rng.randint(1, 3))
    members: list[tuple[str, bytes]] = []
    for i, stem in enumerate(stems):
        members += [(f"{stem}.png", _image(10 * i)), (f"{stem}.txt", b"text")]
    where = rng.randrange(len(members))
    members.insert(where, members[where])
    path = _write(rng, folder / "s.tar", members)
    return refuses(lambda: _read(path), "s.tar", "twice")


def labels_that_only_some_have(rng: random.Random, folder: Path) -> Verdict:
    stems = _stems(rng, rng.randint(2, 4))
    without = rng.randrange(len(stems))
    members = []
    for i, stem in enumerate(stems):
        members.append((f"{stem}.png", _image(10 * i)))
        if i != without:
            members.append((f"{stem}.cls", b"1"))
    path = _write(rng, folder / "s.tar", members)
    return refuses(lambda: _read(path), f"s.tar: {stems[without]}.png", "label")


def splits_in_a_shard(rng: random.Random, folder: Path) -> Verdict:
    """Folders of one split say nothing, of train and another one that all are read."""
    around = rng.choice(("{}/", "./{}/", "data/{}/cat/", "{}_images/"))
    splits = ["train", rng.choice(("train", "val", "Test"))]
    members: list[tuple[str, bytes]] = []
    for i in range(rng.randint(2, 5)):
        members.append((f"{around.format(splits[i % 2])}{i}.png", _image(i)))
    path = _write(rng, folder / "s.tar", members)
    words = ("folders of several splits",) if splits[1] != "train" else ()
    return _compare(path, dict.fromkeys(range(len(members))), *words)


KINDS: dict[str, Kind] = {
    "splits in a shard": splits_in_a_shard,
    "grouped": grouped,
    "apart": apart,
    "dots": dots,
    "dots without texts": dots_without_texts,
    "several images": several_images,
    "roles without a main image": roles_without_a_main_image,
    "of a Mac": of_a_mac,
    "kinds that are not read": kinds_that_are_not_read,
    "classes": classes,
    "captions in json": captions_in_json,
    "twice": twice,
    "labels that only some have": labels_that_only_some_have,
}
