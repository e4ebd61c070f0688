"""The benchmark of a changed network times the return of media, and counts who seemed to leave."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.network_change import measure

pytestmark = pytest.mark.long


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium: install Debian's package chromium")
async def test_a_return_is_timed_and_nobody_seems_to_leave() -> None:
    seconds, departures = await measure(1)

    assert len(seconds) == 1
    assert seconds[0] > 0
    assert departures == 0
