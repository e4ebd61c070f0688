"""Output of the commands: results on standard output, errors as one line on standard error.

Shared by `cli/main.py` and the modules that hold its larger commands. All of them import their libraries inside
functions, so that `--help`, which needs none, answers at once.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from signal_manager.observe.logs import escape_control_characters

__all__ = [
    "SECONDS_OF",
    "Commands",
    "ConfigOption",
    "JsonOption",
    "print_json",
    "print_table",
    "span",
    "tell",
    "warn",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])

SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# Off a terminal a table is as wide as its longest row, because scripts cannot read folded or cut rows.
_UNBOUNDED = 100_000

_COLORS = {"bold red": "1;31", "yellow": "33", "green": "32", "dim": "2"}

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="TOML file to read. [default: app-config.toml or config.toml, if any]"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class Commands(typer.Typer):
    """A group of commands whose help is plain text.

    Typer's own formatting imports rich with its Markdown and syntax colours, which takes longer than the rest of
    `--help`.
    """

    def __init__(self, *, help: str, epilog: str | None = None, no_args_is_help: bool = False) -> None:
        super().__init__(
            help=help,
            epilog=epilog,
            no_args_is_help=no_args_is_help,
            context_settings={"help_option_names": ["-h", "--help"]},
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[_Command], _Command]:
        """Register a command; its docstring is its help."""

        def register(function: _Command) -> _Command:
            text = _plain(inspect.getdoc(function) or "")
            # As `short_help`, the first sentence is not cut off in the list of commands.
            short = text.split("\n\n", 1)[0]
            return super(Commands, self).command(name, help=text, short_help=short, **settings)(function)

        return register


def _plain(docstring: str) -> str:
    r"""Return a docstring without its Markdown; `\b` keeps each example on a line of its own."""
    return "\n\n".join(
        "\b\n" + paragraph.replace("- `", "  ").replace("`", "")
        if paragraph.startswith("- ")
        else paragraph.replace("`", "")
        for paragraph in docstring.split("\n\n")
    )


def warn(message: str) -> None:
    """Print a warning."""
    tell("warning:", "yellow", message)


def tell(label: str, style: str, message: str) -> None:
    """Print one line on standard error; escape control characters in the message."""
    line = escape_control_characters(" ".join(message.split()))
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        label = f"\x1b[{_COLORS[style]}m{label}\x1b[0m"
    print(f"{label} {line}", file=sys.stderr)


def print_json(document: dict[str, Any]) -> None:
    """Print a result for programs."""
    print(json.dumps(document, indent=2), flush=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as a result; escape control characters in the cells."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(escape_control_characters(cell)) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else _UNBOUNDED).print(table)


def span(seconds: float) -> str:
    """Return a length of time in its two largest units, such as "1h 20m"."""
    parts, rest = [], int(seconds)
    for unit, length in reversed(SECONDS_OF.items()):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
