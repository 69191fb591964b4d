"""Names of results: what differs has names that differ, and what is the same has the same name."""

import itertools
import json
import os
from pathlib import Path

import pytest

from sparring.commands.evaluate.figures import file_stem
from sparring.commands.shared.files import KEY, as_file_name, claim, claim_page, digest, with_key
from sparring.config.checks import check
from sparring.support.errors import UserError

CONFIG = check({"model": {"network": {"_class_name": "MLP"}}, "data": {"name": "plane"}}, "here")


def stem(*overrides):
    return file_stem("ddim", CONFIG, overrides)


def test_models_that_differ_have_names_that_differ(tmp_path, monkeypatch):
    names = (
        "a",
        "a/b",
        "a-b",
        "a b",
        "a--b",
        "b/a",
        "A",
        "a.b",
        "a_b",
        "a/b/c",
        "a-b/c",
        "ä",
        "a:b",
    )
    assert len({as_file_name(name) for name in names}) == len(names)
    monkeypatch.chdir(tmp_path)
    Path("runs/x").mkdir(parents=True)
    Path("link").symlink_to("runs/x")
    same = (
        "runs/x",
        "./runs/x",
        "runs//x/",
        str(tmp_path / "runs" / "x"),
        "runs/../runs/x",
        "link",
    )
    assert len({as_file_name(name) for name in same}) == 1
    here = as_file_name("runs/x")
    (tmp_path / "other" / "runs" / "x").mkdir(parents=True)
    monkeypatch.chdir("other")
    assert as_file_name("runs/x") != here


def test_settings_that_differ_have_names_that_differ():
    told = (
        [], ["data.seed=1"], ["evaluation.seed=1"], ["evaluation.k=1"], ["evaluation.seed=-1"],
        ["evaluation.extractor=a/b.py:f"], ["evaluation.extractor=a-b.py-f"],
        ["evaluation.seed=1", "evaluation.k=2"], ["evaluation.seed=12"], ["data.seed=1 "],
        ["evaluation.seed=2", "evaluation.k=1"], ["sampling.prompts=[a, b]"],
        ["sampling.prompts=[a b]"], ["sampling.prompts=['a', b]"], ["evaluation.clip=" + "x" * 300],
        ["evaluation.clip=" + "x" * 301], ["evaluation.clip=X"], ["evaluation.clip=x"],
    )  # fmt: skip
    names = [stem(*one) for one in told]
    assert len({name.lower() for name in names}) == len(told)
    assert names[0] == "ddim-50-seed0"
    for a, b in itertools.permutations(["data.seed=1", "evaluation.k=2"]):
        assert stem(a, b) == stem("evaluation.k=2", "data.seed=1")
    assert stem("data.seed=1", "data.seed=2") == stem("data.seed=2")
    assert stem("sampling.seed=0", "sampling.scheduler=ddim") == stem()


@pytest.mark.parametrize("character", ["x", "é", "画", "\U0001f986", "\udce9", "/", " "])
def test_names_fit_into_a_file_system(tmp_path, character):
    model = as_file_name(character * 200)
    name = f"{model}-{stem('evaluation.clip=' + character * 500)}-memorization_of_dirty.png"
    assert len(os.fsencode(name)) < 240
    (tmp_path / name).touch()


def test_a_folder_is_claimed_by_what_made_it(tmp_path):
    claim(tmp_path, "k", ["a.png"], "r.json")  # nothing there
    (tmp_path / "else.txt").touch()
    claim(tmp_path, "k", ["a.png"], "r.json")
    (tmp_path / "a.png").touch()
    for record in (None, "", "{}", "[]", "not json", json.dumps({KEY: "other"})):
        if record is not None:
            (tmp_path / "r.json").write_text(record)
        with pytest.raises(UserError, match=r"a.png is there .*--overwrite"):
            claim(tmp_path, "k", ["a.png"], "r.json")
        claim(tmp_path, "k", ["a.png"], "r.json", overwrite=True)
    (tmp_path / "r.json").write_text(json.dumps({KEY: "k"}))
    claim(tmp_path, "k", ["a.png"], "r.json")


def test_a_page_says_what_made_it(tmp_path):
    page = tmp_path / "p.html"
    claim_page(page, "k")
    page.write_text(with_key("<html></html>\n", "k"))
    claim_page(page, "k")
    for key in ("kk", "l", ""):
        with pytest.raises(UserError, match="--overwrite"):
            claim_page(page, key)
        claim_page(page, key, overwrite=True)
    assert digest(1, "a") == digest(1, "a") != digest("1a")
