"""How the commands speak to a person or a script: results on standard output, one line for what is wrong on the other.

Shared by `cli.py` and the modules that hold its larger commands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from signal_manager.logs import escape_control_characters

__all__ = ["ConfigOption", "print_json", "tell", "warn"]

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="TOML file; otherwise app-config.toml or config.toml, if there is one."
    ),
]


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
