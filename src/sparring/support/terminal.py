"""All that sparring writes to a terminal goes through here: what a file, a config or an exception
says may hold control characters, and a terminal obeys them (move, erase, retitle, reorder)."""

import logging
import sys
import unicodedata

import click

from .secrets import masked

LONGEST = 1000  # characters of an error line; of a longer one the middle is left out
TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the direction of writing


def printable(text: str) -> str:
    r"""The same text with everything that a terminal would obey written out, as `\x1b`: control
    characters but line ends and tabs, bytes of file names that are no UTF-8, and `TURNS`."""

    def is_obeyed(one: str) -> bool:
        return one in TURNS or (one not in "\n\t" and unicodedata.category(one) in ("Cc", "Cs"))

    return "".join(ascii(one)[1:-1] if is_obeyed(one) else one for one in text)


def one_line(text: str) -> str:
    """The same on one line, of at most LONGEST characters."""
    line = printable(masked(" ".join(text.split())))
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST // 2]} [...] {line[-LONGEST // 2 + 7 :]}"


def echo(text: str, *, err: bool = False) -> None:
    """Print, with nothing in it that a terminal obeys, an output's encoding lacks or a token is."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    shown = printable(masked(text)).encode(encoding, "backslashreplace").decode(encoding)
    click.echo(shown, err=err)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        echo(self.format(record), err=True)


def show_warnings() -> None:
    """Warnings of sparring's own loggers go to stderr through `echo`."""
    logger = logging.getLogger("sparring")
    if not any(isinstance(one, _Handler) for one in logger.handlers):
        logger.addHandler(_Handler(logging.WARNING))
