"""Shards by path or URL: patterns, ranges of bytes, and what a network may do meanwhile."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import fsspec

from ...support.errors import UserError
from ..files.hub import check_one_split

N_TRIES = 3
T = TypeVar("T")


def found(pattern: str) -> list[str]:
    """The shards, at least one, that a path or URL with braces and stars stands for, in order."""
    shards = []
    for one in expand_braces(pattern):
        if not re.search(r"\*" if "://" in one else r"[*?\[]", one):  # a URL may hold a query
            shards.append(one)
            continue
        urls = attempt(one, lambda fs, path: [fs.unstrip_protocol(p) for p in fs.glob(path)])
        if not urls:
            raise UserError(f"data.data_files: no file fits '{one}'")
        matches = [url.removeprefix("file://") for url in sorted(urls)]
        check_one_split(one, matches)
        shards += matches
    return shards


def expand_braces(pattern: str) -> Iterator[str]:
    """The names that `{000..019}` and `{a,b}` stand for, as in a shell."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        yield pattern
        return
    first, last, words = match.groups()
    if words is not None:
        chosen = words.split(",")
    else:
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        step = 1 if int(last) >= int(first) else -1
        chosen = [str(i).zfill(width) for i in range(int(first), int(last) + step, step)]
    for word in chosen:
        yield from expand_braces(pattern[: match.start()] + word + pattern[match.end() :])


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` - 1 of a file; UserError if it is not there, is shorter, or its server
    sends no ranges."""
    content = attempt(url, lambda fs, path: fs.cat_file(path, start=start, end=end))
    if len(content) == end - start:
        return content
    if len(content) > end - start:
        whole = "the server sends whole files instead of ranges of bytes (HTTP Range)"
        raise UserError(f"{url}: {whole}")
    raise UserError(f"{url} has changed: it ends before byte {end}, which its index names")


def attempt(url: str, work: Callable[[Any, str], T]) -> T:
    """What `work` makes of the file system and the path; a network gets three chances. UserError if
    the file is not there or cannot be read, or a package is missing."""
    for trial in range(N_TRIES):
        try:
            return work(*fsspec.core.url_to_fs(url))
        except (UserError, MemoryError):
            raise
        except FileNotFoundError:
            raise UserError(f"data.data_files: no file '{url}'") from None
        except ImportError as error:
            raise UserError(
                f"{url}: {error.name or 'a package'} is missing: pip install 'sparring[streaming]'"
            ) from error
        except Exception as error:  # each file system has its own kinds
            if trial == N_TRIES - 1 or isinstance(error, (PermissionError, IsADirectoryError)):
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(f"cannot read {url}: {reason}") from error
            time.sleep(0.5 * 4**trial)
    raise AssertionError
