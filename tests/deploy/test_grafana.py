"""The Grafana dashboard asks for numbers that the service publishes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from signal_manager.observe.metrics import Metrics

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboard.json"
# What prometheus-client's process collector adds.
PROCESS = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def published() -> set[str]:
    names = set(PROCESS)
    for family in Metrics().collect():
        match family.type:
            case "counter":
                names.add(f"{family.name}_total")
            case "histogram":
                names.add(f"{family.name}_bucket")
            case _:
                names.add(family.name)
    return names


def test_every_expression_names_published_numbers_and_all_of_ours_are_shown() -> None:
    expressions = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    asked = {name for text in expressions for name in re.findall(r"\b(?:signal_manager|process)_\w+", text)}

    assert asked == published()


def test_no_two_panels_overlap_or_share_an_id() -> None:
    places = [
        (column, row)
        for panel in panels()
        for column in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for row in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(places) == len(set(places))
    assert max(column for column, _ in places) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())
