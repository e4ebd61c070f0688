"""How the commands speak to a person or a script: results on standard output, one line for what is wrong on the other.

Shared by `cli.py` and the modules that hold its larger commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from signal_manager.logs import escape_control_characters

__all__ = ["SECONDS_OF", "ConfigOption", "JsonOption", "print_json", "print_table", "span", "tell", "warn"]

SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# Where nobody looks at it, a table is as wide as its longest row: what is cut off or folded, no script can read.
_UNBOUNDED = 100_000

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="TOML file; otherwise app-config.toml or config.toml, if there is one."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def warn(message: str) -> None:
    """Print what a person should know although it is no error."""
    tell("warning:", "yellow", message)


def tell(label: str, style: str, message: str) -> None:
    """Print one line on standard error, whatever the message holds."""
    line = escape_control_characters(" ".join(message.split()))
    Console(stderr=True).print(Text.assemble((label, style), " ", line), soft_wrap=True)


def print_json(document: dict[str, Any]) -> None:
    """Print a result for programs."""
    print(json.dumps(document, indent=2), flush=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below each other as a result, whatever their cells hold."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(escape_control_characters(cell)) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else _UNBOUNDED).print(table)


def span(seconds: float) -> str:
    """Return a length of time as a person says it: its two largest units, such as "1h 20m"."""
    parts, rest = [], int(seconds)
    for unit, length in reversed(SECONDS_OF.items()):
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
