"""What mkdocs is told beside mkdocs.yml: pages that are written from the code, results of the
benchmarks as pages, and links that lead out of docs/.

On GitHub a link such as ../../benchmarks/results/dirt.md opens the file. The site has a page for
each report of a benchmark, so there the link leads to this page. Of a file that is no page, such as
a JSON or a Python file, the site shows the name and no link. A link to a file that does not exist
stays as it is, and the strict build refuses it.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import api_reference
import cli_reference
import config_reference
import notebooks

WRITTEN = {"config": config_reference, "cli": cli_reference, "api": api_reference}
ROOT = Path(__file__).parents[2]
REPORTS = "benchmarks/results"
TABLES = {  # reports that are a table and no more: their heading, and the page that explains them
    "audit": ("What the audit found, row by row", "audit"),
    "cifar10_figures": ("Figures of known images of CIFAR-10", "evaluation"),
    "inception_reference": ("Agreement with reference implementations", "evaluation"),
    "quality_cpu": ("Methods on small data, all rows", "papers"),
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the reference, a page for each report that a benchmark has written, and the
    notebooks."""
    for name, written in WRITTEN.items():
        if lost := written.undocumented():
            raise PluginError(f"nothing is said of {', '.join(lost)}")
        files.append(File.generated(config, f"reference/{name}.md", content=written.page()))
    for name in notebooks.NAMES:
        content = notebooks.notebook(name)
        files.append(File.generated(config, f"tutorials/{name}.ipynb", content=content))
    for report in sorted((ROOT / REPORTS).glob("*.md")):
        place = f"results/benchmarks/{report.name}"
        text = report.read_text(encoding="utf-8")
        if not text.startswith("# "):
            title, page = TABLES[report.stem]
            about = (
                f"A benchmark writes this table, and [a page of its own](../{page}.md) explains it."
            )
            text = f"# {title}\n\n{about}\n\n{text}"
        files.append(File.generated(config, place, content=text))
    return files


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """An empty corner of a table heads nothing, so it is no heading to a screen reader."""
    return re.sub(r"<th([^>]*)></th>", r"<td\1></td>", html)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leads links that leave docs/ to the page that the site has instead, and a tutorial to its
    notebook."""
    folder, name = posixpath.split(posixpath.splitext(page.file.src_uri)[0])
    if folder == "tutorials" and name in notebooks.NAMES:
        markdown += f"\n\nThis page is also [a notebook]({name}.ipynb) that you can run.\n"
    here = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def rewritten(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        place = posixpath.normpath(posixpath.join(here, target))
        if place.startswith("docs/") or not (ROOT / place).exists():
            return found[0]
        if place.startswith(f"{REPORTS}/") and place.endswith(".md"):
            page_of_it = posixpath.join("docs/results/benchmarks", posixpath.basename(place))
            return f"[{text}]({posixpath.relpath(page_of_it, here)}{anchor})"
        return text if "`" in text else f"`{text}`"

    return LINK.sub(rewritten, markdown)
