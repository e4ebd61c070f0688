"""Chromium through the local SFU: every test drives pages that speak its HTTP interface, with real media."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import pytest
from aiortc import AudioStreamTrack
from playwright.async_api import Browser, Page
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from signal_manager.sfu import LocalSfu, SfuSettings
from signal_manager.testing.media.peers import Camera
from tests.e2e.conftest import CHROMIUM
from tests.e2e.service import eventually
from tests.sfu.clients import Peer, api_of, frames

PAGES = Path(__file__).parent / "pages"
TIME_LIMIT = 45.0

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium"),
]


class Tab:
    """A page in a browser context of its own, with one client in it."""

    def __init__(self, page: Page, session_id: str) -> None:
        self.page = page
        self.session_id = session_id

    async def do(self, method: str, *arguments: Any) -> Any:
        """Call a method of the page's client."""
        script = "([method, parameters]) => client[method](...parameters)"
        async with asyncio.timeout(TIME_LIMIT):
            return await self.page.evaluate(script, [method, list(arguments)])

    async def stats(self, mid: str) -> dict[str, Any]:
        """What was received on a mid."""
        received: dict[str, Any] = await self.do("received_of", mid)
        return received

    async def grows(self, mid: str, name: str = "framesDecoded", by: float = 15) -> dict[str, Any]:
        """Wait until a figure of what is received on a mid has grown."""
        start = (await self.stats(mid)).get(name, 0)
        return await eventually(lambda: self.stats(mid), lambda stats: stats.get(name, 0) >= start + by)


@asynccontextmanager
async def running(settings: SfuSettings | None = None) -> AsyncIterator[LocalSfu]:
    """An SFU whose HTTP port also serves the tests' page."""
    sfu = LocalSfu(http_port=0, settings=settings)
    sfu.app.router.routes.insert(0, Mount("/pages", StaticFiles(directory=PAGES)))
    async with sfu:
        yield sfu


@asynccontextmanager
async def tabs(browser: Browser, sfu: LocalSfu, count: int) -> AsyncIterator[list[Tab]]:
    """That many pages, each in a context and with a session of its own."""
    contexts, opened = [], []
    address = f"{sfu.base_url.removesuffix('/v1')}/pages/sfu.html?app={sfu.app_id}&secret={sfu.app_secret}"
    try:
        for _ in range(count):
            context = await browser.new_context()
            contexts.append(context)
            page = await context.new_page()
            await page.goto(address)
            await page.wait_for_function("window.client")
            opened.append(Tab(page, await page.evaluate("client.open()")))
        yield opened
    finally:
        for context in contexts:
            await context.close()


def remote(publisher: Tab | Peer, name: str, **more: Any) -> dict[str, Any]:
    """Name a track of another session."""
    return {"sessionId": publisher.session_id, "trackName": name, **more}


async def pixel_share(tab: Tab, mid: str, is_right: Callable[[int, int, int], bool]) -> float:
    """Look at a screenshot of the video, and return the share of its pixels that are right."""
    png = await tab.page.locator(f"#mid-{mid}").screenshot()
    with av.open(io.BytesIO(png), "r") as container:
        frame = next(container.decode(video=0)).reformat(width=64, height=48, format="rgb24")
    line = frame.planes[0].line_size
    data = bytes(frame.planes[0])
    pixels = [data[y * line + x * 3 :][:3] for y in range(48) for x in range(64)]
    return sum(is_right(*pixel) for pixel in pixels) / len(pixels)


async def test_camera_and_microphone_arrive_in_another_browser(browser: Browser) -> None:
    async with running() as sfu, tabs(browser, sfu, 2) as (alice, bob):
        await alice.do("publish", {"camera": "video", "microphone": "audio"})
        video, audio = await bob.do("pull", [remote(alice, "camera"), remote(alice, "microphone")])

        await bob.grows(video["mid"], by=30)
        full = await eventually(lambda: bob.stats(video["mid"]), lambda stats: stats.get("frameWidth") == 640)
        heard = await eventually(lambda: bob.stats(audio["mid"]), lambda stats: stats.get("totalAudioEnergy", 0) > 0)

        assert (full["frameHeight"], full["packetsLost"], heard["packetsLost"]) == (480, 0, 0)
        # Chromium's fake camera is a pie over green.
        assert await pixel_share(bob, video["mid"], lambda r, g, b: g > 90 and g > r + 40 and g > b + 40) > 0.5


@pytest.mark.long
async def test_one_session_pulls_twice_and_publishes_twice(browser: Browser) -> None:
    async with running() as sfu, tabs(browser, sfu, 2) as (alice, bob):
        await alice.do("publish", {"first": "video"})
        await bob.do("publish", {"own": "video"})
        (first,) = await bob.do("pull", [remote(alice, "first")])
        await bob.grows(first["mid"])
        await alice.do("publish", {"second": "video"})
        (second,) = await bob.do("pull", [remote(alice, "second")])
        await bob.do("publish", {"another": "audio"})
        (back, sound) = await alice.do("pull", [remote(bob, "own"), remote(bob, "another")])

        await bob.grows(first["mid"])
        await bob.grows(second["mid"])
        await alice.grows(back["mid"])
        await alice.grows(sound["mid"], "packetsReceived")


@pytest.mark.long
async def test_a_closed_section_is_used_again(browser: Browser) -> None:
    async with running() as sfu, tabs(browser, sfu, 2) as (alice, bob):
        published = await alice.do("publish", {"one": "video", "two": "video", "sound": "audio"})
        # Chromium cannot describe a connection whose every section is closed, hence the sound.
        one, _ = await bob.do("pull", [remote(alice, "one"), remote(alice, "sound")])
        await bob.grows(one["mid"])
        closed = await bob.do("close", [one["mid"]])
        (two,) = await bob.do("pull", [remote(alice, "two")])
        await bob.grows(two["mid"])

        await alice.do("close", [published[0]["mid"]])
        await alice.do("publish", {"three": "video"})
        (three,) = await bob.do("pull", [remote(alice, "three")])

        await bob.grows(three["mid"])
        assert closed == [{"mid": one["mid"]}]
        assert two["mid"] != one["mid"]
        assert await bob.do("sections") == 3
        assert await alice.do("sections") == 3


@pytest.mark.long
async def test_media_goes_on_after_an_ice_restart(browser: Browser) -> None:
    async with running() as sfu, tabs(browser, sfu, 2) as (alice, bob):
        await alice.do("publish", {"camera": "video"})
        (video,) = await bob.do("pull", [remote(alice, "camera")])
        await bob.grows(video["mid"])

        await alice.do("restartIce")
        await bob.do("restartIce")

        await eventually(lambda: alice.page.evaluate("client.pc.connectionState"), lambda state: state == "connected")
        await bob.grows(video["mid"], by=30)


@pytest.mark.long
async def test_a_subscriber_changes_the_simulcast_layer(browser: Browser) -> None:
    async with running() as sfu, tabs(browser, sfu, 2) as (alice, bob):
        # Chromium sends two layers at this size, however many are asked for.
        await alice.do("publish", {"camera": "video"}, {"rids": ["f", "h"]})
        (video,) = await bob.do("pull", [remote(alice, "camera", simulcast={"preferredRid": "h"})])
        mid = video["mid"]

        async def both_ends() -> tuple[dict[str, Any], list[dict[str, Any]]]:  # a failure shows what was sent as well
            return await bob.stats(mid), await alice.do("sent")

        await eventually(both_ends, lambda ends: ends[0].get("frameWidth") == 320)
        await bob.do("prefer", mid, "f")
        await eventually(both_ends, lambda ends: ends[0].get("frameWidth") == 640)
        await bob.do("prefer", mid, "h")
        await eventually(both_ends, lambda ends: ends[0].get("frameWidth") == 320)

        assert (await bob.grows(mid))["packetsLost"] == 0


@pytest.mark.parametrize(
    "codec", ["VP8", *(pytest.param(name, marks=pytest.mark.long) for name in ("VP9", "H264", "AV1"))]
)
async def test_codecs_are_forwarded_alike(browser: Browser, codec: str) -> None:
    async with running() as sfu, tabs(browser, sfu, 2) as (alice, bob):
        await alice.do("publish", {"camera": "video"}, {"codec": codec, "width": 320, "height": 240})
        (video,) = await bob.do("pull", [remote(alice, "camera")])

        await bob.grows(video["mid"], by=20)

        assert await bob.do("codec_of", video["mid"]) == f"video/{codec}"


async def test_data_channel_messages_reach_subscribers_and_answers_the_publisher(browser: Browser) -> None:
    async with running() as sfu, tabs(browser, sfu, 2) as (alice, bob):
        await alice.do("establish")
        await bob.do("establish")
        await alice.do("channel", {"location": "local", "dataChannelName": "chat"})
        item = {"location": "remote", "dataChannelName": "chat", "sessionId": alice.session_id, "canReply": True}
        await bob.do("channel", item)

        await alice.do("send", "chat", "hello")
        await eventually(lambda: bob.page.evaluate("client.received"), lambda received: received == ["hello"])
        await bob.do("send", "chat", "hello yourself")

        await eventually(
            lambda: alice.page.evaluate("client.received"), lambda received: received == ["hello yourself"]
        )


async def test_a_browser_receives_what_aiortc_publishes(browser: Browser) -> None:
    async with running() as sfu, tabs(browser, sfu, 1) as (bob,), api_of(sfu) as api, await Peer.open(api) as alice:
        await alice.publish(picture=Camera(), sound=AudioStreamTrack())
        await alice.connected()
        video, audio = await bob.do("pull", [remote(alice, "picture"), remote(alice, "sound")])

        assert (await bob.grows(video["mid"]))["frameWidth"] == 160
        await bob.grows(audio["mid"], "packetsReceived")


async def test_aiortc_receives_what_a_browser_publishes(browser: Browser) -> None:
    async with running() as sfu, tabs(browser, sfu, 1) as (alice,), api_of(sfu) as api, await Peer.open(api) as bob:
        await alice.do("publish", {"camera": "video"}, {"width": 320, "height": 240})
        await bob.pull(alice, "camera")  # type: ignore[arg-type]  # both name their session alike

        pictures = await frames(bob.tracks[0], 10)

        assert (pictures[-1].width, pictures[-1].height) == (320, 240)


@pytest.mark.long
async def test_the_picture_keeps_moving_when_a_tenth_of_the_packets_is_lost(browser: Browser) -> None:
    settings = SfuSettings(drop_rate=0.1)
    async with running(settings) as sfu, tabs(browser, sfu, 2) as (alice, bob):
        await alice.do("publish", {"camera": "video"})
        (video,) = await bob.do("pull", [remote(alice, "camera")])

        before = await bob.grows(video["mid"], by=1)
        after = await bob.grows(video["mid"], by=90)

        assert sfu.counters.packets_dropped_on_purpose > 0
        assert after["nackCount"] > before["nackCount"]
