"""What does the local SFU cost, and how soon does a picture come?

`sfu_server.py` runs the SFU in a process of its own. Chromium publishes its fake camera, 640x480 at 30 pictures a
second in VP8, and pulls it again, so that encoding and decoding are in other processes; the SFU's CPU is the
scheduler's account of its threads. Negotiations are measured without media, by clients of a few lines on plain sockets.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Self

import typer
from playwright.async_api import Browser, Page, async_playwright
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.processes import MeasurementError, cpu_seconds, end_on_sigterm, free_port, resident_bytes, running
from benchmarks.results import machine, write_json
from benchmarks.sfu_server import APP_ID, APP_SECRET

__all__ = ["app"]

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
HEADERS = f"authorization: Bearer {APP_SECRET}\r\nhost: sfu\r\ncontent-type: application/json\r\n"

# Chromium reaches its full bit rate some ten seconds after it began to send.
WARM_UP_SECONDS = 12.0
# The SFU asks for one key frame in 0.3 s at most: pulls closer together would wait for each other's.
BETWEEN_PULLS_SECONDS = 0.5
# What a slow or busy machine may take for one step in the browser.
STEP_LIMIT_MS = 30_000

# The project's bars.
MOST_PERCENT_FIRST, MOST_PERCENT_FURTHER = 4.0, 1.0
MOST_FIRST_FRAME_MS = 250.0
FEWEST_NEGOTIATIONS = 200.0

PULL_SCRIPT = """
async ([sessionId, trackName]) => {
  const { Client } = await import("./sfu.js");
  const client = new Client();
  await client.open();
  const shown = new Promise((resolve) => client.pc.addEventListener("track", () => {
    const video = document.querySelector("video:last-of-type");
    video.requestVideoFrameCallback(() => resolve(performance.now()));
  }));
  await client.pull([{ sessionId, trackName }]);
  const answered = performance.now();
  const milliseconds = (await shown) - answered;
  client.pc.close();
  document.querySelector("video:last-of-type").remove();
  return milliseconds;
}
"""
VIDEO = "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"


@dataclass(frozen=True)
class Forwarding:
    """What forwarding one stream cost."""

    receivers: int
    seconds: float
    cpu_percent: float
    kilobits_per_second: float


def description(kind: str, direction: str, setup: str) -> dict[str, str]:
    """Return an SDP of one video section."""
    fingerprint = ":".join(["AB"] * 32)
    head = f"v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 {fingerprint}\r\n"
    transport = f"a=setup:{setup}\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijkl\r\n"
    section = f"m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na={direction}\r\na=rtcp-mux\r\n"
    return {"type": kind, "sdp": head + transport + section + VIDEO}


class Http:
    """One connection to the SFU that waits for each answer: a client library would cost more than the SFU does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Return the JSON of an answer that has to be a success."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} /v1/apps/{APP_ID}/sessions{path} HTTP/1.1\r\n{HEADERS}content-length: {len(content)}\r\n\r\n"
        self._writer.write(head.encode() + content)
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length"))
        answer: dict[str, Any] = json.loads(await self._reader.readexactly(length))
        if not status.split()[1].startswith("2"):
            raise MeasurementError(f"{method} {path}: {status.split()[1]} {answer}")
        return answer

    async def negotiate(self, track: dict[str, str]) -> None:
        """Publish in a session of its own, and pull in another."""
        publisher = (await self.call("POST", "/new"))["sessionId"]
        item = {"location": "local", "mid": "0", "trackName": "camera"}
        offer = description("offer", "sendonly", "actpass")
        await self.call("POST", f"/{publisher}/tracks/new", {"sessionDescription": offer, "tracks": [item]})
        subscriber = (await self.call("POST", "/new"))["sessionId"]
        answer = await self.call("POST", f"/{subscriber}/tracks/new", {"tracks": [{"location": "remote", **track}]})
        if not answer["requiresImmediateRenegotiation"]:
            raise MeasurementError(f"the pull failed: {answer}")
        ours = description("answer", "recvonly", "active")
        await self.call("PUT", f"/{subscriber}/renegotiate", {"sessionDescription": ours})

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run Debian's Chromium without a window."""
    path = shutil.which("chromium")
    if path is None:
        raise MeasurementError("there is no Chromium: install Debian's package chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


async def open_page(browser: Browser, port: int) -> Page:
    """Open the tests' page in a context of its own."""
    page = await (await browser.new_context()).new_page()
    page.set_default_timeout(STEP_LIMIT_MS)
    await page.goto(f"http://127.0.0.1:{port}/pages/sfu.html?app={APP_ID}&secret={APP_SECRET}")
    await page.wait_for_function("window.client")
    await page.evaluate("client.open()")
    return page


async def measure_forwarding(pid: int, port: int, receivers: int, seconds: float) -> Forwarding:
    """Take the CPU of the SFU while it forwards to that many receivers."""
    received = await metric(port, "sfu_bytes_received_total")
    cpu, begin = cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    took, used = time.perf_counter() - begin, cpu_seconds(pid) - cpu
    received = await metric(port, "sfu_bytes_received_total") - received
    return Forwarding(receivers, took, 100 * used / took, received * 8 / took / 1000)


async def metric(port: int, name: str) -> float:
    """Read one figure of the SFU's metrics."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: sfu\r\nconnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name + " "))


async def measure_first_frames(browser: Browser, port: int, publisher: str, pulls: int) -> list[float]:
    """Return the milliseconds from each pull's answer to its first picture, every pull in a new session."""
    page = await open_page(browser, port)
    taken = []
    for _ in range(pulls):
        await asyncio.sleep(BETWEEN_PULLS_SECONDS)
        taken.append(float(await page.evaluate(PULL_SCRIPT, [publisher, "camera"])))
    await page.context.close()
    return taken


async def measure_negotiations(port: int, publisher: str, seconds: float, clients: int) -> float:
    """Return how many times a second a publish and a pull are negotiated."""
    track = {"sessionId": publisher, "trackName": "camera"}
    done, begin = 0, time.perf_counter()

    async def negotiate() -> None:
        nonlocal done
        http = await Http.open(port)
        while time.perf_counter() - begin < seconds:
            await http.negotiate(track)
            done += 1
        http.close()

    await asyncio.gather(*(negotiate() for _ in range(clients)))
    return done / (time.perf_counter() - begin)


async def measure_memory(pid: int, seconds: float, samples: int) -> list[int]:
    """Return the SFU's resident bytes over time, while it forwards."""
    taken = [resident_bytes(pid)]
    for _ in range(samples):
        await asyncio.sleep(seconds / samples)
        taken.append(resident_bytes(pid))
    return taken


async def measure(
    pid: int, port: int, *, seconds: float, pulls: int, clients: int, memory_seconds: float
) -> dict[str, Any]:
    """Take every measurement, one after the other."""
    async with chromium() as browser:
        publisher = await open_page(browser, port)
        await publisher.evaluate("client.publish({ camera: 'video' }, { codec: 'VP8' })")
        session = await publisher.evaluate("client.id")
        pages: list[Page] = []
        forwarding = []
        for receivers in (1, 3):
            while len(pages) < receivers:
                pages.append(await open_page(browser, port))
                await pages[-1].evaluate("(id) => client.pull([{ sessionId: id, trackName: 'camera' }])", session)
            await asyncio.sleep(WARM_UP_SECONDS)
            forwarding.append(await measure_forwarding(pid, port, receivers, seconds))
        memory = await measure_memory(pid, memory_seconds, 10)
        for page in pages:
            await page.context.close()
        frames = await measure_first_frames(browser, port, session, pulls)
        negotiations = await measure_negotiations(port, session, seconds, clients)
    return {
        "machine": machine(),
        "forwarding": [asdict(entry) for entry in forwarding],
        "first_frame_ms": frames,
        "negotiations_per_second": negotiations,
        "resident_bytes": memory,
        "memory_seconds": memory_seconds,
    }


def show(results: dict[str, Any], console: Console) -> bool:
    """Print the figures beside their bars, and tell whether all hold."""
    one, three = (entry["cpu_percent"] for entry in results["forwarding"])
    p95 = statistics.quantiles(results["first_frame_ms"], n=20)[-1]
    memory = results["resident_bytes"]
    rates = [f"{entry['kilobits_per_second']:.0f}" for entry in results["forwarding"]]
    rows = [
        ("CPU, one receiver", f"{one:.2f} % of a core at {rates[0]} kbit/s", one <= MOST_PERCENT_FIRST),
        ("CPU, each further one", f"{(three - one) / 2:.2f} %", (three - one) / 2 <= MOST_PERCENT_FURTHER),
        ("first picture, p95", f"{p95:.0f} ms after the pull's answer", p95 <= MOST_FIRST_FRAME_MS),
        (
            "publish and pull",
            f"{results['negotiations_per_second']:.0f} negotiations/s",
            results["negotiations_per_second"] >= FEWEST_NEGOTIATIONS,
        ),
        (
            f"memory over {results['memory_seconds']:.0f} s",
            f"{memory[0] / 2**20:.1f} MiB, then {memory[-1] / 2**20:.1f} MiB",
            memory[-1] <= memory[0] * 1.02,
        ),
    ]
    table = Table("what", "figure", "bar", box=SIMPLE_HEAD)
    for what, figure, holds in rows:
        table.add_row(what, figure, "within" if holds else "over")
    console.print(table)
    return all(holds for _, _, holds in rows)


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.sfu --seconds 5")
def main(  # noqa: PLR0917 -- typer passes them by name
    seconds: Annotated[float, typer.Option(help="Seconds that each figure is measured.")] = 10.0,
    pulls: Annotated[int, typer.Option(help="First pictures that are timed.", min=2)] = 20,
    clients: Annotated[int, typer.Option(help="Clients that negotiate at the same time.", min=1)] = 8,
    memory_seconds: Annotated[float, typer.Option(help="Seconds that memory is measured; the bar is for 600.")] = 60.0,
    json_file: Annotated[
        str, typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output.")
    ] = "",
    check: Annotated[bool, typer.Option(help="Exit with status 1 if a bar is missed.")] = False,
) -> None:
    """Measure the CPU time, memory and delays of the local SFU."""
    end_on_sigterm()
    port = free_port()
    try:
        with running([sys.executable, "-m", "benchmarks.sfu_server", str(port)], port=port) as pid:
            results = asyncio.run(
                measure(pid, port, seconds=seconds, pulls=pulls, clients=clients, memory_seconds=memory_seconds)
            )
    except MeasurementError as error:
        raise SystemExit(str(error)) from None
    holds = show(results, Console(stderr=json_file == "-"))
    if json_file:
        write_json(results, json_file)
    if check and not holds:
        raise SystemExit(1)


if __name__ == "__main__":
    app()
