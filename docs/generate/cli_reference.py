"""The commands and their options as a page, from the click commands themselves."""

import inspect
from collections.abc import Iterator

import click

from sparring.cli import main

HEAD = """# Every command

This page lists every command with its options, as `sparring COMMAND --help` prints them. Look here
when you write a command; `make docs` writes this page from the commands themselves. Where it says
KEY=VALUE, the keys are those of [a config](config.md), and [settings](settings.md) says how a value
is typed. How a command ends is in [another page](../how_to/resume.md#how-a-command-ends).
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its name."""
    context = click.Context(main, info_name="sparring")
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        yield name, command


def undocumented() -> list[str]:
    """Commands and options without a help."""
    lost = [name for name, command in commands() if not command.help]
    for name, command in commands():
        for option in command.params:
            if isinstance(option, click.Option) and not option.help:
                lost.append(f"{name} {option.opts[-1]}")
    return lost


def _paragraphs(text: str) -> Iterator[str]:
    """Of click's help: what follows a \\b is laid out by hand, and shown as a block."""
    for part in inspect.cleandoc(text).split("\n\n"):
        if part.startswith("\b"):
            first, *rest = part.removeprefix("\b").strip("\n").splitlines()
            block = inspect.cleandoc("\n".join(["", *rest]))
            yield f"{first}\n\n```bash\n{block}\n```" if rest else first
        else:
            yield part


def _row(option: click.Option, context: click.Context) -> str:
    names, told = option.get_help_record(context) or (", ".join(option.opts), option.help or "")
    told = " ".join(told.split()).replace("|", "\\|")
    return f"| `{names}` | {told} |"


def page() -> str:
    """All of it in Markdown."""
    lines = [HEAD]
    for name, command in commands():
        context = click.Context(command, info_name=f"sparring {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        lines += [f"## {name}", "", f"```\nsparring {name} {usage}\n```", ""]
        for part in _paragraphs(command.help or ""):
            lines += [part, ""]
        options = [one for one in command.params if isinstance(one, click.Option)]
        if options:
            lines += ["| option | what it does |", "|---|---|"]
            lines += [*(_row(one, context) for one in options), ""]
    return "\n".join(lines)
