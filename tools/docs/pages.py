"""Reference pages as Markdown, made from the command line's help, the settings and the metrics."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from signal_manager.cli.main import application
from signal_manager.observe.metrics import Metrics
from signal_manager.service.config import Config, example_toml
from signal_manager.sfu.metrics import Counters, Gauges, SfuCollector

__all__ = ["PAGES", "PAGE_OF", "browser_guide", "browser_pages", "command_line", "configuration", "metrics"]

_TOP = Path(__file__).parents[2]
_BROWSER_FOLDER = _TOP / "build/docs/browser"
_BROWSER_GUIDE = _TOP / "sdk/js/README.md"


def command_line() -> str:
    """Return a section for each command, with what its `--help` prints."""
    group: Any = typer.main.get_command(application)
    head = "# Command line\n\nWhat each command says of itself with `--help`."
    return "\n\n".join([head, *_commands(group, "signal-manager", None)]) + "\n"


def _commands(command: Any, name: str, parent: Any) -> Iterator[str]:
    context = type(command).context_class(command, info_name=name, parent=parent, max_content_width=100)
    level = "##" if parent is None or parent.parent is None else "###"
    yield f"{level} {context.command_path}\n\n```text\n{command.get_help(context).strip()}\n```"
    for each, below in getattr(command, "commands", {}).items():
        yield from _commands(below, each, context)


def configuration() -> str:
    """Return a table for each section of the configuration."""
    defaults = tomllib.loads(example_toml())
    parts = [
        "# Configuration\n\n"
        "Settings come from `--config FILE`, `app-config.toml` or `config.toml`. The environment wins: "
        "`SIGNAL_MANAGER_SERVER_PORT` is `port` of `[server]`, with lists written as JSON. `signal-manager init` "
        "writes a file with all that stands here, and `signal-manager check-config` prints what is in effect, and why."
    ]
    for section, field in Config.model_fields.items():
        kind: Any = field.annotation
        rows = [
            (f"`{key}`", f"`{json.dumps(defaults[section].get(key))}`", each.description)
            for key, each in kind.model_fields.items()
        ]
        parts += [f"## {section}", kind.summary(), _table(("setting", "default", "what it is"), rows)]
    return "\n\n".join(parts) + "\n"


def metrics() -> str:
    """Return the metrics of the service, and of its local SFU."""
    own = [(family.read(), family.labels) for family in Metrics().families()]
    gauges = SfuCollector(Counters(), lambda: Gauges(*[0] * len(Gauges.__dataclass_fields__)))
    sfu = [(family, getattr(family, "_labelnames", ())) for family in gauges.collect()]
    return (
        "\n\n".join(
            [
                "# Metrics",
                "`/metrics` of the second port has these for Prometheus, beside those of the Python process "
                "(`process_*`, `python_gc_*`). With several workers each number has a label `worker` too.",
                "## The service",
                _table(("metric", "kind", "labels", "what it is"), map(_metric, own)),
                "## The local SFU",
                "`/metrics` of `signal-manager sfu` has these.",
                _table(("metric", "kind", "labels", "what it is"), map(_metric, sfu)),
            ]
        )
        + "\n"
    )


def _metric(entry: tuple[Any, Sequence[str]]) -> tuple[str, ...]:
    family, labels = entry
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def browser_guide() -> str:
    """Return the README of the browser SDK."""
    return _BROWSER_GUIDE.read_text(encoding="utf-8")


# What is made while the site is built, by its path below docs/.
PAGES: dict[str, Callable[[], str]] = {
    "guides/browser.md": browser_guide,
    "reference/cli.md": command_line,
    "reference/configuration.md": configuration,
    "reference/metrics.md": metrics,
}
# Files outside docs/ that are pages of the site.
PAGE_OF = {"sdk/js/README.md": "guides/browser.md"}


def browser_pages() -> dict[str, str]:
    """Return the pages that TypeDoc wrote of the browser SDK, by their path below docs/."""
    files = sorted(_BROWSER_FOLDER.glob("*.md"), key=lambda file: (file.stem != "index", file.stem))
    # Python's Markdown has no escape of `<`.
    return {
        f"reference/browser/{file.name}": file.read_text(encoding="utf-8").replace("\\<", "&lt;")
        for file in files
        if file.stem != "modules"
    }
