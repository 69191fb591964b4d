"""Which members of a tar file are one sample; what is part of none is counted.

The rule is webdataset's: a sample is the members whose names agree up to the first dot of the base
name. Two things are added where that rule would lose images, and said:

- members of a sample may lie apart, as where all images come first;
- names with dots: if no member of `v1` is an image, but `v1.5_a.png` and `v1.6_b.png` are, then
  these are two samples, with the texts that agree up to the last dot.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ...support.errors import UserError
from ..files.listing import EXTENSIONS

TEXTS = ("cls", "txt", "json")


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: Its path.
        place: Its number among the members.
        offset: Where its content begins.
        size: In bytes.
        reason: Why it cannot be read, None if it can.
        text: Its content, of a text that was asked for.
    """

    name: str
    place: int
    offset: int
    size: int
    reason: str | None = None
    text: str | None = None

    @property
    def base(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def key(self) -> str:
        """The name up to the first dot of the base name."""
        return self.name[: len(self.name) - len(self.base)] + self.base.partition(".")[0]

    @property
    def stem(self) -> str:
        """The name up to its last dot."""
        return self.name.rpartition(".")[0]

    def ending(self, key: str) -> str:
        return self.name[len(key) + 1 :].lower()

    @property
    def kind(self) -> str:
        """What is after the last dot."""
        return self.name.rpartition(".")[2].lower()

    @property
    def is_image(self) -> bool:
        return f".{self.kind}" in EXTENSIONS


class Sample(NamedTuple):
    """An image and its texts, by ending."""

    image: Member
    texts: dict[str, Member]


@dataclass
class LeftOut:
    """What of a shard is in no sample: how many, and the first, by what is said of them."""

    counts: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, words: str, name: str) -> None:
        n, first = self.counts.get(words, (0, name))
        self.counts[words] = n + 1, first


DOTS = "image(s) are samples of their own, by their names up to the last dot"
EXTRA = "image(s) are not read, as their samples hold another one (data.image_column chooses)"
TEXT = "text(s) have no image"
AGAIN = "sample(s) have a name that came before in the shard"


def samples_of(
    shard: str, members: Iterable[Member], column: str | None, left_out: LeftOut
) -> list[Sample]:
    """The samples of a shard that hold an image, in the order of their images.

    Args:
        shard: What errors call it.
        members: Its files, in their order, without hidden ones; each has a dot in its base name.
        column: The ending of the images' names, None: any image.
        left_out: What is in no sample, or needs to be said, is added.

    Raises:
        UserError: if members come twice, or nobody can tell which of several images is meant.
    """
    keys: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        keys[member.key].append(member)
    dotted = {} if column is not None else _with_dots(shard, keys)
    samples: list[Sample] = []
    for key, group in keys.items():
        for stem, own in dotted.get(key, {key: group}).items():
            if stem != key:
                left_out.add(DOTS, own[0].name)
            samples += _samples(shard, stem, own, column, left_out)
    return sorted(samples, key=lambda sample: sample.image.place)


def _with_dots(shard: str, keys: dict[str, list[Member]]) -> dict[str, dict[str, list[Member]]]:
    """By key, the members by their names up to the last dot, where these are the samples.

    So it is where no image has the key's own name and no text either.

    Raises:
        UserError: if all keys have images of the same several endings (left.png, right.png).
    """
    found = {}
    roles: dict[str, frozenset[str]] = {}
    for key, group in keys.items():
        images = [member for member in group if member.is_image]
        if not images or any(member.stem == key for member in images):
            continue
        endings = frozenset(member.ending(key) for member in images)
        own_texts = [one for one in group if one.kind in TEXTS and one.stem == key]
        if own_texts and len(endings) > 1:
            raise _unclear(shard, key, endings)
        if own_texts:
            continue  # one image, whatever its ending
        stems: dict[str, list[Member]] = defaultdict(list)
        for member in group:
            stems[member.stem].append(member)
        found[key] = stems
        if len(endings) > 1 and not any(one.kind in TEXTS for one in group):
            roles[key] = endings
    if len(roles) > 1 and len(set(roles.values())) == 1:
        key, endings = next(iter(roles.items()))
        raise _unclear(shard, key, endings)
    return found


def _unclear(shard: str, key: str, endings: frozenset[str]) -> UserError:
    few = sorted(endings)[:3]
    return UserError(
        f"{shard}: sample '{key}' holds the images {', '.join(few)}: say which is meant, for "
        f"example data.image_column={few[0]}, or take the dots out of the names"
    )


def _samples(
    shard: str, key: str, group: Sequence[Member], column: str | None, left_out: LeftOut
) -> list[Sample]:
    """The samples of one name: one, but for names that come again with another image."""
    runs: list[list[Member]] = []
    for member in group:
        if runs and member.place == runs[-1][-1].place + 1:
            runs[-1].append(member)
        else:
            runs.append([member])
    found = [(run, image) for run in runs if (image := _image(run, key, column)) is not None]
    if not found:
        _count_without(group, key, column, left_out)
        return []
    if len(found) == 1:
        found = [(group, found[0][1])]
    elif len(found) < len(runs):
        raise UserError(
            f"{shard}: sample '{key}' comes {len(found)} times, with texts apart from its "
            "images: nobody can tell whose they are"
        )
    samples = []
    for run, image in found:
        texts: dict[str, Member] = {}
        seen: set[str] = set()
        for member in run:
            ending = member.ending(key)
            if ending in seen:
                raise UserError(f"{shard}: sample '{member.name}' comes twice in a row")
            seen.add(ending)
            if ending in TEXTS:
                texts[ending] = member
            if column is None and member.is_image and member is not image:
                left_out.add(EXTRA, member.name)
        samples.append(Sample(image, texts))
    for sample in samples[1:]:
        left_out.add(AGAIN, sample.image.name)
    return samples


def _image(run: Sequence[Member], key: str, column: str | None) -> Member | None:
    """The image of a sample: the ending that was asked for; the name itself before others."""
    if column is not None:
        return next((one for one in run if one.ending(key) == column.lower()), None)
    images = [member for member in run if member.is_image]
    own = [member for member in images if member.stem == key]
    return next(iter(own or images), None)


def _count_without(
    group: Sequence[Member], key: str, column: str | None, left_out: LeftOut
) -> None:
    others = [member for member in group if member.kind not in TEXTS]
    if column is not None:
        left_out.add(f"sample(s) are left out, without a member '.{column}'", group[0].name)
    elif others:
        words = f"sample(s) are left out, without an image that is read: .{others[0].kind}"
        left_out.add(words, others[0].name)
    else:
        left_out.add(TEXT, group[0].name)
