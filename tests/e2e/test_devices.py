"""Publications in Chromium, with its fake camera and microphone: devices that are let go, tracks that are replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.e2e.conftest import CHROMIUM, SDK
from tests.e2e.service import Service, context_of, eventually
from tests.web import plain_http

pytestmark = [
    pytest.mark.long,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium"),
    pytest.mark.skipif(not (SDK / "node_modules").exists(), reason="no SDK: make sdk/js/node_modules"),
]


class Member:
    """One page, whose member of the room the test drives."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def do(self, method: str, *arguments: Any) -> Any:
        """Call a method of the page's member."""
        return await self._page.evaluate("([name, rest]) => member[name](...rest)", [method, arguments])

    async def sees(self, color: str, *, muted: bool, frames: int = 10) -> None:
        """Wait until the other's picture has a colour and its state, and for so many more frames of it."""
        right = {"color": color, "muted": muted}
        seen = await eventually(lambda: self.do("picture"), lambda picture: right.items() <= picture.items())
        await eventually(
            lambda: self.do("picture"),
            lambda picture: right.items() <= picture.items() and picture["frames"] >= seen["frames"] + frames,
        )

    async def hears(self) -> None:
        """Wait until more of the other's sound came in."""
        start = await self.do("energy")
        await eventually(lambda: self.do("energy"), lambda energy: energy > start + 1e-6)


OpenMember = Callable[[str], Awaitable[Member]]


@pytest_asyncio.fixture(loop_scope="module")
async def member(browser: Browser, service: Service, site: str) -> AsyncIterator[OpenMember]:
    """Open a page as a new member and join the room."""
    contexts = []
    complaints: list[str] = []

    async def open_page(name: str) -> Member:
        async with plain_http(base_url=service.admin_url) as http:
            granted = (await http.post("/demo/token", json={"name": name})).json()
        contexts.append(await context_of(browser))
        page = await contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"{site}/member.html")
        await page.wait_for_function("window.member")
        member = Member(page)
        await member.do("join", f"ws://127.0.0.1:{service.port}", granted["client_id"], granted["token"])
        return member

    yield open_page

    for context in contexts:
        await context.close()
    assert complaints == []


async def test_a_released_camera_and_microphone_stop_and_come_back_without_negotiation(member: OpenMember) -> None:
    alice, bob = await member("alice"), await member("bob")
    await alice.do("publish")
    await bob.sees("green", muted=False)
    await bob.hears()
    before = await alice.do("negotiated"), await bob.do("negotiated")

    await alice.do("release", "video")
    await alice.do("release", "audio")
    assert (await alice.do("sending", "video"))["opened"] == ["ended"], "the light is off"
    assert (await alice.do("sending", "audio"))["opened"] == ["ended"]
    # Frames go on: an SFU forgets tracks of which nothing comes.
    await bob.sees("black", muted=True, frames=2)

    await alice.do("restore", "video")
    await alice.do("restore", "audio")
    for kind in ("video", "audio"):
        fresh = {"muted": False, "live": True, "inStream": True, "opened": ["ended", "live"]}
        assert await alice.do("sending", kind) == fresh
    await bob.sees("green", muted=False)
    await bob.hears()
    assert (await alice.do("negotiated"), await bob.do("negotiated")) == before


async def test_a_replaced_track_is_seen_without_negotiation_and_mute_survives_it(member: OpenMember) -> None:
    alice, bob = await member("alice"), await member("bob")
    await alice.do("publish")
    await bob.sees("green", muted=False)
    before = await alice.do("negotiated"), await bob.do("negotiated")

    await alice.do("replace", "red")
    await bob.sees("red", muted=False)
    await alice.do("setMuted", True)
    await bob.sees("black", muted=True, frames=2)
    await alice.do("replace", "blue")
    await bob.sees("black", muted=True, frames=2)
    await alice.do("setMuted", False)
    await bob.sees("blue", muted=False)

    assert (await alice.do("negotiated"), await bob.do("negotiated")) == before
