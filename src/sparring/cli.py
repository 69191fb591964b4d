"""The `sparring` command: finds the commands of commands/, and answers errors.

Every user error is one line on stderr, `sparring: error: ...`, exit codes in support/errors.py.
"""

from __future__ import annotations

import errno
import os
import sys
from difflib import get_close_matches
from typing import Any, NoReturn

import click

from . import __version__, commands
from .support.errors import UserError, is_out_of_memory
from .support.late_packages import leave_until_asked_for
from .support.terminal import echo, one_line, show_warnings


class _Sparring(click.Group):
    """The commands of the folder commands/, whose errors are answered with one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return commands.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return commands.find(cmd_name)

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        show_warnings()
        leave_until_asked_for()
        try:
            code = super().main(*args, **kwargs)
        except click.UsageError as error:
            about = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
            if isinstance(error, click.exceptions.NoSuchCommand):
                near = get_close_matches(error.command_name, commands.names(), n=1)
                about = "".join(f" - did you mean 'sparring {name}'?" for name in near) or about
            _fail(f"{error.format_message().rstrip('.')}{about}")
        except click.ClickException as error:
            _fail(error.format_message())
        except (click.Abort, KeyboardInterrupt):
            echo("sparring: stopped", err=True)
            sys.exit(130)
        except UserError as error:
            _fail(str(error), error.exit_code)
        except BrokenPipeError:  # the reader of a pipe has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except OSError as error:
            place = "" if error.filename is None else f"{error.filename}: "
            full = ": free some space, then start again" if error.errno == errno.ENOSPC else ""
            _fail(f"{place}{error.strerror or error}{full}")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            _fail(f"there is not enough memory ({line}): take smaller batches, images or numbers")
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, exit_code: int = UserError.exit_code) -> NoReturn:
    echo(f"sparring: error: {one_line(message)}", err=True)
    sys.exit(exit_code)


@click.group(
    cls=_Sparring,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="sparring", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Train diffusion models on dirty data, robustly, and see that it worked.

    \b
    Begin here:
      sparring demo --quick                                  see it work, in two minutes
    Then take images of your own:
      sparring inspect photos -o photos-report               which are dirty, and how?
      sparring train digits objective=detail data.name=image_folder \\
          data.train_data_dir=photos contamination.kind=none training.output_dir=runs/robust
      sparring evaluate runs/robust                          how good are its samples?
      sparring report runs/robust -o report.html             see it all on one page
    """
    if context.invoked_subcommand is None:
        echo(context.get_help())
    elif context.invoked_subcommand not in ("train", "replay"):
        precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if precision != "no" and os.environ.get("RANK", "0") == "0":
            echo(
                f"sparring: accelerate asks for mixed precision {precision}, which is for training:"
                f" {context.invoked_subcommand} computes in the precision of the weights",
                err=True,
            )
