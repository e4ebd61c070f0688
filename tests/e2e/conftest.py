"""What browser tests share: one Chromium per module, and a service with an SFU beside it that must end up empty."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Playwright, async_playwright

from signal_manager.sfu import LocalSfu
from signal_manager.sfu.metrics import Gauges
from tests.e2e.service import DemoClient, Member, Service, context_of, eventually
from tests.web import plain_http

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SDK = Path(__file__).parents[2] / "sdk/js"
PAGES = Path(__file__).parent / "pages"
BUNDLES = [SDK / "dist" / name for name in ("signal-manager.js", "direct.js", "devices.js", "speakers.js", "stats.js")]
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

OpenDemoClient = Callable[..., Awaitable[DemoClient]]
OpenMember = Callable[[str], Awaitable[Member]]


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


@pytest.fixture(scope="session")
def bundles() -> list[Path]:
    """The SDK's files for browsers; they are built again if its sources have changed since they were."""
    newest = max(source.stat().st_mtime for source in SDK.glob("src/*.ts"))
    if any(not bundle.exists() or bundle.stat().st_mtime < newest for bundle in BUNDLES):
        subprocess.run(["npm", "run", "build"], cwd=SDK, check=True, capture_output=True)
    return BUNDLES


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, bundles: list[Path]) -> Iterator[str]:
    """Where the tests' pages are, beside the SDK."""
    folder = tmp_path_factory.mktemp("site")
    for file in (*bundles, *PAGES.iterdir()):
        shutil.copy(file, folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing of requests that are as they should be."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service with an SFU beside it for all tests of a module; tests take it as `service`."""
    async with LocalSfu(http_port=0) as sfu:
        service = Service(tmp_path_factory.mktemp("service"), sfu=sfu)
        try:
            yield service
        finally:
            await service.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def service(harness: Service) -> AsyncIterator[Service]:
    """A running service; when the test is over and everybody gone, nothing may be open at its SFU."""
    await harness.start()
    yield harness
    await harness.start()  # a test may have killed it, and what that left open is closed by the next start
    sfu = harness.sfu
    assert sfu is not None

    async def left() -> Gauges:
        return sfu.gauges()

    await eventually(left, lambda gauges: gauges.publications == gauges.subscriptions == gauges.data_channels == 0)


@pytest_asyncio.fixture(loop_scope="module")
async def guest(browser: Browser, service: Service) -> AsyncIterator[OpenDemoClient]:
    """Open the demo page and join under a name; the guest sends a test pattern unless told otherwise."""
    contexts: list[BrowserContext] = []
    guests: list[DemoClient] = []

    async def open_page(
        name: str,
        query: str = "room=tests&pattern=1",
        *,
        joins: bool = True,
        elsewhere: Browser | None = None,
        **options: Any,
    ) -> DemoClient:
        contexts.append(await context_of(elsewhere or browser, **options))
        guests.append(await DemoClient.open(contexts[-1], f"{service.demo_url}?{query}", name))
        if joins:
            await guests[-1].join()
        return guests[-1]

    yield open_page

    for context in contexts:
        await context.close()
    # Not even a line in the console: that is where a browser reports what the page's policy forbids.
    assert [complaint for each in guests for complaint in each.complaints] == []


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
