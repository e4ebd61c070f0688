"""What do clients that stop reading cost? The service's memory while others go on sending to them at full speed.

`servers.py` starts the service; the clients here are plain sockets, since what is measured is what nobody reads.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import frames
from benchmarks.processes import MeasurementError, cores, end_on_sigterm, resident_bytes
from benchmarks.results import machine, write_json
from benchmarks.servers import Server, service

__all__ = ["Flood", "app", "measure"]

TOKEN = "token-of-the-slow-consumers-benchmark"
TALKER = "talker"

# Offers that are sent to one client before the service is asked how far it is, each of an SDP with many tracks (bytes).
BATCH = 10
SDP_BYTES = 30_000
ANSWER_LIMIT = 60.0
# Memory is read when the last closed sockets are gone: the service gives them two seconds.
SETTLE_SECONDS = 3.0

ERROR, HEARTBEAT, HEARTBEAT_ACK = 0xFF, 0x04, 0x05
BINARY_PAYLOAD = 0x01


@dataclass(frozen=True)
class Flood:
    """What the service went through, and its memory on the way."""

    clients: int
    seconds: float
    sent_bytes: int
    closed: int
    rss_before_bytes: int
    rss_peak_bytes: int
    rss_after_bytes: int
    kib_per_client: float


class Client:
    """A blocking WebSocket client of the simplest kind."""

    def __init__(self, port: int, name: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_LIMIT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self._input = self._socket.makefile("rb")
        while self._input.readline() not in {b"\r\n", b""}:
            pass
        self.send(masked(frames.connect(name, TOKEN)))
        if self.receive()[1] != frames.CONNECT_ACK:
            self.close()
            raise MeasurementError(f"the service did not accept {name}")

    def send(self, data: bytes) -> None:
        """Send whole frames."""
        self._socket.sendall(data)

    def receive(self) -> bytes:
        """Return the payload of the next frame."""
        size = self._input.read(2)[1]
        if size == 126:
            size = struct.unpack(">H", self._input.read(2))[0]
        return self._input.read(size)

    def close(self) -> None:
        """Leave without a word."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._input.close()
        self._socket.close()


def masked(message: bytes) -> bytes:
    """Return a message as a client's binary frame (RFC 6455, section 5.2) with a mask of zeros."""
    size = len(message)
    head = bytes((0x82, 0x80 | size)) if size < 126 else struct.pack(">BBH", 0x82, 0x80 | 126, size)
    return head + bytes(4) + message


def offer(target: str) -> bytes:
    """Return a large SIGNAL_OFFER in the BINARY layout."""
    body = bytes((len(target),)) + target.encode() + b"v" * SDP_BYTES
    return frames.HEADER.pack(frames.START, frames.SIGNAL_OFFER, bytes(16), BINARY_PAYLOAD, len(body)) + body


def client_id(number: int) -> str:
    """Return the client id of one that does not read."""
    return f"stalled-{number}"


def measure(server: Server, clients: int, *, seconds: float, report: Callable[[str], None]) -> Flood:
    """Send to `clients` that do not read for `seconds`; a client that is closed reconnects and does not read again.

    Raises:
        MeasurementError: the service did not do what it must.
    """
    time.sleep(1.0)
    before = peak = resident_bytes(server.pid)
    sent = closed = 0
    heartbeat = masked(frames.HEADER.pack(frames.START, HEARTBEAT, bytes(16), BINARY_PAYLOAD, 8) + bytes(8))
    with ExitStack() as stack:
        report(f"connecting {clients} clients that do not read")
        talker = stack.enter_context(_connected(server.port, TALKER))
        stalled: list[Client] = []
        stack.callback(_close_all, stalled)
        stalled += (Client(server.port, client_id(number)) for number in range(clients))
        batches = [masked(offer(client_id(number))) * BATCH + heartbeat for number in range(clients)]
        report(f"sending to them for {seconds:g} s")
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            for number, batch in enumerate(batches):
                talker.send(batch)
                sent += len(batch)
                if _was_refused(talker):
                    closed += 1
                    stalled[number].close()
                    stalled[number] = Client(server.port, client_id(number))
            peak = max(peak, resident_bytes(server.pid))
    time.sleep(SETTLE_SECONDS)
    return Flood(
        clients=clients,
        seconds=seconds,
        sent_bytes=sent,
        closed=closed,
        rss_before_bytes=before,
        rss_peak_bytes=peak,
        rss_after_bytes=resident_bytes(server.pid),
        kib_per_client=(peak - before) / clients / 1024,
    )


def _close_all(clients: list[Client]) -> None:
    for client in clients:
        client.close()


@contextmanager
def _connected(port: int, name: str) -> Iterator[Client]:
    client = Client(port, name)
    try:
        yield client
    finally:
        client.close()


def _was_refused(talker: Client) -> bool:
    """Read up to the answer to the heartbeat, and tell whether offers before it found nobody."""
    refused = False
    while (answer := talker.receive()[1]) != HEARTBEAT_ACK:
        if answer != ERROR:
            raise MeasurementError(f"the talker got a message it did not expect: {answer:#04x}")
        refused = True
    return refused


def _table(flood: Flood) -> Table:
    table = Table(
        title=f"{flood.clients:,} clients that do not read, for {flood.seconds:g} s",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        show_header=False,
        pad_edge=False,
    )
    table.add_column()
    table.add_column(justify="right")
    for label, figure in (
        ("sent to them, MiB", f"{flood.sent_bytes / 2**20:,.0f}"),
        ("connections closed", f"{flood.closed:,}"),
        ("memory before, MiB", f"{flood.rss_before_bytes / 2**20:,.1f}"),
        ("memory at its peak, MiB", f"{flood.rss_peak_bytes / 2**20:,.1f}"),
        ("memory afterwards, MiB", f"{flood.rss_after_bytes / 2**20:,.1f}"),
        ("growth per client, KiB", f"{flood.kib_per_client:,.1f}"),
    ):
        table.add_row(label, figure)
    return table


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.slow_consumers -n 50 --seconds 5")
def main(
    *,
    clients: Annotated[int, typer.Option("--clients", "-n", min=1, help="Clients that do not read.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds that others send to them.")] = 15.0,
    json_target: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="File to write the results to as JSON; - is standard output, without the table.",
        ),
    ] = None,
) -> None:
    """Measure the memory that clients cost if they stop reading while others send to them at full speed.

    Each of them may have `server.outbound_queue_bytes` (1 MiB) waiting and is closed beyond that; then it comes back
    and stops reading again. Memory may grow by as much for each, and not with time.
    """
    end_on_sigterm()
    screen = Console(stderr=True, highlight=False)
    tokens = dict.fromkeys((TALKER, *(client_id(number) for number in range(clients))), TOKEN)
    try:
        with service(tokens, core=cores()[0]) as server:
            flood = measure(server, clients, seconds=seconds, report=screen.print)
    except (MeasurementError, OSError) as error:
        screen.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    if json_target is not None:
        write_json({"benchmark": "slow_consumers", "machine": machine(), "results": asdict(flood)}, json_target)
    if json_target != "-":
        Console().print(_table(flood))


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.slow_consumers")
