"""The README's picture: what the demo's models were trained on, and what they draw.

python recipes/demo_figure.py runs/demo docs/images/demo.png
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SHOWN = [
    ("training data (90 % noisy)", "plain/data/training_samples.png"),
    ("plain", "plain/evaluation/grid.png"),
    ("robust (detail)", "robust/evaluation/grid.png"),
    ("plain on clean data", "clean/evaluation/grid.png"),
]
SIDE, MARGIN, CAPTION = 330, 16, 34


def main(demo: Path, output: Path) -> None:
    """Put the four grids side by side, each with its caption."""
    width = len(SHOWN) * (SIDE + MARGIN) + MARGIN
    page = Image.new("RGB", (width, SIDE + CAPTION + 2 * MARGIN), "white")
    font, draw = ImageFont.load_default(size=18), ImageDraw.Draw(page)
    for i, (caption, path) in enumerate(SHOWN):
        left = MARGIN + i * (SIDE + MARGIN)
        draw.text((left, MARGIN), caption, fill="black", font=font)
        picture = Image.open(demo / path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
        page.paste(picture, (left, MARGIN + CAPTION))
    page.save(output, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
