"""What users install: wheel and source archive, built, compared, and run in an empty folder.

`make package` builds both into dist/ and runs these; so does `make test-all`. The environment is
new but borrows this one's dependencies through a .pth file, since torch alone takes minutes; a
release is installed by hand into one that is empty (CONTRIBUTING.md).
"""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from sparring import __version__, commands
from test_cli import SHORT

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
CAN_BUILD = all(importlib.util.find_spec(name) for name in ("build", "hatchling"))
slow = [
    pytest.mark.slow,
    pytest.mark.xdist_group("package"),
    pytest.mark.skipif(not CAN_BUILD, reason="needs build and hatchling (extra dev)"),
]


def clean_environment():
    """Without what would let the checkout be found."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def run(*words, cwd, code=0):
    told = subprocess.run(
        [str(word) for word in words],
        cwd=cwd, capture_output=True, text=True, env=clean_environment(), check=False,
    )  # fmt: skip
    assert told.returncode == code, f"{words}\n{told.stdout[-3000:]}\n{told.stderr[-3000:]}"
    return told.stdout


def build(source, out, *what):
    """The command that CONTRIBUTING.md tells, but for the isolation, which needs a network."""
    run(sys.executable, "-m", "build", "--no-isolation", *what, "-o", out, source, cwd=source)
    return out


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the source archive, and the wheel that was made from it."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))


def contents(wheel):
    """Name -> SHA-256 of what is in it."""
    with zipfile.ZipFile(wheel) as files:
        return {
            name: hashlib.sha256(files.read(name)).hexdigest()
            for name in files.namelist()
            if not name.endswith("/")
        }


def wheel_in(folder):
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The `sparring` of a new environment, in which nothing is ours but the wheel."""
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=True)
    is_windows = os.name == "nt"
    python = place / ("Scripts/python.exe" if is_windows else "bin/python")
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel_in(built), cwd=place)
    libraries = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place
    ).strip()
    # a .pth file in a folder that a .pth file names is not read: an editable install stays unseen
    borrowed = "\n".join(path for path in sys.path if path.endswith("site-packages"))
    (Path(libraries) / "borrowed.pth").write_text(borrowed)
    return python.with_name("sparring.exe" if is_windows else "sparring")


def test_the_version_stands_in_one_place():
    """`src/sparring/__init__.py`; the build reads it there, the changelog begins with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/sparring/__init__.py"
    assert "version:" not in re.sub("cff-version:", "", (ROOT / "CITATION.cff").read_text())
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0].split()[0] == __version__


def test_each_extra_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    page = (ROOT / "docs/how_to/install.md").read_text()
    assert re.findall(r"^\| `([\w-]+)` \|", page, re.M) == list(
        project["project"]["optional-dependencies"]
    )


def test_what_the_source_archive_names_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [name for name in wanted if not (ROOT / name.removeprefix("/")).exists()] == []


class TestPackage:
    pytestmark = slow

    def test_the_wheel_holds_the_package_and_the_configs_and_nothing_else(self, built):
        source = ROOT / "src" / "sparring"
        wanted = {
            f"sparring/{path.relative_to(source).as_posix()}"
            for path in source.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        } | {f"sparring/configs/{name}" for name in CONFIGS}
        about = f"sparring-{__version__}.dist-info/"
        names = set(contents(wheel_in(built)))
        assert {name for name in names if not name.startswith(about)} == wanted
        assert f"{about}licenses/LICENSE" in names

    def test_the_source_archive_builds_the_same_wheel(self, built, tmp_path):
        """`build` makes its wheel from the archive; `build --wheel` from the checkout."""
        from_checkout = build(ROOT, tmp_path, "--wheel")
        assert contents(wheel_in(built)) == contents(wheel_in(from_checkout))
        (archive,) = built.glob("*.tar.gz")
        with tarfile.open(archive) as files:
            kept = {name.split("/", 1)[1] for name in files.getnames() if "/" in name}
        for name in ("tests/conftest.py", "recipes/count_house.py", "CONTRIBUTING.md"):
            assert name in kept  # its tests read these

    def test_help_configs_and_version(self, installed, tmp_path):
        assert run(installed, "--version", cwd=tmp_path) == f"sparring {__version__}\n"
        listed = run(installed, "--help", cwd=tmp_path)
        assert all(f"\n  {name} " in listed for name in commands.names())
        configs = run(installed, "configs", cwd=tmp_path)
        assert all(Path(name).stem in configs for name in CONFIGS)
        python = installed.with_name("python.exe" if os.name == "nt" else "python")
        where = "import sparring; print(sparring.__file__, sparring.__version__)"
        place, version = run(python, "-c", where, cwd=tmp_path).split()
        assert Path(place).is_relative_to(installed.parents[1])
        assert version == __version__
        assert not list(tmp_path.iterdir())

    def test_a_training_by_name_in_an_empty_folder(self, installed, tmp_path):
        run(installed, "train", "digits", "objective=detail", "objective.dirt=none", *SHORT,
            cwd=tmp_path)  # fmt: skip
        assert json.loads((tmp_path / "runs/digits/training.json").read_text())["finished"]

    def test_the_demo_in_an_empty_folder(self, installed, tmp_path):
        words = [*SHORT, "evaluation.n_samples=80", "data.max_train_samples=200"]
        told = run(installed, "demo", "--quick", *words, cwd=tmp_path)
        assert "the short form" in told
        summary = json.loads((tmp_path / "runs/demo-quick/summary.json").read_text())
        assert summary["quick"] is True
        assert list(summary["models"]) == ["plain", "robust", "clean"]
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]
        page = (tmp_path / "runs/demo-quick/report.html").read_text()
        assert "short form: rough figures" in page
