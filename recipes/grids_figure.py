"""Grids side by side, each under its caption: the pictures of the README and of the docs.

make bench-quality ARGS="--seeds 0 --as-configured --only ^digits/"
R=runs/quality/digits; G=seed-0/evaluation/as_configured/*-grid.png
python recipes/grids_figure.py docs/images/digits.png \\
    "training data, 90 % noisy=$R/plain/seed-0/data/training_samples.png" "plain=$R/plain/$G" \\
    "published smoothing=$R/adversarial/$G" "ours (detail)=$R/detail/$G" \\
    "plain on clean data=$R/plain_clean_data/$G"

make demo
R=runs/demo; python recipes/grids_figure.py docs/images/photos.png \\
    "8-bit files, 90 % noisy=$R/plain/data/training_samples.png" \\
    "plain=$R/plain/samples/step-1500.png" "ours (detail)=$R/robust/samples/step-1500.png"
"""

import glob
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, MARGIN, CAPTION = 300, 14, 34


def main(output: Path, shown: Sequence[str]) -> None:
    """Write the picture; `shown` are CAPTION=PATH, where a path may be a pattern of one file."""
    width = len(shown) * (SIDE + MARGIN) + MARGIN
    page = Image.new("RGB", (width, SIDE + CAPTION + 2 * MARGIN), "white")
    font, draw = ImageFont.load_default(size=18), ImageDraw.Draw(page)
    for i, one in enumerate(shown):
        caption, _, path = one.rpartition("=")
        left = MARGIN + i * (SIDE + MARGIN)
        draw.text((left, MARGIN), caption, fill="black", font=font)
        (file,) = glob.glob(path)
        picture = Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
        page.paste(picture, (left, MARGIN + CAPTION))
    page.save(output, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
