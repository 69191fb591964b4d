"""The picture of the report in the docs: as wide as a screen, and on a phone beside it.

sparring demo
node recipes/accessibility/check.mjs --shots shots runs/demo/report.html
python recipes/report_figure.py shots docs/images/report.png
"""

import sys
from pathlib import Path

from PIL import Image

SCALE = 0.62
HEIGHT = 3900  # pixels of the page that are shown; the rest is cut off
GAP = 24


def figure(shots: Path) -> Image.Image:
    """Both screenshots, cut to the same height and made smaller, side by side in 256 colours."""
    pages = [
        Image.open(shots / f"report-{width}-light.png").convert("RGB") for width in (1440, 390)
    ]
    pages = [page.crop((0, 0, page.width, min(page.height, HEIGHT))) for page in pages]
    pages = [page.resize([round(SCALE * side) for side in page.size]) for page in pages]
    wide, phone = pages
    joined = Image.new("RGB", (wide.width + GAP + phone.width, wide.height), "white")
    joined.paste(wide, (0, 0))
    joined.paste(phone, (wide.width + GAP, 0))
    return joined.quantize(256)


if __name__ == "__main__":
    figure(Path(sys.argv[1])).save(sys.argv[2], optimize=True)
