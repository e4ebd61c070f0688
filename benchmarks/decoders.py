"""How long can one message, or one description, of a stranger keep the service from everything else?

The shapes are the worst that the table "Shapes" of docs/operations.md lists: as many values as a message may hold, and
as many bytes. Nothing is started: what is timed are the functions that the service calls, alone in this process.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.results import machine, write_json
from signal_manager.errors import SignalManagerError
from signal_manager.model import Grants
from signal_manager.protocol import relay
from signal_manager.protocol.codec import decode_payload, signal_manager_pb2
from signal_manager.protocol.codec.bounds import MAX_REQUEST, MAX_VALUES
from signal_manager.protocol.framing import Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import MAX_SDP, MessageType, PayloadType, Peer, Shape
from signal_manager.sfu import sdp

__all__ = ["Figure", "app", "measure"]

MIB = 1 << 20
# Less than `server.max_message_size` by what surrounds it.
SIZE = MIB - 256
# What one message may take, and one description (ms of CPU).
MESSAGE_BAR = 20.0
SDP_BAR = 100.0
OTHER_BAR = 20.0
ID = bytes(16)


@dataclass(frozen=True)
class Figure:
    """What one shape costs; `bar` is what it may."""

    what: str
    shape: str
    size: int
    outcome: str
    cpu_ms: float
    bar_ms: float

    @property
    def is_within(self) -> bool:
        """Whether the bar holds."""
        return self.cpu_ms <= self.bar_ms


def _filled(unit: bytes, size: int, *, opens: bytes = b"[", closes: bytes = b"]", most: int = 10**9) -> bytes:
    """Return an array of so many of these values as fit."""
    count = min(most, (size - 2) // (len(unit) + 1))
    return opens + b",".join([unit] * count) + closes


def json_values(size: int) -> dict[str, bytes]:
    """Return the JSON values that cost most: within the bound on values, and far beyond it."""
    few = MAX_VALUES - 16
    deep = b"[" * 58 + b"]" * 58
    return {
        "a text of commas": b'"' + b"," * (size - 2) + b'"',
        "a text of escapes": b'"' + b"\\u00e9" * ((size - 2) // 6) + b'"',
        "a text of four-byte characters": b'"' + "😀".encode() * ((size - 2) // 4) + b'"',
        "a text of brackets, and quotes": b'"' + b'[\\"' * ((size - 2) // 3) + b'"',
        "numbers, as many as may be": _filled(b"1", size, most=few),
        "arrays within arrays, as many as may be": _filled(deep, size, most=few // 58),
        "objects, as many as may be": _filled(b"{}", size, most=few),
        "keys, as many as may be": b"{" + b",".join(b'"%x":1' % number for number in range(few)) + b"}",
        "numbers next to nothing": _filled(b"1." + b"7" * 400 + b"e-300", size, most=few // 32),
        "texts full of commas, as many as may be": _filled(b'"' + b"," * 60 + b'"', size, most=few),
        "numbers, too many": _filled(b"1", size),
        "arrays, too many": _filled(b"[]", size),
        "arrays within arrays, too many": _filled(deep, size),
        "numbers next to nothing, too many": _filled(b"1.234567890123456789e-300", size),
        "short texts, too many": _filled(b'""', size),
        "fractions of many zeros": _filled(b"0." + b"0" * 300 + b"1", size),
        "a number of many digits": b"0." + b"1" * (size - 2),
        "white space": b" " * (size - 1) + b"1",
        "brackets without end": b"[" * size,
    }


def cbor_items(size: int) -> dict[str, bytes]:
    """Return the CBOR items that cost most."""
    few = MAX_VALUES - 16

    def of(item: bytes, count: int) -> bytes:
        count = min(count, (size - 5) // len(item))
        return b"\x9a" + count.to_bytes(4, "big") + item * count

    return {
        "numbers, as many as may be": of(b"\x01", few),
        "arrays within arrays, as many as may be": of(b"\x81" * 57 + b"\x80", few // 58),
        "maps, as many as may be": of(b"\xa0", few),
        "simple values, as many as may be": of(b"\xe0", few),
        "texts, as many as may be": of(b"\x78\x30" + b"a" * 48, few),
        "pieces of a text, as many as may be": b"\x7f" + b"\x61a" * few + b"\xff",
        "keys, as many as may be": b"\xb9"
        + (few // 2).to_bytes(2, "big")
        + b"".join(b"\x64%04x\x01" % number for number in range(few // 2)),
        "numbers, too many": of(b"\x01", size),
        "arrays within arrays, too many": of(b"\x81" * 57 + b"\x80", size),
        "pieces of a text, too many": b"\x7f" + b"\x60" * (size - 2) + b"\xff",
        "one text": b"\x7a" + (size - 5).to_bytes(4, "big") + b"a" * (size - 5),
        "tags": b"\xc1" * size,
    }


def payloads() -> Iterator[tuple[str, str, MessageType, PayloadType, bytes]]:
    """Yield payloads of every type: what reads it, its shape, and what it is."""
    signal, register = MessageType.SIGNAL_MESSAGE, MessageType.REGISTER
    for shape, value in json_values(SIZE - 64).items():
        plain = b'{"target_client_id":"a","signal_data":%b}' % value
        yield "JSON signal", shape, signal, PayloadType.JSON, plain
        yield "JSON signal, tagged", shape, MessageType.SIGNAL_OFFER, PayloadType.JSON, b'{"SignalOffer":%b}' % plain
        yield "PROTOBUF signal", shape, signal, PayloadType.PROTOBUF, _protobuf("SignalMessage", "signal_json", value)
    for shape, value in json_values(MAX_REQUEST - 128).items():
        yield "JSON REGISTER", shape, register, PayloadType.JSON, b'{"metadata":{"a":%b}}' % value
        unknown = b'{"timestamp":1,"nobody knows this":%b}' % value
        yield "JSON HEARTBEAT", shape, MessageType.HEARTBEAT, PayloadType.JSON, unknown
        yield "PROTOBUF REGISTER", shape, register, PayloadType.PROTOBUF, _protobuf("Register", "metadata", value)
    for shape, value in json_values(65_000).items():
        if len(value) > 0xFFFF:
            continue
        layout = b"\x011\x00\x00\x00" + len(value).to_bytes(2, "big") + value
        yield "BINARY REGISTER", shape, register, PayloadType.BINARY, layout
    for shape, item in cbor_items(SIZE - 64).items():
        head = b"\xa2\x70target_client_id\x61a\x6bsignal_data"
        yield "CBOR signal", shape, signal, PayloadType.CBOR, head + item
        tagged = b"\xa1\x6bSignalOffer" + head + item
        yield "CBOR signal, tagged", shape, MessageType.SIGNAL_OFFER, PayloadType.CBOR, tagged
    for shape, item in cbor_items(MAX_REQUEST - 64).items():
        yield "CBOR REGISTER", shape, register, PayloadType.CBOR, b"\xa1\x68metadata\xa1\x61a" + item
    full = MAX_REQUEST
    yield (
        "JSON REGISTER",
        "capabilities",
        register,
        PayloadType.JSON,
        _filled(b'""', full - 32, opens=b'{"capabilities":[', closes=b"]}", most=MAX_VALUES - 16),
    )
    yield "PROTOBUF TRACKS_NEW", "empty tracks", MessageType.TRACKS_NEW, PayloadType.PROTOBUF, _in_list(5, full)
    yield "PROTOBUF REGISTER", "empty capabilities", register, PayloadType.PROTOBUF, _in_list(5, full)
    yield "PROTOBUF REGISTER", "one field again and again", register, PayloadType.PROTOBUF, b"\x0a\x00" * (full // 2)
    yield "PROTOBUF signal", "unknown fields", signal, PayloadType.PROTOBUF, b"\xf8\x01\x01" * (SIZE // 3)
    yield "TEXT signal", "one text", signal, PayloadType.TEXT, b"a:" + "😀".encode() * (SIZE // 4)
    yield "TEXT REGISTER", "colons", register, PayloadType.TEXT, b":" * full
    yield "BINARY signal", "bytes", signal, PayloadType.BINARY, b"\x01a" + b"\xff" * SIZE


def _protobuf(message: str, field: str, value: bytes) -> bytes:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return b""
    fields = {"target_client_id": "a"} if field == "signal_json" else {}
    wire = getattr(signal_manager_pb2, message)(**fields, **{field: text})
    return bytes(wire.SerializeToString())


def _in_list(field: int, size: int) -> bytes:
    """Return a Protobuf list, in this field, of as many empty items as fit."""
    items = b"\x0a\x00" * ((size - 8) // 2)
    length, head = len(items), b""
    while length > 0x7F:
        head += bytes((length & 0x7F | 0x80,))
        length >>= 7
    return bytes((field << 3 | 2,)) + head + bytes((length,)) + items


def text_frames() -> Iterator[tuple[str, bytes]]:
    """Yield whole messages in json framing whose envelope is what costs."""
    for shape, value in json_values(SIZE - 64).items():
        yield f"unknown: {shape}", b'{"type":"HEARTBEAT","nobody knows this":%b}' % value
        yield f"id: {shape}", b'{"type":"HEARTBEAT","id":%b}' % value
        yield f"type: {shape}", b'{"type":%b}' % value
    keys = b",".join(b'"%x":1' % number for number in range(SIZE // 10))
    yield "unknown keys", b'{"type":"HEARTBEAT",%b}' % keys


_HEAD = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
_TRANSPORT = (
    "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\na=setup:actpass\r\na=fingerprint:sha-256 "
    + ":".join(["AB"] * 32)
)


def descriptions(size: int = MAX_SDP) -> dict[str, str]:
    """Return the descriptions that cost most to read."""
    formats = " ".join(str(number) for number in range(96, 128))

    def section(kind: str, mid: str, numbers: str, *lines: str) -> str:
        head = f"m={kind} 9 UDP/TLS/RTP/SAVPF {numbers}\r\na=mid:{mid}\r\n{_TRANSPORT}\r\n"
        return head + "".join(line + "\r\n" for line in lines)

    def grown(text: str, line: str | Callable[[int], str]) -> str:
        lines = [text]
        length = len(text)
        while True:
            each = (line if isinstance(line, str) else line(len(lines))) + "\r\n"
            length += len(each)
            if length > size:
                return "".join(lines)
            lines.append(each)

    maps = [f"a=rtpmap:{number} VP8/90000" for number in range(96, 128)]
    many = " ".join(["111"] * 60_000)
    numbers = random.Random(1)  # the same shapes each time
    return {
        "feedback for every format": grown(_HEAD + section("video", "0", formats, *maps), "a=rtcp-fb:* nack"),
        "formats without end": _HEAD + section("video", "0", many, "a=rtpmap:111 VP8/90000", "a=rtcp-fb:111 nack"),
        "formats and feedback, half each": grown(
            _HEAD + section("video", "0", " ".join(["111"] * 30_000), "a=rtpmap:111 VP8/90000"), "a=rtcp-fb:111 nack"
        ),
        "sections without end": grown(_HEAD, lambda number: section("audio", str(number), "111").rstrip("\r\n")),
        "rejected sections": grown(_HEAD, lambda number: f"m=audio 0 RTP/SAVPF 0\r\na=mid:{number}"),
        "the shortest lines": grown(_HEAD + section("audio", "0", "0"), "a="),
        "streams": grown(_HEAD + section("video", "0", "96"), lambda number: f"a=ssrc:{number} a"),
        "layers": grown(_HEAD + section("video", "0", "96"), lambda number: f"a=rid:{number} send"),
        "layers, and an order of them": grown(
            _HEAD + section("video", "0", "96", "a=simulcast:send " + ";".join(str(n) for n in range(1, 25_000))),
            lambda number: f"a=rid:{number} send",
        ),
        "extensions": grown(_HEAD + section("video", "0", "96"), "a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid"),
        "formats' parameters": grown(
            _HEAD + section("video", "0", formats, *maps), lambda number: f"a=fmtp:{96 + number % 32} apt=96"
        ),
        "one long line": _HEAD + section("video", "0", "96", "a=" + "x" * (size - 600)),
        "white space": _HEAD + section("video", "0", "96", "a=x:" + " " * (size - 600)),
        "fingerprints": grown(_HEAD + section("audio", "0", "0"), "a=fingerprint:sha-256 " + ":".join(["AB"] * 32)),
        "noise": grown(_HEAD, lambda _: "a=" + "".join(chr(numbers.randrange(32, 127)) for _ in range(20))),
    }


def others() -> Iterator[tuple[str, str, Callable[[], object], int]]:
    """Yield what else reads strangers' text."""
    name = "a" * 127 + "b"
    patterns = ("*a" * 40 + "*c",) * 64
    grants = Grants(rooms=patterns, signal_to=patterns)
    yield "grants, may_enter", "stars in every pattern", partial(grants.may_enter, name), sum(map(len, patterns))


def _cpu_ms(call: Callable[[], object], rounds: int) -> tuple[float, str]:
    """Return the least that a call took, and how it ended."""
    best, outcome = float("inf"), "taken"
    for _ in range(rounds):
        began = time.process_time()
        try:
            call()
        except (SignalManagerError, sdp.SdpError):
            outcome = "refused"
        best = min(best, time.process_time() - began)
    return best * 1000, outcome


def _read(framing: Framing, data: bytes) -> None:
    frame = decode_frame(framing, data)
    decode_payload(frame.message_type, frame.payload_type, frame.payload, sent_by=Peer.CLIENT)


def measure(rounds: int) -> list[Figure]:
    """Time every shape."""
    figures = []

    def add(what: str, shape: str, size: int, bar: float, call: Callable[[], object]) -> None:
        cpu_ms, outcome = _cpu_ms(call, rounds)
        figures.append(Figure(what, shape, size, outcome, cpu_ms, bar))

    end = relay.RelayEnd("me", Framing.V2, PayloadType.JSON, Shape.PLAIN)
    for what, shape, message_type, payload_type, payload in payloads():
        if not payload:
            continue
        data = encode_frame(Framing.V2, message_type, ID, payload_type, payload)
        add(what, shape, len(data), MESSAGE_BAR, partial(_read, Framing.V2, data))
        if what.startswith("JSON signal"):
            add(f"{what}, the short way", shape, len(data), MESSAGE_BAR, partial(end.read, data))
    for shape, text in text_frames():
        add("json framing", shape, len(text), MESSAGE_BAR, partial(_read, Framing.JSON, text))
    for shape, description in descriptions().items():
        add("SDP", shape, len(description), SDP_BAR, partial(sdp.parse, description, max_size=MAX_SDP))
    for what, shape, call, size in others():
        add(what, shape, size, OTHER_BAR, call)
    return figures


def _table(figures: list[Figure], most: int) -> Table:
    worst = sorted(figures, key=lambda figure: figure.cpu_ms / figure.bar_ms, reverse=True)[:most]
    table = Table(
        title=f"What one message or description costs: the worst {len(worst)} of {len(figures)} shapes",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for heading, justify in (("read as", "left"), ("shape", "left"), ("KiB", "right"), ("", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]  # a literal of rich's
    for heading in ("CPU ms", "per MiB", "bar ms"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for figure in worst:
        table.add_row(
            figure.what,
            figure.shape,
            f"{figure.size / 1024:,.0f}",
            figure.outcome,
            f"{figure.cpu_ms:,.1f}",
            f"{figure.cpu_ms * MIB / figure.size:,.1f}",
            f"{figure.bar_ms:g}",
            "within" if figure.is_within else "over",
        )
    return table


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.decoders --rounds 1 --rows 10")
def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each shape is read; the fastest counts.")] = 3,
    rows: Annotated[int, typer.Option(min=1, help="Shapes in the table, the worst first.")] = 40,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 1 if a bar is missed.")] = False,
    json_target: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="File to write the results to as JSON; - is standard output, without the table.",
        ),
    ] = None,
) -> None:
    """Measure the longest time that one message or one description from a stranger can take."""
    figures = measure(rounds)
    if json_target is not None:
        results = [asdict(figure) for figure in figures]
        write_json({"benchmark": "decoders", "machine": machine(), "results": results}, json_target)
    if json_target != "-":
        Console().print(_table(figures, rows))
    if check and not all(figure.is_within for figure in figures):
        raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.decoders")
