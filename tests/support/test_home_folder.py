"""`~` in paths: in configs, on the command line and in the library."""

import pwd
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from sparring.cli import main
from sparring.commands.shared.data_words import sections_of
from sparring.config.read import resolve
from sparring.config.schema import AttackSection
from sparring.data.datasets import build_dataset
from sparring.models.pretrained import load
from sparring.support.cache import TensorCache
from sparring.support.errors import UserError
from sparring.support.home_folder import expanded
from sparring.support.user_code import load_from_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from answers.settings import PATHS  # type: ignore

MODEL = {"network": {"_class_name": "MLP", "width": 8, "n_blocks": 1}}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def leaf(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("key", PATHS)
def test_home_in_a_config_and_on_the_command_line(home, key):
    section, name = key.split(".")
    raw: dict = {"model": MODEL, "data": {"name": "plane"}}
    Path("a.yaml").write_text(yaml.safe_dump(raw))
    raw[section] = {**raw.get(section, {}), name: "~/x y"}
    Path("b.yaml").write_text(yaml.safe_dump(raw))
    assert leaf(resolve("b.yaml"), key) == f"{home}/x y"
    assert leaf(resolve("a.yaml", [f"{key}=~/x y"]), key) == f"{home}/x y"
    assert leaf(resolve("a.yaml", [f"{key}=./~/x"]), key) == "./~/x"
    assert leaf(resolve("a.yaml", [f"{key}=a~b/~"]), key) == "a~b/~"


def test_home_in_lists_objectives_networks_and_models(home):
    Path("a.yaml").write_text(yaml.safe_dump({"model": MODEL, "data": {"name": "plane"}}))
    assert resolve("a.yaml", ["data.data_files=[~/a.tar, b.tar]"]).data.data_files == [
        f"{home}/a.tar", "b.tar",
    ]  # fmt: skip
    words = [
        "objective=consistency_distillation",
        "objective.teacher=~/t",
        "objective.metric=~/m.py:f",
    ]
    run = resolve("a.yaml", words)
    assert (run.objective.teacher, run.objective.metric) == (f"{home}/t", f"{home}/m.py:f")
    home.mkdir()
    (home / "my #1.py").write_text("from sparring.objectives import Plain as Mine\n")
    assert (
        resolve("a.yaml", ["objective=~/my #1.py:Mine"]).objective.name == f"{home}/my #1.py:Mine"
    )
    adt = ["objective=adt", "objective.discriminator.features=~/dino"]
    assert resolve("a.yaml", adt).objective.discriminator.features == f"{home}/dino"
    own = resolve("a.yaml", ["model.network={_class_name: ~/net.py:Net}"])
    assert own.model.network == {"_class_name": f"{home}/net.py:Net"}
    Path("m.yaml").write_text("model: {pretrained_model_name_or_path: ~/m}\n")
    assert resolve("m.yaml").model.pretrained_model_name_or_path == f"{home}/m"
    assert AttackSection(transfer_from="~/a").transfer_from == f"{home}/a"


def test_home_of_a_config_and_of_its_base(home):
    home.mkdir()
    (home / "base.yaml").write_text(yaml.safe_dump({"model": MODEL, "training": {"seed": 7}}))
    Path("a.yaml").write_text("base: ~/base.yaml\n")
    assert resolve("a.yaml").training.seed == resolve("~/base.yaml").training.seed == 7
    assert sections_of("~/photos", [], "none", "inspect")[0]["train_data_dir"] == f"{home}/photos"


def test_homes_that_are_not_known_are_refused(monkeypatch):
    with pytest.raises(UserError, match=r"no user 'nobody-here'.*\./~nobody-here/x"):
        expanded("~nobody-here/x")
    Path("a.yaml").write_text(yaml.safe_dump({"model": MODEL}))
    for word in ("training.output_dir=~nobody-here", "data.data_files=[~nobody-here/x.tar]"):
        with pytest.raises(UserError, match="no user 'nobody-here'") as caught:
            resolve("a.yaml", [word])
        assert word.partition("=")[0] in str(caught.value)
    monkeypatch.setenv("HOME", "")
    with pytest.raises(UserError, match="home folder is not known"):
        expanded("~/x")
    me = pwd.getpwuid(0)
    assert expanded(f"~{me.pw_name}/x") == f"{me.pw_dir}/x"


def test_an_empty_path_is_refused():
    Path("a.yaml").write_text(yaml.safe_dump({"model": MODEL}))
    with pytest.raises(UserError, match=r"training.output_dir: an empty path"):
        resolve("a.yaml", ["training.output_dir="])
    told = CliRunner().invoke(main, ["inspect", "digits", "-o", ""])
    assert told.exit_code == 2
    assert "an empty path" in told.stderr


def test_the_command_line_knows_home(home):
    """What follows -o and an argument, where no shell has replaced it."""
    told = CliRunner().invoke(
        main, ["contaminate", "digits", "-o", "~/dirty", "data.max_train_samples=8"]
    )
    assert told.exit_code == 0, told.output
    assert (home / "dirty" / "manifest.jsonl").is_file()
    assert not list(Path.cwd().iterdir())
    for words in (["train", "~/none.yaml"], ["sample", "~/none"], ["report", "~/none"],
                  ["evaluate", "~/none", "data.name=digits"], ["replay", "~/none"],
                  ["attack", "~/none"], ["sample", "m", "--prompt-file", "~/none"]):  # fmt: skip
        told = CliRunner().invoke(main, words)
        assert told.exit_code == 2
        assert f"{home}/none" in told.stderr


def test_callers_of_the_library_have_a_home_too(home):
    home.mkdir()
    (home / "mine.py").write_text("def far():\n    return 3\n")
    assert load_from_file("~/mine.py:far", "here")() == 3
    assert TensorCache("~/kept").folder == home / "kept"
    with pytest.raises(UserError, match=f"{home}/none"):
        load("~/none")
    (home / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(home / "photos" / "0.png")
    assert len(build_dataset("image_folder", train_data_dir="~/photos", split="all")) == 1
    with pytest.raises(UserError, match="no user 'nobody-here'"):
        build_dataset("image_folder", train_data_dir="~nobody-here")
