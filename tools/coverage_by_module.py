"""Checks that unit tests reach enough of each module.

`make test` measures coverage while the tests outside integration/, e2e/, deploy/, docs/ and benchmarks/ run. Then
`python -m tools.coverage_by_module` names each module below its limit with the lines that no unit test reaches.
`tools/coverage_remaining.toml` lists the modules that may stay below for now, and only shrinks.

While you write unit tests, `pytest --cov --cov-report= tests/gateway` and
`python -m tools.coverage_by_module gateway/sessions.py` show one module, or a folder of modules.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coverage import Coverage

ROOT = Path(__file__).parents[1]
SOURCES = "src/signal_manager/"
REMAINING = "tools/coverage_remaining.toml"
# Percent of lines and branches.
LEAST = 85
LEAST_OF_PROTOCOL = 100
# A listed module must clearly pass the limit before it has to leave the list: timing moves a result by a line or two.
CLEARLY = 2


def percentages(report: Mapping[str, Any]) -> dict[str, float]:
    """Return how much of each module is reached, by its path below the package, from coverage's JSON report."""
    return {
        path.partition(SOURCES)[2]: float(file["summary"]["percent_covered"]) for path, file in report["files"].items()
    }


def compare(reached: Mapping[str, float], remaining: Sequence[str]) -> Iterator[str]:
    """Yield one line for each module below its limit, and for each that does not belong on the list any more."""
    for module, percent in sorted(reached.items()):
        least = LEAST_OF_PROTOCOL if module.startswith("protocol/") else LEAST
        if percent < least and module not in remaining:
            yield f"{module}: unit tests reach {percent:.1f} %, expected at least {least} %"
    for module in remaining:
        if module not in reached:
            yield f"{module}: there is no such module; take it out of {REMAINING}"
        elif reached[module] >= LEAST + CLEARLY:
            yield f"{module}: unit tests reach {reached[module]:.1f} %; take it out of {REMAINING}"


def missing(file: Mapping[str, Any]) -> str:
    """Return the lines that no test reaches as ranges: `7-9, 12`."""
    ranges: list[list[int]] = []
    for line in file["missing_lines"]:
        if ranges and ranges[-1][-1] == line - 1:
            ranges[-1][1:] = [line]
        else:
            ranges.append([line])
    return ", ".join("-".join(map(str, each)) for each in ranges)


def measured() -> dict[str, Any]:
    """Return coverage's JSON report of what pytest measured last."""
    coverage = Coverage(config_file=str(ROOT / "pyproject.toml"))
    coverage.load()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        coverage.json_report(outfile=file.name)
        report: dict[str, Any] = json.load(file)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all modules, or show those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tools.coverage_by_module", description=main.__doc__)
    parser.add_argument("modules", nargs="*", help="a module or a folder below src/signal_manager, to look at only")
    chosen = tuple(parser.parse_args(arguments).modules)
    report = measured()
    reached = percentages(report)
    for path, file in sorted(report["files"].items()):
        module = path.partition(SOURCES)[2]
        if chosen and module.startswith(chosen):
            print(f"{module}: {reached[module]:.1f} %, without lines {missing(file) or 'none'}")
    if chosen:
        return 0
    findings = list(compare(reached, tomllib.loads((ROOT / REMAINING).read_text())["remaining"]))
    print("\n".join(findings) or f"unit tests reach {LEAST} % of each module, and all of the protocol")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
