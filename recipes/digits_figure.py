"""The README's picture: dirty digits, and what models trained on them draw from the same noise.

make bench-quality ARGS="--seeds 1 --as-configured --only ^digits/"
python recipes/digits_figure.py runs/quality/digits docs/images/digits.png
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GRID = "seed-0/evaluation/as_configured/grid.png"
SHOWN = [
    ("training data, 90 % noisy", "plain/seed-0/data/training_samples.png"),
    ("plain", f"plain/{GRID}"),
    ("published smoothing", f"adversarial/{GRID}"),
    ("ours (detail)", f"detail/{GRID}"),
    ("plain on clean data", f"plain_clean_data/{GRID}"),
]
SIDE, MARGIN, CAPTION = 300, 14, 34


def main(runs: Path, output: Path) -> None:
    """Put the grids side by side, each with its caption."""
    width = len(SHOWN) * (SIDE + MARGIN) + MARGIN
    page = Image.new("RGB", (width, SIDE + CAPTION + 2 * MARGIN), "white")
    font, draw = ImageFont.load_default(size=18), ImageDraw.Draw(page)
    for i, (caption, path) in enumerate(SHOWN):
        left = MARGIN + i * (SIDE + MARGIN)
        draw.text((left, MARGIN), caption, fill="black", font=font)
        picture = Image.open(runs / path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
        page.paste(picture, (left, MARGIN + CAPTION))
    page.save(output, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
