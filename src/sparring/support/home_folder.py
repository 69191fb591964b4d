"""`~` at the start of a path becomes a folder here, for configs, the command line and callers."""

import os
from pathlib import Path

from .errors import UserError


def expanded(path: str) -> str:
    """A path as a shell would read it: `~/x` is in the home folder, `~user/x` in that user's.
    A folder that is itself called `~x` is written `./~x`."""
    if not path:
        raise UserError("an empty path: name a file or folder")
    if not path.startswith("~"):
        return path
    user = path[1:].partition("/")[0]
    # an empty HOME would make /x of ~/x
    full = path if not user and os.environ.get("HOME") == "" else os.path.expanduser(path)
    if full.startswith("~"):
        what = f"there is no user {user!r}" if user else "the home folder is not known (set HOME)"
        raise UserError(f"{what}: for a folder of that name write ./{path}")
    return full


def expanded_path(path: str | Path) -> Path:
    """See `expanded`."""
    return Path(expanded(str(path)))
