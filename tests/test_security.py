"""What comes from outside does no harm: YAML, terminal, tokens, files that lie elsewhere, code."""

import ast
import io
import os
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import sparring
from html_pages import Sound
from sparring.cli import main
from sparring.config.files import read_config
from sparring.config.read import resolve
from sparring.data.datasets import build_dataset
from sparring.data.files.allowed_files import Unreadable
from sparring.data.files.decoding import MAX_PIXELS, decode
from sparring.data.files.source import Columns, FolderFiles
from sparring.data.files.tables import parquet
from sparring.support import yaml_files
from sparring.support.errors import UserError
from sparring.support.secrets import masked
from sparring.support.terminal import LONGEST, echo, one_line, printable
from sparring.support.yaml_files import MAX_BYTES, MAX_DEPTH, parse_value, read_yaml

PLANE = """
model: {network: {_class_name: MLP, dim: 3, width: 8, n_blocks: 1}}
data: {name: plane, dim: 3, n_points: 64}
training: {max_train_steps: 2, train_batch_size: 8, report_to: tensorboard, n_threads: 1}
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))


# YAML


def laughs(depth, width):
    """A list of lists of ... of width ** depth numbers, in a few words."""
    lines = ["a0: &a0 [" + ", ".join(["1"] * width) + "]"]
    for i in range(1, depth):
        lines.append(f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * width) + "]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs(9, 10), "more than 100,000 values"),
        (laughs(30, 2), "more than 100,000 values"),
        ("a: " + "[" * 10_000, "more than 32 levels"),
        ("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH, "more than 32 levels"),
        ("a: &a [*a]", "an alias of itself"),
        ("a: &a {b: {c: *a}}", "an alias of itself"),
        ("a: !!python/object/apply:os.system [touch pwned]", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !!set {b}", "could not determine a constructor"),
        ("a: !!binary eA==", "could not determine a constructor"),
        ("a: !!timestamp 2026-01-01", "could not determine a constructor"),
        ("a: !!float ''", "not of its type"),
        ("{[1, 2]: 3}", "a key must be one word"),
        ("a: 1\n'a': 2", "key 'a' is given twice"),
        ("#" * (MAX_BYTES + 1), "larger than 1,048,576 bytes"),
        ("a: 1\x07", "special characters are not allowed"),
    ],
)
def test_yaml_is_limited(text, said):
    Path("x.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        read_yaml(Path("x.yaml"))
    assert "\n" not in str(caught.value)
    assert not Path("pwned").exists()


def test_what_is_within_the_limits_is_read(monkeypatch):
    inner = MAX_DEPTH - 1
    assert parse_value("[" * inner + "]" * inner, "o") is not None
    shared = parse_value("{a: &a {b: 1, c: [2, 3]}, d: *a, e: {<<: *a, c: 4}}", "o")
    assert shared["d"] == {"b": 1, "c": [2, 3]}
    assert shared["e"] == {"b": 1, "c": 4}
    monkeypatch.setattr(yaml_files, "MAX_VALUES", 9)
    assert parse_value("[&a [1, 2, 3], *a]", "o") == [[1, 2, 3]] * 2  # 1 + 4 + 4
    for text in ("[&a [1, 2, 3], *a, 4]", "[1, 2, 3, 4, 5, 6, 7, 8, 9]", "[&a {b: 1, c: 2}, *a]"):
        with pytest.raises(UserError, match="more than 9 values"):
            parse_value(text, "o")
    monkeypatch.undo()
    assert parse_value("2026-01-01", "o") == "2026-01-01"
    assert parse_value("=", "o") == "="


def test_a_chain_of_bases_and_what_is_no_file():
    for i in range(20):
        Path(f"{i}.yaml").write_text(f"base: {i + 1}.yaml\n")
    Path("20.yaml").write_text(PLANE)
    assert "model" in read_config(Path("5.yaml"))
    with pytest.raises(UserError, match="more than 16 files"):
        read_config(Path("4.yaml"))
    os.mkfifo("pipe.yaml")
    for place in ("pipe.yaml", "/dev/zero"):
        with pytest.raises(UserError, match="is no file"):
            read_yaml(Path(place))


def test_keys_that_only_look_like_diffusers_own_are_refused():
    Path("x.yaml").write_text(PLANE)
    for word in ("model.network.__class__=1", "model.scheduler._zzz=1"):
        told = CliRunner().invoke(main, ["train", "x.yaml", word, "--dry-run"])
        assert told.exit_code == 2
        assert f"unknown key '{word[:-2]}'" in told.stderr
    kept = "model.network._diffusers_version='0.32'"
    assert CliRunner().invoke(main, ["train", "x.yaml", kept, "--dry-run"]).exit_code == 0


# The terminal


def test_nothing_that_a_terminal_obeys_is_printed(capsys):
    assert printable("\x1b[31m\x00\x7f\x9b\r") == r"\x1b[31m\x00\x7f\x9b\r"
    assert printable("a\tb\nc é 名 😀") == "a\tb\nc é 名 😀"
    assert printable("\u202egnp.exe") == r"\u202egnp.exe"
    assert printable("\udce9.png") == r"\udce9.png"
    assert one_line("a\nb\x1b") == r"a b\x1b"
    long = one_line("x" * 10_000)
    assert len(long) <= LONGEST
    assert "[...]" in long
    assert one_line("y" * LONGEST) == "y" * LONGEST
    echo("\x1b]0;title\x07\udce9", err=True)
    assert capsys.readouterr().err == "\\x1b]0;title\\x07\\udce9\n"


def test_hostile_names_reach_the_terminal_as_text():
    for words in (
        ["train", "no\x1b[2J\u202e.yaml"],
        ["train", "\x1b[31m"],
        ["sample", "./\x1b]0;x\x07"],
        ["inspect", "./no\r\nsparring: error: nothing\x9b"],
    ):
        told = CliRunner().invoke(main, words)
        assert told.exit_code == 2
        assert told.stderr.count("\n") == 1
        assert told.stderr.strip().isprintable()


# Tokens


HF, WANDB = "hf_" + "Ab3" * 11, "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:s3cret@host/x.parquet", "https://***@host/x.parquet"),
        ("https://ghp@host/x", "https://***@host/x"),
        ("https://host/x?token=abc&n=3", "https://host/x?***&n=3"),
        ("https://host/x?n=3&X-Amz-Signature=abc", "https://host/x?n=3&***"),
        (f"see {HF}.", "see ***."),
        ("hf://datasets/a/b@refs/c.parquet", "hf://datasets/a/b@refs/c.parquet"),
        ("photos/a@b.png?key", "photos/a@b.png?key"),
        ("configs/digits.yaml training.seed=1", "configs/digits.yaml training.seed=1"),
        ("runs/sk-learn-experiments-on-digits", "runs/sk-learn-experiments-on-digits"),
        (f"sk-proj-{'a1' * 12} AKIA{'Z9' * 8} ghp_{'x' * 36}", "*** *** ***"),
    ],
)
def test_what_looks_like_a_token_is_masked(text, shown):
    assert masked(text) == shown


def test_tokens_of_the_environment_reach_no_file_of_a_run(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", HF)
    monkeypatch.setenv("WANDB_API_KEY", WANDB)
    Path(".env").write_text(f"OTHER_TOKEN=fromdotenv12345\nHF_TOKEN={HF}\n")
    Path("x.yaml").write_text(PLANE)
    told = CliRunner().invoke(main, ["train", "x.yaml", "training.output_dir=run"])
    assert told.exit_code == 0, told.output
    files = [file for file in Path("run").rglob("*") if file.is_file()]
    assert {"run.json", "config.yaml", "README.md"} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        for secret in (HF, WANDB, "fromdotenv12345"):
            assert secret.encode() not in content, file
    assert not [file for file in files if file.name == ".env"]


@pytest.mark.parametrize(
    "secret",
    ["https://me:s3cretpass@host/x.parquet", "https://host/x.parquet?token=s3cretpass", HF, WANDB],
)
def test_a_token_in_a_setting_is_refused_and_not_repeated(monkeypatch, secret):
    monkeypatch.setenv("WANDB_API_KEY", WANDB)
    Path("x.yaml").write_text(PLANE)
    Path("y.yaml").write_text(PLANE.replace("n_points: 64", f"data_files: ['{secret}']"))
    for words in (
        ["train", "x.yaml", f"data.data_files=['{secret}']"],
        ["train", "y.yaml"],
        ["inspect", "digits", f"data.data_files='{secret}'"],
        ["train", "x.yaml", f"training.hub_model_id='{secret}'", "--dry-run"],
    ):
        told = CliRunner().invoke(main, words)
        assert told.exit_code == 2
        assert "holds a token or password" in told.stderr
        assert secret not in told.output
        assert "s3cretpass" not in told.output
    assert not Path("runs").exists()
    with pytest.raises(UserError, match=r"data.data_files.0 holds a token"):
        resolve("y.yaml")


def test_the_recorded_command_is_masked(monkeypatch):
    from accelerate import Accelerator

    from sparring.training.tracking import describe

    monkeypatch.setattr(sys, "argv", ["mine.py", "--token", HF, "https://a:b@c/d"])
    told = describe(Accelerator(cpu=True))["command"]
    assert told == ["mine.py", "--token", "***", "https://***@c/d"]


# Images


def png(width, height, data):
    def chunk(kind, content):
        n, crc = len(content), zlib.crc32(kind + content)
        return n.to_bytes(4, "big") + kind + content + crc.to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\1\0\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_as_many_pixels_as_that_and_no_more(monkeypatch):
    from sparring.data.files import decoding

    assert MAX_PIXELS == 89_478_485
    monkeypatch.setattr(decoding, "MAX_PIXELS", 64)
    assert decode(png(8, 8, zlib.compress(b"\0\xff" * 8))).shape == (1, 8, 8)
    with pytest.raises(Unreadable, match="9 x 8 pixels are more than 64"):
        decode(png(9, 8, zlib.compress(b"\0\xff\xff" * 8)))


def test_warnings_about_a_file_are_not_shown():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns of more than 89 megapixels
        with pytest.raises(Unreadable, match="12000 x 12000 pixels are more than 89,478,485"):
            decode(png(12_000, 12_000, b""))


def test_what_is_no_file_is_listed_and_not_waited_for(write_png):
    Path("photos/folder.png").mkdir(parents=True)
    good = write_png("photos/good.png", 0)
    os.mkfifo("photos/pipe.png")
    Path("photos/zero.png").symlink_to("/dev/zero")
    os.mkfifo("photos/good.txt")  # where a caption would be
    with Path("photos/huge.png").open("wb") as file:
        file.truncate(2**40)
    data = build_dataset("image_folder", train_data_dir="photos")
    batch = data.read_all()
    assert torch.equal(batch["x0"], good[None])
    assert {Path(path).name for path in batch["unreadable"]} == {"huge.png", "pipe.png", "zero.png"}
    assert "caption" not in batch
    device = FolderFiles("files", ["/dev/null", "photos/pipe.png"])  # anywhere
    for i in range(2):
        with pytest.raises(Unreadable, match="it is no file"):
            device.open(i)


@pytest.mark.parametrize("name", ["good.txt", "metadata.jsonl", "metadata.csv"])
def test_texts_from_outside_are_not_read(write_png, name):
    Path("photos").mkdir()
    write_png("photos/good.png", 0)
    Path("secret").write_text('{"file_name": "good.png", "text": "secret"}\n')
    Path("photos", name).symlink_to("../secret")
    with pytest.raises(UserError, match="leads out of 'photos': put a copy there instead"):
        build_dataset("image_folder", train_data_dir="photos")
    Path("photos", name).unlink()
    Path("photos/notes").write_text("fine")
    Path("photos/good.txt").symlink_to("notes")
    data = build_dataset("image_folder", train_data_dir="photos")
    assert data.captions == ["fine"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metadata.jsonl", "[" * 100_000, "is not JSON lines"),
        ("metadata.jsonl", '{"file_name": 3}', "has no file_name"),
        ("metadata.csv", "file_name,text\na.png," + "x" * 200_000, "is no table"),
        ("metadata.csv", "a,b\n1,2\n", "has no file_name"),
    ],
)
def test_broken_metadata_is_one_line(write_png, name, content, said):
    Path("photos").mkdir()
    write_png("photos/a.png", 0)
    Path("photos", name).write_text(content)
    with pytest.raises(UserError, match=said):
        build_dataset("image_folder", train_data_dir="photos")


def test_formats_that_run_other_programs_are_not_opened(monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "EPS")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was run"))
    with pytest.raises(Unreadable):
        decode(file.getvalue())


def test_paths_of_a_table_lie_beside_it(write_png):
    import datasets

    Path("data/pictures").mkdir(parents=True)
    near, far = write_png("data/pictures/near.png", 1), write_png("far.png", 2)
    paths = ["pictures/near.png", "../far.png", str(Path("far.png").resolve()), None, "no.png"]
    paths.append(str(Path("data/pictures/near.png").resolve()))
    Path("data/link.png").symlink_to("../far.png")
    paths.append("link.png")
    cells = {"image": [{"bytes": None, "path": path} for path in paths]}
    datasets.Dataset.from_dict(cells).to_parquet("data/t.parquet")
    source = parquet("data/*.parquet", Columns())
    found = []
    for i in range(len(paths)):
        try:
            found.append(decode(source.files.open(i)))
        except Unreadable:
            found.append(None)
    assert [i for i, x in enumerate(found) if x is not None] == [0, 5]
    assert all(torch.equal(found[i], near) for i in (0, 5))
    assert not torch.equal(near, far)


def test_a_local_folder_of_hugging_face_is_read_by_its_paths(write_png, monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    Path("set/train").mkdir(parents=True)
    wanted = [write_png(f"set/train/{i}.png", i) for i in range(3)]
    data = build_dataset("huggingface", dataset_name="set")
    assert torch.equal(data.read_all()["x0"], torch.stack(wanted))
    Path("set/more.zip").write_bytes(b"PK\3\4")
    Path("t.parquet").write_bytes(b"PK\3\4" * 10)
    for streaming in (False, True):
        with pytest.raises(UserError, match=r"more\.zip is an archive"):
            build_dataset("huggingface", dataset_name="set", streaming=streaming)
        with pytest.raises(UserError, match="no parquet file"):
            build_dataset("parquet", data_files="t.parquet", streaming=streaming)


@pytest.fixture
def write_png():
    def write(path, seed):
        pixels = np.random.RandomState(seed).randint(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return torch.tensor(pixels).permute(2, 0, 1) / 255

    return write


def test_the_folder_itself_may_be_a_link_and_links_in_it_stay_in_it(write_png):
    Path("real/a").mkdir(parents=True)
    Path("real/b").mkdir()
    wanted = [write_png("real/a/0.png", 0), write_png("real/b/1.png", 1)]
    Path("real/b/2.png").symlink_to("../a/0.png")
    Path("link").symlink_to("real")
    batch = build_dataset("image_folder", train_data_dir="link").read_all()
    assert torch.equal(batch["x0"], torch.stack([*wanted, wanted[0]]))
    write_png("far.png", 2)
    Path("real/b/3.png").symlink_to("../../far.png")
    batch = build_dataset("image_folder", train_data_dir="link").read_all()
    assert batch["unreadable"] == ["link/b/3.png"]
    assert len(batch["x0"]) == 3


def test_a_folder_that_cannot_be_listed_is_said(write_png, monkeypatch):
    Path("photos/locked").mkdir(parents=True)
    write_png("photos/0.png", 0)
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(UserError, match="photos/locked cannot be listed: Permission denied"):
        build_dataset("image_folder", train_data_dir="photos")


# Code


SOURCE = Path(sparring.__file__).parent
PICKLED = {
    "evaluation/networks/open_clip.py": 1,
    "evaluation/networks/weights.py": 1,
}
"""Where published reference weights are read by torch.load, after their checksum, and how often."""
USER_CODE = {"support/user_code.py", "models/pretrained.py"}
"""Who runs a user's own file, named by them as file.py:name."""
IMPORTS = "support/late_packages.py"  # runs packages of diffusers, later than Python would
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "marshal.loads", "shelve.open", "joblib.load", "os.system", "os.popen", "np.load", "numpy.load",
    "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "torch.hub.load", "dill.load",
}  # fmt: skip


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            yield ast.unparse(node.func), words


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: file.stem)
def test_no_code_is_unpickled_trusted_or_evaluated(file):
    name = file.relative_to(SOURCE).as_posix()
    n_pickled = 0
    for function, words in calls(ast.parse(file.read_text(encoding="utf-8"))):
        assert function not in FORBIDDEN, f"{name}: {function}"
        assert words.get("shell", "False") == "False", f"{name}: {function}"
        assert words.get("trust_remote_code", "False") == "False", f"{name}: {function}"
        assert words.get("allow_pickle", "False") == "False", f"{name}: {function}"
        assert words.get("use_safetensors", "True") != "False", f"{name}: {function}"
        if function == "yaml.load":
            assert name == "support/yaml_files.py"
            assert words["Loader"] in ("_Loader", "_TextLoader")
        if function == "torch.load":
            assert words.get("weights_only") == "True", name
            n_pickled += 1
        if function.endswith("exec_module"):
            assert name in (*USER_CODE, IMPORTS)
    assert n_pickled == PICKLED.get(name, 0), name


# Pages


def test_hostile_file_names_are_text_on_the_pages_of_inspect(write_png):
    evil = "<img src=x onerror=alert(1)> & \"'"
    Path("photos").mkdir()
    for i in range(3):
        write_png(f"photos/{evil}{i}.png", i)
    (Path("photos") / f"{evil}\x1b[31m\udce9.png").write_bytes(b"broken")
    told = CliRunner().invoke(main, ["inspect", "photos", "-o", "out"])
    assert told.exit_code == 0, told.output
    assert all(line.isprintable() for line in told.output.splitlines())
    html = (Path("out") / "index.html").read_text(encoding="utf-8")
    Sound(html)
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "<img src=x" not in html
