"""Text files as editors write them: marks, encodings, ends of lines."""

import codecs
import json

import pytest
from click.testing import CliRunner

from sparring.cli import main
from sparring.config.read import dump, resolve
from sparring.support.errors import UserError
from sparring.support.text_files import lines_of, read_lines
from sparring.support.yaml_files import read_yaml

PROMPTS = ["a barn\u2028at dusk", "a\x85pond\x0c", "ducks \U0001f986", "a\x1cb"]
KEPT = ["a barn\u2028at dusk", "a\x85pond", "ducks \U0001f986", "a\x1cb"]
MODEL = "model: {network: {_class_name: MLP, width: 8, n_blocks: 1}}\ndata: {name: plane}\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
     (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_LE, "utf-32-le")],
)  # fmt: skip
def test_prompts_are_lines_whatever_wrote_the_file(tmp_path, mark, encoding, end):
    file = tmp_path / "prompts.txt"
    for text in (end.join(PROMPTS), end.join(["", *PROMPTS, "  ", ""]) + end):
        file.write_bytes(mark + text.encode(encoding))
        assert read_lines(file, "--prompt-file") == KEPT


def test_files_one_after_the_other_keep_no_mark(tmp_path):
    one = codecs.BOM_UTF8 + b"a barn\n"
    (tmp_path / "both.txt").write_bytes(one + one)
    assert read_lines(tmp_path / "both.txt", "x") == ["a barn", "a barn"]


def test_lines_end_at_line_feeds_and_carriage_returns_only():
    assert lines_of("a\nb\r\nc\rd") == ["a", "b", "c", "d"]
    whole = "a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b"
    assert lines_of(whole) == [whole]


@pytest.mark.parametrize(
    "content",
    [b"", b"\n \n", codecs.BOM_UTF8, "a\nb".encode("utf-16-le"), b"caf\xe9", b"\xff\xfea"],
)
def test_what_is_no_text_is_refused_and_named(tmp_path, content):
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"--prompt-file .*prompts.txt") as caught:
        read_lines(file, "--prompt-file")
    assert "\n" not in str(caught.value)


def test_the_command_hands_the_lines_on(tmp_path, monkeypatch):
    from sparring.commands.sample import draw

    told = {}

    def sampled(model, **settings):
        told.update(settings)
        return {"n_images": 3, "output": "out"}

    monkeypatch.setattr(draw, "sample_command", sampled)
    (tmp_path / "p.txt").write_bytes("a barn\r\na pond\u2028x\r\n".encode("utf-16"))
    words = ["sample", "m", "--prompt", "first", "--prompt-file", str(tmp_path / "p.txt")]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert told["prompts"] == ["first", "a barn", "a pond\u2028x"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_configs_of_any_editor(tmp_path, encoding):
    file = tmp_path / "a.yaml"
    file.write_bytes((MODEL + "sampling: {prompts: [ein Häuschen]}\n").encode(encoding))
    assert read_yaml(file)["sampling"]["prompts"] == ["ein Häuschen"]


def test_json_is_yaml_emojis_too(tmp_path):
    file = tmp_path / "a.yaml"
    prompts = ["a \U0001f986", "\u00e9\u2028", '"', "\\"]
    file.write_text(MODEL + f"sampling: {json.dumps({'prompts': prompts})}\n")
    assert resolve(file).sampling.prompts == prompts


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_a_config_with_an_end_of_line_that_nobody_sees_is_refused(tmp_path, character):
    file = tmp_path / "a.yaml"
    file.write_text(MODEL + f"# a comment{character}training: {{seed: 5}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"a.yaml.*line 3 holds U\+{ord(character):04X}"):
        resolve(file)


def test_odd_texts_survive_config_yaml(tmp_path):
    """A run is resumed with the texts it began with, whatever YAML would make of them."""
    (tmp_path / "a.yaml").write_text(MODEL)
    odd = ["1e3", "007", "0o17", "0x10", "12:30", "1_000", "no", "null", "true", ".5", "2024-06-01",
           "a # b", "a: b", "[x]", "{x}", "- x", " lead", "'q'", "a\u2028b", "a\x85b", "a\nb",
           "a\tb", "\udce9", "\U0001f600", "=", "<<", "!x", "&x", "*x", "%x", "@x", "`x`", "",
           "a\r\nb", "?", "\ufeffx", "1e-4", "-.inf", "+1", "0b1", "y", "NULL"]  # fmt: skip
    run = resolve(tmp_path / "a.yaml")
    run.sampling.prompts = odd
    (tmp_path / "b.yaml").write_text(dump(run), encoding="utf-8")
    assert resolve(tmp_path / "b.yaml").sampling.prompts == odd
