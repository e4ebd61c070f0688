"""What browser tests share: one Chromium per module, and a service with an SFU beside it that must end up empty."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Playwright, async_playwright

from signal_manager.media.sfu import LocalSfu
from signal_manager.media.sfu.metrics import Gauges
from tests.e2e.service import Guest, Service, context_of, eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Half the pictures, and no bars that nobody sees: browsers take most of the time that the tests do.
    "--use-fake-device-for-media-stream=fps=10",
    "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
]

OpenGuest = Callable[..., Awaitable[Guest]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def playwright() -> AsyncIterator[Playwright]:
    """The driver of browsers."""
    async with async_playwright() as driver:
        yield driver


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser(playwright: Playwright) -> AsyncIterator[Browser]:
    """One Chromium for all tests of a module."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: install Debian's package chromium")
    browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield browser
    await browser.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service with an SFU beside it for all tests of a module; tests take it as `service`."""
    async with LocalSfu(http_port=0) as sfu:
        service = Service(tmp_path_factory.mktemp("service"), sfu=sfu)
        try:
            yield service
        finally:
            await service.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def service(house: Service) -> AsyncIterator[Service]:
    """A running service; when the test is over and everybody gone, nothing may be open at its SFU."""
    await house.start()
    yield house
    await house.start()  # a test may have killed it, and what that left open is closed by the next start
    sfu = house.sfu
    assert sfu is not None

    async def left() -> Gauges:
        return sfu.gauges()

    await eventually(left, lambda gauges: gauges.publications == gauges.subscriptions == gauges.data_channels == 0)


@pytest_asyncio.fixture(loop_scope="module")
async def guest(browser: Browser, service: Service) -> AsyncIterator[OpenGuest]:
    """Open the demo page as somebody, who sends a test pattern unless told otherwise, and join."""
    contexts: list[BrowserContext] = []
    guests: list[Guest] = []

    async def open_page(
        name: str,
        query: str = "room=tests&pattern=1",
        *,
        joins: bool = True,
        elsewhere: Browser | None = None,
        **options: Any,
    ) -> Guest:
        contexts.append(await context_of(elsewhere or browser, **options))
        guests.append(await Guest.open(contexts[-1], f"{service.demo_url}?{query}", name))
        if joins:
            await guests[-1].join()
        return guests[-1]

    yield open_page

    for context in contexts:
        await context.close()
    # Not even a line in the console: that is where a browser reports what the page's policy forbids.
    assert [complaint for each in guests for complaint in each.complaints] == []
