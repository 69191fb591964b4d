"""All that sparring writes to a terminal goes through here: what a file, a config or an exception
says may hold control characters, and a terminal obeys them (move, erase, retitle, reorder)."""

import logging
import sys
import unicodedata

import click

from .secrets import masked

LONGEST = 1000
"""Characters of an error line; of a longer one the middle is left out."""


def printable(text: str) -> str:
    r"""The same text with everything that a terminal would obey written out, as `\x1b`.

    Control characters other than line ends and tabs, bytes of file names that are no UTF-8, and
    marks that turn the direction of writing (U+202A to U+202E, U+2066 to U+2069).
    """
    return "".join(one if _harmless(one) else ascii(one)[1:-1] for one in text)


def one_line(text: str) -> str:
    """The same on one line, of at most LONGEST characters."""
    line = printable(masked(" ".join(text.split())))
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST // 2]} [...] {line[-LONGEST // 2 + 7 :]}"


def echo(text: str, *, err: bool = False) -> None:
    """Print, with nothing in it that a terminal obeys, an output's encoding lacks or a token is."""
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = printable(masked(text)).encode(encoding, "backslashreplace").decode(encoding)
    click.echo(shown, err=err)


def _harmless(one: str) -> bool:
    if one in "\n\t":
        return True
    return unicodedata.category(one) not in ("Cc", "Cs") and not (
        "\u202a" <= one <= "\u202e" or "\u2066" <= one <= "\u2069"
    )


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        echo(self.format(record), err=True)


def show_warnings() -> None:
    """Warnings of sparring's own loggers go to stderr through `echo`."""
    logger = logging.getLogger("sparring")
    if not any(isinstance(one, _Handler) for one in logger.handlers):
        logger.addHandler(_Handler(logging.WARNING))
