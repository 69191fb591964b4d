"""The tutorials as notebooks, each made of its page.

    python docs/generate/notebooks.py notebooks     # writes them into this folder

The site has them too, beside their pages. Prose becomes cells of text, blocks of bash and Python
become cells that run, from top to bottom, on a machine with Python and nothing else. A block below
`<!-- not run: reason -->` stays text, as do blocks of other languages. `make test-docs` runs them
with tiny budgets.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
NAMES = ("first_run", "your_photos", "your_loop")
"""Tutorials that need no more than what is bundled."""
INSTALL = "install"
"""Tag of the cell that installs."""
FIRST = (
    "This notebook is a tutorial of sparring's documentation. It needs no GPU and no files: run "
    "the cells from top to bottom. The first one installs sparring; where you have a wheel of it "
    "instead, upload that and name it in place of `sparring`."
)
FENCE = "```"
LINK = re.compile(r"!?\[([^\]]*)\]\((?!https?:)[^)\s]+\)")
"""To another page, or a picture: a notebook travels alone."""


def parts_of(text: str) -> Iterator[tuple[str, str]]:
    """("markdown" or a language that runs, its text) for each part of a page."""
    prose: list[str] = []
    lines = iter(text.splitlines())
    is_kept = False
    for line in lines:
        if line.startswith("<!-- not run:"):
            is_kept = True
            continue
        if not line.startswith(FENCE):
            prose.append(line)
            continue
        block = []
        for inner in lines:
            if inner.startswith(FENCE):
                break
            block.append(inner)
        language = line.removeprefix(FENCE).strip()
        if language in ("bash", "python") and not is_kept:
            yield "markdown", "\n".join(prose).strip()
            yield language, "\n".join(block)
            prose = []
        else:
            prose += [line, *block, FENCE]
        is_kept = False
    yield "markdown", "\n".join(prose).strip()


def notebook(name: str) -> str:
    """The notebook of a tutorial, as JSON."""
    text = (DOCS / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    cells = [_cell(0, "markdown", FIRST),
             _cell(1, "code", "%pip install -q sparring", INSTALL)]  # fmt: skip
    for kind, part in parts_of(LINK.sub(r"\1", text)):
        if part:
            kinds = {"bash": f"%%bash -e\n{part}", "python": part}
            of = "markdown" if kind == "markdown" else "code"
            cells.append(_cell(len(cells), of, kinds.get(kind, part)))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, kind: str, text: str, *tags: str) -> dict[str, Any]:
    cell = {
        "cell_type": kind,
        "id": f"cell-{number}",
        "metadata": {"tags": list(tags)} if tags else {},
        "source": text.splitlines(keepends=True),
    }
    return cell if kind == "markdown" else cell | {"execution_count": None, "outputs": []}


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for each in NAMES:
        (out / f"{each}.ipynb").write_text(notebook(each), encoding="utf-8")
