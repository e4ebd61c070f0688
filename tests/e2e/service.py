"""The service as a process of its own, beside a local SFU whose state tests can look at.

`conftest.py` makes fixtures of these; `Guest` is a person at the demo page.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page

from signal_manager.sfu import LocalSfu
from tests.web import plain_http

# Generous: the limit only matters when something is broken, and machines that run tests are slow at times (s).
TIME_LIMIT = 90.0

# For how long the service waits for a client whose connection was lost (s).
RESUME_WINDOW = 2.0

_Seen = TypeVar("_Seen")


async def eventually(look: Callable[[], Awaitable[_Seen]], is_right: Callable[[_Seen], bool]) -> _Seen:
    """Return what is seen as soon as it is right."""
    seen = await look()
    try:
        async with asyncio.timeout(TIME_LIMIT):
            while not is_right(seen):
                await asyncio.sleep(0.05)
                seen = await look()
    except TimeoutError:
        pytest.fail(f"never came right; last seen: {seen}")
    return seen


class Service:
    """`signal-manager serve`, which can be killed and started again with the same files and ports.

    Args:
        folder: for its configuration, its database and its log.
        sfu: outlives the service; None lets the service run its own.
        media: more settings of the section.
    """

    def __init__(self, folder: Path, *, sfu: LocalSfu | None = None, media: Mapping[str, Any] | None = None) -> None:
        self.port, self.admin_port = free_ports(2)
        self.sfu = sfu
        self._media = media or {}
        self._config = folder / "config.toml"
        self._log = folder / "service.log"
        self._config.write_text(_toml(self._settings(folder)))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def demo_url(self) -> str:
        """The demo page."""
        return f"http://127.0.0.1:{self.admin_port}/demo/"

    @property
    def admin_url(self) -> str:
        """The second port."""
        return f"http://127.0.0.1:{self.admin_port}"

    async def start(self) -> None:
        """Start it unless it runs, and wait until it is ready."""
        if self._process is not None:
            return
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "signal_manager", "serve", "--config", str(self._config), stdout=log, stderr=log
            )
        async with plain_http(base_url=self.admin_url) as http:

            async def is_ready() -> bool:
                if self._process is None or self._process.returncode is not None:
                    pytest.fail(f"the service ended:\n{self.log_tail()}")
                try:
                    return (await http.get("/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(is_ready, bool)

    async def kill(self) -> None:
        """End it as a crash would."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it in order."""
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(number)
        try:
            async with asyncio.timeout(TIME_LIMIT):
                await process.wait()
        except TimeoutError:
            process.kill()
            pytest.fail(f"the service did not stop:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The end of what it logged."""
        return self._log.read_text(errors="replace")[-4000:]

    def _settings(self, folder: Path) -> dict[str, dict[str, Any]]:
        media: dict[str, dict[str, Any]] = {"media": {"backend": "local"}}
        if self.sfu is not None:
            media = {
                "media": {"backend": "cloudflare"},
                "cloudflare": {
                    "app_id": self.sfu.app_id,
                    "app_secret": self.sfu.app_secret,
                    "base_url": self.sfu.base_url,
                    "stun_url": "",
                },
            }
        media["media"] |= self._media
        return {
            "server": {"port": self.port, "drain_timeout": 2},
            "auth": {"token_secret": secrets.token_hex(32), "api_keys": ["agent:the agent's token"]},
            "session": {"resume_window": RESUME_WINDOW},
            "storage": {"backend": "sqlite", "sqlite_path": str(folder / "service.db")},
            "metrics": {"port": self.admin_port},
            **media,
        }


class DemoClient:
    """A person at the demo page, in a browser context of their own."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(TIME_LIMIT * 1000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self._hear(line.type, line.text))

    @classmethod
    async def open(cls, context: BrowserContext, address: str, name: str) -> Self:
        """Open the page, without joining."""
        guest = cls(await context.new_page(), name)
        await guest.page.goto(address)
        await guest.page.get_by_label("Your name").fill(name)
        return guest

    async def join(self) -> None:
        """Join with what the form says."""
        await self.page.get_by_role("button", name="Join").click()
        await self.page.locator("#call:not([hidden]), #alert:not([hidden])").first.wait_for()
        if await self.page.locator("#call").is_hidden():
            pytest.fail(f"{self.name} did not join: {await self.page.locator('#alert').inner_text()}")

    async def leave(self) -> None:
        """Leave with the page's button."""
        await self.page.get_by_role("button", name="Leave").click()
        await self.page.locator("#lobby").wait_for(state="visible")

    def tile(self, other: DemoClient) -> Locator:
        """Return what this guest is shown of another."""
        return self.page.locator(f'.tile[data-name="{other.name}"]')

    async def figure(self, other: DemoClient, name: str) -> float:
        """Return one of the figures of another guest's tile; 0 when there is none."""
        value: float = await self.page.evaluate(_FIGURE, [other.name, name])
        return value

    async def sees(self, *others: DemoClient, frames: int = 10) -> None:
        """Wait until that many more frames of each were decoded."""
        await asyncio.gather(*(self._grows(other, "data-frames", frames) for other in others))

    async def hears(self, *others: DemoClient) -> None:
        """Wait until more energy of each one's sound came in."""
        await asyncio.gather(*(self._grows(other, "data-energy", 1e-6) for other in others))

    async def misses(self, other: DemoClient, *, within: float = TIME_LIMIT) -> None:
        """Wait until another's tile is gone; limit in s."""
        await self.tile(other).wait_for(state="detached", timeout=within * 1000)

    async def is_shown(self, state: str) -> None:
        """Wait until the page says that it is connected, or reconnecting."""
        await self.page.locator(f'#state[data-state="{state}"]').wait_for()

    async def _grows(self, other: DemoClient, name: str, amount: float) -> None:
        start = await self.figure(other, name)
        # A new media session counts from zero.
        grown = f"([who, name, start, by]) => (({_FIGURE})([who, name]) - start + start * " + (
            f"(({_FIGURE})([who, name]) < start)) >= by"
        )
        await self.page.wait_for_function(grown, arg=[other.name, name, start, amount])

    def _hear(self, kind: str, text: str) -> None:
        # A connection that is refused while the service is down is reported by the browser itself.
        if kind == "error" and "ERR_CONNECTION" not in text:
            self.complaints.append(text)


_FIGURE = "([who, name]) => Number(document.querySelector(`.tile[data-name='${who}']`)?.getAttribute(name) ?? 0)"


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


class OwnBrowser:
    """A Chromium process group that can be killed as a whole, driven over its DevTools port."""

    def __init__(self, process: asyncio.subprocess.Process, endpoint: str) -> None:
        self.endpoint = endpoint
        self._process = process

    @classmethod
    async def launch(cls, executable: str, flags: list[str], profile: Path) -> Self:
        """Start it headless with a profile of its own."""
        process = await asyncio.create_subprocess_exec(
            executable,
            "--headless=new",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            *flags,
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        port_file = profile / "DevToolsActivePort"

        async def written() -> list[str]:
            return port_file.read_text().split() if port_file.exists() else []

        port, path = await eventually(written, lambda words: len(words) == 2)
        return cls(process, f"ws://127.0.0.1:{port}{path}")

    async def kill(self) -> None:
        """Kill all of its processes with SIGKILL; killing twice is killing once."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()


async def context_of(browser: Browser, **options: Any) -> BrowserContext:
    """Return a new context with limits that suit slow machines."""
    context = await browser.new_context(**options)
    context.set_default_timeout(TIME_LIMIT * 1000)
    return context


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _toml(settings: dict[str, dict[str, Any]]) -> str:
    """Write sections of plain values, whose JSON is TOML too."""
    lines = []
    for section, values in settings.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"
