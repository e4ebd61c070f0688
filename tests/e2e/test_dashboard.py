"""The dashboard in Chromium: what it shows, what it does, and that it takes what clients say for text.

Screenshots go to artifacts/, which git ignores.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, Page, Route, async_playwright, expect

from signal_manager.admin import statistics
from signal_manager.gateway.live_sessions import RecentError
from signal_manager.model import ClientId, SessionId
from signal_manager.protocol.messages import SignalMessage
from signal_manager.service.app import running
from signal_manager.service.config import Config
from tests.admin.conftest import admin_harness
from tests.admin.fakes import FakeSession
from tests.admin.harness import AdminHarness
from tests.e2e.conftest import CHROMIUM, FLAGS
from tests.integration.conftest import Service
from tests.integration.test_server import ONE, TWO, close_code, connected, frame, offer_frame
from tests.rooms.harness import ROOM

__all__ = ["admin_harness"]

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
START_LIMIT = 45.0
DESKTOP, PHONE = (1440, 1000), (390, 844)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium")


@pytest.fixture(autouse=True)
def _quick_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SAMPLE_INTERVAL", 0.2)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where one Chromium for all tests listens: starting it takes longer than most of them."""
    assert CHROMIUM is not None
    profile = tmp_path_factory.mktemp("profile")
    command = [
        CHROMIUM,
        *FLAGS,
        "--headless=new",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told, give_up = profile / "DevToolsActivePort", time.monotonic() + START_LIMIT
        while not told.exists() or not told.read_text():
            assert process.poll() is None, "Chromium has ended"
            assert time.monotonic() < give_up, "Chromium does not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{told.read_text().split()[0]}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(chromium)
        yield browser
        await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser,
    port: int,
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: Literal["light", "dark"] = "light",
    expects_errors: bool = False,
) -> AsyncIterator[Page]:
    """The dashboard in a fresh profile. A script error, or a resource that it should not load, fails the test."""
    viewport: Any = {"width": size[0], "height": size[1]}
    context = await browser.new_context(viewport=viewport, color_scheme=scheme)
    page = await context.new_page()
    page.set_default_timeout(10_000)
    mistakes: list[str] = []
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    page.on("console", lambda message: mistakes.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: _only_here(request.url, port, mistakes))
    await page.goto(f"http://127.0.0.1:{port}/")
    yield page
    await context.close()
    assert expects_errors or not mistakes, mistakes


def _only_here(url: str, port: int, mistakes: list[str]) -> None:
    if not url.startswith(f"http://127.0.0.1:{port}/"):
        mistakes.append(f"request to {url}")


@asynccontextmanager
async def service(port: int, **admin: Any) -> AsyncIterator[Service]:
    sections = {
        "server": {"port": 0},
        "storage": {"backend": "memory"},
        "media": {"backend": "none"},
        "metrics": {"port": port},
        "admin": admin,
    }
    async with running(Config.model_validate(sections)) as server:
        yield Service(server)


async def sit_down(admin_harness: AdminHarness, *names: str, room: str = ROOM) -> None:
    """Let clients come into a room, each with a session."""
    for number, name in enumerate(names):
        client = admin_harness.harness.client(name)
        await (client.join(room) if number else client.create(room))
        admin_harness.live_sessions.connected.append(FakeSession(client.name, client.caller.session_id))
    await admin_harness.harness.settled()


@pytest.mark.long
async def test_it_follows_a_service_that_is_in_use(browser: Browser, unused_tcp_port: int) -> None:
    async with service(unused_tcp_port) as running_service, opened(browser, unused_tcp_port) as page:
        await expect(page.locator("#phase")).to_have_text("serving")
        await expect(page.locator("#sessions")).to_contain_text("No client is connected.")

        one, two = await connected(running_service, ONE), await connected(running_service, TWO)
        await one.send(frame(0x30, json.dumps({"room_id": "lunch", "role": "receiver"}).encode()))
        await one.recv()
        for number in range(200):
            await one.send(offer_frame(TWO[0], number))
        await one.send(offer_frame("nobody", 1))

        row = page.locator("#sessions tr", has_text=ONE[0])
        await expect(row).to_contain_text("lunch")
        await expect(row).to_contain_text("connected")
        await expect(page.locator("#rooms")).to_contain_text("lunch")
        await expect(page.locator("#errors")).to_contain_text("client nobody is not connected")
        await expect(page.locator("#tiles div", has_text="Connections").locator("dd")).to_have_text("2")
        plot = page.locator(".plot", has_text="Messages per second")
        await expect(plot.locator("path.series-2")).to_have_attribute("d", re.compile("^M.*L"))

        await row.get_by_role("button", name=f"Disconnect {ONE[0]}").click()
        await row.get_by_role("button", name=f"Disconnect {ONE[0]}").click()

        assert await close_code(one) == 4403
        await expect(row).to_have_count(0)
        await expect(page.locator("#rooms")).to_contain_text("No rooms.")
        await expect(page.locator("#notice")).to_have_text(f"{ONE[0]} disconnected")
        await two.close()


@pytest.mark.long
async def test_it_tells_who_is_away(browser: Browser, admin_harness: AdminHarness) -> None:
    await sit_down(admin_harness, "ada")
    admin_harness.live_sessions.connected[-1].is_away = True
    async with opened(browser, admin_harness.server.port) as page:
        await expect(page.locator("#sessions tr", has_text="ada")).to_contain_text("away")


@pytest.mark.long
async def test_it_says_when_the_service_is_away_and_comes_back_by_itself(
    browser: Browser, unused_tcp_port: int
) -> None:
    async with service(unused_tcp_port):
        page_context = opened(browser, unused_tcp_port, expects_errors=True)
        page = await page_context.__aenter__()
        await expect(page.locator("#phase")).to_have_text("serving")

    await expect(page.locator("#phase")).to_have_text("not reachable")

    async with service(unused_tcp_port):
        await expect(page.locator("#phase")).to_have_text("serving", timeout=20_000)
        await page_context.__aexit__(None, None, None)


async def test_a_room_is_looked_into_and_acted_on(browser: Browser, admin_harness: AdminHarness) -> None:
    await sit_down(admin_harness, "alice", "bob")
    async with opened(browser, admin_harness.server.port) as page:
        await page.get_by_role("button", name=ROOM, exact=True).click()
        dialog = page.locator("#details")
        member = dialog.locator("li", has_text="alice")
        await expect(member).to_contain_text("video camera")

        await dialog.get_by_label("Message to all members").fill("two more minutes")
        await page.keyboard.press("Enter")
        await expect(page.locator("#notice")).to_have_text("Sent")
        sent = [each for each in admin_harness.harness.bus.inboxes[ClientId("bob")] if isinstance(each, SignalMessage)]
        assert [each.signal_data for each in sent] == ["two more minutes"]

        await member.get_by_role("button", name="Remove").click()
        await member.get_by_role("button", name="Really remove?").click()
        await expect(dialog.locator(".members > li")).to_have_count(1)

        await dialog.get_by_role("button", name="Close room").click()
        await dialog.get_by_role("button", name="Really close it for all members?").click()
        await expect(dialog).to_contain_text("closed by an operator")

    await admin_harness.harness.settled()
    assert not (await admin_harness.harness.room()).is_active


async def test_one_click_does_no_harm(browser: Browser, admin_harness: AdminHarness) -> None:
    await sit_down(admin_harness, "alice")
    async with opened(browser, admin_harness.server.port) as page:
        close = page.get_by_role("button", name=f"Close room {ROOM}")
        await close.click()
        await expect(close).to_have_text("Really?")
        await page.locator("#rooms-filter").focus()
        await expect(close).to_have_text("Close")

    assert (await admin_harness.harness.room()).is_active


async def test_everything_can_be_done_with_the_keyboard(browser: Browser, admin_harness: AdminHarness) -> None:
    await sit_down(admin_harness, "alice")
    answered = asyncio.Event()

    async def hold(route: Route) -> None:
        await answered.wait()
        await route.continue_()

    async with opened(browser, admin_harness.server.port) as page:
        # A dialog may be closed before the service has said what belongs into it.
        await page.route(f"**/rooms/{ROOM}", hold)
        name = page.get_by_role("button", name=ROOM, exact=True)
        await expect(name).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await page.keyboard.press("Enter")
        for _ in range(10):  # past the checkbox, the filter and later additions
            await page.keyboard.press("Tab")
            if await name.evaluate("element => element === document.activeElement"):
                break
        await expect(name).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#details")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator("#details")).to_be_hidden()
        await expect(name).to_be_focused()
        answered.set()

        plot = page.locator(".plot svg").first
        await plot.focus()
        await page.keyboard.press("ArrowLeft")
        await expect(page.locator(".plot .time").first).to_have_text(re.compile(r"^\d\d:\d\d:\d\d$"))


async def test_what_clients_say_is_text(browser: Browser, admin_harness: AdminHarness) -> None:
    trap = '<img src=x onerror="document.title=`caught`"><script>document.title="caught"</script>'
    await admin_harness.harness.client("alice").create(metadata={"topic": trap})
    admin_harness.live_sessions.connected.append(FakeSession(ClientId("alice"), SessionId("s"), address=trap))
    admin_harness.live_sessions.recent_errors.append(RecentError(1.0, 400, trap, ClientId("alice")))
    async with opened(browser, admin_harness.server.port) as page:
        await expect(page.locator("#errors")).to_contain_text(trap)
        await expect(page.locator("#sessions")).to_contain_text(trap)
        await page.get_by_role("button", name=ROOM, exact=True).click()
        await page.locator("#details summary").first.click()
        await expect(page.locator("#details code").first).to_contain_text("<img src=x")

        assert await page.locator("img[src=x]").count() == 0
        assert await page.title() == "signal-manager"


@pytest.mark.long
async def test_a_token_is_asked_for_until_it_is_right(browser: Browser, unused_tcp_port: int) -> None:
    async with (
        service(unused_tcp_port, token="for operators only") as running_service,
        opened(browser, unused_tcp_port, expects_errors=True) as page,
    ):
        one = await connected(running_service, ONE)
        await expect(page.locator("#sign-in")).to_be_visible()
        await page.keyboard.press("Escape")
        await page.locator("#token").fill("a guess")
        await page.keyboard.press("Enter")
        await expect(page.locator("#sign-in-error")).to_be_visible()
        await page.locator("#token").fill("for operators only")
        await page.get_by_role("button", name="Sign in").click()

        await expect(page.locator("#sign-in")).to_be_hidden()
        await expect(page.locator("#sessions")).to_contain_text(ONE[0])
        await page.reload()
        await expect(page.locator("#sessions")).to_contain_text(ONE[0])
        await one.close()


@pytest.mark.long
async def test_long_lists_come_in_pages_and_are_filtered(browser: Browser, admin_harness: AdminHarness) -> None:
    admin_harness.live_sessions.connected += [
        FakeSession(ClientId(f"client-{number:03}"), SessionId(f"session-{number}")) for number in range(120)
    ]
    async with opened(browser, admin_harness.server.port) as page:
        rows = page.locator("#sessions tbody tr")
        await expect(rows).to_have_count(50)
        await page.locator("#sessions .more").click()
        await expect(rows).to_have_count(100)
        await page.locator("#sessions .more").click()
        await expect(rows).to_have_count(120)
        await expect(page.locator("#sessions .more")).to_be_hidden()

        await page.locator("#sessions-filter").fill("-11")
        await expect(rows).to_have_count(10)


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_it_fits_every_screen(
    browser: Browser, admin_harness: AdminHarness, size: tuple[int, int], scheme: Literal["light", "dark"]
) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    name = f"dashboard-{'phone' if size == PHONE else 'desktop'}-{scheme}"
    await sit_down(admin_harness, "alice", "bob", "a-client-with-a-very-long-name-that-goes-on-and-on@example.org")
    admin_harness.live_sessions.recent_errors.append(
        RecentError(1.0, 404, "client nobody is not connected", ClientId("alice"))
    )
    async with opened(browser, admin_harness.server.port, size=size, scheme=scheme) as page:
        await expect(page.locator("#rooms")).to_contain_text(ROOM)
        await page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)
        assert await page.evaluate("document.documentElement.scrollWidth") == size[0]

        await page.get_by_role("button", name=ROOM, exact=True).click()
        await expect(page.locator("#details .members > li")).to_have_count(3)
        await page.screenshot(path=ARTIFACTS / f"{name}-room.png")
        box = await page.locator("#details").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size[0]


@pytest.mark.long
async def test_light_and_dark_can_be_chosen_and_stay(browser: Browser, admin_harness: AdminHarness) -> None:
    async with opened(browser, admin_harness.server.port, scheme="light") as page:
        background = "getComputedStyle(document.body).backgroundColor"
        light = await page.evaluate(background)
        await page.get_by_role("button", name="Switch between light and dark").click()
        dark = await page.evaluate(background)
        await page.reload()

        assert dark != light
        assert await page.evaluate(background) == dark


@pytest.mark.long
async def test_the_interface_is_documented_offline(browser: Browser, admin_harness: AdminHarness) -> None:
    async with opened(browser, admin_harness.server.port) as page:
        await page.goto(f"http://127.0.0.1:{admin_harness.server.port}/docs")
        await expect(page.get_by_text("/api/v1/rooms/{room_id}/close")).to_be_visible()
