r"""What each image of a batch can teach, and at which noise: the one thing training knows of dirt.

    y = x0 + noise of covariance Sigma,   seen elements only, cut to [-1, 1] where `clipped`

Everything is in the model's units (images in [-1, 1]: twice a value of the [0, 1] scale). A batch
of a data set carries it as `batch["trust"]`, by the names below; a batch without is trusted whole.
Who made it, an audit, a person's table or the truth, cannot be told from it.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Trust:
    """Per row of a batch.

    Attributes:
        sigma: Standard deviation of the noise where the image is black, (B,); 0 for none.
        slope: The noise's variance at an element of value v in [-1, 1] is
            sigma^2 + slope (v + 1), (B,).
        correlation: Of neighbouring pixels' noise, standard deviation of the blur that made it,
            pixels, (B,); 0 for white noise. With correlation there is no slope.
        clipped: Whether values at -1 and 1 are noisy values beyond that were cut off, (B,), bool.
        level: Noise level s = sigma_t / alpha_t from which on the image may be used, (B,), 0 for a
            clean one; what its noise asks beside that follows from the noise.
        weight: Of the image in every loss, (B,), 0 for one that teaches nothing.
        seen: Elements that say something, (B, 1, H, W), bool; None for all.
    """

    sigma: Tensor
    slope: Tensor
    correlation: Tensor
    clipped: Tensor
    level: Tensor
    weight: Tensor
    seen: Tensor | None = None
