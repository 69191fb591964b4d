r"""The scales at which the data vary, read off the loss that training computes anyway.

    D(s) = E mse(eps(x_t), eps)  at  s = sigma / alpha

For Gaussian data with variances v_i and their optimal denoiser

    D(s) = (1/d) sum_i v_i / (v_i + s^2),

the share of directions that vary at scale s and above. The other way round, the weights w >= 0 of
D(s) = sum_k w_k v_k / (v_k + s^2) on a grid of scales sqrt(v_k) are a spectrum: noise that somebody
added to every element is a peak at its standard deviation, with the signal above it.

Source: ours; D is the denoising form of the local dimension (Stanczuk et al. 2024).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .times import all_rows

LOWEST, HIGHEST, N_BINS = 0.015, 6.0, 32  # noise levels that are read, and bins (in ln s)
ROWS_PER_BIN, LEAST_BINS = 20, 10
PEAK, PEAK_OF_FEW = 0.4, 0.25
"""Share of all directions that a peak holds within an octave of scale: clean images vary a little
at every scale, noise in all directions at one. Of two or three directions one is enough."""
SMOOTH = 0.01  # weight of the spectrum's second differences in the fit, against isolated spikes
PRICE, WIDEST = 0.1, 2.0
"""Share of the signal's variance that the regulariser may take at the window's upper edge, and the
window's largest multiple of the noise: below the window the data count less."""
STRUCTURE = 0.3  # directions that vary well above the noise, at least: else it is all there is


@dataclass(frozen=True)
class Scales:
    """What a spectrum says: standard deviations in data units, None for what there is not."""

    noise: float | None  # of the noise in every element
    signal: float | None  # of what varies above it; None also where too few rows have been seen
    window: float | None = None  # up to it the regulariser takes little of the signal; >= noise

    def in_words(self) -> str:
        """One line for the user."""
        stays = "so training stays plain; set objective.noise"
        if self.signal is None:
            why = "too few plain steps have come to tell noise from signal"
            return f"{why}, {stays}, or a later objective.start_step"
        if self.noise is None:
            return f"no noise of one size stands out in the data, {stays} if you know better"
        line = f"noise of standard deviation {self.noise:.3g} in every element, signal from "
        line += f"{self.signal:.3g}; smoothing below sigma/alpha = {self.window:.3g}"
        if self.noise > self.signal / 2:
            line += ". WARNING: that covers the signal, which will lose variability"
        return line


class Spectrum:
    """Collects D(s) and fits the spectrum."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3, N_BINS, dtype=torch.float64)  # rows, ln s, mse

    def add(self, ratio: Tensor, mse_of_eps: Tensor) -> None:
        """Rows of a step, (B,) each: s and mse(eps(x_t), eps); alike on all processes."""
        log_s = all_rows(ratio).cpu().double().log()
        value = all_rows(mse_of_eps).cpu().double()
        position = (log_s - np.log(LOWEST)) / np.log(HIGHEST / LOWEST) * N_BINS
        inside = (position >= 0) & (position < N_BINS) & value.isfinite()
        rows = torch.stack([torch.ones_like(value), log_s, value])[:, inside]
        self.sums.index_add_(1, position[inside].long(), rows)

    def loss(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(s, D(s), rows) of the bins with enough rows, from low s to high."""
        rows, log_s, value = self.sums.numpy()
        use = rows >= ROWS_PER_BIN
        return np.exp(log_s[use] / rows[use]), value[use] / rows[use], rows[use]

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """(scales, weights): smooth non-negative least squares, each bin weighted by its rows."""
        from scipy.optimize import nnls

        s, d, rows = self.loss()
        scales = np.geomspace(LOWEST / 2, HIGHEST, 60)
        root = np.sqrt(rows / rows.sum())
        matrix = root[:, None] * scales**2 / (scales**2 + s[:, None] ** 2)
        bends = SMOOTH * np.diff(np.eye(len(scales)), 2, axis=0)
        target = np.concatenate([root * d, np.zeros(len(bends))])
        return scales, nnls(np.concatenate([matrix, bends]), target)[0]

    def scales(self, n_elements: int, lam: float) -> Scales:
        """Noise, signal and window for data of `n_elements` elements each and R at weight `lam`.

        The lowest peak (see `PEAK`) is the noise, if at least `STRUCTURE` directions are left at
        four times its scale.
        """
        if int((self.sums[0] >= ROWS_PER_BIN).sum()) < LEAST_BINS:
            return Scales(None, None)
        scales, weights = self.weights()
        least = PEAK_OF_FEW if n_elements <= 3 else PEAK
        peaks = [peak for scale in scales if (peak := _peak(scales, weights, scale, least))]
        if not peaks:
            return Scales(None, _centre(scales, weights))
        noise = max((share, centre) for centre, share in peaks if centre < 2 * peaks[0][0])[1]
        above = scales > 3 * noise
        s, d, _ = self.loss()
        left = np.interp(np.log(4 * noise), np.log(s), d)
        left -= (weights * scales**2 / (scales**2 + 16 * noise**2))[~above].sum()
        signal = _centre(scales[above], weights[above])
        if signal is None or left * n_elements < STRUCTURE:
            return Scales(None, noise)
        share = weights / weights.sum()
        variances = scales[above] ** 2 - noise**2
        n_noise = n_elements * share[~above].sum()
        window = _window(noise, variances, share[above], n_noise, lam * n_elements)
        return Scales(noise, signal, window)


def _window(
    noise: float, variances: np.ndarray, shares: np.ndarray, n_noise: float, lam_d: float
) -> float:
    r"""The highest s at which R takes a share of less than `PRICE` of the signal's variance.

    R divides the variance v of a direction by 1 + lam d p, p the direction's mean share of omega. A
    power iteration from a random z makes omega = K z with, for the exact denoiser, K = 1 in the
    d_n directions of noise and K = s^2 / (s^2 + v) in one of signal. For small K

        p = E[K^2 z_i^2 / (z_1^2 + ... + z_{d_n}^2)] = K^2 / (d_n - 2):

    with one or two directions of noise a random start is too often inside the signal.
    """
    if n_noise <= 2 or lam_d == 0:
        return noise
    s = noise * np.geomspace(1, WIDEST, 200)
    k = s[:, None] ** 2 / (s[:, None] ** 2 + variances)
    price = lam_d / (n_noise - 2) * k**2 @ (shares / shares.sum())
    return float(s[price < PRICE].max(initial=noise))


def _peak(
    scales: np.ndarray, weights: np.ndarray, scale: float, least: float
) -> tuple[float, float] | None:
    """(centre, share) of the peak that is uphill from `scale`, None if it holds too little."""
    centre, before = scale, 0.0
    while abs(centre - before) > 1e-3 * centre:
        near, before = np.abs(np.log2(scales / centre)) <= 0.5, centre
        found = _centre(scales[near], weights[near])
        if found is None or found < 2 * LOWEST:  # the grid's foot stands for all that is below
            return None
        centre = found
    share = float(weights[np.abs(np.log2(scales / centre)) <= 0.5].sum())
    return (centre, share) if share >= least else None


def _centre(scales: np.ndarray, weights: np.ndarray) -> float | None:
    """Geometric mean, None without any weight."""
    if weights.sum() <= 0:
        return None
    return float(np.exp((weights * np.log(scales)).sum() / weights.sum()))
