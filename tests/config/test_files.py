"""Where configs are found, and the rows of a table."""

import json

import pytest
import yaml
from click.testing import CliRunner

from sparring.cli import main
from sparring.commands.shared.data_words import sections_of
from sparring.config.files import BUNDLED, find
from sparring.config.read import resolve
from sparring.support.errors import UserError

NETWORK = "model: {network: {_class_name: MLP, dim: 3}}\ndata: {name: plane, dim: 3}\n"
TABLE = (
    NETWORK
    + """
training: {seed: 1, max_train_steps: 9}
rows:
  one: {about: as it is}
  two: {about: "another seed, and dirt", training: {seed: 2}, contamination: {kind: gaussian}}
"""
)


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.yaml").write_text(TABLE)
    return tmp_path / "table.yaml"


def said(path, *words):
    with pytest.raises(UserError) as refused:
        resolve(path, words)
    return str(refused.value)


def test_a_row_lies_between_the_file_and_the_command_line(table):
    one, two = resolve(table, ["row=one"]), resolve(table, ["row=two"])
    assert (one.training.seed, one.contamination.kind) == (1, "none")
    assert (two.training.seed, two.contamination.kind) == (2, "gaussian")
    assert two.training.max_train_steps == 9
    assert two.training.output_dir == "runs/table_two"
    more = resolve(table, ["training.seed=3", "row=one", "row=two"])
    assert (more.training.seed, more.contamination.kind) == (3, "gaussian")


def test_a_missing_and_an_unknown_row_list_the_rows(table):
    rows = r"row=one (as it is), row=two (another seed, and dirt)"
    assert said(table).endswith(f"table.yaml is a table of runs: choose one of {rows}")
    assert said(table, "row=tow").endswith(f"has no row 'tow': choose one of {rows}")
    table.write_text(NETWORK)
    assert said(table, "row=one").endswith("table.yaml has no rows: leave out row=one")


def test_a_file_may_name_the_row_that_is_taken_unasked(table):
    table.write_text(f"row: two\n{TABLE}")
    run = resolve(table)
    assert (run.training.seed, run.training.output_dir) == (2, "runs/table")
    assert resolve(table, ["row=one"]).training.output_dir == "runs/table_one"


def test_a_file_has_the_rows_of_its_base_or_its_own(table):
    child = table.with_name("child.yaml")
    child.write_text("base: table.yaml\ntraining: {seed: 5}\n")
    assert resolve(child, ["row=one"]).training.seed == 5
    assert resolve(child, ["row=two"]).training.output_dir == "runs/child_two"
    child.write_text("base: table.yaml\nrows: {three: {about: 3, training: {seed: 3}}}\n")
    assert "rows must be" in said(child, "row=three")  # about is no text
    child.write_text("base: table.yaml\nrows: {three: {about: c, training: {seed: 3}}}\n")
    assert resolve(child, ["row=three"]).training.seed == 3
    assert "has no row 'one'" in said(child, "row=one")
    child.write_text("base: table.yaml\nrows: null\n")
    assert resolve(child).training.seed == 1


@pytest.mark.parametrize("rows", ["[one]", "{one: 3}", "{one: {training: {seed: 1}}}"])
def test_rows_are_sections_that_say_what_they_are(table, rows):
    table.write_text(f"{NETWORK}rows: {rows}\n")
    assert "rows must be NAME: {about: what it is, settings}" in said(table, "row=one")


def test_a_config_is_found_by_its_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # a folder of that name is no config
    for name in ("digits", "digits.yaml", "configs/digits", "configs/digits.yaml"):
        assert find(name) == BUNDLED / "digits.yaml"
    assert resolve("digits").training.output_dir == "runs/digits"
    (tmp_path / "mine.yaml").write_text("base: plane\ntraining: {seed: 4}\n")
    assert resolve("mine").training.seed == 4
    (tmp_path / "digits.yaml").write_text(NETWORK)  # one's own goes first
    assert resolve("digits").data.name == "plane"
    for name in ("elsewhere/digits.yaml", "runs/digits"):
        with pytest.raises(UserError, match="does not exist"):
            resolve(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("digit", "digits"),
        ("smoothing_cifar10_p90_s02.yaml", "smoothing_cifar10 row=p90_s02"),
        ("configs/digits_clean.yaml", "digits row=clean"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(name, nearest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said(name).endswith(f"does not exist - did you mean {nearest!r}?")


def test_a_data_set_may_be_a_row(table):
    _, dirt = sections_of(str(table), ["row=two"], "none", "inspect")
    assert dirt["kind"] == "gaussian"


def command(*words):
    told = CliRunner().invoke(main, ["configs", *words])
    assert told.exit_code == 0, told.output
    return told.output


def test_the_command_lists_and_prints_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = command()
    assert "\nplane " in listed
    assert "\n  row=p90_s02 " in listed
    assert json.loads(command("--json"))["configs"]["digits"]["rows"].keys() == {"noisy", "clean"}
    assert command("digits") == (BUNDLED / "digits.yaml").read_text()
    row = yaml.safe_load(command("digits", "row=clean", "training.seed=7"))
    assert row["contamination"]["kind"] == "none"
    assert row["training"]["seed"] == 7
    (tmp_path / "mine.yaml").write_text(command("digits", "row=clean"))
    mine, bundled = resolve("mine.yaml"), resolve("digits", ["row=clean"])
    mine.training.output_dir = bundled.training.output_dir
    assert mine == bundled
