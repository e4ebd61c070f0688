"""Where results go: the machine they hold for, and the JSON beside the table."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

__all__ = ["machine", "write_json"]


def machine() -> dict[str, Any]:
    """Describe what the figures were taken on."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
    }


def write_json(results: dict[str, Any], target: str) -> None:
    """Write results to the file `target`, or to stdout for "-"."""
    text = json.dumps(results, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
