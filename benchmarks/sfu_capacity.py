"""How many packets a second does one core of the local SFU carry, and what do several workers add?

The clients are a few lines on plain sockets, with DTLS and SRTP but without codecs. Members of a room send sound (50
packets a second) and a picture (45 packets of 1,000 bytes), and receive that of all others. What counts is the CPU time
of the SFU for each forwarded packet, because clients and SFU share this machine.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
import uvloop
from aioice import stun
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.processes import (
    MeasurementError,
    child_processes,
    cores,
    cpu_seconds,
    end_on_sigterm,
    free_port,
    pinned,
    running,
)
from benchmarks.results import machine, write_json
from benchmarks.sfu import Http
from benchmarks.sfu_server import APP_ID, APP_SECRET
from signal_manager.sfu.dtls import Certificate
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.secure_transport import Handshakes, SecureTransport

__all__ = ["app"]

SOUNDS, PICTURES = 50, 45
SOUND_BYTES, PICTURE_BYTES = 80, 1000
WARM_UP_SECONDS = 2.0
# The project's bar for two workers.
LEAST_OF_TWO = 1.8

CODECS = {
    "video": ("96 97", ["a=rtpmap:96 VP8/90000", "a=rtcp-fb:96 nack", "a=rtpmap:97 rtx/90000", "a=fmtp:97 apt=96"]),
    "audio": ("111", ["a=rtpmap:111 opus/48000/2"]),
}


@dataclass(frozen=True)
class Load:
    """What the SFU carried."""

    members: int
    rooms: int
    workers: int
    forwarded_per_second: float
    sent_share: float  # of what the members' plan was
    missed: int  # by the SFU, because its socket was full
    arrived_share: float
    cpu_percent: float
    microseconds: float

    @property
    def per_core(self) -> float:
        """Return the packets a second that one core could forward."""
        return 1e6 / self.microseconds


class Client:
    """One session: a UDP socket with ICE, DTLS and SRTP, which is all that the SFU's `SecureTransport` asks for."""

    def __init__(self, port: int, certificate: Certificate) -> None:
        self._port = port
        self._fingerprint = certificate.fingerprint
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.session = ""
        self.received = self.sent = 0
        self.address: tuple[str, int] | None = None
        self.on_srtp: Any = None
        self.on_dtls: Any = None
        self._checked = asyncio.Event()
        self.transport = SecureTransport(
            self,  # type: ignore[arg-type]  # it needs no more of an endpoint than this
            certificate=certificate,
            handshakes=Handshakes(1000, time_limit=30.0),
            counters=Counters(),
        )
        self._up = asyncio.Event()
        self.transport.on_connected = self._up.set

    def send(self, data: bytes) -> None:
        """Send one datagram to the SFU."""
        with suppress(OSError):
            self._socket.send(data)
            self.sent += 127 < data[0] < 192

    def _readable(self) -> None:
        for _ in range(256):
            try:
                data = self._socket.recv(2048)
            except OSError:
                return
            if 127 < data[0] < 192:
                self.received += not 191 < data[1] < 224
            elif data[0] < 4:
                self._checked.set()
            else:
                self.on_dtls(data)

    async def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        # A connection for each call: while a full SFU lets others wait, an idle one would be closed.
        http = await Http.open(self._port)
        try:
            return await http.call(method, path, body)
        finally:
            http.close()

    async def open(self, room: str) -> None:
        """Open a session for a room."""
        self.session = (await self._call("POST", f"/new?correlationId={room}"))["sessionId"]

    async def connect(self, sdp: str) -> None:
        """Connect to the SFU that described itself so, and stay so."""
        ufrag = _found(r"a=ice-ufrag:(\S+)", sdp)
        password = _found(r"a=ice-pwd:(\S+)", sdp)
        self.address = ("127.0.0.1", int(_found(r"a=candidate:.* (\d+) typ host", sdp)))
        self._socket.connect(self.address)
        asyncio.get_running_loop().add_reader(self._socket, self._readable)
        for _ in range(60):  # like ICE, since a check is lost where the SFU's socket is full
            self._check(ufrag, password)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._checked.wait(), 0.5)
                break
        self.transport.expect((("sha-256", _found(r"a=fingerprint:sha-256 (\S+)", sdp)),), is_client=True)
        await asyncio.wait_for(self._up.wait(), 30)
        self._keeping = asyncio.create_task(self._keep(ufrag, password), name="keep")

    async def _keep(self, ufrag: str, password: str) -> None:
        while True:
            await asyncio.sleep(2.5)
            self._check(ufrag, password)

    def _check(self, ufrag: str, password: str) -> None:
        attributes = {"USERNAME": f"{ufrag}:abcd", "PRIORITY": 1, "ICE-CONTROLLING": 1, "USE-CANDIDATE": None}
        request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes=attributes)
        request.add_message_integrity(password.encode())
        self.send(bytes(request))

    def describe(self, kind: str, sections: list[list[str]]) -> dict[str, str]:
        """Return a description of these sections."""
        lines = ["v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0", f"a=fingerprint:sha-256 {self._fingerprint}"]
        lines += ["a=ice-ufrag:abcd", "a=ice-pwd:0123456789abcdefghijkl"]
        lines.append("a=setup:" + ("actpass" if kind == "offer" else "active"))
        for section in sections:
            lines += section
        return {"type": kind, "sdp": "\r\n".join(lines) + "\r\n"}

    async def publish(self) -> None:
        """Publish sound and picture."""
        self.ssrcs = {"audio": secrets.randbits(31), "video": secrets.randbits(31)}
        sections = []
        for mid, kind in enumerate(("audio", "video")):
            formats, codec = CODECS[kind]
            head = [f"m={kind} 9 UDP/TLS/RTP/SAVPF {formats}", "c=IN IP4 0.0.0.0", f"a=mid:{mid}", "a=sendonly"]
            sections.append([*head, "a=rtcp-mux", *codec, f"a=ssrc:{self.ssrcs[kind]} cname:x"])
        items = [{"location": "local", "mid": str(mid), "trackName": name} for mid, name in enumerate(CODECS_NAMES)]
        body = {"sessionDescription": self.describe("offer", sections), "tracks": items}
        answer = await self._call("POST", f"/{self.session}/tracks/new", body)
        await self.connect(answer["sessionDescription"]["sdp"])

    async def pull(self, publishers: list[Client]) -> None:
        """Receive what these publish."""
        items = [
            {"location": "remote", "sessionId": publisher.session, "trackName": name}
            for publisher in publishers
            for name in CODECS_NAMES
        ]
        offer = await self._call("POST", f"/{self.session}/tracks/new", {"tracks": items})
        if any("errorCode" in track for track in offer["tracks"]):
            raise MeasurementError(f"a pull failed: {offer['tracks']}")
        sdp = offer["sessionDescription"]["sdp"]
        sections: list[list[str]] = []
        for line in sdp.split("\r\n"):
            if line.startswith("m="):
                sections.append([line, "a=recvonly", "a=rtcp-mux"])
            elif sections and line.startswith(("a=mid", "a=rtpmap", "a=fmtp", "a=rtcp-fb")):
                sections[-1].append(line)
        body = {"sessionDescription": self.describe("answer", sections)}
        await self._call("PUT", f"/{self.session}/renegotiate", body)
        await self.connect(sdp)

    async def play(self) -> None:
        """Send sound and picture, evenly, for as long as this runs; a picture begins with every packet."""
        begin, sent = time.perf_counter(), {"audio": 0, "video": 0}
        plan = (("audio", 111, SOUNDS, bytes(SOUND_BYTES)), ("video", 96, PICTURES, b"\x10" + bytes(PICTURE_BYTES - 1)))
        while True:
            elapsed = time.perf_counter() - begin
            for kind, payload_type, rate, body in plan:
                while sent[kind] < elapsed * rate:
                    number = sent[kind]
                    sent[kind] += 1
                    head = struct.pack("!BBHLL", 0x80, payload_type, number & 0xFFFF, number * 960, self.ssrcs[kind])
                    self.transport.send_rtp(head + body)
            await asyncio.sleep(0.01)


CODECS_NAMES = ("sound", "picture")


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise MeasurementError(f"the SFU's description has no {pattern}")
    return match[1]


async def metrics(port: int) -> dict[str, float]:
    """Return the SFU's figures, those of all workers together."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: sfu\r\nconnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("sfu_"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


async def measure(pid: int, port: int, *, members: int, rooms: int, workers: int, seconds: float) -> Load:
    """Fill rooms, and take what the SFU's processes use."""
    certificate = Certificate()
    players, receivers = [], []
    for number in range(rooms):
        publishers = [Client(port, certificate) for _ in range(members)]
        for client in publishers:
            await client.open(f"room-{number}")
            await client.publish()
            players.append((client, asyncio.create_task(client.play())))
        await asyncio.sleep(0.1)
        for client in publishers:
            receiver = Client(port, certificate)
            await receiver.open(f"room-{number}")
            await receiver.pull([other for other in publishers if other is not client])
            receivers.append(receiver)
    await asyncio.sleep(WARM_UP_SECONDS)
    pids = [pid, *child_processes(pid)] if workers > 1 else [pid]
    before, cpu, begin = await metrics(port), sum(map(cpu_seconds, pids)), time.perf_counter()
    received = sum(receiver.received for receiver in receivers)
    sent = sum(client.sent for client, _ in players)
    await asyncio.sleep(seconds)
    after, used, took = await metrics(port), sum(map(cpu_seconds, pids)) - cpu, time.perf_counter() - begin
    received = sum(receiver.received for receiver in receivers) - received
    sent = sum(client.sent for client, _ in players) - sent
    for _, player in players:
        player.cancel()
    forwarded = after["sfu_packets_forwarded_total"] - before["sfu_packets_forwarded_total"]
    planned = rooms * members * (SOUNDS + PICTURES) * took
    missed = after["sfu_datagrams_missed_total"] - before["sfu_datagrams_missed_total"]
    return Load(
        members=members,
        rooms=rooms,
        workers=workers,
        forwarded_per_second=forwarded / took,
        sent_share=sent / planned,
        missed=round(missed),
        arrived_share=received / (planned * (members - 1)),
        cpu_percent=100 * used / took,
        microseconds=1e6 * used / forwarded,
    )


def command(port: int, workers: int) -> list[str]:
    """Return how the SFU is started."""
    if workers == 1:
        return [sys.executable, "-m", "benchmarks.sfu_server", str(port)]
    options = [
        "--port",
        str(port),
        "--workers",
        str(workers),
        "--app-id",
        APP_ID,
        "--app-secret",
        APP_SECRET,
        "--max-packets-per-second",
        "1000000",
    ]
    return [sys.executable, "-m", "signal_manager", "sfu", *options]


def show(loads: list[Load], console: Console) -> bool:
    """Print what was measured, and tell whether the bar holds."""
    table = Table(
        "workers",
        "rooms",
        "packets/s",
        "sent",
        "missed",
        "arrived",
        "CPU",
        "us/packet",
        "packets/s for a core",
        box=SIMPLE_HEAD,
    )
    for load in loads:
        table.add_row(
            str(load.workers),
            f"{load.rooms} of {load.members}",
            f"{load.forwarded_per_second:.0f}",
            f"{100 * load.sent_share:.1f} %",
            str(load.missed),
            f"{100 * load.arrived_share:.1f} %",
            f"{load.cpu_percent:.0f} %",
            f"{load.microseconds:.1f}",
            f"{load.per_core:.0f}",
        )
    console.print(table)
    one = [load for load in loads if load.workers == 1 and load.rooms == 2]
    two = [load for load in loads if load.workers == 2]
    if not one or not two:
        return True
    ratio = 2 * one[0].microseconds / two[0].microseconds
    console.print(f"two workers on two cores carry {ratio:.2f} times what one does, by CPU time for each packet")
    return ratio >= LEAST_OF_TWO


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.sfu_capacity --members 4 --members 10")
def main(
    seconds: Annotated[float, typer.Option(help="Seconds that each figure is measured.")] = 8.0,
    members: Annotated[list[int] | None, typer.Option(help="Members of one room; may be repeated.")] = None,
    json_file: Annotated[
        str, typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output.")
    ] = "",
    check: Annotated[bool, typer.Option(help="Exit with status 1 if a bar is missed.")] = False,
) -> None:
    """Measure the packets per second that one core of the local SFU carries, and what workers add."""
    end_on_sigterm()
    loads = []
    plans = [(1, 1, count) for count in members or (4, 8, 12, 16)] + [(1, 2, 6), (2, 2, 6)]
    own, others = cores()
    try:
        for workers, rooms, count in plans:
            port = free_port()
            core = own if workers == 1 else None
            with running(command(port, workers), port=port, core=core) as pid, pinned(others):
                taking = measure(pid, port, members=count, rooms=rooms, workers=workers, seconds=seconds)
                loads.append(uvloop.run(taking))
    except MeasurementError as error:
        raise SystemExit(str(error)) from None
    holds = show(loads, Console(stderr=json_file == "-", width=110))
    if json_file:
        write_json({"machine": machine(), "loads": [asdict(load) for load in loads]}, json_file)
    if check and not holds:
        raise SystemExit(1)


if __name__ == "__main__":
    app()
