"""Captions in tables, texts and columns, written here by rules of their own."""

from __future__ import annotations

import io
import json
import random
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from known_answers import Kind, Verdict, refuses, right, wrong
from PIL import Image

WORDS = ("a", "red", "barn", "at", "dusk", "été", "日本", "🦊", "oil on canvas", "50%", "#1", "«x»")
ODD = ("\u2028", "\u2029", "\u0085", "\x0c", "\x1c", "\x0b", "\u00a0", "\u200d")
"""What some programs take for the end of a line or a space."""


def _text(rng: random.Random, odd: float = 0.3, extra: Sequence[str] = ()) -> str:
    """A caption that begins and ends with a word."""
    words = [rng.choice(WORDS)]
    for _ in range(rng.randrange(5)):
        between = rng.choice((*ODD, *extra)) if rng.random() < odd else " "
        words += [between, rng.choice(WORDS)]
    return "".join(words)


def _names(rng: random.Random, n: int | None = None) -> list[str]:
    """Names of images, some in folders, no two alike."""
    names: set[str] = set()
    while len(names) < (n or rng.randint(1, 4)):
        folder = rng.choice(("", "", "sub/", "deep/er/"))
        stem = rng.choice(("IMG_{}", "photo {}", "été{}", "v1.{}", "{}"))
        names.add(folder + stem.format(rng.randrange(40)) + ".png")
    return sorted(names)


def _images(folder: Path, names: Sequence[str]) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), i).save(folder / name)


def _captions(folder: Path, **fields: Any) -> tuple[dict[str, Any], list[str]]:
    """What the library reads: by name of the file its caption, and the remarks."""
    from sparring.data.datasets import build_dataset

    data = build_dataset("image_folder", train_data_dir=str(folder), **fields)
    said = data.captions or [None] * len(data)
    names = [Path(data.where(i) or "").relative_to(folder).as_posix() for i in range(len(data))]
    return dict(zip(names, said, strict=True)), list(data.remarks)


def _compare(folder: Path, expected: dict[str, Any], *said: str, **fields: Any) -> Verdict:
    """Right if the captions are the expected ones, and each of these words is in a remark."""
    found, remarks = _captions(folder, **fields)
    if found != expected:
        return wrong(f"{found} for {expected}")
    for words in said:
        if not any(words in remark for remark in remarks):
            return wrong(f"'{words}' is in none of {remarks}")
    remarks = [remark for remark in remarks if "subfolders" not in remark]  # of classes
    if not said and remarks:
        return wrong(f"nothing was to be said of this, and it says {remarks}")
    return right("read")


# Writers


def _jsonl(rng: random.Random, rows: Sequence[dict[str, Any]]) -> str:
    end = rng.choice(("\n", "\r\n", "\n\n"))
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.3) for row in rows]
    return end.join(lines) + rng.choice(("", end))


def _field(rng: random.Random, text: str, separator: str) -> str:
    must = any(mark in text for mark in (separator, '"', "\n", "\r"))
    return '"' + text.replace('"', '""') + '"' if must or rng.random() < 0.3 else text


def _csv(rng: random.Random, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    separator = rng.choice((",", ",", ";", "\t"))
    end = rng.choice(("\n", "\r\n"))
    lines = [
        (separator + rng.choice(("", "", " ")) if separator != "\t" else separator).join(
            _field(rng, cell, separator) for cell in row
        )
        for row in (header, *rows)
    ]
    return end.join(lines) + rng.choice(("", end, end + end))


def _encoded(rng: random.Random, text: str) -> bytes:
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32")))


# Kinds


def json_lines(rng: random.Random, folder: Path) -> Verdict:
    names = _names(rng)
    _images(folder, names)
    extra = ("\n", "\r\n", '"', ",", "\\", "\t")
    expected = {name: _text(rng, extra=extra) for name in names}
    column = rng.choice((None, "text", "title"))
    rows = [{"file_name": name, column or "text": text, "n": 3} for name, text in expected.items()]
    rng.shuffle(rows)
    (folder / "metadata.jsonl").write_bytes(_encoded(rng, _jsonl(rng, rows)))
    return _compare(folder, expected, caption_column=column)


def csv_tables(rng: random.Random, folder: Path) -> Verdict:
    names = _names(rng)
    _images(folder, names)
    extra = ("\n", "\r\n", '"', ",", ";", "\t", "\\", "|")
    expected = {name: _text(rng, extra=extra) for name in names}
    columns = ["file_name", "text", "id"]
    rng.shuffle(columns)
    rows = [
        [{"file_name": name, "text": text, "id": "7"}[column] for column in columns]
        for name, text in expected.items()
    ]
    rng.shuffle(rows)
    name = rng.choice(("metadata.csv", "metadata.csv", "Metadata.CSV"))
    (folder / name).write_bytes(_encoded(rng, _csv(rng, columns, rows)))
    return _compare(folder, expected)


def csv_that_nobody_quoted(rng: random.Random, folder: Path) -> Verdict:
    """Commas or line ends without quotes, a row cut short, a quote without its end."""
    names = _names(rng, 3)
    _images(folder, names)
    rows = [f"{name},{_text(rng, 0)}" for name in names]
    bad = rng.randrange(3)
    how = rng.randrange(4)
    if how == 0:
        rows[bad] += ", " + _text(rng, 0)
    elif how == 1:
        rows[bad] += "\n" + _text(rng, 0)
    elif how == 2:
        rows[bad] = names[bad]
    else:
        rows[bad] = f'{names[bad]},"{_text(rng, 0)}'
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *rows]), encoding="utf-8")
    return refuses(lambda: _captions(folder), "metadata.csv", "line")


def two_tables(rng: random.Random, folder: Path) -> Verdict:
    names = _names(rng)
    _images(folder, names)
    first = _jsonl(rng, [{"file_name": name, "text": "new"} for name in names])
    if rng.random() < 0.5:
        (folder / "metadata.jsonl").write_text(first, encoding="utf-8")
        (folder / "metadata.csv").write_text(f"file_name,text\n{names[0]},old\n", encoding="utf-8")
        return refuses(lambda: _captions(folder), "metadata.jsonl", "metadata.csv")
    name = rng.choice(names)
    inner = folder / Path(name).parent
    while inner == folder:  # one that lies in a folder of its own
        name = f"own/{Path(name).name}"
        _images(folder, [name])
        inner = folder / "own"
    rows = [{"file_name": name, "text": "new"}]
    (folder / "metadata.jsonl").write_text(_jsonl(rng, rows), encoding="utf-8")
    (inner / "metadata.csv").write_text(f"file_name,text\n{Path(name).name},old\n", "utf-8")
    return refuses(lambda: _captions(folder), name, "metadata.jsonl", "metadata.csv")


def tables_in_folders(rng: random.Random, folder: Path) -> Verdict:
    """A table describes what lies in its folder and below; no image is in two."""
    names = [f"{place}/{i}.png" for place in ("a", "b", "b/c") for i in range(rng.randint(1, 2))]
    _images(folder, names)
    expected = {name: _text(rng) for name in names}
    by_table: dict[str, list[dict[str, str]]] = {}
    for name, text in expected.items():
        above = [str(parent) for parent in Path(name).parents]
        place = rng.choice(above)
        relative = Path(name).relative_to(place).as_posix()
        by_table.setdefault(place, []).append({"file_name": relative, "text": text})
    for place, rows in by_table.items():
        (folder / place / "metadata.jsonl").write_bytes(_encoded(rng, _jsonl(rng, rows)))
    return _compare(folder, expected)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "capitals": lambda name: name.swapcase(),
    "backslash": lambda name: name.replace("/", "\\"),
    "dot": lambda name: "./" + name,
    "blank": lambda name: name + " ",
}


def names_in_another_spelling(rng: random.Random, folder: Path) -> Verdict:
    names = _names(rng, 3)
    _images(folder, names)
    expected = {name: _text(rng) for name in names}
    told = {name: rng.choice(list(SPELLINGS.values()))(name) for name in names}
    rows = [{"file_name": told[name], "text": text} for name, text in expected.items()]
    (folder / "metadata.jsonl").write_text(_jsonl(rng, rows), encoding="utf-8")
    changed = [name for name in names if told[name] not in (name, f"./{name}")]
    said = (f"{len(changed)} row(s) of", "another spelling") if changed else ()
    return _compare(folder, expected, *said)


def rows_and_files_that_do_not_meet(rng: random.Random, folder: Path) -> Verdict:
    names = _names(rng, rng.randint(2, 4))
    _images(folder, names)
    n_without = rng.randint(0, len(names) - 1)
    expected: dict[str, Any] = dict.fromkeys(names[:n_without])
    expected |= {name: _text(rng) for name in names[n_without:]}
    rows = [{"file_name": name, "text": text} for name, text in expected.items() if text]
    if n_without and rng.random() < 0.5:  # a row that says there is none
        rows.append({"file_name": names[0], "text": rng.choice((None, float("nan"), []))})
    n_lost = rng.randrange(3)
    rows += [{"file_name": f"lost-{i}.png", "text": "nobody"} for i in range(n_lost)]
    rng.shuffle(rows)
    (folder / "metadata.jsonl").write_text(_jsonl(rng, rows), encoding="utf-8")
    said = [f"{n_lost} row(s) of"] * (n_lost > 0)
    said += [f"{n_without} of {len(names)} images have no caption"] * (n_without > 0)
    return _compare(folder, expected, *said)


def several_captions(rng: random.Random, folder: Path) -> Verdict:
    """In rows or lists; what is drawn follows from (seed, position) and is one of them."""
    from sparring.data.datasets import build_dataset

    names = _names(rng, 2)
    _images(folder, names)
    texts = {name: [f"{i} {_text(rng)}" for i in range(rng.randint(2, 4))] for name in names}
    rows: list[dict[str, Any]] = []
    for name, several in texts.items():
        if rng.random() < 0.5:
            rows.append({"file_name": name, "text": several})
        else:
            rows += [{"file_name": name, "text": text} for text in several]
    (folder / "metadata.jsonl").write_text(_jsonl(rng, rows), encoding="utf-8")
    verdict = _compare(
        folder, {name: tuple(several) for name, several in texts.items()},
        f"{len(names)} of {len(names)} images have several captions",
    )  # fmt: skip
    if verdict.outcome != "read":
        return verdict
    words = {"train_data_dir": str(folder), "seed": rng.randrange(9)}
    one, two = (build_dataset("image_folder", **words) for _ in range(2))
    keys = [(rng.randrange(2), rng.randrange(1000)) for _ in range(12)]
    together = one.__getitems__(keys)["caption"]
    alone = [two.__getitems__([key])["caption"][0] for key in reversed(keys)][::-1]
    if together != alone:
        return wrong(f"drawn {together} in a batch and {alone} one by one")
    known = [texts[Path(one.where(i) or "").relative_to(folder).as_posix()] for i, _ in keys]
    if not all(text in several for text, several in zip(together, known, strict=True)):
        return wrong(f"{together} are not captions of their images")
    return right("read")


def cells_that_are_no_captions(rng: random.Random, folder: Path) -> Verdict:
    names = _names(rng)
    _images(folder, names)
    lists: tuple[Any, ...] = ([["a"], ["b"]], ["a", 3], [{"raw": "a"}])
    bad: Any = rng.choice((3, 2.5, True, {"en": "a barn"}, *lists))
    rows: list[dict[str, Any]] = [{"file_name": name, "text": _text(rng)} for name in names]
    row = rng.randrange(len(rows))
    rows[row]["text"] = bad
    lines = [json.dumps(one) for one in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return refuses(lambda: _captions(folder), "metadata.jsonl", f"line {row + 1}", "text")


def broken_lines(rng: random.Random, folder: Path) -> Verdict:
    names = _names(rng, 3)
    _images(folder, names)
    lines = [json.dumps({"file_name": name, "text": _text(rng)}) for name in names]
    row = rng.randrange(3)
    how = rng.randrange(5)
    lines[row] = (
        lines[row][:-2],
        f"[{lines[row]}]",
        '{"text": "whose"}',
        lines[row][:-1] + ', "text": "again"}',
        lines[row].replace("file_name", "filename"),
    )[how]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return refuses(lambda: _captions(folder), "metadata.jsonl", f"line {row + 1}")


def texts_beside_images(rng: random.Random, folder: Path) -> Verdict:
    names = _names(rng, rng.randint(2, 4))
    _images(folder, names)
    n_without = rng.randint(0, len(names) - 1)
    expected: dict[str, Any] = dict.fromkeys(names[:n_without])
    for name in names[n_without:]:
        expected[name] = _text(rng, extra=("\n", ",", '"'))
        ending = rng.choice((".txt", ".txt", ".TXT"))
        spaces = rng.choice(("", "\n", "\r\n", "  \n"))
        place = folder / f"{name.removesuffix('.png')}{ending}"
        place.write_bytes(_encoded(rng, expected[name] + spaces))
    said = [f"{n_without} of {len(names)} images have no caption"] * (n_without > 0)
    if rng.random() < 0.3:
        (folder / "LICENCE.txt").write_text("free", encoding="utf-8")
        said.append("1 text file(s) lie beside no image")
    return _compare(folder, expected, *said)


def texts_of_other_tools(rng: random.Random, folder: Path) -> Verdict:
    """Names as taggers and gallery programs give them, in any capitals; two for one: refused."""
    names = _names(rng, rng.randint(2, 4))
    _images(folder, names)
    expected: dict[str, Any] = {}
    style = rng.choice((".caption", ".png.txt", ".png.caption"))
    has_two, said = rng.random() < 0.3, []
    for name in names:
        expected[name] = _text(rng)
        place = folder / (name.removesuffix(".png") + style)
        stem = place.name.removesuffix(place.suffix)
        if rng.random() < 0.2 and not has_two and stem.swapcase() != stem:
            place, said = place.with_name(stem.swapcase() + place.suffix), ["in another spelling"]
        place.write_bytes(_encoded(rng, expected[name]))
    if has_two:
        (folder / (names[0].removesuffix(".png") + ".txt")).write_text("two", encoding="utf-8")
        return refuses(lambda: _captions(folder), names[0], "keep the one that is right")
    found, remarks = _captions(folder)
    if found != expected:
        return wrong(f"{found} for {expected}")
    if said and not any(said[0] in remark for remark in remarks):
        return wrong(f"not said: {remarks}")
    return right("read")


def texts_that_are_no_captions(rng: random.Random, folder: Path) -> Verdict:
    """Boxes of objects, and texts in a folder of their own, are said not to be read."""
    names = _names(rng, rng.randint(2, 4))
    _images(folder, names)
    if rng.random() < 0.5:
        place = folder / rng.choice(("captions", "labels", "txt/all"))
        place.mkdir(parents=True)
        for i in range(rng.randint(1, 3)):
            (place / f"{i}.txt").write_text(_text(rng), encoding="utf-8")
        return _compare(folder, dict.fromkeys(names), "in folders without images are not read")
    expected: dict[str, Any] = {}
    for i, name in enumerate(names):
        is_box = i == 0 or rng.random() < 0.5
        n = rng.choice((4, 4, 5, 8, 51))
        lines = [
            " ".join([str(rng.randrange(80)), *(f"{rng.random():.6g}" for _ in range(n))])
            for _ in range(rng.randint(1, 4))
        ]
        text = rng.choice(("\n", "\r\n")).join(lines) + "\n" if is_box else _text(rng)
        expected[name] = None if is_box else text
        (folder / name).with_suffix(".txt").write_bytes(text.encode())
    return _compare(folder, expected, "hold numbers of objects' boxes")


def _png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (2, 2), value).save(out, "PNG")
    return out.getvalue()


def _parquet(folder: Path, captions: Sequence[Any], kind: Any = None) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": _png(i), "path": None} for i in range(len(captions))]
    column = pa.array(captions, kind)
    pq.write_table(pa.table({"image": cells, "words": column}), folder / "t.parquet")
    return str(folder / "t.parquet")


def columns_of_parquet(rng: random.Random, folder: Path) -> Verdict:
    """Text, bytes, lists, with and without nulls, whole and as a stream."""
    import pyarrow as pa

    from sparring.data.datasets import build_dataset

    n = rng.randint(2, 5)
    extra = ("\n", '"', ",", "\t")
    texts: list[Any] = [_text(rng, extra=extra) for _ in range(n)]
    expected: list[Any] = list(texts)
    how = rng.randrange(4)
    kind: Any = None
    if how == 1:
        texts = [text.encode() for text in texts]
    elif how == 2:
        expected = [tuple(_text(rng) for _ in range(rng.randrange(4))) for _ in range(n)]
        texts, kind = [list(several) for several in expected], pa.list_(pa.string())
        expected = [
            several if len(several) > 1 else several[0] if several else None for several in expected
        ]
    for row in range(1, n):
        if how != 2 and rng.random() < 0.3:
            texts[row] = expected[row] = None
    words = {"data_files": _parquet(folder, texts, kind), "caption_column": "words"}
    data = build_dataset("parquet", **words, streaming=rng.random() < 0.3)
    n_without = sum(one is None for one in expected)
    if list(data.captions or ()) != expected:
        return wrong(f"{data.captions} for {expected}")
    if (n_without > 0) != any(f"{n_without} of {n} images have no" in one for one in data.remarks):
        return wrong(f"{n_without} have no caption, and it says {data.remarks}")
    return right("read")


def columns_that_hold_no_captions(rng: random.Random, folder: Path) -> Verdict:
    from sparring.data.datasets import build_dataset

    values: Any = rng.choice(
        (
            [1, 2, 3],
            [0.5, None, 2.5],
            [True, False, True],
            [{"en": "a"}, {"en": "b"}, {"en": "c"}],
            [[["a"]], [["b"]], [["c"]]],
            [b"\xff\xfe", b"\xff", b"\xff"],
        )
    )
    path = _parquet(folder, values)
    streaming = rng.random() < 0.3
    words = {"data_files": path, "caption_column": "words", "streaming": streaming}
    return refuses(lambda: build_dataset("parquet", **words), "row 0", "words", "t.parquet")


def copies(rng: random.Random, folder: Path) -> Verdict:
    """A contaminated copy has the captions of the images."""
    from sparring.commands.contaminate.copies import contaminate

    names = _names(rng)
    _images(folder / "photos", names)
    expected = {name: _text(rng, extra=("\n", '"', ",")) for name in names}
    if rng.random() < 0.5:
        rows = [{"file_name": name, "text": text} for name, text in expected.items()]
        table = folder / "photos" / "metadata.jsonl"
        table.write_text(_jsonl(rng, rows), encoding="utf-8")
    else:
        for name, text in expected.items():
            place = folder / "photos" / f"{name.removesuffix('.png')}.txt"
            place.write_text(text, encoding="utf-8", newline="")
    noise = {"kind": "gaussian", "rate": 1.0, "sigma": 0.1, "seed": 0, "clip": True, "eps": None}
    data = {"name": "image_folder", "train_data_dir": str(folder / "photos")}
    contaminate(data, noise, folder / "copy", lambda line: None)
    return _compare(folder / "copy", expected)


KINDS: dict[str, Kind] = {
    "json lines": json_lines,
    "csv tables": csv_tables,
    "csv that nobody quoted": csv_that_nobody_quoted,
    "two tables": two_tables,
    "tables in folders": tables_in_folders,
    "names in another spelling": names_in_another_spelling,
    "rows and files that do not meet": rows_and_files_that_do_not_meet,
    "several captions": several_captions,
    "cells that are no captions": cells_that_are_no_captions,
    "broken lines": broken_lines,
    "texts beside images": texts_beside_images,
    "texts of other tools": texts_of_other_tools,
    "texts that are no captions": texts_that_are_no_captions,
    "columns of parquet": columns_of_parquet,
    "columns that hold no captions": columns_that_hold_no_captions,
    "copies": copies,
}
