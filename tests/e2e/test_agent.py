"""`examples/agent.py` and a browser in one room: each is shown what the other sends."""

from __future__ import annotations

import asyncio
import signal
import statistics
import sys
from pathlib import Path

import av
import pytest

from tests.e2e.conftest import CHROMIUM, OpenDemoClient
from tests.e2e.service import TIME_LIMIT, DemoClient, Service

AGENT = Path(__file__).parents[2] / "examples/agent.py"
ORANGE, BLUE = (255, 118, 0), (0, 0, 255)

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium"),
]


@pytest.mark.parametrize("codec", ["VP8", pytest.param("H264", marks=pytest.mark.long)])
async def test_an_agent_and_a_browser_see_and_hear_each_other(
    guest: OpenDemoClient, service: Service, tmp_path: Path, codec: str
) -> None:
    alice = await guest("alice", f"room=tests&pattern=1&codec={codec}")
    picture = tmp_path / "seen.png"
    agent = await asyncio.create_subprocess_exec(
        sys.executable,
        AGENT,
        "tests",
        picture,
        "--url",
        f"ws://127.0.0.1:{service.port}",
        *("--client", "agent", "the agent's token"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        bob = DemoClient(alice.page, "agent")  # as the page calls the agent
        await alice.sees(bob)
        await alice.hears(bob)
        shown = await _screenshot(alice, bob, tmp_path / "shown.png")
        assert agent.stdout is not None
        async with asyncio.timeout(TIME_LIMIT):
            await agent.stdout.readline()
    finally:
        agent.send_signal(signal.SIGINT)
        async with asyncio.timeout(TIME_LIMIT):
            await agent.wait()

    assert _is_near(_colour(shown, 0.25), ORANGE)
    assert _is_near(_colour(shown, 0.75), BLUE)
    assert _width(picture) == await alice.page.evaluate("document.querySelector('[data-own=true] video').videoWidth")
    assert len({_colour(picture, place / 8 + 0.02) for place in range(8)}) > 4  # the page's bars


async def _screenshot(alice: DemoClient, bob: DemoClient, path: Path) -> Path:
    await alice.tile(bob).locator("video").screenshot(path=path)
    return path


def _read(path: Path) -> av.VideoFrame:
    with av.open(str(path)) as image:
        return next(image.decode(video=0)).reformat(format="rgb24")


def _width(path: Path) -> int:
    return _read(path).width


def _colour(path: Path, across: float) -> tuple[int, ...]:
    """Return red, green and blue as most points of a column have them: lines and captions are in the way of some."""
    frame = _read(path)
    plane, data = frame.planes[0], bytes(frame.planes[0])
    starts = [frame.height * tenth // 10 * plane.line_size + int(frame.width * across) * 3 for tenth in range(1, 10)]
    return tuple(statistics.median_low(data[start + channel] for start in starts) for channel in range(3))


def _is_near(colour: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(abs(one - other) < 40 for one, other in zip(colour, wanted, strict=True))
