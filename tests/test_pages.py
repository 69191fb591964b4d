"""The code blocks of tutorials and how-tos, run from top to bottom with tiny budgets.

`make test-docs` runs them; `make test` does not. Each page has a folder, in which lies what its
reader would have: photos, runs, a config. A block below `<!-- not run: reason -->` is left out.
Tutorials that are notebooks too are run as such, in an empty folder.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pytest

from text_to_image import captioned_folder, stable_diffusion

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs/generate"))
import notebooks  # type: ignore  # noqa: E402

PAGES = [
    page
    for room in ("tutorials", "how_to")
    for page in sorted((ROOT / "docs" / room).glob("*.md"))
    if room == "how_to" or page.stem not in notebooks.NAMES
]
TINY = {
    "train": [
        "training.max_train_steps=3", "training.train_batch_size=4",
        "training.validation_steps=null",
        "training.checkpointing_steps=2", "training.mixed_precision=no",
        "training.gradient_accumulation_steps=1", "training.report_to=none",
        "data.dataloader_num_workers=0", "sampling.num_inference_steps=2", "sampling.n_images=2",
    ],
    "evaluate": [
        "evaluation.n_samples=8", "evaluation.n_resamples=2", "sampling.num_inference_steps=2",
        "evaluation.diagnostics_points=4", "evaluation.mismatch_samples=8",
    ],
    "attack": [
        "attack.n_samples=8", "attack.n_seeds=1", "attack.n_attack_steps=1", "attack.radii=[0.1]",
        "sampling.num_inference_steps=4",
    ],
}  # fmt: skip
"""Settings of a command that the page does not say itself."""
SHIM = """#!{python}
import sys
tiny = {tiny!r}
name, *_ = words = sys.argv[1:]
said = {{word.partition("=")[0] for word in words}}
more = [] if "--dry-run" in words else tiny.get(name, [])
if name == "train" and "digits" in words and "data.name" not in said:
    more = [*more, "data.max_train_samples=48"]
if name == "train" and "text_to_image" in words:
    more = [*more, "data.resolution=16", "training.conditioning_dropout_prob=0"]
if name == "sample" and not said & {{"--num-inference-steps", "--sweep"}}:
    more = [*more, "--num-inference-steps", "2"]
sys.argv[1:] = [*words, *(one for one in more if one.partition("=")[0] not in said)]
from sparring.cli import main
main()
"""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int


def blocks(page: Path, languages: Collection[str] = ("bash", "python")) -> list[Block]:
    """The blocks of these languages, but for those that are not to be run."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        above = next((one for one in reversed(lines[:start]) if one.strip()), "")
        language = lines[start].removeprefix("```").strip()
        if language in languages and not above.startswith("<!-- not run:"):
            found.append(Block(language, "\n".join(lines[start + 1 : number]), start + 2))
        start = None
    return found


def test_a_block_below_the_mark_is_left_out(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\na\n```\n\n<!-- not run: why -->\n```bash\nb\n```\n\n"
        "```\nc\n```\n```python\nd\n```\n"
    )
    assert blocks(page) == [Block("bash", "a", 2), Block("python", "d", 14)]


def environment(folder: Path) -> dict[str, str]:
    """With a `sparring` that has tiny budgets, and no way to the network."""
    shim = folder / "bin" / "sparring"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(SHIM.format(python=sys.executable, tiny=TINY))
    shim.chmod(0o755)
    return os.environ | {
        "PATH": os.pathsep.join(
            [str(shim.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "SPARRING_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def run(script: str, folder: Path, env: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="session")
def belongings(tmp_path_factory):
    """What a reader has: photos, a config, a run under several names, captions, a pipeline."""
    folder = tmp_path_factory.mktemp("belongings")
    env = environment(folder)
    (folder / "CONFIG.yaml").write_text("base: digits.yaml\ndata: {max_train_samples: 48}\n")
    run(
        "sparring contaminate digits -o photos contamination.sigma=[0.05,0.35]\n"
        "sparring train digits training.output_dir=runs/plain\n"
        "sparring inspect CONFIG.yaml -o report",
        folder,
        env,
    )
    for name in ("runs/robust", "runs/clean", "RUN"):
        shutil.copytree(folder / "runs/plain", folder / name)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    captioned_folder(folder / "captioned")
    (folder / "path/to").mkdir(parents=True)
    stable_diffusion(folder).rename(folder / "path/to/pipeline")
    return folder


@pytest.mark.docs
@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_the_commands_of_the_page_run(page, request, tmp_path):
    wanted = blocks(page)
    if not wanted:
        pytest.skip("no block of this page can run here")
    makes_photos = any(" -o photos " in f"{block.text} " for block in wanted)
    shutil.copytree(
        request.getfixturevalue("belongings"), tmp_path, dirs_exist_ok=True, symlinks=True,
        ignore=shutil.ignore_patterns("photos") if makes_photos else None,
    )  # fmt: skip
    env = environment(tmp_path)
    python = ""
    for block in wanted:
        if block.language == "bash":
            run(block.text, tmp_path, env)
        else:  # the blocks of a page go on from each other
            python += f"{block.text}\n"
            (tmp_path / "blocks.py").write_text(python)
    if python:
        run(f"{sys.executable} blocks.py", tmp_path, env)


@pytest.mark.docs
@pytest.mark.parametrize("name", notebooks.NAMES)
def test_the_notebook_runs_from_top_to_bottom(name, tmp_path):
    """All but the cell that installs; and it prints what its page shows as printed."""
    client = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    book = nbformat.reads(notebooks.notebook(name), as_version=4)
    nbformat.validate(book)
    book.cells = [
        cell for cell in book.cells if notebooks.INSTALL not in cell.metadata.get("tags", [])
    ]
    client.NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute(env=environment(tmp_path))
    printed = "".join(
        out.get("text", "") for cell in book.cells for out in cell.get("outputs", [])
    ).splitlines()
    shown = blocks(ROOT / "docs/tutorials" / f"{name}.md", {""})
    assert [line for one in shown for line in one.text.splitlines() if line not in printed] == []


def test_a_page_becomes_cells(monkeypatch, tmp_path):
    (tmp_path / "tutorials").mkdir()
    (tmp_path / "tutorials/one.md").write_text(
        "# One\n\nSee [two](two.md), ![a\npicture](../three.png).\n\n```bash\na \\\n  b\n```\n\n"
        "So:\n\n```\nan output\n```\n\n<!-- not run: why -->\n```python\nc\n```\n\n"
        "```python\nd\n```\n"
    )
    monkeypatch.setattr(notebooks, "DOCS", tmp_path)
    cells = json.loads(notebooks.notebook("one"))["cells"][2:]
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == [
        ("markdown", "# One\n\nSee two, a\npicture."),
        ("code", "%%bash -e\na \\\n  b"),
        ("markdown", "So:\n\n```\nan output\n```\n\n```python\nc\n```"),
        ("code", "d"),
    ]
