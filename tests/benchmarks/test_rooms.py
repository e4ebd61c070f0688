"""The benchmark of rooms: what it counts, and what it says of it."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from rich.console import Console

from benchmarks.rooms import figures, measure_news, show

pytestmark = pytest.mark.long


@pytest.mark.skipif(sys.platform != "linux", reason="servers are watched through /proc")
async def test_every_member_hears_of_every_visit_in_order() -> None:
    news = await measure_news(2, 3)

    assert len(news.milliseconds) == 2 * 3 * 2
    assert all(each > 0 for each in news.milliseconds)
    assert news.disordered == 0


@pytest.mark.parametrize(
    ("joined", "refusals", "holds"), [(9.0, {404: 3}, True), (11.0, {}, False), (9.0, {425: 1}, False)]
)
def test_each_figure_stands_beside_its_bar(joined: float, refusals: dict[int, int], holds: bool) -> None:
    results: dict[str, Any] = {
        "first_frame_ms": [[500.0] * 20],
        "crowds": [{"joined": joined, "complete": 12.0, "refusals": refusals}],
        "news": [{"milliseconds": [5.0] * 100, "disordered": 0}],
    }
    printed = io.StringIO()

    assert show(figures(results), Console(file=printed, width=100)) is holds
    assert ("over" in printed.getvalue()) is not holds
