"""The demo page in Chromium, against the service as a process: calls, their end, their recovery, and how it looks."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Playwright, ViewportSize, expect

from tests.e2e.conftest import CHROMIUM, FLAGS, OpenDemoClient
from tests.e2e.service import RESUME_WINDOW, TIME_LIMIT, DemoClient, OwnBrowser, Service

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
BUNDLE = Path(__file__).parents[2] / "src/signal_manager/admin/demo"
PHONE: ViewportSize = {"width": 360, "height": 740}
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
_LIVE = re.compile(r"\blive\b")
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium"),
]


async def test_two_people_see_and_hear_each_other(guest: OpenDemoClient) -> None:
    alice = await guest("alice")
    bob = await guest("bob", "room=tests")  # with Chromium's own camera and microphone

    await alice.sees(bob)
    await bob.sees(alice)
    await alice.hears(bob)
    await bob.hears(alice)

    assert await alice.figure(bob, "data-width") > 0


@pytest.mark.long
async def test_a_third_joins_late_and_sees_both(guest: OpenDemoClient) -> None:
    alice, bob = await guest("alice"), await guest("bob")
    await alice.sees(bob)

    carol = await guest("carol")

    await carol.sees(alice, bob)
    await carol.hears(alice, bob)
    await alice.sees(carol)
    await bob.sees(carol, alice)


@pytest.mark.long
async def test_a_tile_is_gone_within_a_second_of_leaving(guest: OpenDemoClient) -> None:
    alice, bob = await guest("alice"), await guest("bob")
    await alice.sees(bob)

    await bob.leave()
    await alice.misses(bob, within=1)

    await expect(alice.page.get_by_role("status")).to_have_text("bob left")
    await expect(alice.page.get_by_text("Nobody else is here yet")).to_be_visible()


@pytest.mark.long
async def test_someone_who_left_can_join_again(guest: OpenDemoClient) -> None:
    alice, bob = await guest("alice"), await guest("bob")
    await bob.leave()
    await alice.misses(bob)

    await bob.join()

    await alice.sees(bob)
    await bob.sees(alice)


_WATCH_FOR_AWAY = """() => {
    const look = () => { window.wasAway ||= document.querySelector('.tile[data-away="true"]') !== null; };
    new MutationObserver(look).observe(document.body, { subtree: true, attributes: true });
}"""


@pytest.mark.long
async def test_the_tile_of_a_killed_browser_goes_soon_after_the_resume_window(
    guest: OpenDemoClient, playwright: Playwright, tmp_path: Path
) -> None:
    alice = await guest("alice")
    assert CHROMIUM is not None
    doomed = await OwnBrowser.launch(CHROMIUM, FLAGS, tmp_path / "profile")
    try:
        bob = await guest("bob", elsewhere=await playwright.chromium.connect_over_cdp(doomed.endpoint))
        await alice.sees(bob)
        await alice.page.evaluate(_WATCH_FOR_AWAY)
    finally:
        await doomed.kill()

    await alice.misses(bob, within=RESUME_WINDOW + 2)
    assert await alice.page.evaluate("window.wasAway")


@pytest.mark.long
@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_codecs_are_sent_as_asked(guest: OpenDemoClient, codec: str) -> None:
    alice = await guest("alice", f"room=tests&pattern=1&codec={codec}")
    bob = await guest("bob", f"room=tests&pattern=1&codec={codec}")

    await bob.sees(alice)
    await alice.sees(bob)

    assert await bob.tile(alice).get_attribute("data-codec") == codec


@pytest.mark.long
@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_call_recovers_when_the_service_is_restarted(guest: OpenDemoClient, service: Service, end: str) -> None:
    alice, bob = await guest("alice"), await guest("bob")
    await alice.sees(bob)
    await bob.sees(alice)

    await getattr(service, end)()
    await alice.is_shown("reconnecting")
    await bob.is_shown("reconnecting")
    await service.start()
    await alice.is_shown("connected")
    await bob.is_shown("connected")

    await expect(alice.tile(bob)).to_have_count(1)
    await alice.sees(bob)
    await bob.sees(alice)
    await alice.hears(bob)


@pytest.mark.long
async def test_muting_stops_sound_and_picture_until_it_is_undone(guest: OpenDemoClient) -> None:
    alice, bob = await guest("alice"), await guest("bob")
    await alice.sees(bob)
    mute = bob.page.get_by_role("button", name="Mute", exact=True)
    stop = bob.page.get_by_role("button", name="Stop video")

    await mute.click()
    await stop.click()
    is_enabled = "() => document.querySelector('[data-own=true] video').srcObject.getTracks().map((t) => t.enabled)"
    assert await bob.page.evaluate(is_enabled) == [False, False]
    await bob.page.get_by_role("button", name="Unmute").click()
    await bob.page.get_by_role("button", name="Start video").click()

    assert await bob.page.evaluate(is_enabled) == [True, True]
    await expect(bob.page.get_by_role("button", name="Mute", exact=True)).to_have_attribute("aria-pressed", "false")
    await alice.sees(bob)


@pytest.mark.long
async def test_the_others_see_who_is_muted_and_a_letter_in_place_of_a_muted_picture(guest: OpenDemoClient) -> None:
    alice, bob = await guest("alice"), await guest("bob")
    await alice.sees(bob)
    await _shows_muted(alice, bob, "")

    await bob.page.get_by_role("button", name="Mute", exact=True).click()
    await _shows_muted(alice, bob, "audio", "sound muted")
    await bob.page.get_by_role("button", name="Stop video").click()

    carol = await guest("carol")  # who comes later finds the same
    for viewer in (alice, carol, bob):
        await _shows_muted(viewer, bob, "audio video", "sound and picture muted")
    await bob.page.get_by_role("button", name="Start video").click()
    await bob.page.get_by_role("button", name="Unmute").click()

    for viewer in (alice, carol, bob):
        await _shows_muted(viewer, bob, "")
    await alice.sees(bob)
    await carol.sees(bob)


async def _shows_muted(viewer: DemoClient, other: DemoClient, kinds: str, badge: str = "") -> None:
    """Wait until a tile says what is muted: no black picture, and nothing of how it moves."""
    tile, limit = viewer.tile(other), TIME_LIMIT * 1000
    await expect(tile).to_have_attribute("data-muted", kinds, timeout=limit)
    if badge:
        await expect(tile.locator(".muted")).to_have_text(badge, timeout=limit)
    await expect(tile.locator(".muted")).to_be_visible(visible=bool(badge), timeout=limit)
    is_dark = "video" in kinds
    await expect(tile.locator(".initial")).to_be_visible(visible=is_dark, timeout=limit)
    await expect(tile.locator("video")).to_be_visible(visible=not is_dark, timeout=limit)
    await expect(tile.locator(".figures")).to_be_visible(visible=not is_dark, timeout=limit)


# Another video in place of the camera, which the browser itself ends: what is shared of a screen ends so too.
_SHARE = """() => {
    navigator.mediaDevices.getUserMedia = async () => {
        const generator = new MediaStreamTrackGenerator({ kind: "video" });
        const writer = generator.writable.getWriter();
        const canvas = new OffscreenCanvas(320, 180);
        const context = canvas.getContext("2d");
        let count = 0;
        const timer = setInterval(() => {
            context.fillStyle = `hsl(${(count * 20) % 360} 80% 50%)`;
            context.fillRect(0, 0, 320, 180);
            const frame = new VideoFrame(canvas, { timestamp: 100_000 * count++ });
            writer.write(frame).catch(() => clearInterval(timer)); // once the track is stopped
        }, 100);
        window.stopSharing = () => { clearInterval(timer); return writer.close(); };
        return new MediaStream([generator]);
    };
}"""
_STOP = "() => document.querySelector('[data-own=true] video').srcObject.getVideoTracks()[0].stop()"


@pytest.mark.long
@pytest.mark.parametrize("end", [_STOP, "() => window.stopSharing()"], ids=["stopped by code", "ended by the browser"])
async def test_a_picture_that_has_ended_is_gone_from_the_others_tiles(guest: OpenDemoClient, end: str) -> None:
    heard: list[bytes] = []
    alice = await guest("alice", joins=False)

    def note(frame: str | bytes) -> None:
        heard.append(frame.encode() if isinstance(frame, str) else frame)

    alice.page.on("websocket", lambda socket: socket.on("framereceived", note))
    await alice.join()
    bob = await guest("bob", "room=tests", joins=False)
    await bob.page.evaluate(_SHARE)
    await bob.join()
    await alice.sees(bob)

    await bob.page.evaluate(end)

    await expect(alice.tile(bob)).not_to_have_class(_LIVE, timeout=TIME_LIMIT * 1000)
    await expect(alice.tile(bob)).to_be_visible()
    (unpublished,) = [frame for frame in heard if b'"tracks_unpublished"' in frame]
    assert b'"reason":"ended"' in unpublished


@pytest.mark.long
async def test_someone_who_only_watches_sees_the_others(guest: OpenDemoClient) -> None:
    alice = await guest("alice")
    bob = await guest("bob", joins=False)
    await bob.page.get_by_label("Nothing, only watch").check()

    await bob.join()

    await bob.sees(alice)
    await expect(alice.tile(bob)).to_be_visible()
    await expect(bob.page.get_by_role("button", name="Mute", exact=True)).to_be_hidden()


@pytest.mark.long
async def test_a_refused_camera_offers_the_test_pattern(guest: OpenDemoClient) -> None:
    alice = await guest("alice")
    bob = await guest("bob", "room=tests", joins=False)
    refuse = (
        "() => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); } }"
    )
    await bob.page.evaluate(refuse)

    await bob.page.get_by_role("button", name="Join").click()
    await expect(bob.page.get_by_role("alert")).to_contain_text("not allowed to use the camera")
    await bob.page.get_by_role("button", name="Use the test pattern").click()

    await alice.sees(bob)


async def test_a_room_that_cannot_be_is_refused_before_anything_is_opened(guest: OpenDemoClient) -> None:
    alice = await guest("alice", "room=no/room", joins=False)

    await alice.page.get_by_role("button", name="Join").click()

    await expect(alice.page.get_by_role("alert")).to_contain_text("The room's name needs")
    await expect(alice.page.get_by_label("Room")).to_be_focused()
    assert not any(url.endswith("/token") for url in alice.requests)


@pytest.mark.long
async def test_a_service_that_is_down_is_named_as_the_cause(guest: OpenDemoClient, service: Service) -> None:
    alice = await guest("alice", joins=False)
    await service.kill()

    await alice.page.get_by_role("button", name="Join").click()

    await expect(alice.page.get_by_role("alert")).to_contain_text("cannot be reached")
    await expect(alice.page.get_by_role("button", name="Join")).to_be_enabled()


@pytest.mark.long
async def test_a_name_is_shown_as_it_is(guest: OpenDemoClient) -> None:
    mallory = await guest("<img src=x>")
    alice = await guest("alice")

    await expect(alice.page.locator(".who").filter(has_text="<img src=x>")).to_be_visible()
    assert await alice.page.locator("#tiles img").count() == 0
    assert await mallory.page.locator("#tiles img").count() == 0


async def test_everything_can_be_done_from_the_keyboard(guest: OpenDemoClient) -> None:
    alice = await guest("alice", joins=False)
    keyboard = alice.page.keyboard

    await alice.page.get_by_label("Your name").focus()
    await keyboard.press("Enter")
    await expect(alice.page.get_by_role("heading", name="tests")).to_be_focused()
    await keyboard.press("Tab")
    await expect(alice.page.get_by_role("button", name="Mute", exact=True)).to_be_focused()
    outline = await alice.page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    for _ in range(3):
        await keyboard.press("Tab")
    await keyboard.press("Enter")

    await expect(alice.page.get_by_role("button", name="Join")).to_be_focused()
    assert outline == "3px"


async def test_the_link_that_is_copied_names_the_room_alone(guest: OpenDemoClient) -> None:
    alice = await guest("alice", permissions=["clipboard-read", "clipboard-write"])

    await alice.page.get_by_role("button", name="Copy link").click()

    await expect(alice.page.get_by_role("status")).to_have_text("Link copied")
    link = await alice.page.evaluate("navigator.clipboard.readText()")
    assert urlsplit(link).query == "room=tests"


@pytest.mark.long
async def test_nothing_is_asked_of_other_hosts(guest: OpenDemoClient, service: Service) -> None:
    alice, bob = await guest("alice"), await guest("bob")
    await alice.sees(bob)

    assert {url for url in alice.requests if not url.startswith((service.admin_url, "data:"))} == set()


@pytest.mark.long
async def test_the_page_fits_phones_and_desktops_in_light_and_dark(guest: OpenDemoClient) -> None:
    await guest("Bob")
    await guest("Chinonyelum Oyelaran-Fitzgerald", "room=tests")
    alice = await guest("Alice", joins=False)
    await _pictures(alice, "lobby")

    await alice.join()
    await alice.page.wait_for_function("() => document.querySelectorAll('.tile[data-width]').length === 3")
    await expect(alice.page.get_by_role("status")).to_have_text("", timeout=TIME_LIMIT * 1000)

    await _pictures(alice, "call")


async def _pictures(guest: DemoClient, name: str) -> None:
    """Keep screenshots to look at, and check that nothing is wider than the window."""
    ARTIFACTS.mkdir(exist_ok=True)
    for size, scheme in itertools.product([PHONE, DESKTOP], SCHEMES):
        await guest.page.set_viewport_size(size)
        await guest.page.emulate_media(color_scheme=scheme)
        await guest.page.screenshot(path=ARTIFACTS / f"demo-{name}-{scheme}-{size['width']}.png")
        assert await guest.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


async def test_the_page_holds_nothing_inline() -> None:
    page = (BUNDLE / "index.html").read_text()

    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
