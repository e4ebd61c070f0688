"""What does one request take of the event loop? The CPU time of the service's thread, beside that of a relayed signal.

Clients ask in bursts: each asks once, and the burst ends when all answers and events have arrived. The service is idle
before and after a burst, so the scheduler's account of its threads holds exactly what the burst took, with what goes
on after the answer. The bursts of all cases take turns, so that a busy moment of the machine hits all of them.

The figure is the CPU time of the thread that runs the event loop. SQLite's other threads and its writing process are
shown apart. The cost of a room event is what a change takes in a room with many members, less what it takes in a room
with one; so it holds the larger record too. The SFU's share of joining is measured apart, on an SFU in this process,
and so is what the system takes to send an event (`references/fan_out.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, cycle
from statistics import median
from typing import Annotated, Any, NamedTuple, TypeVar, cast
from unittest.mock import patch

import typer
import uvloop
from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import frames
from benchmarks.processes import (
    MeasurementError,
    child_processes,
    cores,
    cpu_seconds,
    end_on_sigterm,
    free_port,
    loop_seconds,
    pinned,
    running,
)
from benchmarks.results import Spread, machine, write_json
from benchmarks.servers import EMBEDDED, Server, service
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.codec import encode_payload
from signal_manager.protocol.framing import Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import Connect, Message, MessageType, PayloadType, Peer, RoomJoin, Shape
from signal_manager.sfu import LocalSfu, connection, negotiation, sdp
from signal_manager.sfu.api import Call

__all__ = ["app"]

T = TypeVar("T")

TOKEN = "token-of-the-requests-benchmark"

# A busy machine must not end a measurement (s).
LIMIT = 60.0
# What the service does after its answers is over by then (s); one more turn of the loop is enough on an idle machine.
SETTLED = 0.004

# The project's bars, in µs of the event loop, and for HEARTBEAT in parts of a relayed signal.
REGISTER_US, JOIN_US, EVENT_US, HEARTBEAT_PART = 120.0, 400.0, 400.0, 1.2

# Changes of a room in one burst.
CHANGES = 10
# About what an event of such a change takes in JSON.
EVENT_BYTES = 300
# Rounds that do not count.
WARM_UP = 5

# What members of the large room use, in turn.
_KINDS = [(Framing.JSON, PayloadType.JSON)] + [
    (framing, payload_type) for framing in (Framing.V1, Framing.V2) for payload_type in PayloadType
]
OFFER = (
    "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n"
    f"a=fingerprint:sha-256 {':'.join(['AB'] * 32)}\r\na=setup:actpass\r\na=ice-ufrag:abcd\r\n"
    "a=ice-pwd:0123456789abcdefghijkl\r\nm=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n"
    "a=sendonly\r\na=rtcp-mux\r\na=msid:- camera\r\n"
    "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"
)


class Client(WSListener):
    """A connection that counts what arrives, as cheaply as can be; an answer that says no ends the benchmark."""

    def __init__(self, arrivals: Arrivals, name: str, framing: Framing, payload_type: PayloadType) -> None:
        super().__init__()
        self.name = name
        self._arrivals = arrivals
        self._framing, self._payload_type = framing, payload_type
        self._frame_type = WSMsgType.TEXT if framing is Framing.JSON else WSMsgType.BINARY
        self._transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say who we are."""
        self._transport = transport
        self.ask(self.encoded(Connect(client_id=self.name, auth_token=TOKEN, version="1.0.0")))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Count a message."""
        data = frame.get_payload_as_bytes()
        if self._framing is Framing.JSON:
            if b'"type":"ERROR"' in data:
                self._arrivals.fail(data)
        elif data[1] == MessageType.ERROR:
            self._arrivals.fail(decode_frame(self._framing, data).payload)
        self._arrivals.add()

    def encoded(self, message: Message) -> bytes:
        """Return a message in this client's own encoding."""
        payload_type, payload = encode_payload(message, self._payload_type, Shape.PLAIN, sent_by=Peer.CLIENT)
        return encode_frame(self._framing, spec_of(message).message_type, bytes(16), payload_type, payload)

    def ask(self, request: bytes) -> None:
        """Send one message."""
        if self._transport is None:
            raise MeasurementError(f"{self.name} is not connected")
        self._transport.send(self._frame_type, request)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)


class Arrivals:
    """Waits until so many messages have arrived at all clients."""

    def __init__(self) -> None:
        self._left = 0
        self._done = asyncio.Event()
        self._refusal: bytes | None = None

    def expect(self, messages: int) -> None:
        """Start to count."""
        self._left = messages
        self._done.clear()

    def add(self, number: int = 1) -> None:
        """Count what has arrived."""
        self._left -= number
        if self._left <= 0:
            self._done.set()

    def fail(self, refusal: bytes) -> None:
        """End the wait."""
        self._refusal = refusal
        self._done.set()

    async def all(self) -> None:
        """Wait for the last one; MeasurementError when it does not come, or an ERROR does."""
        try:
            async with asyncio.timeout(LIMIT):
                await self._done.wait()
        except TimeoutError:
            raise MeasurementError(f"{self._left} messages did not arrive") from None
        if self._refusal is not None:
            raise MeasurementError(f"the service refused: {self._refusal.decode(errors='replace')}")


class Taken(NamedTuple):
    """The CPU time (s) that one burst took: of the thread of the event loop, of other threads, of other processes."""

    loop: float
    threads: float
    processes: float


@dataclass
class Case:
    """One kind of request, and what one of them took in each burst."""

    title: str
    taken: list[Taken] = field(default_factory=list)

    def us(self) -> Spread:
        """Return the µs of the event loop."""
        return Spread.of([each.loop * 1e6 for each in self.taken])


Burst = list[tuple[Client, bytes]]


class Service:
    """A service under measurement, with its clients."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._arrivals = Arrivals()
        self.clients: list[Client] = []

    async def connect(self, names: Iterable[str], *, mixed: bool = False) -> list[Client]:
        """Connect clients, of all kinds in turn if `mixed`."""
        kinds = cycle(_KINDS if mixed else [(Framing.V1, PayloadType.JSON)])
        clients = []
        for name, (framing, payload_type) in zip(names, kinds, strict=False):
            client = Client(self._arrivals, name, framing, payload_type)
            self._arrivals.expect(1)
            await ws_connect(
                lambda client=client: client,
                f"ws://127.0.0.1:{self._server.port}/",
                websocket_handshake_timeout=LIMIT,
                extra_headers={"Sec-WebSocket-Protocol": f"signal-manager.{framing}"},
            )
            await self._arrivals.all()
            clients.append(client)
        self.clients += clients
        return clients

    async def burst(self, sends: Burst, *, arrivals: int, requests: int) -> Taken:
        """Send all messages, wait for what they cause, and return the CPU time of one request."""
        return await self.bursts([sends], arrivals=arrivals, requests=requests)

    async def bursts(self, bursts: Iterable[Burst], *, arrivals: int, requests: int) -> Taken:
        """Send several bursts one after the other, each of which causes so many messages."""
        before = self._cpu()
        for sends in bursts:
            self._arrivals.expect(arrivals)
            for client, data in sends:
                client.ask(data)
            await self._arrivals.all()
        await asyncio.sleep(SETTLED)
        return Taken(*((after - earlier) / requests for earlier, after in zip(before, self._cpu(), strict=True)))

    def _cpu(self) -> tuple[float, float, float]:
        pid = self._server.pid
        loop = loop_seconds(pid)
        return loop, cpu_seconds(pid) - loop, sum(map(cpu_seconds, child_processes(pid)))

    def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            client.close()


def names(prefix: str, number: int) -> list[str]:
    """Return client ids."""
    return [f"{prefix}-{each}" for each in range(number)]


# -- the cases ---------------------------------------------------------------------------------------------------------


class Cases:
    """All cases, on the services that they need.

    Args:
        burst: the number of requests in a burst.
        members: the number of members in the large room.
    """

    def __init__(self, services: dict[str, Server], *, burst: int, members: int) -> None:
        self._burst, self._members = burst, members
        self._plain = Service(services["memory"])
        self._sqlite = Service(services["sqlite"])
        self._media = Service(services["media"])
        self._numbers = count()
        self.all: dict[str, Case] = {}
        self._askers: dict[str, list[Client]] = {}
        self._crowd: list[Client] = []
        self._lone: list[Client] = []

    async def prepare(self) -> None:
        """Connect all clients, and fill the rooms."""
        for name, each in (("memory", self._plain), ("sqlite", self._sqlite), ("media", self._media)):
            askers = await each.connect(names("asker", self._burst))
            hosts = await each.connect(names("host", self._burst))
            for number, host in enumerate(hosts):
                await each.burst(
                    [(host, frames.room_join(f"pair-{number}", create_if_missing=True))], arrivals=1, requests=1
                )
            self._askers[name] = askers
        self._lone = await self._plain.connect(["lone"])
        await self._plain.burst(
            [(self._lone[0], frames.room_join("lone", create_if_missing=True))], arrivals=1, requests=1
        )
        speaker = await self._plain.connect(["speaker"])
        await self._plain.burst(
            [(speaker[0], frames.room_join("crowd", create_if_missing=True))], arrivals=1, requests=1
        )
        self._crowd = speaker
        for client in await self._plain.connect(names("member", self._members - 1), mixed=True):
            await self._join_crowd(client)

    async def _join_crowd(self, client: Client) -> None:
        await self._plain.burst(
            [(client, client.encoded(RoomJoin(room_id="crowd", role="receiver")))],
            arrivals=1 + len(self._crowd),
            requests=1,
        )
        self._crowd.append(client)

    async def round(self) -> None:
        """Take one burst of each case."""
        size = self._burst
        askers = self._askers["memory"]
        pairs = list(zip(askers, [*askers[1:], askers[0]], strict=True))
        await self._take("relayed signal", self._plain, [(a, frames.offer(b.name)) for a, b in pairs], size)
        await self._take("HEARTBEAT", self._plain, [(each, frames.heartbeat()) for each in askers], size)
        for name, at in (("memory", self._plain), ("sqlite", self._sqlite)):
            askers = self._askers[name]
            where = "in memory" if name == "memory" else "on SQLite"
            sends = [(each, frames.register(next(self._numbers))) for each in askers]
            await self._take(f"REGISTER {where}", at, sends, size)
        for name, at, where, media in (
            ("memory", self._plain, "in memory, no media", {}),
            ("sqlite", self._sqlite, "on SQLite, no media", {}),
            ("media", self._media, "with the embedded SFU", {"role": "sender", "offer_sdp": OFFER}),
        ):
            askers = self._askers[name]
            rooms = [f"pair-{number}" for number in range(size)]
            joins = [(each, frames.room_join(room, **media)) for each, room in zip(askers, rooms, strict=True)]
            await self._take(f"ROOM_JOIN {where}", at, joins, size, answers=2)
            leaves = [(each, frames.room_leave(room)) for each, room in zip(askers, rooms, strict=True)]
            await self._take(f"ROOM_LEAVE {where}", at, leaves, size, answers=2)
        await self._take_change("METADATA_UPDATE, room of 1", self._lone, "lone")
        await self._take_change(f"METADATA_UPDATE, room of {self._members}", self._crowd, "crowd")

    async def _take(self, title: str, at: Service, sends: Burst, requests: int, *, answers: int = 1) -> None:
        taken = await at.burst(sends, arrivals=requests * answers, requests=requests)
        self.all.setdefault(title, Case(title)).taken.append(taken)

    async def _take_change(self, title: str, members: list[Client], room_id: str) -> None:
        """Change one member's metadata several times, one after the other: an answer, and an event to each member."""
        changes = [frames.metadata_update(room_id, next(self._numbers)) for _ in range(CHANGES)]
        bursts = [[(members[0], change)] for change in changes]
        taken = await self._plain.bursts(bursts, arrivals=1 + len(members), requests=CHANGES)
        self.all.setdefault(title, Case(title)).taken.append(taken)

    def close(self) -> None:
        """Close all connections."""
        for each in (self._plain, self._sqlite, self._media):
            each.close()


class Floor(asyncio.Protocol):
    """A client of `references/fan_out.py`, which counts bytes."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, and another base class

    def data_received(self, data: bytes) -> None:
        """Count the bytes."""
        self._arrivals.add(len(data))


async def measure_floor(pid: int, port: int, *, rounds: int, members: int) -> list[float]:
    """Return the CPU time (s) of sending one event to all members, with nothing around it."""
    arrivals = Arrivals()
    arrivals.expect(members)  # it greets each client with a byte
    clients = []
    for _ in range(members):
        _, client = await asyncio.get_running_loop().create_connection(lambda: Floor(arrivals), "127.0.0.1", port)
        clients.append(client)
    await arrivals.all()
    figures = []
    for _ in range(WARM_UP + rounds):
        before = loop_seconds(pid)
        for _ in range(CHANGES):
            arrivals.expect(members * EVENT_BYTES)
            assert clients[0].transport is not None
            clients[0].transport.write(b"x")
            await arrivals.all()
        await asyncio.sleep(SETTLED)
        figures.append((loop_seconds(pid) - before) / CHANGES)
    for client in clients:
        if client.transport is not None:
            client.transport.close()
    return figures[WARM_UP:]


class Timer:
    """The CPU time that functions of one module take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function that is timed."""

        def timed(*args: Any, **kwargs: Any) -> T:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - began

        return timed


async def measure_sfu(joins: int) -> tuple[list[float], list[float]]:
    """Return the CPU time (s) of the calls to the SFU that a join with an offer makes, and that of their SDP alone."""
    timer = Timer()
    calls, descriptions = [], []
    with ExitStack() as stack:
        stack.enter_context(patch.object(connection, "parse", timer.around(sdp.parse)))
        stack.enter_context(patch.object(negotiation, "render", timer.around(sdp.render)))
        async with LocalSfu(app_id="app", app_secret="secret") as sfu:
            for _ in range(joins):
                began, timer.seconds = time.thread_time(), 0.0
                session = (await call(sfu, "new", {}))["sessionId"]
                offer = {"type": "offer", "sdp": OFFER}
                tracks = [{"location": "local", "mid": "0", "trackName": "camera"}]
                await call(sfu, f"{session}/tracks/new", {"sessionDescription": offer, "tracks": tracks})
                calls.append(time.thread_time() - began)
                descriptions.append(timer.seconds)
    return calls, descriptions


async def call(sfu: LocalSfu, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Call the SFU as the service does."""

    async def content() -> bytes:
        return json.dumps(body).encode()

    reply = await sfu.call(
        Call(
            method="POST",
            path=f"/v1/apps/app/sessions/{path}",
            authorization="Bearer secret",
            correlation_id="room/client",
            body=content,
        )
    )
    answer: dict[str, Any] = json.loads(reply.body)
    if reply.status >= 400 or "errorCode" in answer:
        raise MeasurementError(f"the SFU refused: {answer}")
    return answer


# -- all of it ---------------------------------------------------------------------------------------------------------


async def measure(services: dict[str, Server], *, rounds: int, burst: int, members: int) -> dict[str, Case]:
    """Take all cases in turn; the first rounds, which warm the services up, do not count."""
    cases = Cases(services, burst=burst, members=members)
    try:
        await cases.prepare()
        for number in range(WARM_UP + rounds):
            if number == WARM_UP:
                cases.all.clear()
            await cases.round()
        return cases.all
    finally:
        cases.close()


class Verdict(NamedTuple):
    """A figure beside its bar."""

    what: str
    figure: float
    bar: float

    @property
    def is_within(self) -> bool:
        """Whether the bar holds."""
        return self.figure <= self.bar

    def __str__(self) -> str:
        form = ".2f" if self.bar < 10 else ".0f"
        return (
            f"{self.what} {self.figure:{form}} ({'within' if self.is_within else 'over'} the bar of {self.bar:{form}})"
        )


def verdicts(cases: dict[str, Case], floor: float, members: int) -> list[Verdict]:
    """Return what is judged; `floor` is what sending an event takes of any process (s)."""
    middle = {title: case.us().median for title, case in cases.items()}
    event = middle[f"METADATA_UPDATE, room of {members}"] - middle["METADATA_UPDATE, room of 1"]
    return [
        Verdict("HEARTBEAT, of a relayed signal:", middle["HEARTBEAT"] / middle["relayed signal"], HEARTBEAT_PART),
        Verdict("REGISTER in memory, µs:", middle["REGISTER in memory"], REGISTER_US),
        Verdict("REGISTER on SQLite, µs:", middle["REGISTER on SQLite"], REGISTER_US),
        Verdict("ROOM_JOIN's own part in memory, µs:", middle["ROOM_JOIN in memory, no media"], JOIN_US),
        Verdict("ROOM_JOIN's own part on SQLite, µs:", middle["ROOM_JOIN on SQLite, no media"], JOIN_US),
        Verdict(
            f"a room event to {members} members, without {floor * 1e6:.0f} µs for sending:",
            event - floor * 1e6,
            EVENT_US,
        ),
    ]


def table_of(cases: dict[str, Case], *, rounds: int) -> Table:
    """Return the figures."""
    table = Table(box=SIMPLE_HEAD, title=f"CPU µs of one request, medians of {rounds} rounds", title_justify="left")
    for column in ("request", "event loop", "other threads", "other processes"):
        table.add_column(column, justify="left" if column == "request" else "right", no_wrap=True)
    for case in cases.values():
        threads, processes = (median(column) * 1e6 for column in list(zip(*case.taken, strict=True))[1:])
        table.add_row(case.title, case.us().text(".0f"), f"{threads:.0f}", f"{processes:.0f}")
    return table


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.request_costs --rounds 20 --check")
def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Bursts of each case.")] = 40,
    burst: Annotated[int, typer.Option(min=2, help="Requests in one burst, each of another client.")] = 40,
    members: Annotated[int, typer.Option(min=2, help="Members of the room that hears of a change.")] = 100,
    json_target: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output."),
    ] = None,
    check: Annotated[bool, typer.Option(help="Exit with status 1 if a bar is missed.")] = False,
) -> None:
    """Measure what requests and room events take of the event loop."""
    end_on_sigterm()
    server_core, load_core = cores()
    lone = ["lone", "speaker", *names("member", members)]
    tokens = dict.fromkeys([*names("asker", burst), *names("host", burst), *lone], TOKEN)
    try:
        with ExitStack() as stack:
            services = {
                "memory": stack.enter_context(service(tokens, core=server_core)),
                "sqlite": stack.enter_context(service(tokens, core=server_core, storage="sqlite")),
                "media": stack.enter_context(service(tokens, core=server_core, sfu=EMBEDDED)),
            }
            with pinned(load_core):
                for pid in child_processes(services["sqlite"].pid):
                    os.sched_setaffinity(pid, os.sched_getaffinity(0))
                cases = uvloop.run(measure(services, rounds=rounds, burst=burst, members=members))
                port = free_port()
                command = [sys.executable, "-m", "benchmarks.references.fan_out", "--port", str(port)]
                with running([*command, "--bytes", str(EVENT_BYTES)], port=port, core=server_core) as pid:
                    floors = uvloop.run(measure_floor(pid, port, rounds=rounds, members=members))
                calls, descriptions = uvloop.run(measure_sfu(rounds * burst))
    except (MeasurementError, WSError, OSError) as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(1) from error
    judged = verdicts(cases, median(floors), members)
    sfu_us, sdp_us = median(calls) * 1e6, median(descriptions) * 1e6
    if json_target != "-":
        console = Console(width=120)
        console.print(table_of(cases, rounds=rounds))
        whole = cases["ROOM_JOIN with the embedded SFU"].us().median
        console.print(
            f"ROOM_JOIN with the embedded SFU: {whole:.0f} µs, of which its SFU takes {sfu_us - sdp_us:.0f}, SDP"
            f" {sdp_us:.0f}, and all else {whole - sfu_us:.0f}",
            highlight=False,
        )
        for verdict in judged:
            console.print(str(verdict), highlight=False)
    if json_target is not None:
        figures = {title: [each._asdict() for each in case.taken] for title, case in cases.items()}
        results = {
            "benchmark": "request_costs",
            "machine": machine(),
            "cases": figures,
            "sfu_us": sfu_us,
            "sdp_us": sdp_us,
            "floor_us": [each * 1e6 for each in floors],
            "verdicts": [verdict._asdict() | {"is_within": verdict.is_within} for verdict in judged],
        }
        write_json(results, json_target)
    if check and not all(verdict.is_within for verdict in judged):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
