"""What does one receiver behind a narrow network cost the others?

Chromium publishes its fake camera at 356 kbit/s, and a microphone, through the local SFU to one healthy receiver. Then
another one comes behind 300 kbit/s: a UDP proxy on loopback with a token bucket and a queue. All figures are Chromium's
own (getStats), before the slow receiver came and from the moment it came on.

With `--publisher` the network of the publisher is the narrow one instead, 200 kbit/s: what does a healthy receiver get
of its sound and picture, with the feedback on when packets arrived (transport-wide congestion control), and without?
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import typer
from playwright.async_api import Browser, Page
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.processes import MeasurementError, end_on_sigterm, free_port, running
from benchmarks.results import machine, write_json
from benchmarks.sfu import chromium, open_page

__all__ = ["app"]

VIDEO_BITRATE = 356_000
LINK_BITRATE, UPLINK_BITRATE = 300_000, 200_000
# What a small router holds: a good 400 ms at this rate.
QUEUE_BYTES = 16 * 1024
# Chromium reaches its bit rate some ten seconds after it began to send.
WARM_UP_SECONDS = 12.0

# The project's bars.
LEAST_OF_UNDISTURBED, MOST_OF_PUBLISHER = 0.95, 1.2
FEWEST_FRAMES, FEWEST_SOUNDS = 5.0, 40.0
# What a healthy receiver may miss of a publisher's sound behind a narrow network, once the publisher has adapted.
MOST_CONCEALED, ADAPTION_SECONDS = 0.1, 3.0

LIMIT_SCRIPT = """
async (maxBitrate) => {
  const sender = client.pc.getSenders().find(({ track }) => track?.kind === "video");
  const parameters = sender.getParameters();
  for (const encoding of parameters.encodings) encoding.maxBitrate = maxBitrate;
  await sender.setParameters(parameters);
}
"""
DETOUR_SCRIPT = """
(port) => {
  const set = client.pc.setRemoteDescription.bind(client.pc);
  const detour = (sdp) => sdp.replace(/(a=candidate:\\S+ \\d udp \\d+ \\S+) \\d+ typ host/g, `$1 ${port} typ host`);
  client.pc.setRemoteDescription = ({ type, sdp }) => set({ type, sdp: detour(sdp) });
}
"""
PUBLISH_SCRIPT = "client.publish({ camera: 'video', microphone: 'audio' }, { codec: 'VP8' })"
PULL_SCRIPT = "(id) => client.pull(['camera', 'microphone'].map((trackName) => ({ sessionId: id, trackName })))"
SILENT_SCRIPT = """
() => {
  const set = client.pc.setRemoteDescription.bind(client.pc);
  const silent = (sdp) => sdp.replace(/a=(rtcp-fb:\\d+ transport-cc|extmap:\\d+ \\S+transport-wide-cc\\S+)\\r\\n/g, "");
  client.pc.setRemoteDescription = ({ type, sdp }) => set({ type, sdp: silent(sdp) });
}
"""
STATS_SCRIPT = """
async () => {
  const all = [...(await client.pc.getStats()).values()];
  const sum = (type, kind, name) => all
    .filter((entry) => entry.type === type && entry.kind === kind)
    .reduce((total, entry) => total + (entry[name] ?? 0), 0);
  const result = { time: performance.now() / 1000 };
  for (const kind of ["video", "audio"]) {
    for (const name of ["bytesSent", "retransmittedBytesSent", "keyFramesEncoded", "framesEncoded"])
      result[`${kind}.${name}`] = sum("outbound-rtp", kind, name);
    for (const name of ["bytesReceived", "packetsReceived", "packetsLost", "framesDecoded", "freezeCount",
      "totalFreezesDuration", "concealedSamples", "totalSamplesReceived", "pliCount", "nackCount"])
      result[`${kind}.${name}`] = sum("inbound-rtp", kind, name);
  }
  return result;
}
"""

Stats = dict[str, float]


@dataclass(frozen=True)
class Scene:
    """How much of everything there was in a second."""

    publisher_kbps: float
    resent_kbps: float
    key_frames: float
    healthy_kbps: float
    healthy_fps: float
    healthy_frozen_seconds: float
    slow_fps: float = 0.0
    slow_sounds: float = 0.0
    slow_concealed: float = 0.0


@dataclass(frozen=True)
class Uplink:
    """What a healthy receiver gets of a publisher behind a narrow network."""

    publisher_kbps: float
    rate_kbps: float
    fps: float
    concealed: float
    concealed_at_first: float
    frozen_seconds: float
    dropped_by_link: int


class NarrowLink:
    """A UDP proxy for one client of the SFU, of which one way has a rate and a queue: to the client, or from it.

    A browser tries several addresses of its own: each has a socket of its own towards the SFU.
    """

    def __init__(self, sfu_port: int, bitrate: int, *, is_uplink: bool) -> None:
        self._sfu_port = sfu_port
        self._bitrate = bitrate
        self._is_uplink = is_uplink
        self._outer = self._bound()
        self._inner: dict[tuple[str, int], socket.socket] = {}
        self._queue: asyncio.Queue[tuple[int, Callable[[], int]]] = asyncio.Queue()
        self._queued = 0
        self.dropped = 0

    @property
    def port(self) -> int:
        """Return the port for the client."""
        port: int = self._outer.getsockname()[1]
        return port

    async def run(self) -> None:
        """Pass datagrams on until this is cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._outer, self._from_client)
        free_at = time.monotonic()
        try:
            while True:
                size, send = await self._queue.get()
                free_at = max(free_at, time.monotonic()) + 8 * size / self._bitrate
                await asyncio.sleep(free_at - time.monotonic())
                self._queued -= size
                with suppress(OSError):
                    send()
        finally:
            for each in (self._outer, *self._inner.values()):
                loop.remove_reader(each)
                each.close()

    def _from_client(self) -> None:
        data, client = self._outer.recvfrom(2048)
        inner = self._inner.get(client)
        if inner is None:
            inner = self._inner[client] = self._bound()
            inner.connect(("127.0.0.1", self._sfu_port))
            asyncio.get_running_loop().add_reader(inner, self._from_sfu, inner, client)
        self._pass_on(len(data), partial(inner.send, data), is_narrow=self._is_uplink)

    def _from_sfu(self, inner: socket.socket, client: tuple[str, int]) -> None:
        with suppress(OSError):
            data = inner.recv(2048)
            self._pass_on(len(data), partial(self._outer.sendto, data, client), is_narrow=not self._is_uplink)

    def _pass_on(self, size: int, send: Callable[[], int], *, is_narrow: bool) -> None:
        """Send a datagram where there is all the room it wants; else queue it, or drop it."""
        if not is_narrow:
            with suppress(OSError):
                send()
        elif self._queued + size > QUEUE_BYTES:
            self.dropped += 1
        else:
            self._queued += size
            self._queue.put_nowait((size, send))

    @staticmethod
    def _bound() -> socket.socket:
        found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        found.setblocking(False)
        found.bind(("127.0.0.1", 0))
        return found


@asynccontextmanager
async def narrow_link(sfu_port: int, bitrate: int, *, is_uplink: bool) -> AsyncIterator[NarrowLink]:
    """Run a narrow link to the SFU."""
    link = NarrowLink(sfu_port, bitrate, is_uplink=is_uplink)
    task = asyncio.create_task(link.run(), name="narrow-link")
    try:
        yield link
    finally:
        task.cancel()


def concealed(before: Stats, after: Stats) -> float:
    """Return the share of sound that was made up between two readings."""
    samples, made_up = (
        after[f"audio.{name}"] - before[f"audio.{name}"] for name in ("totalSamplesReceived", "concealedSamples")
    )
    return made_up / samples if samples else 1.0


def scene(publisher: tuple[Stats, Stats], healthy: tuple[Stats, Stats], slow: tuple[Stats, Stats] | None) -> Scene:
    """Return what happened between two readings."""

    def rate(readings: tuple[Stats, Stats], name: str) -> float:
        before, after = readings
        return (after[name] - before.get(name, 0.0)) / (after["time"] - before["time"])

    def more(readings: tuple[Stats, Stats], name: str) -> float:
        return readings[1][name] - readings[0].get(name, 0.0)

    found = Scene(
        publisher_kbps=(rate(publisher, "video.bytesSent") + rate(publisher, "audio.bytesSent")) * 8 / 1000,
        resent_kbps=rate(publisher, "video.retransmittedBytesSent") * 8 / 1000,
        key_frames=rate(publisher, "video.keyFramesEncoded"),
        healthy_kbps=(rate(healthy, "video.bytesReceived") + rate(healthy, "audio.bytesReceived")) * 8 / 1000,
        healthy_fps=rate(healthy, "video.framesDecoded"),
        healthy_frozen_seconds=more(healthy, "video.totalFreezesDuration"),
    )
    if slow is None:
        return found
    return Scene(
        **{name: value for name, value in asdict(found).items() if not name.startswith("slow_")},
        slow_fps=rate(slow, "video.framesDecoded"),
        slow_sounds=rate(slow, "audio.packetsReceived"),
        slow_concealed=concealed(*slow),
    )


async def read(page: Page) -> Stats:
    """Return a page's figures."""
    stats: Stats = await page.evaluate(STATS_SCRIPT)
    return stats


async def measure(port: int, udp_port: int, seconds: float) -> dict[str, Any]:
    """Play both scenes."""
    async with chromium() as browser, narrow_link(udp_port, LINK_BITRATE, is_uplink=False) as link:
        publisher = await open_page(browser, port)
        await publisher.evaluate(PUBLISH_SCRIPT)
        await publisher.evaluate(LIMIT_SCRIPT, VIDEO_BITRATE)
        session = await publisher.evaluate("client.id")
        healthy = await open_page(browser, port)
        await healthy.evaluate(PULL_SCRIPT, session)
        # The page that waits for its turn costs as much as it will in the second scene.
        slow = await open_page(browser, port)
        await slow.evaluate(DETOUR_SCRIPT, link.port)
        await asyncio.sleep(WARM_UP_SECONDS)

        before = await read(publisher), await read(healthy)
        await asyncio.sleep(seconds)
        between = await read(publisher), await read(healthy)
        await slow.evaluate("client.open()")  # the session that came with the page has expired
        await slow.evaluate(PULL_SCRIPT, session)
        joined = await read(publisher), await read(healthy), await read(slow)
        await asyncio.sleep(seconds)
        after = await read(publisher), await read(healthy), await read(slow)
    return {
        "machine": machine(),
        "undisturbed": asdict(scene((before[0], between[0]), (before[1], between[1]), None)),
        "disturbed": asdict(scene((between[0], after[0]), (between[1], after[1]), (joined[2], after[2]))),
        "dropped_by_link": link.dropped,
    }


def show(results: dict[str, Any], console: Console) -> bool:
    """Print the figures beside their bars, and tell whether all hold."""
    calm, narrow = Scene(**results["undisturbed"]), Scene(**results["disturbed"])
    rate, frames = narrow.healthy_kbps / calm.healthy_kbps, narrow.healthy_fps / calm.healthy_fps
    traffic = narrow.publisher_kbps / calm.publisher_kbps
    sounds = f"{narrow.slow_sounds:.0f} packets of sound/s, {100 * narrow.slow_concealed:.1f} % concealed"
    rows = [
        (
            "publisher sends",
            f"{calm.publisher_kbps:.0f} kbit/s, then {narrow.publisher_kbps:.0f} ({traffic:.2f} times); "
            f"{narrow.resent_kbps:.0f} of it again, {narrow.key_frames:.2f} key frames/s",
            traffic <= MOST_OF_PUBLISHER,
        ),
        (
            "healthy receiver",
            f"{calm.healthy_kbps:.0f} kbit/s, then {narrow.healthy_kbps:.0f}; "
            f"{calm.healthy_fps:.1f} pictures/s, then {narrow.healthy_fps:.1f}",
            min(rate, frames) >= LEAST_OF_UNDISTURBED,
        ),
        ("its picture is frozen", f"{narrow.healthy_frozen_seconds:.1f} s", narrow.healthy_frozen_seconds == 0),
        (
            "slow receiver",
            f"{narrow.slow_fps:.1f} pictures/s, {sounds}",
            narrow.slow_fps >= FEWEST_FRAMES or narrow.slow_sounds >= FEWEST_SOUNDS,
        ),
        ("lost on its link", f"{results['dropped_by_link']} packets", True),
    ]
    table = Table("what", "figure", "bar", box=SIMPLE_HEAD)
    for what, figure, holds in rows:
        table.add_row(what, figure, "within" if holds else "over")
    console.print(table)
    return all(holds for _, _, holds in rows)


async def measure_uplink(browser: Browser, port: int, udp_port: int, seconds: float, *, has_feedback: bool) -> Uplink:
    """Play the scene with a publisher behind a narrow network."""
    async with narrow_link(udp_port, UPLINK_BITRATE, is_uplink=True) as link:
        publisher = await open_page(browser, port)
        healthy = await open_page(browser, port)
        await publisher.evaluate(DETOUR_SCRIPT, link.port)
        if not has_feedback:
            await publisher.evaluate(SILENT_SCRIPT)
        await publisher.evaluate(PUBLISH_SCRIPT)
        session = await publisher.evaluate("client.id")
        await healthy.evaluate(PULL_SCRIPT, session)
        first = await read(healthy)
        await asyncio.sleep(ADAPTION_SECONDS)
        before = await read(publisher), await read(healthy)
        await asyncio.sleep(seconds)
        after = await read(publisher), await read(healthy)
        for page in (publisher, healthy):
            await page.context.close()
    played = scene((before[0], after[0]), (before[1], after[1]), None)
    return Uplink(
        publisher_kbps=played.publisher_kbps,
        rate_kbps=played.healthy_kbps,
        fps=played.healthy_fps,
        concealed=concealed(before[1], after[1]),
        concealed_at_first=concealed(first, before[1]),
        frozen_seconds=played.healthy_frozen_seconds,
        dropped_by_link=link.dropped,
    )


async def measure_uplinks(port: int, udp_port: int, seconds: float) -> dict[str, Any]:
    """Play the publisher's scene with the SFU's feedback on arrivals, and without."""
    async with chromium() as browser:
        uplinks = {
            name: asdict(await measure_uplink(browser, port, udp_port, seconds, has_feedback=has_feedback))
            for name, has_feedback in (("feedback", True), ("no_feedback", False))
        }
    return {"machine": machine(), **uplinks}


def show_uplinks(results: dict[str, Any], console: Console) -> bool:
    """Print what the receiver gets with the feedback and without, and tell whether the bar holds with it."""
    uplinks = [Uplink(**results["feedback"]), Uplink(**results["no_feedback"])]
    holds = uplinks[0].concealed <= MOST_CONCEALED
    table = Table("a healthy receiver of a publisher at 200 kbit/s", "with feedback", "without", "bar", box=SIMPLE_HEAD)
    rows: list[tuple[str, Callable[[Uplink], str], str]] = [
        ("sound concealed", lambda each: f"{100 * each.concealed:.1f} %", "within" if holds else "over"),
        (f"in the first {ADAPTION_SECONDS:.0f} s", lambda each: f"{100 * each.concealed_at_first:.1f} %", ""),
        ("pictures/s", lambda each: f"{each.fps:.1f}", ""),
        ("picture frozen", lambda each: f"{each.frozen_seconds:.1f} s", ""),
        ("received", lambda each: f"{each.rate_kbps:.0f} kbit/s", ""),
        ("publisher sends", lambda each: f"{each.publisher_kbps:.0f} kbit/s", ""),
        ("lost on its link", lambda each: f"{each.dropped_by_link} packets", ""),
    ]
    for what, figure, bar in rows:
        table.add_row(what, *map(figure, uplinks), bar)
    console.print(table)
    return holds


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.slow_receiver --publisher")
def main(
    seconds: Annotated[float, typer.Option(help="Seconds that each of the two scenes takes.")] = 20.0,
    publisher: Annotated[
        bool, typer.Option("--publisher", help="Narrow the network of the publisher, not of a receiver.")
    ] = False,
    json_file: Annotated[
        str, typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output.")
    ] = "",
    check: Annotated[bool, typer.Option(help="Exit with status 1 if a bar is missed.")] = False,
) -> None:
    """Measure what one receiver behind a narrow network costs the others."""
    end_on_sigterm()
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        udp_port = int(probe.getsockname()[1])
    try:
        with running([sys.executable, "-m", "benchmarks.sfu_server", str(port), str(udp_port)], port=port):
            results = asyncio.run((measure_uplinks if publisher else measure)(port, udp_port, seconds))
    except MeasurementError as error:
        raise SystemExit(str(error)) from None
    holds = (show_uplinks if publisher else show)(results, Console(stderr=json_file == "-", width=120))
    if json_file:
        write_json(results, json_file)
    if check and not holds:
        raise SystemExit(1)


if __name__ == "__main__":
    app()
