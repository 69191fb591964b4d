"""Text files as people's editors write them."""

import codecs
from pathlib import Path

from .errors import UserError

MARKS = {  # UTF-32's begins as UTF-16's does
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
BYTE_ORDER_MARK = "\ufeff"


def decoded(content: bytes) -> str:
    """The text of a file: UTF-8, or what its byte order mark says; the mark is no part of it.

    Raises:
        UnicodeDecodeError: if it is not.
    """
    encoding = next((name for name, marks in MARKS.items() if content.startswith(marks)), None)
    return content.decode(encoding or "utf-8-sig")


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, which end at \n, \r\n or \r and nowhere else.

    `str.splitlines` ends them at form feeds, U+0085, U+2028 and others too, which people paste
    into captions and prompts.
    """
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_lines(file: str | Path, what: str) -> list[str]:
    """The lines of a text file that are not empty, without the spaces around them.
    Errors call the file `what`."""
    advice = "save it as a text file in UTF-8"
    try:
        text = decoded(Path(file).read_bytes())
    except OSError as error:
        raise UserError(f"{what} {file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # also a name with a NUL byte
        raise UserError(f"{what} {file} cannot be read ({error}): {advice}") from error
    if "\0" in text:
        raise UserError(f"{what} {file} holds zero bytes, so it is no text in UTF-8: {advice}")
    # a mark within the text: files that were put one after the other
    lines = [line.strip().strip(BYTE_ORDER_MARK).strip() for line in lines_of(text)]
    if not any(lines):
        raise UserError(f"{what} {file} holds no line with anything in it")
    return [line for line in lines if line]
