"""Two browsers and the SDK as an application has it, through a service without an SFU: calls, and lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Error, Page

from signal_manager.service.app import running
from signal_manager.service.config import Config
from tests.e2e.conftest import CHROMIUM, SDK
from tests.e2e.service import context_of, eventually
from tests.wire import Wire

# Both phones say so many, and all connections are cut so often meanwhile.
MESSAGES = 200
CUTS = 4
TOKENS = {"alice": "t-1", "bob": "t-2"}

pytestmark = [
    pytest.mark.long,
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

    async def tries(self, method: str, *arguments: Any) -> Any:
        """Call a method of the page's phone; None where it refuses."""
        try:
            return await self.do(method, *arguments)
        except Error as error:
            if "already" not in str(error):
                raise
            return None

    async def get(self, name: str) -> Any:
        """Return what the page's phone holds."""
        return await self.page.evaluate("(name) => phone[name]", name)

    async def hears(self, count: int) -> None:
        """Wait until so many messages have come in all."""
        await eventually(lambda: self.get("heard"), lambda heard: len(heard) >= count)

    async def talks(self) -> None:
        """Wait until there is one call, which is connected, and one picture."""
        right = {"calls": 1, "tiles": 1, "state": "connected", "ringing": False}
        await eventually(lambda: self.do("sight"), lambda sight: sight == right)
        await self.sees()

    async def is_alone(self, reason: str) -> None:
        """Wait until there is no call any more, the last one for this reason, and no picture."""
        await eventually(lambda: self.do("sight"), lambda sight: sight["calls"] == sight["tiles"] == 0)
        assert await self.get("reason") == reason

    async def rings(self) -> None:
        """Wait until a call has come in."""
        await eventually(lambda: self.do("sight"), lambda sight: sight["ringing"])

    async def sees(self, frames: int = 15) -> None:
        """Wait until so many more frames were shown."""
        start = await self.do("frames")
        await eventually(lambda: self.do("frames"), lambda count: count >= start + frames)


@asynccontextmanager
async def phones(browser: Browser, site: str) -> AsyncIterator[tuple[Wire, Phone, Phone]]:
    """A service without an SFU, and two phones that are connected to it by a wire."""
    settings = {
        "server": {"port": 0},
        "auth": {"api_keys": [f"{name}:{token}" for name, token in TOKENS.items()]},
        "storage": {"backend": "memory"},
        "media": {"backend": "none"},
        "metrics": {"enabled": False},
    }
    async with running(Config.model_validate(settings)) as server, Wire(server.port) as wire:
        alice, bob = await open_phone(browser, site, "alice"), await open_phone(browser, site, "bob")
        try:
            await connect(wire, alice)
            await connect(wire, bob)
            yield wire, alice, bob
        finally:
            await alice.page.context.close()
            await bob.page.context.close()


async def open_phone(browser: Browser, site: str, name: str) -> Phone:
    return Phone(await open_page(await context_of(browser), f"{site}/phone.html"), name)


async def open_page(context: BrowserContext, url: str) -> Page:
    page = await context.new_page()
    await page.goto(url)
    await page.wait_for_function("window.phone")
    return page


async def connect(wire: Wire, phone: Phone) -> None:
    await phone.do("connect", f"ws://127.0.0.1:{wire.port}", phone.name, TOKENS[phone.name])


async def reload(wire: Wire, phone: Phone) -> None:
    """Reload a phone's page, which knows nothing afterwards."""
    await phone.page.reload()
    await phone.page.wait_for_function("window.phone")
    await connect(wire, phone)


async def crash(wire: Wire, phone: Phone) -> None:
    """Let a phone's page die without a word, and open another one in its place."""
    devtools = await phone.page.context.new_cdp_session(phone.page)
    async with phone.page.expect_event("crash"):
        dying = asyncio.ensure_future(devtools.send("Page.crash"))
    dying.cancel()
    await asyncio.wait([dying])
    phone.page = await open_page(phone.page.context, phone.page.url)
    await connect(wire, phone)


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


@pytest.mark.parametrize("reloads", ["alice", "bob"])
@pytest.mark.parametrize("dials", ["alice", "bob"])
async def test_a_reload_ends_the_call_and_the_next_one_is_the_only_one(
    browser: Browser, site: str, reloads: str, dials: str
) -> None:
    async with phones(browser, site) as (wire, *both):
        by_name = {each.name: each for each in both}
        await by_name["alice"].do("dial", "bob")
        for each in both:
            await each.talks()
        [stays] = [each for each in both if each.name != reloads]

        await reload(wire, by_name[reloads])

        await stays.is_alone("the other side ended it")
        [dialled] = [name for name in by_name if name != dials]
        await by_name[dials].do("dial", dialled)
        for each in both:
            await each.talks()
            assert await each.get("faults") == []


@pytest.mark.parametrize("crashes", ["alice", "bob"])
async def test_a_page_that_crashed_and_dials_again_ends_its_old_call_at_once(
    browser: Browser, site: str, crashes: str
) -> None:
    async with phones(browser, site) as (wire, *both):
        [stays] = [each for each in both if each.name != crashes]
        [gone] = [each for each in both if each.name == crashes]
        await stays.do("dial", gone.name)
        for each in both:
            await each.talks()

        await crash(wire, gone)
        await gone.do("dial", stays.name)

        await eventually(lambda: stays.get("reason"), lambda reason: reason == "the other side began anew")
        for each in both:
            await each.talks()
            assert await each.get("faults") == []


async def test_whoever_stays_after_a_crash_can_dial_again_at_once(browser: Browser, site: str) -> None:
    """Browsers take five seconds to call the connection lost: that must not be waited for."""
    async with phones(browser, site) as (wire, alice, bob):
        for _ in range(4):  # a machine with much to do may not bring the page back in time
            await alice.do("dial", "bob")
            for each in (alice, bob):
                await each.talks()

            await crash(wire, bob)
            was = await eventually(partial(alice.tries, "redial", "bob"), lambda state: state is not None)

            for each in (alice, bob):
                await each.talks()
                assert await each.get("faults") == []
            if was == "connected":
                return
            await bob.page.evaluate("phone.call.close()")
            await alice.is_alone("the other side ended it")
    pytest.fail("the call could be dialled again only after the browser had called its connection lost")


async def test_closing_the_tab_ends_the_call_for_the_other_at_once(browser: Browser, site: str) -> None:
    async with phones(browser, site) as (_, alice, bob):
        await alice.do("dial", "bob")
        await bob.talks()

        await alice.page.close()

        await bob.is_alone("the other side ended it")


@pytest.mark.parametrize("reloads", ["alice", "bob"])
async def test_a_reload_while_it_rings_ends_the_call_and_the_next_one_rings(
    browser: Browser, site: str, reloads: str
) -> None:
    async with phones(browser, site) as (wire, alice, bob):
        await bob.page.evaluate("phone.answers = false")
        await alice.do("dial", "bob")
        await bob.rings()
        gone, stays = (alice, bob) if reloads == "alice" else (bob, alice)

        await reload(wire, gone)

        await stays.is_alone("the other side ended it")
        await bob.page.evaluate("phone.answers = true")
        await alice.do("dial", "bob")
        for each in (alice, bob):
            await each.talks()


@pytest.mark.parametrize("crashes", ["alice", "bob"])
async def test_a_page_that_crashed_while_it_rang_dials_into_the_call_that_waits(
    browser: Browser, site: str, crashes: str
) -> None:
    async with phones(browser, site) as (wire, *both):
        [waits] = [each for each in both if each.name != crashes]
        [gone] = [each for each in both if each.name == crashes]
        await gone.page.evaluate("phone.answers = false")
        await waits.do("dial", gone.name)
        await gone.rings()

        await crash(wire, gone)
        await gone.do("dial", waits.name)

        for each in both:
            await each.talks()
            assert await each.get("faults") == []


async def test_two_browsers_that_dial_each_other_at_once_have_one_call(browser: Browser, site: str) -> None:
    async with phones(browser, site) as (_, alice, bob):
        await asyncio.gather(alice.do("dial", "bob"), bob.do("dial", "alice"))

        for each in (alice, bob):
            await each.talks()
            assert await each.get("faults") == []
        ids = [await each.page.evaluate("phone.call.id") for each in (alice, bob)]
        assert ids[0] == ids[1]


async def test_dialling_somebody_who_rings_answers(browser: Browser, site: str) -> None:
    async with phones(browser, site) as (_, alice, bob):
        await bob.page.evaluate("phone.answers = false")
        await alice.do("dial", "bob")
        await bob.rings()

        await bob.do("dial", "alice")

        for each in (alice, bob):
            await each.talks()
