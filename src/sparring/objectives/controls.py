r"""Controls: plain denoising of images that something else has made cleaner.

    throw_away     of the images that nothing is said against
    denoise_first  of all images, each denoised by a library beforehand

Every method that is told of dirt is measured against these two and the oracle. Here they are plain:
whoever trains changes the images, see data/trust/controls.py.

Source: ours; what one does without a method.
"""

from .denoising import Plain


class ThrowAway(Plain):
    """Denoising on the clean images alone.

    Source: ours, see above.
    """

    name = "throw_away"
    told_of_dirt = "clean_only"


class DenoiseFirst(Plain):
    """Denoising on images that are denoised once, before training.

    Source: ours, see above.
    """

    name = "denoise_first"
    told_of_dirt = "denoised"
