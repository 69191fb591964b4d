"""What the headers of images say before any is decoded: sizes, and whether they are in colour.

A header costs a fraction of a millisecond, and still there may be millions: of many images some
are looked at, evenly spread, and whatever is said of them says so.
"""

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field
from statistics import median

from ...support.terminal import one_line
from ..transforms import resized
from .allowed_files import Unreadable
from .decoding import MAX_PIXELS, header
from .source import Files

ODD = 8  # a side so many times shorter than the median one is not what the images are like


@dataclass
class Survey:
    """What the headers of some files say."""

    n_files: int  # how many files there are
    n_looked_at: int = 0  # how many were looked at
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # (height, width), by number
    colour: set[int] = field(default_factory=set)  # numbers of those in colour
    several: list[int] = field(default_factory=list)  # numbers of those that hold several images
    broken: dict[int, str] = field(default_factory=dict)  # why others have no header, by number

    @property
    def n_channels(self) -> int | None:
        """3 if any image is in colour, 1 if none is, None if none could be looked at."""
        if not self.sizes:
            return None
        return 3 if self.colour else 1

    def remarks(self, files: Files, resolution: int | None, is_asked: bool) -> list[str]:
        """What is read otherwise than one may expect of these files, a sentence each. `resolution`
        is what the shorter side is resized to (None: it is not); `is_asked` says whether the number
        of channels was asked for."""
        said, n_grey = [], len(self.sizes) - len(self.colour)
        if self.broken:
            first = min(self.broken)
            said.append(
                f"{self._of(len(self.broken))} cannot be read, and another stands in where one is "
                f"asked for: {files.where(first)} ({self.broken[first]})"
            )
        if self.several:
            said.append(
                f"{self._are(len(self.several))} made of several frames or pages, of which the "
                f"first is read: {files.where(self.several[0])}"
            )
        if not is_asked and self.colour and n_grey:
            said.append(
                f"{self._are(n_grey)} grey and others are in colour: all are read with 3 channels"
            )
        if not is_asked and self.n_channels == 1 and self.n_looked_at < self.n_files:
            said.append(
                f"all {self.n_looked_at} images looked at, of {self.n_files}, are grey, so all are "
                "read as grey, and one in colour among the rest would be left out: "
                "set data.n_channels to 1 or 3 to say which"
            )
        if resolution is not None:
            long = [i for i, size in self.sizes.items() if not fits(*size, resolution)]
            small = self.sizes.keys() - long
            sides = [side for i in small if (side := min(self.sizes[i])) < resolution]
            if sides:
                said.append(
                    f"{self._are(len(sides))} smaller than {resolution} pixels (the shortest side "
                    f"is {min(sides)}) and enlarged to data.resolution={resolution}"
                )
            if long:
                height, width = self.sizes[long[0]]
                said.append(
                    f"{self._are(len(long))} left out, too long: at data.resolution={resolution} "
                    f"{files.where(long[0])} ({width}x{height}) would have more than "
                    f"{MAX_PIXELS:,} pixels"
                )
        return [one_line(remark) for remark in said]

    def _of(self, n: int) -> str:
        if self.n_looked_at < self.n_files:
            return f"{n} of {self.n_looked_at} images looked at (there are {self.n_files})"
        return f"{n} of {self.n_files} images"

    def _are(self, n: int) -> str:
        return f"{self._of(n)} {'is' if n == 1 else 'are'}"


def survey(files: Files, numbers: Iterable[int]) -> Survey:
    """Look at the headers of these files; a broken one is noted."""
    files = copy(files)  # so that streams that are opened here are closed again
    seen = Survey(len(files))
    for i in numbers:
        seen.n_looked_at += 1
        try:
            head = header(files.open(i))
        except Unreadable as reason:
            seen.broken[i] = str(reason)
            continue
        seen.sizes[i] = head.height, head.width
        if head.in_colour:
            seen.colour.add(i)
        if head.is_several:
            seen.several.append(i)
    return seen


def fits(height: int, width: int, resolution: int) -> bool:
    """Whether an image resized to this shorter side has at most MAX_PIXELS."""
    tall, wide = resized(height, width, resolution)
    return tall * wide <= MAX_PIXELS


def common_side(seen: Survey) -> int | None:
    """The shortest side of all images, but of the ODD ones, in pixels; None without an image."""
    sides = [min(size) for size in seen.sizes.values()]
    return min((side for side in sides if side * ODD >= median(sides)), default=None)
