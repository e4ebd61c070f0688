"""What can strangers and clients make the service keep, and who pays when it is too much?

Three hoards, each on a service of its own with its defaults and no limit on rates: sessions that confirm nothing,
messages that are never whole, and sessions with long ids that their clients have left. The clients are plain sockets.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import frames
from benchmarks.processes import MeasurementError, cores, end_on_sigterm, free_port, resident_bytes
from benchmarks.results import machine, write_json
from benchmarks.servers import Server, service

__all__ = ["Halves", "Ids", "Sessions", "Socket", "app", "measure_halves", "measure_ids", "measure_sessions"]

TOKEN = "token-of-the-benchmark-of-hoards"
FRIEND, PRESENT, ABSENT = "friend", "present", "absent"
INNOCENT = (FRIEND, PRESENT, ABSENT)

ANSWER_LIMIT = 60.0
# A session keeps 256 KiB by default: these are just below it.
KEPT_SIGNALS, KEPT_BYTES = 8, 32_000
# The innocent client leaves when so much of the budget is used, so that its 30 s are not over before the rest is.
BEFORE = 0.9
# A stranger may have 16 KiB of a message; a client, twice what one message may have: in fragments, and in half a frame.
STRANGERS_FRAGMENTS, STRANGERS_HALF = (8_000, 8_000), 15_000
CLIENTS_FRAGMENTS, CLIENTS_HALF = (1_000_000,), 1_000_000
LONGEST_FRAME = 1_048_000
LONG_ID = "i" * 256

BINARY, CONTINUATION, CLOSE, PONG = 0x2, 0x0, 0x8, 0xA


@dataclass(frozen=True)
class Sessions:
    """The outcome for sessions that keep as much as they may; sizes are in bytes."""

    sessions: int
    wanted_bytes: int
    kept_at_most: int
    kept_at_the_end: int
    gave_way: int
    went_on: int
    innocent_resumed: bool
    innocent_got: int
    present_resumed: bool
    rss_before: int
    rss_peak: int


@dataclass(frozen=True)
class Halves:
    """What messages that are never whole take; sizes are in bytes."""

    who: str
    sockets: int
    wanted_bytes: int
    closed: int
    rss_before: int
    rss_after: int

    @property
    def per_socket(self) -> float:
        """Bytes for each socket, closed or not."""
        return (self.rss_after - self.rss_before) / self.sockets


@dataclass(frozen=True)
class Ids:
    """What sessions with long ids take whose clients are away; sizes are in bytes."""

    sessions: int
    refused: int
    rss_before: int
    rss_after: int

    @property
    def per_session(self) -> float:
        """Bytes for each session."""
        return (self.rss_after - self.rss_before) / self.sessions


class Socket:
    """A blocking WebSocket of the simplest kind."""

    def __init__(self, port: int) -> None:
        self.is_dropped = False
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_LIMIT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self._input = self._socket.makefile("rb")
        while self._input.readline() not in {b"\r\n", b""}:
            pass

    def log_in(self, name: str, **fields: Any) -> dict[str, Any]:
        """Send CONNECT for a session that can be resumed, and return CONNECT_ACK's fields.

        Raises:
            MeasurementError: the service refuses.
        """
        self.send(frames.connect(name, TOKEN, resumable=True, **fields))
        answer = self.receive()
        if answer[1] != frames.CONNECT_ACK:
            raise MeasurementError(f"the service did not accept {name}: {answer[frames.HEADER.size :]!r}")
        accepted: dict[str, Any] = json.loads(answer[frames.HEADER.size :])
        return accepted

    def send(self, data: bytes, *, opcode: int = BINARY, final: bool = True) -> None:
        """Send one frame."""
        self._socket.sendall(_head(len(data), opcode=opcode, final=final) + data)

    def send_half(self, size: int, *, announced: int, opcode: int) -> None:
        """Send the beginning of a frame."""
        self._socket.sendall(_head(announced, opcode=opcode, final=True) + bytes(size))

    def receive(self) -> bytes:
        """Return the next message; b"" stands for the end."""
        while len(head := self._input.read(2)) == 2 and head[0] & 0x0F != CLOSE:
            size = head[1]
            if size == 126:
                size = struct.unpack(">H", self._input.read(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", self._input.read(8))[0]
            payload = self._input.read(size)
            if head[0] & 0x0F == BINARY:
                return payload
            self.live()  # it was asked whether it does
        return b""

    def live(self) -> None:
        """Give a sign of life, unless it has none."""
        if not self.is_dropped:
            self.send(b"", opcode=PONG)

    def signals(self, count: int) -> list[Any]:
        """Return what the next signals say; other messages are passed over."""
        said: list[Any] = []
        while len(said) < count and (message := self.receive()):
            if message[1] == frames.SIGNAL_OFFER:
                said.append(json.loads(message[frames.HEADER.size :])["signal_data"])
        return said

    def is_closed(self) -> bool:
        """Tell whether the service has closed it; nobody has read what came."""
        self._socket.settimeout(0.0)
        try:
            came = self._socket.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            return True
        while came and came[0] & 0x0F != CLOSE:  # a ping
            came = came[2 + came[1] :]
            if not came:
                return False
        return True

    def drop(self) -> None:
        """Leave without a word."""
        self.is_dropped = True
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._input.close()
        self._socket.close()


def _head(size: int, *, opcode: int, final: bool) -> bytes:
    """Return the head of a client's frame (RFC 6455, section 5.2) with a mask of zeros."""
    first = (0x80 if final else 0) | opcode
    if size < 126:
        return bytes((first, 0x80 | size)) + bytes(4)
    if size < 65_536:
        return struct.pack(">BBH", first, 0x80 | 126, size) + bytes(4)
    return struct.pack(">BBQ", first, 0x80 | 127, size) + bytes(4)


def resumption(ack: dict[str, Any], received: int) -> dict[str, Any]:
    """Return what CONNECT says to go on with a session."""
    return {"session_id": ack["session_id"], "resume_token": ack["resume_token"], "received": received}


def hoarder(number: int) -> str:
    """Return the client id of one that keeps all that it may."""
    return f"hoarder-{number}"


def gauge(port: int, name: str) -> int:
    """Return a number that the service tells on its second port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=ANSWER_LIMIT) as response:
        found = re.search(rf"^{name} (\S+)$", response.read().decode(), re.MULTILINE)
    if found is None:
        raise MeasurementError(f"/metrics has no {name}")
    return int(float(found[1]))


def _kept(port: int) -> int:
    return gauge(port, "signal_manager_resume_buffer_bytes")


def _wait_for(what: str, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ANSWER_LIMIT
    while not is_so():
        if time.monotonic() > deadline:
            raise MeasurementError(f"waited {ANSWER_LIMIT:.0f} s for {what}")
        time.sleep(0.05)


def measure_sessions(server: Server, metrics_port: int, count: int, *, report: Callable[[str], None]) -> Sessions:
    """Let `count` sessions keep all that they may, every second one away, and see who goes on.

    One innocent client leaves while they do, gets three signals meanwhile and comes back; another one is there and has
    not confirmed three.

    Raises:
        MeasurementError: the service did not do what it must.
    """
    rss_before = resident_bytes(server.pid)
    everyone: list[Socket] = []
    with ExitStack() as stack:
        stack.callback(_drop_all, everyone)

        def join(name: str, **fields: Any) -> tuple[Socket, dict[str, Any]]:
            made = Socket(server.port)
            everyone.append(made)
            return made, made.log_in(name, **fields)

        friend, _ = join(FRIEND)
        present, present_ack = join(PRESENT)
        absent, absent_ack = join(ABSENT)
        report(f"connecting {count:,} clients that confirm nothing")
        hoarders = [join(hoarder(number)) for number in range(count)]
        for word in ("one", "two", "three"):
            friend.send(frames.offer(PRESENT, word))
        present.signals(3)

        kept: list[int] = []
        data = "x" * (KEPT_BYTES - len(frames.offer(hoarder(count), "")) - len(hoarder(count)) - 40)

        def fill(numbers: range) -> None:
            for number in numbers:
                for _ in range(KEPT_SIGNALS):
                    hoarders[number][0].send(frames.offer(hoarder((number + 1) % count), data))
                if len(hoarders[(number + 1) % count][0].signals(KEPT_SIGNALS)) < KEPT_SIGNALS:
                    raise MeasurementError(f"{hoarder(number + 1)} was closed")
                if number % 50 == 49:
                    kept.append(_kept(metrics_port))
                    for each in everyone:
                        each.live()

        soon = int(count * BEFORE)
        report(f"each gets {KEPT_SIGNALS} signals of {KEPT_BYTES:,} bytes")
        fill(range(soon))
        absent.drop()
        left = [number for number in range(1, soon) if number % 2]
        for number in left:
            hoarders[number][0].drop()
        _wait_for("clients to be away", lambda: gauge(metrics_port, "signal_manager_sessions_away") >= len(left) + 1)
        for word in ("one", "two", "three"):
            friend.send(frames.offer(ABSENT, word, ack=True))
            answer = friend.receive()
            if b"queued" not in answer:
                raise MeasurementError(f"the innocent client was left nothing: {answer!r}")
        kept.append(_kept(metrics_port))
        fill(range(soon, count))
        kept.append(_kept(metrics_port))
        rss_peak = resident_bytes(server.pid)

        report("coming back")
        again, ack = join(ABSENT, resume=resumption(absent_ack, 0))
        got = again.signals(3) if ack.get("resumed") else []
        present.drop()
        _, present_again = join(PRESENT, resume=resumption(present_ack, 3))
        gave_way = 0
        for number, (connection, earlier) in enumerate(hoarders):
            connection.drop()
            came, answer_of_all = join(hoarder(number), resume=resumption(earlier, 0))
            gave_way += not answer_of_all.get("resumed", False)
            came.drop()
        return Sessions(
            sessions=count,
            wanted_bytes=count * KEPT_SIGNALS * KEPT_BYTES,
            kept_at_most=max(kept),
            kept_at_the_end=kept[-1],
            gave_way=gave_way,
            went_on=count - gave_way,
            innocent_resumed=ack.get("resumed", False),
            innocent_got=len(got),
            present_resumed=present_again.get("resumed", False),
            rss_before=rss_before,
            rss_peak=rss_peak,
        )


def measure_halves(server: Server, count: int, *, of_clients: bool, report: Callable[[str], None]) -> Halves:
    """Let `count` sockets keep fragments of a message and half a frame.

    Raises:
        MeasurementError: others cannot talk any more.
    """
    fragments, half = (CLIENTS_FRAGMENTS, CLIENTS_HALF) if of_clients else (STRANGERS_FRAGMENTS, STRANGERS_HALF)
    who = "clients" if of_clients else "strangers"
    with ExitStack() as stack:
        everyone: list[Socket] = []
        stack.callback(_drop_all, everyone)
        report(f"{count} {who} that finish no message")
        _check_talk(server, everyone)
        before = resident_bytes(server.pid)
        made = [Socket(server.port) for _ in range(count)]
        everyone += made
        if of_clients:
            for number, each in enumerate(made):
                each.log_in(hoarder(number))
        for each in made:
            with suppress(OSError):  # it may be closed on the way
                for place, size in enumerate(fragments):
                    each.send(bytes(size), opcode=CONTINUATION if place else BINARY, final=False)
                each.send_half(half, announced=LONGEST_FRAME, opcode=CONTINUATION)
        _check_talk(server, everyone)
        time.sleep(1.0)  # what is read last is read by then
        after = resident_bytes(server.pid)
        return Halves(
            who=who,
            sockets=count,
            wanted_bytes=count * (sum(fragments) + half),
            closed=sum(each.is_closed() for each in made),
            rss_before=before,
            rss_after=after,
        )


def measure_ids(server: Server, metrics_port: int, count: int, *, report: Callable[[str], None]) -> Ids:
    """Let `count` clients with the longest instance ids leave, and as many ask for longer ones.

    Raises:
        MeasurementError: the service did not do what it must.
    """
    report(f"{count} clients with long ids come and go")
    with ExitStack() as stack:
        everyone: list[Socket] = []
        stack.callback(_drop_all, everyone)
        _check_talk(server, everyone)
        before = resident_bytes(server.pid)
        refused = 0
        for number in range(count):
            greedy = Socket(server.port)
            greedy.send(frames.connect(hoarder(number), TOKEN, resumable=True, instance_id="i" * 16_000))
            answer = greedy.receive()
            refused += not answer or answer[1] != frames.CONNECT_ACK
            greedy.drop()
            client = Socket(server.port)
            client.log_in(hoarder(number), instance_id=LONG_ID)
            client.drop()
        _wait_for("clients to be away", lambda: gauge(metrics_port, "signal_manager_sessions_away") >= count)
        return Ids(sessions=count, refused=refused, rss_before=before, rss_after=resident_bytes(server.pid))


def _check_talk(server: Server, everyone: list[Socket]) -> None:
    one, other = Socket(server.port), Socket(server.port)
    everyone += (one, other)
    one.log_in(FRIEND)
    other.log_in(PRESENT)
    one.send(frames.offer(PRESENT, "hello"))
    if other.signals(1) != ["hello"]:
        raise MeasurementError("others cannot talk any more")


def _drop_all(everyone: Sequence[Socket]) -> None:
    for each in everyone:
        each.drop()


@contextmanager
def _served(count: int) -> Iterator[tuple[Server, int]]:
    tokens = dict.fromkeys((*INNOCENT, *(hoarder(number) for number in range(count))), TOKEN)
    metrics_port = free_port()
    with service(tokens, core=cores()[0], metrics_port=metrics_port) as server:
        yield server, metrics_port


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _table(sessions: Sessions, halves: Sequence[Halves], ids: Ids) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    rows = [
        (f"{sessions.sessions:,} sessions that confirm nothing ask for", _mib(sessions.wanted_bytes)),
        ("kept at most", _mib(sessions.kept_at_most)),
        ("kept at the end", _mib(sessions.kept_at_the_end)),
        ("sessions that gave way", f"{sessions.gave_way:,}"),
        ("sessions that could go on", f"{sessions.went_on:,}"),
        ("the innocent client that was away", _resumed(sessions.innocent_resumed, f", {sessions.innocent_got} of 3")),
        ("the innocent client that was there", _resumed(sessions.present_resumed, "")),
        ("memory before and then", f"{_mib(sessions.rss_before)}, {_mib(sessions.rss_peak)}"),
    ]
    for each in halves:
        rows += [
            (f"{each.sockets:,} {each.who} with messages that are not whole send", _mib(each.wanted_bytes)),
            ("memory before and then", f"{_mib(each.rss_before)}, {_mib(each.rss_after)}"),
            ("for each socket", f"{each.per_socket / 1024:,.1f} KiB"),
            ("closed", f"{each.closed:,}"),
        ]
    rows += [
        (
            f"{ids.sessions:,} sessions away with ids of {len(LONG_ID)} bytes, each",
            f"{ids.per_session / 1024:,.1f} KiB",
        ),
        ("CONNECTs with longer ids that were refused", f"{ids.refused:,}"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _resumed(resumed: bool, what: str) -> str:
    return f"resumed{what}" if resumed else "not resumed"


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.hoards --json results.json")
def main(
    *,
    sessions: Annotated[int, typer.Option(min=40, help="Sessions that confirm no message.")] = 1100,
    sockets: Annotated[int, typer.Option(min=1, help="Sockets that send incomplete messages.")] = 300,
    away: Annotated[int, typer.Option(min=1, help="Sessions with long ids whose clients have disconnected.")] = 200,
    json_target: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output."),
    ] = None,
) -> None:
    """Measure what strangers and clients can make the service keep, and whom it disconnects when it is too much."""
    end_on_sigterm()
    screen = Console(stderr=True, highlight=False)
    try:
        with _served(sessions) as (server, metrics_port):
            kept = measure_sessions(server, metrics_port, sessions, report=screen.print)
        halves = []
        for of_clients in (False, True):
            with _served(sockets) as (server, _):
                halves.append(measure_halves(server, sockets, of_clients=of_clients, report=screen.print))
        with _served(away) as (server, metrics_port):
            ids = measure_ids(server, metrics_port, away, report=screen.print)
    except (MeasurementError, OSError) as error:
        screen.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    if json_target is not None:
        results = {"sessions": asdict(kept), "halves": [asdict(each) for each in halves], "ids": asdict(ids)}
        write_json({"benchmark": "hoards", "machine": machine(), "results": results}, json_target)
    if json_target != "-":
        Console().print(_table(kept, halves, ids))


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.hoards")
