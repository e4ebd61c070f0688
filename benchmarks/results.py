"""What results look like, and where they go: the machine they hold for, and the JSON beside the table."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

__all__ = ["Spread", "machine", "write_json"]


class Spread(NamedTuple):
    """The median of many figures, and what a quarter of them is below and above."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, figures: list[float]) -> Spread:
        """Return that of the figures, of which there is at least one."""
        if len(figures) == 1:
            return cls(*figures * 3)
        low, middle, high = quantiles(figures, n=4, method="inclusive")
        return cls(low, middle, high)

    def text(self, form: str) -> str:
        """Return it as a table shows it."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"


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
