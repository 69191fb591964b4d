"""The pictures with which pages of docs/explanation/ open.

python recipes/explanation_figures.py docs/images

All of it is computed from closed forms: the exact denoiser of Gaussian data and of two points.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TEACHES, SMOOTH, LINE, OTHER = "#2a9d58", "#e9a23b", "#1f5f8b", "#c0392b"


def main(folder: Path) -> None:
    """Writes smoothing_symbols.png, dro.png, consistency.png and protocols.png."""
    figure = Figure((10, 3.6), layout="constrained")
    levels, directions = figure.subplots(1, 2, width_ratios=(1.3, 1))
    levels_of_one_image(levels)
    omega(directions)
    figure.savefig(folder / "smoothing_symbols.png", dpi=120)
    for name, draw in {"dro": dro, "consistency": consistency, "protocols": protocols}.items():
        figure = Figure((7, 3.4), layout="constrained")
        draw(figure.subplots())
        figure.savefig(folder / f"{name}.png", dpi=120)


def levels_of_one_image(axes: Axes) -> None:
    """tau and the window on the axis of noise levels."""
    tau, window = 0.4, 0.48
    axes.set_xscale("log")
    axes.axvspan(0.02, window, color=SMOOTH, alpha=0.35)
    axes.axvspan(tau, 20, color=TEACHES, alpha=0.25)
    s = np.geomspace(tau, 20, 200)
    axes.plot(s, np.sqrt(1 - (tau / s) ** 2), color=LINE)
    axes.text(3.2, 0.8, "g, the share of noise\nthat is still missing", ha="center", color=LINE)
    axes.axvline(tau, color="black", linestyle="--")
    axes.text(tau * 0.92, 0.45, "tau: the noise in the data", ha="right", rotation=90, va="center")
    axes.text(0.085, 0.9, "below the window:\nbe smooth", ha="center", va="top")
    axes.text(3.2, 0.25, "above tau: a dirty image\nteaches as a clean one", ha="center")
    axes.set(xlim=(0.02, 20), ylim=(0, 1.05), xlabel="noise level sigma/alpha")


def omega(axes: Axes) -> None:
    """A random direction, and what power iterations make of it, beside data along a line."""
    rng = np.random.default_rng(1)
    along = rng.normal(size=120)
    axes.scatter(along, 0.04 * rng.normal(size=120), s=6, color="grey")
    s, variances = 0.5, np.array([1.0, 0.002])
    jacobian = s**2 / (s**2 + variances)  # of eps_hat by x_t, in noise units: large off the data
    direction = np.array([0.9, 0.45])
    for i, colour in enumerate((OTHER, SMOOTH, TEACHES)):
        direction = direction / np.linalg.norm(direction)
        axes.annotate(
            "", direction, (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "lw": 2}
        )
        words = ("omega at random", "after one iteration", "after two")[i]
        right = direction[0] < 0.1
        axes.text(*(direction * 1.08), words, color=colour, ha="right" if right else "left")
        direction = jacobian * direction
    axes.set(xlim=(-2, 2.4), ylim=(-0.35, 1.25), xticks=[], yticks=[], aspect="equal")
    axes.set_xlabel("grey: the data; omega turns away from them")


def dro(axes: Axes) -> None:
    """The corrected target leads from the moved point to the same x0."""
    x0, x_t, delta = np.array([0.0, 0.0]), np.array([2.0, 0.7]), np.array([0.18, 0.5])
    angle = np.linspace(0, 2 * np.pi, 100)
    radius = np.linalg.norm(delta)
    axes.fill(x_t[0] + radius * np.cos(angle), x_t[1] + radius * np.sin(angle), color="#eeeeee")
    for end, colour, words in (
        (x_t, LINE, "sigma eps"),
        (x_t + delta, OTHER, "sigma eps + delta: the corrected target"),
    ):
        axes.annotate("", end, x0, arrowprops={"arrowstyle": "->", "color": colour, "lw": 2})
        middle = 0.5 * (x0 + end)
        offset = 0.12 if colour == OTHER else -0.2
        axes.text(
            middle[0] - 0.1,
            middle[1] + offset,
            words,
            color=colour,
            ha="right" if offset > 0 else "left",
        )
    axes.annotate("", x_t + delta, x_t, arrowprops={"arrowstyle": "->", "lw": 2})
    axes.text(*(x_t + 0.5 * delta + [0.08, -0.05]), "delta")
    axes.plot(*x0, "ko")
    axes.text(-0.08, -0.02, "alpha x0", ha="right", va="center")
    axes.plot(*x_t, "o", color=LINE)
    axes.text(x_t[0] + 0.06, x_t[1] - 0.12, "x_t")
    axes.plot(*(x_t + delta), "o", color=OTHER)
    axes.text(2.26, 1.24, "the worst point nearby")
    axes.set(xlim=(-1.5, 3.9), ylim=(-0.3, 1.6), xticks=[], yticks=[], aspect="equal")


def consistency(axes: Axes) -> None:
    """Paths of two points of data, two neighbours on one of them, and the jump."""
    levels = np.geomspace(3, 0.02, 400)
    for start in np.linspace(-4.5, 4.5, 10):
        x, path = start, [start]
        for high, low in pairwise(levels):
            x = x + (low - high) * (x - np.tanh(x / high**2)) / high  # data at -1 and 1
            path.append(x)
        axes.plot(levels, path, color="grey", lw=0.8)
    x, places = 2.5, []
    for high, low in pairwise(levels):
        places.append((high, x))
        x = x + (low - high) * (x - np.tanh(x / high**2)) / high
    for i, words in ((40, "x_t"), (110, "x_s")):
        level, place = places[i]
        axes.plot(level, place, "o", color=OTHER)
        axes.text(level, place + 0.3, words, color=OTHER)
        axes.annotate(
            "", (0.021, 1), (level, place),
            arrowprops={"arrowstyle": "->", "color": LINE, "connectionstyle": "arc3,rad=0.12"},
        )  # fmt: skip
    axes.text(0.05, 2.9, "f jumps to the end of the path,\nfrom both the same", color=LINE)
    axes.set_xscale("log")
    axes.set(xlabel="noise level: data at the left, noise at the right", ylabel="x", xlim=(0.02, 3))


def protocols(axes: Axes) -> None:
    """The Frechet distance of two samples of one law, by the number of samples."""
    rng = np.random.default_rng(0)
    d, counts = 32, np.array([64, 128, 256, 512, 1024, 2048, 4096])
    found = []
    for n in counts:
        values = [frechet(rng.normal(size=(n, d)), rng.normal(size=(n, d))) for _ in range(5)]
        found.append(np.mean(values))
    axes.loglog(counts, found, "o-", color=LINE)
    axes.set(xlabel="samples of either side", ylabel="Frechet distance")
    axes.set_title("Two samples of the same law: the truth is 0", fontsize=10)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """||m_a - m_b||^2 + tr(A + B - 2 (A B)^(1/2)) of the means and covariances."""
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    roots = np.sqrt(np.clip(np.linalg.eigvals(cov_a @ cov_b).real, 0, None))
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b) - 2 * roots.sum())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
