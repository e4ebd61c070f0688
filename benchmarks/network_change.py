"""How soon is media back when a browser's network changes in a call, and what do the others see of it?

Chromium on the demo page, through the local SFU: its datagrams and its connection to the service are lost at once.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import time
from typing import Annotated, Any

import typer
from playwright.async_api import Browser, Page, async_playwright

from benchmarks.processes import MeasurementError, end_on_sigterm, free_port
from benchmarks.rooms import TOKEN, open_page
from benchmarks.servers import Sfu, service
from benchmarks.sfu import FLAGS
from signal_manager.sfu import LocalSfu

__all__ = ["BAR", "app", "measure"]

# Seconds within which the median must be.
BAR = 3.0
LIMIT = 60.0
_KEEP_SOCKETS = """
window.sockets = [];
window.WebSocket = class extends WebSocket {
    constructor(...parameters) { super(...parameters); window.sockets.push(this); }
};
"""
_WATCH = """() => {
    window.departures = 0;
    const look = () => { window.departures += document.querySelector('.tile[data-name="mover"]') === null; };
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true });
}"""
_SHOWS = """async (name) => {
    const find = () => document.querySelector(`.tile[data-name='${name}'] video`);
    while (find() === null) await new Promise(requestAnimationFrame);
    for (let shown = 0; shown <= 5; shown += 1) await new Promise((next) => find().requestVideoFrameCallback(next));
}"""


async def measure(runs: int) -> tuple[list[float], int]:
    """Return the seconds until both see each other again, run by run, and how many departures the other one saw.

    Raises:
        MeasurementError: there is no Chromium.
    """
    path = shutil.which("chromium")
    if path is None:
        raise MeasurementError("there is no Chromium: install Debian's package chromium")
    seconds: list[float] = []
    departures = 0
    async with LocalSfu(http_port=0) as sfu, async_playwright() as playwright:
        where = Sfu(int(sfu.base_url.split(":")[2].split("/")[0]), sfu.app_id, sfu.app_secret)
        admin_port = free_port()
        with service({"unused": TOKEN}, sfu=where, metrics_port=admin_port):
            flags = [*FLAGS, "--autoplay-policy=no-user-gesture-required"]
            browser = await playwright.chromium.launch(executable_path=path, args=flags)
            try:
                await _is_open(admin_port)
                for _ in range(runs):
                    taken, gone = await _change(browser, sfu, admin_port)
                    seconds.append(taken)
                    departures += gone
            finally:
                await browser.close()
    return seconds, departures


async def _is_open(port: int) -> None:
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


async def _change(browser: Browser, sfu: LocalSfu, admin_port: int) -> tuple[float, int]:
    port: Any = sfu._port  # where one browser's datagrams can be lost
    stayer = await open_page(browser, admin_port, "stayer", "pattern=1")
    await stayer.get_by_role("button", name="Join").click()
    await stayer.locator("#call:not([hidden])").wait_for()
    mover = await open_page(browser, admin_port, "mover", "pattern=1")
    await mover.add_init_script(_KEEP_SOCKETS)
    await mover.reload()
    await mover.get_by_label("Your name").fill("mover")
    others = set(port.by_address)
    await mover.get_by_role("button", name="Join").click()
    await asyncio.gather(_sees(stayer, "mover"), _sees(mover, "stayer"))
    await stayer.evaluate(_WATCH)
    lost = set(port.by_address) - others
    receive, send = port._receive, port.send
    port._receive = lambda data, source: None if source in lost else receive(data, source)
    port.send = lambda data, target: None if target in lost else send(data, target)
    try:
        began = time.monotonic()
        await mover.evaluate("window.sockets.at(-1).close(4408)")
        await mover.locator('#state[data-state="reconnecting"]').wait_for()
        await asyncio.gather(_sees(stayer, "mover"), _sees(mover, "stayer"))
        taken = time.monotonic() - began
        departures = int(await stayer.evaluate("window.departures"))
    finally:
        port._receive, port.send = receive, send
    for page in (mover, stayer):
        await page.get_by_role("button", name="Leave").click()
        await page.context.close()
    return taken, departures


async def _sees(page: Page, name: str) -> None:
    """Wait for pictures that were not there when this was called: more of them than can have been on their way."""
    async with asyncio.timeout(LIMIT):
        await page.evaluate(_SHOWS, name)


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.network_change --runs 3 --check")
def main(
    *,
    runs: Annotated[int, typer.Option(min=1, help="Times that the network changes.")] = 5,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 1 if a bar is missed.")] = False,
) -> None:
    """Measure how soon media is back after a browser's network changes in a call."""
    end_on_sigterm()
    try:
        seconds, departures = asyncio.run(measure(runs))
    except (MeasurementError, OSError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    median = statistics.median(seconds)
    print(f"media back after {median:.2f} s (median), {max(seconds):.2f} s (longest); bar {BAR:g} s")
    print(f"departures seen by the other: {departures}")
    if check and (median > BAR or departures):
        sys.exit(1)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.network_change")
