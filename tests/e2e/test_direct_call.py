"""Two browsers and the SDK as an application has it, through a service without an SFU: calls, and lost connections."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from signal_manager.app import running
from signal_manager.config import Config
from tests.e2e.conftest import CHROMIUM
from tests.e2e.service import context_of, eventually
from tests.wire import Wire

PAGES = Path(__file__).parent / "pages"
SDK = Path(__file__).parents[2] / "sdk/js"
# Both phones say so many, and all connections are cut so often meanwhile.
MESSAGES = 200
CUTS = 4
BUNDLE = SDK / "dist/signal-manager.js"

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package chromium"),
    pytest.mark.skipif(not (SDK / "node_modules").exists(), reason="no SDK: make sdk/js/node_modules"),
]


class Phone:
    """One page, with its own client and its own calls."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name

    async def do(self, method: str, *arguments: Any) -> Any:
        """Call a method of the page's phone."""
        return await self.page.evaluate("([method, parameters]) => phone[method](...parameters)", [method, arguments])

    async def get(self, name: str) -> Any:
        """Return what the page's phone holds."""
        return await self.page.evaluate("(name) => phone[name]", name)

    async def hears(self, count: int) -> None:
        """Wait until so many messages have come in all."""
        await eventually(lambda: self.get("heard"), lambda heard: len(heard) >= count)

    async def sees(self, frames: int = 15) -> None:
        """Wait until so many more frames were shown."""
        start = await self.do("frames")
        await eventually(lambda: self.do("frames"), lambda count: count >= start + frames)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is, beside the SDK, which is built again if its sources have changed since it was."""
    newest = max(source.stat().st_mtime for source in SDK.glob("src/*.ts"))
    if not BUNDLE.exists() or BUNDLE.stat().st_mtime < newest:
        subprocess.run(["npm", "run", "build"], cwd=SDK, check=True, capture_output=True)
    folder = tmp_path_factory.mktemp("site")
    for file in (BUNDLE, PAGES / "phone.html", PAGES / "phone.js"):
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


@asynccontextmanager
async def phones(browser: Browser, site: str) -> AsyncIterator[tuple[Wire, Phone, Phone]]:
    """A service without an SFU, and two phones that are connected to it by a wire."""
    settings = {
        "server": {"port": 0},
        "auth": {"api_keys": ["alice:t-1", "bob:t-2"]},
        "storage": {"backend": "memory"},
        "media": {"backend": "none"},
        "metrics": {"enabled": False},
    }
    async with running(Config.model_validate(settings)) as server, Wire(server.port) as wire:
        alice, bob = await open_phone(browser, site, "alice"), await open_phone(browser, site, "bob")
        try:
            await alice.do("connect", f"ws://127.0.0.1:{wire.port}", "alice", "t-1")
            await bob.do("connect", f"ws://127.0.0.1:{wire.port}", "bob", "t-2")
            yield wire, alice, bob
        finally:
            await alice.page.context.close()
            await bob.page.context.close()


async def open_phone(browser: Browser, site: str, name: str) -> Phone:
    page = await (await context_of(browser)).new_page()
    await page.goto(f"{site}/phone.html")
    await page.wait_for_function("window.phone")
    return Phone(page, name)


async def test_two_browsers_call_each_other_without_an_sfu(browser: Browser, site: str) -> None:
    async with phones(browser, site) as (_, alice, bob):
        await alice.do("dial", "bob")

        await alice.sees()
        await bob.sees()
        assert [await each.get("state") for each in (alice, bob)] == ["connected", "connected"]

        await bob.page.evaluate("phone.call.close()")
        await eventually(lambda: alice.get("reason"), lambda reason: reason == "the other side ended it")


async def test_connections_that_are_cut_again_and_again_lose_nothing(browser: Browser, site: str) -> None:
    async with phones(browser, site) as (wire, alice, bob):
        talking = asyncio.gather(alice.do("say", "bob", 0, MESSAGES), bob.do("say", "alice", 0, MESSAGES))
        for cut in range(1, CUTS + 1):
            await bob.hears(cut * MESSAGES // (CUTS + 1))
            wire.cut()
        await talking

        for each in (alice, bob):
            await each.hears(MESSAGES)
            assert await each.get("heard") == list(range(MESSAGES))
            reconnections = await each.get("reconnections")
            assert reconnections
            assert all(reconnections)
