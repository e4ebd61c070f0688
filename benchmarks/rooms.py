"""How soon is one in a room: a picture in the browser, many rooms at once on a slow SFU, and news to many members?

The service and the local SFU run as processes of their own (`servers.py`). Chromium is at the demo page; everybody
else is the Python SDK in this process, which sends small pictures a few times a second.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar, TypeVar

import typer
from aiortc import MediaStreamTrack
from av import VideoFrame
from playwright.async_api import Browser, Page, async_playwright
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.processes import MeasurementError, end_on_sigterm, free_port
from benchmarks.results import machine, write_json
from benchmarks.servers import local_sfu, service
from benchmarks.sfu import FLAGS
from signal_manager.client import ParticipantJoined, ParticipantLeft, Room, SignalClient, TrackAdded
from signal_manager.errors import SignalManagerError
from signal_manager.protocol.messages import Message, RoomAck, TracksNewAck

__all__ = ["app"]

TOKEN = "token-of-the-rooms-benchmark"
ROOM = "benchmark"
# What a slow or busy machine may take for one step in the browser, and for all members of all rooms.
STEP_LIMIT_MS = 30_000
JOIN_LIMIT = 120.0
PICTURES_PER_SECOND = 3
SLOW_SFU_SECONDS = 0.25

# The project's bars.
FIRST_FRAME_P50_MS, FIRST_FRAME_P95_MS = 1000.0, 2000.0
JOINED_SECONDS = 10.0
NEWS_P99_MS = 50.0

JOIN_SCRIPT = """
async (name) => {
  const begun = performance.now();
  document.querySelector("#join-button").click();
  for (;;) {
    const video = document.querySelector(`.tile[data-name="${name}"] video`);
    if (video) return new Promise((resolve) => video.requestVideoFrameCallback((now) => resolve(now - begun)));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
"""

Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True)
class Crowd:
    """What many rooms at once took, in seconds, and what their members were refused, by code."""

    joined: float
    complete: float
    refusals: dict[int, int]


@dataclass(frozen=True)
class News:
    """How long each member waited for each event of a room, in ms, and who did not hear them in order."""

    milliseconds: list[float]
    disordered: int


class SlowPicture(MediaStreamTrack):
    """A small grey picture, a few times a second: enough to be pulled, and next to nothing to encode."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    async def recv(self) -> VideoFrame:
        """Return the next picture."""
        await asyncio.sleep(1 / PICTURES_PER_SECOND if self._count else 0)
        frame = VideoFrame(64, 48, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes((128,)) * plane.buffer_size)
        frame.pts, frame.time_base = self._count * 90_000 // PICTURES_PER_SECOND, Fraction(1, 90_000)
        self._count += 1
        return frame


class WatchedClient(SignalClient):
    """A client that counts what it is refused, whole requests and single tracks."""

    refusals: ClassVar[Counter[int]] = Counter()

    async def request(self, message: Message, expected: type[Reply], *, timeout: float | None = None) -> Reply:
        """Send a request, and count its errors by code."""
        try:
            reply = await super().request(message, expected, timeout=timeout)
        except SignalManagerError as error:
            self.refusals[error.code] += 1
            raise
        if isinstance(reply, RoomAck | TracksNewAck):
            self.refusals.update(track.error_code for track in reply.tracks if track.error_code is not None)
        return reply


def names(count: int) -> list[str]:
    """Return client ids."""
    return [f"member-{number}" for number in range(count)]


@asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[WatchedClient]]:
    """Connect that many clients, a few at a time."""
    clients = [WatchedClient(f"ws://127.0.0.1:{port}", name, TOKEN, request_timeout=30.0) for name in names(count)]
    async with AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(client)
        yield clients


# -- a picture in the browser ------------------------------------------------------------------------------------------


async def measure_first_frames(joins: int) -> list[float]:
    """Return the milliseconds from a click on Join to the first picture of the member already in the room."""
    path = shutil.which("chromium")
    if path is None:
        raise MeasurementError("there is no Chromium: install Debian's package chromium")
    admin_port = free_port()
    with local_sfu() as sfu, service({"unused": TOKEN}, sfu=sfu, metrics_port=admin_port):
        async with async_playwright() as playwright:
            flags = [*FLAGS, "--autoplay-policy=no-user-gesture-required"]
            browser = await playwright.chromium.launch(executable_path=path, args=flags)
            try:
                publisher = await open_page(browser, admin_port, "publisher", "pattern=1")
                await publisher.evaluate("document.querySelector('#join-button').click()")
                await publisher.locator("#call:not([hidden])").wait_for()
                await first_frame(browser, admin_port)  # starts what both pages need for the first time
                return [await first_frame(browser, admin_port) for _ in range(joins)]
            finally:
                await browser.close()


async def open_page(browser: Browser, port: int, name: str, query: str) -> Page:
    """Open the demo page in a context of its own, and fill in the form."""
    page = await (await browser.new_context()).new_page()
    page.set_default_timeout(STEP_LIMIT_MS)
    await page.goto(f"http://127.0.0.1:{port}/demo/?room={ROOM}&{query}")
    await page.get_by_label("Your name").fill(name)
    return page


async def first_frame(browser: Browser, port: int) -> float:
    """Join once, sending a pattern as well, and leave."""
    page = await open_page(browser, port, "visitor", "pattern=1")
    async with asyncio.timeout(STEP_LIMIT_MS / 1000):
        taken = float(await page.evaluate(JOIN_SCRIPT, "publisher"))
    await page.get_by_role("button", name="Leave").click()
    await page.locator("#lobby").wait_for(state="visible")
    await page.context.close()
    return taken


# -- many rooms at once ------------------------------------------------------------------------------------------------


async def measure_crowd(rooms: int, members: int) -> Crowd:
    """Let everybody join at the same moment, sending a picture, on an SFU that takes its time."""
    tokens = dict.fromkeys(names(rooms * members), TOKEN)
    with local_sfu(latency=SLOW_SFU_SECONDS) as sfu, service(tokens, sfu=sfu) as server:
        async with connected(server.port, rooms * members) as clients:
            WatchedClient.refusals.clear()
            begun = time.perf_counter()

            async def enter(number: int) -> Room:
                return await clients[number].join(f"room-{number % rooms}", tracks=[SlowPicture()], create=True)

            async with asyncio.timeout(JOIN_LIMIT):
                entered = await asyncio.gather(*(enter(number) for number in range(rooms * members)))
                joined = time.perf_counter() - begun
                await asyncio.gather(*(see(room, members - 1) for room in entered))
            complete = time.perf_counter() - begun
            await asyncio.gather(*(room.leave() for room in entered))
    # A room that two clients create at once is there for the second, which joins it then: no failure, but counted.
    return Crowd(joined, complete, dict(WatchedClient.refusals))


async def see(room: Room, others: int) -> None:
    """Wait until that many tracks of others are received."""
    seen = 0
    async for event in room:
        seen += isinstance(event, TrackAdded)
        if seen == others:
            return


# -- news to many members ----------------------------------------------------------------------------------------------


async def measure_news(members: int, visits: int) -> News:
    """Let a visitor come and go, and time how soon each member hears of it from the moment it was asked for."""
    tokens = dict.fromkeys(names(members + 1), TOKEN)
    with service(tokens) as server:
        async with connected(server.port, members + 1) as clients:
            visitor, *others = clients
            rooms = [await client.join(ROOM, create=True) for client in others]
            asked: dict[tuple[str, int], float] = {}
            heard: list[list[tuple[str, int]]] = [[] for _ in rooms]
            milliseconds: list[float] = []
            for room, mine in zip(rooms, heard, strict=True):
                listen(room, visitor.client_id, lambda what, mine=mine: note(what, mine))  # type: ignore[misc]

            def note(what: tuple[str, int], mine: list[tuple[str, int]]) -> None:
                milliseconds.append((time.perf_counter() - asked[what]) * 1000)
                mine.append(what)

            for visit in range(visits):
                asked["joined", visit] = time.perf_counter()
                room = await visitor.join(ROOM, metadata={"visit": visit})
                asked["left", visit] = time.perf_counter()
                await room.leave()
            async with asyncio.timeout(JOIN_LIMIT):
                while len(milliseconds) < members * visits * 2:  # noqa: ASYNC110 -- the last events are on their way
                    await asyncio.sleep(0.01)
            expected = [(what, visit) for visit in range(visits) for what in ("joined", "left")]
            return News(milliseconds, sum(mine != expected for mine in heard))


def listen(room: Room, client_id: str, note: Callable[[tuple[str, int]], None]) -> None:
    """Pass on what a member hears of the visitor."""

    def hear(event: ParticipantJoined | ParticipantLeft) -> None:
        if event.participant.client_id == client_id:
            what = "joined" if isinstance(event, ParticipantJoined) else "left"
            note((what, event.participant.metadata["visit"]))

    room.on("participant_joined", hear)
    room.on("participant_left", hear)


# -- all of it ---------------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile of at least two values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def figures(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures, medians of the rounds, each beside its bar."""
    p50 = statistics.median(percentile(taken, 50) for taken in results["first_frame_ms"])
    p95 = statistics.median(percentile(taken, 95) for taken in results["first_frame_ms"])
    joined = statistics.median(crowd["joined"] for crowd in results["crowds"])
    complete = statistics.median(crowd["complete"] for crowd in results["crowds"])
    early = sum(crowd["refusals"].get(code, 0) for crowd in results["crowds"] for code in (406, 425))
    news = statistics.median(percentile(news["milliseconds"], 99) for news in results["news"])
    disordered = sum(news["disordered"] for news in results["news"])
    return [
        _figure("join to first picture, p50", f"{p50:.0f} ms", p50 < FIRST_FRAME_P50_MS),
        _figure("join to first picture, p95", f"{p95:.0f} ms", p95 < FIRST_FRAME_P95_MS),
        _figure("all rooms joined", f"{joined:.1f} s", joined < JOINED_SECONDS),
        _figure("… and all see each other", f"{complete:.1f} s", None),
        _figure("406 and 425 that reached a client", str(early), early == 0),
        _figure("room events, p99", f"{news:.1f} ms", news < NEWS_P99_MS),
        _figure("members that missed the order", str(disordered), disordered == 0),
    ]


def _figure(what: str, figure: str, is_within: bool | None) -> dict[str, Any]:
    return {"what": what, "figure": figure, "is_within": is_within}


def show(rows: list[dict[str, Any]], console: Console) -> bool:
    """Print the figures, and tell whether all bars hold."""
    table = Table("what", "figure", "bar", box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(row["what"], row["figure"], {True: "within", False: "over", None: ""}[row["is_within"]])
    console.print(table)
    return all(row["is_within"] is not False for row in rows)


async def measure(*, rounds: int, joins: int, rooms: int, members: int, listeners: int, visits: int) -> dict[str, Any]:
    """Take every measurement, in turn."""
    results: dict[str, Any] = {
        "benchmark": "rooms",
        "machine": machine(),
        "first_frame_ms": [],
        "crowds": [],
        "news": [],
    }
    for _ in range(rounds):
        results["first_frame_ms"].append(await measure_first_frames(joins))
        results["crowds"].append(asdict(await measure_crowd(rooms, members)))
        results["news"].append(asdict(await measure_news(listeners, visits)))
    return results | {"figures": figures(results)}


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.rooms --rounds 1 --json results.json")
def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything is measured; medians are shown.")] = 3,
    joins: Annotated[int, typer.Option(min=2, help="Joins measured in the browser.")] = 20,
    rooms: Annotated[int, typer.Option(min=1, help="Rooms that are joined at once.")] = 50,
    members: Annotated[int, typer.Option(min=2, help="Members of each of these rooms.")] = 4,
    listeners: Annotated[int, typer.Option(min=1, help="Members of one room that are told of a visitor.")] = 99,
    visits: Annotated[int, typer.Option(min=1, help="Times that the visitor joins and leaves.")] = 50,
    json_target: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output."),
    ] = None,
    check: Annotated[bool, typer.Option(help="Exit with status 1 if a bar is missed.")] = False,
) -> None:
    """Measure how soon a member sees a picture, joins a full SFU, and hears of others in a large room."""
    end_on_sigterm()
    options = {"joins": joins, "rooms": rooms, "members": members, "listeners": listeners, "visits": visits}
    try:
        results = asyncio.run(measure(rounds=rounds, **options))
    except (MeasurementError, TimeoutError) as error:
        raise SystemExit(f"not measured: {error or 'a step took too long'}") from None
    if json_target is not None:
        write_json(results, json_target)
    holds = show(results["figures"], Console(stderr=json_target == "-"))
    if check and not holds:
        raise SystemExit(1)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.rooms")
