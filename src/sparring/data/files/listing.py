"""Which files below a folder are its images, and a count of those that are left out."""

import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...support.errors import UserError
from ...support.terminal import one_line
from .allowed_files import Unreadable, check_file, is_within
from .decoding import HEIF_NEEDS, READS_AVIF
from .own_output import SAMPLING, SHEETS, made_here

HEIF = frozenset((".heic", ".heif", ".hif", ".heics", ".heifs"))
AVIF = frozenset((".avif", ".avifs"))
EXTENSIONS = frozenset(
    (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".webp", ".bmp", ".dib",
     ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpc",
     ".jpf", ".jpx", ".j2c", ".tga")
) | (AVIF if READS_AVIF else frozenset()) | (
    HEIF if importlib.util.find_spec("pillow_heif") else frozenset()
)  # fmt: skip
"""Endings of images' names, in any case. What a file holds is told by its content."""

SET_ASIDE = frozenset(
    ("__macosx", "@eadir", "@__thumb", "@recycle", "#recycle", "$recycle.bin", "lost+found",
     "@recently-snapshot", "#snapshot", "system volume information")
)  # fmt: skip
"""Folders in which systems keep thumbnails, forks and what was thrown away, in any case."""

RECORDS = frozenset(("manifest.jsonl", "sampling.json", "cleaning.json"))  # written here, no data
NOT_FETCHED = ".icloud"  # of files that still lie in Apple's cloud
N_LOOKED_INTO = 64  # files of no image's name whose first bytes are looked at
N_NAMED = 12  # kinds that a sentence names; the others are counted together


@dataclass
class Listing:
    """What lies below a folder."""

    paths: list[Path] = field(default_factory=list)  # the images
    others: list[Path] = field(default_factory=list)  # neither read as images nor counted
    kinds: Counter[str] = field(default_factory=Counter)  # files that are left out, by their ending
    aside: Counter[str] = field(default_factory=Counter)  # hidden images, by what tells so
    misnamed: list[str] = field(default_factory=list)  # some that are images by their first bytes
    own: dict[str, str] = field(default_factory=dict)  # what this program wrote, by its path

    def remarks(self) -> list[str]:
        """What is left out, a sentence each."""
        said = []
        if self.kinds:
            needs = []
            if self.kinds.keys() & HEIF:
                needs.append(HEIF_NEEDS)
            if self.kinds.keys() & AVIF:
                needs.append("AVIF: pip install 'pillow>=11.3'")
            n = self.kinds.total()
            said.append(
                f"{n} file{' is' if n == 1 else 's are'} left out, of kinds that are not read: "
                + counted(self.kinds)
                + (f" ({'; '.join(needs)})" if needs else "")
            )
        if self.misnamed:
            n, first = len(self.misnamed), self.misnamed[0]
            are, them = ("is an image", "it") if n == 1 else ("are images", "them")
            said.append(
                f"{n} of the files left out {are} by content: to have {them} read, give {them} the "
                f"ending of an image ({first})"
            )
        if self.aside:
            n = self.aside.total()
            said.append(
                f"{n} image{' is' if n == 1 else 's are'} left out as hidden or as a system's "
                f"thumbnail{'' if n == 1 else 's'}: {counted(self.aside)}"
            )
        if self.own:
            found = [f"{path} (a {what})" for path, what in sorted(self.own.items())]
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            said.append(
                "what sparring itself has written into the data is left out: "
                f"{', '.join(found[:3])}{more}; a folder of it is read if data.train_data_dir "
                "names it"
            )
        return [one_line(remark) for remark in said]


def counted(kinds: Mapping[str, int]) -> str:
    """Such as `.heic 6, .svg 2`, the most frequent first."""
    order = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{kind} {n}" for kind, n in order[:N_NAMED]]
    if len(order) > N_NAMED:
        words.append(f"{len(order) - N_NAMED} other kinds {sum(n for _, n in order[N_NAMED:])}")
    return ", ".join(words)


def images_below(root: Path, base: Path, leave: Callable[[str], bool]) -> Listing:
    """The images below a folder, links followed, each folder once. Links must stay in `base`;
    `leave` says of a name whether it is something else that may be read: `others`. A folder that
    cannot be listed, or leads out of `base`, is a UserError."""
    found, seen = Listing(), set()

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}") from error

    for place, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(place)
        if not is_within(real, base):
            raise UserError(
                f"{place} is a link that leads out of '{base}': put a copy there, or name the "
                "folder that it leads to"
            )
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        for name in filter(hidden, folders):
            found.aside[name] += _n_images(os.path.join(place, name))
        made = {name: made_here(os.path.join(place, name)) for name in folders if not hidden(name)}
        folders[:] = [name for name, what in made.items() if what is None]
        sheets = SHEETS.intersection(names if SAMPLING in names else ())
        made |= dict.fromkeys(sheets, "sheet of samples")
        found.own |= {os.path.join(place, name): what for name, what in made.items() if what}
        for name in names:
            if name not in sheets:
                _sort(found, place, name, base, leave)
    found.aside = +found.aside  # without the folders that hold none
    return found


def merged(listings: Iterable[Listing]) -> Listing:
    """What lies below several folders."""
    whole = Listing()
    for one in listings:
        for name in ("paths", "others", "kinds", "aside", "misnamed"):
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
        whole.own |= one.own
    return whole


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is not for the user's eyes."""
    return name.startswith(".") or name.lower() in SET_ASIDE


def passed_over(path: str) -> bool:
    """Whether nobody looks into a folder: it is hidden, or this program's own."""
    return hidden(os.path.basename(path)) or made_here(path) is not None


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return not hidden(name) and _ending(name) in EXTENSIONS


def _sort(found: Listing, place: str, name: str, base: Path, leave: Callable[[str], bool]) -> None:
    ending = _ending(name)
    if is_image(name):
        found.paths.append(Path(place, name))
    elif hidden(name):
        kind = "._*" if name.startswith("._") else ".*"
        if name.endswith(NOT_FETCHED):  # .photo.jpg.icloud in the place of photo.jpg
            kind, name = f"{NOT_FETCHED} (not yet fetched)", name.removesuffix(NOT_FETCHED)
        if _ending(name.lstrip("._")) in EXTENSIONS:
            found.aside[kind] += 1
    elif leave(name):
        found.others.append(Path(place, name))
    elif name not in RECORDS:
        found.kinds[ending or "without an ending"] += 1
        if found.kinds.total() <= N_LOOKED_INTO and _holds_image(os.path.join(place, name), base):
            found.misnamed.append(os.path.join(place, name))


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _n_images(place: str) -> int:
    """Images by name in a folder that is left out."""
    if os.path.islink(place):
        return 0
    return sum(_ending(name) in EXTENSIONS for _, _, names in os.walk(place) for name in names)


def _holds_image(path: str, base: Path) -> bool:
    """Whether the first bytes are those of an image that would be read."""
    try:
        with open(check_file(path, os.path.realpath(base)), "rb") as file:
            head = file.read(16)
    except (OSError, Unreadable):
        return False
    return head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")) or (
        (head[:4], head[8:12]) == (b"RIFF", b"WEBP")
        or (READS_AVIF and head[4:12] in (b"ftypavif", b"ftypavis"))
    )
