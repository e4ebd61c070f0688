"""What is fuzzed: each target takes any bytes, and raises nothing but what it promises to refuse them with.

A target that needs more than bytes takes the first byte as its choice. Seeds give the fuzzer something that is right to
begin with: the golden frames of docs/vectors.json, and a few small descriptions and tokens.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from signal_manager.auth.token_report import inspect_token
from signal_manager.bus.nats.protocol import NatsProtocolError, Parser, read_credentials
from signal_manager.bus.nats.wire import read_batch
from signal_manager.errors import MalformedMessageError
from signal_manager.gateway.limits import TrustedProxies, address_of, is_from_this_machine
from signal_manager.protocol import heartbeat, relay
from signal_manager.protocol.codec import decode_payload
from signal_manager.protocol.framing import HEAD, Framing, decode_frame
from signal_manager.protocol.journal import Budget
from signal_manager.protocol.messages import MessageType, PayloadType, Peer, Shape
from signal_manager.protocol.resume import ClientSession
from signal_manager.rooms.room_log import read_change
from signal_manager.service.config import load_even_if_wrong
from signal_manager.sfu.keyframes import starts_key_frame
from signal_manager.sfu.sdp import SdpError, parse
from signal_manager.sfu.twcc import transport_number
from signal_manager.storage.documents import CLIENTS, MEDIA, NODES, ROOMS, SESSIONS, Kind, decode

__all__ = ["TARGETS", "seeds"]

_VECTORS = Path(__file__).parents[1] / "docs" / "vectors.json"
_FRAMINGS = tuple(Framing)
_ENDS = [
    relay.RelayEnd("peer", framing, payload_type, shape)
    for framing in (Framing.V1, Framing.V2)
    for payload_type in PayloadType
    for shape in Shape
]
_CODECS = ("VP8", "VP9", "H264", "H265", "AV1")
_NATS = (
    b'INFO {"max_payload": 1048576, "headers": true, "nonce": "abc", "connect_urls": ["10.0.0.2:4222"]} \r\n'
    b"PING\r\nPONG\r\n+OK\r\nMSG a.b 1 5\r\nhello\r\nMSG a.b 12 r.1 0\r\n\r\n"
    b"HMSG a 2 r.2 16 16\r\nNATS/1.0 503\r\n\r\n\r\n-ERR 'Permissions Violation for Publish to \"a\"'\r\n"
    b"-----BEGIN NATS USER JWT-----\nabc.def.ghi\n------END NATS USER JWT------\n"
    b"-----BEGIN USER NKEY SEED-----\nSUABCDEF\n------END USER NKEY SEED------\n"
)
_SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\na=fingerprint:sha-256 "
    + ":".join(["AA"] * 32)
    + "\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\na=setup:actpass\r\n"
    "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\n"
    "a=rtpmap:111 opus/48000/2\r\na=ssrc:1 cname:a\r\n"
)


def frame(data: bytes) -> None:
    """A WebSocket message of either side, in any framing."""
    framing = _FRAMINGS[data[0] % len(_FRAMINGS)] if data else Framing.V1
    with contextlib.suppress(MalformedMessageError):
        found = decode_frame(framing, data[1:])
        for peer in Peer:
            with contextlib.suppress(MalformedMessageError):
                decode_payload(found.message_type, found.payload_type, found.payload, sent_by=peer)


def payload(data: bytes) -> None:
    """A payload of any message and any payload type."""
    if len(data) < 2:
        return
    message_type = tuple(MessageType)[data[0] % len(MessageType)]
    payload_type = tuple(PayloadType)[data[1] % len(PayloadType)]
    for peer in Peer:
        with contextlib.suppress(MalformedMessageError):
            decode_payload(message_type, payload_type, data[2:], sent_by=peer)


def relayed(data: bytes) -> None:
    """A signal or a heartbeat on the short way, from each sender to each receiver."""
    for sender in _ENDS:
        heartbeat.read(data, sender)
        signal = sender.read(data)
        if signal is not None:
            for receiver in _ENDS:
                receiver.write(data[:HEAD], signal.signal_data, sender)


def saved_session(data: bytes) -> None:
    """A session that another process has saved."""
    with contextlib.suppress(MalformedMessageError):
        ClientSession.load(data, window=1.0, limit=1024, budget=Budget(4096), now=0.0)


def batch(data: bytes) -> None:
    """What another node writes."""
    with contextlib.suppress(MalformedMessageError):
        read_batch(data)
    read_change(data)


def nats(data: bytes) -> None:
    """What nats-server sends, in pieces, and a credentials file."""
    size, parser = (data[0] + 1 if data else 1), Parser()
    with contextlib.suppress(NatsProtocolError):
        for start in range(1, len(data), size):
            parser.feed(data[start : start + size])
    with contextlib.suppress(ValueError):
        read_credentials(data)


def description(data: bytes) -> None:
    """A client's SDP."""
    with contextlib.suppress(SdpError):
        parse(data.decode(errors="replace"), max_size=65_536)


def media(data: bytes) -> None:
    """A packet of RTP: whether a picture begins, and its number."""
    if data:
        starts_key_frame(_CODECS[data[0] % len(_CODECS)], data[1:])
    if len(data) >= 4:
        transport_number(data, 0, len(data), 3)


def token(data: bytes) -> None:
    """A token given to `signal-manager token --inspect`."""
    inspect_token(data.decode(errors="replace"), secret="a secret of at least 32 bytes, for HS256", now=0.0)


def headers(data: bytes) -> None:
    """The headers of a handshake that say where it comes from."""
    words = data.decode("latin-1").split("\n")
    pairs = [(name, value) for name, value in zip(words[::2], words[1::2], strict=False)]
    for listens_beyond in (False, True):
        is_from_this_machine(pairs, listens_beyond=listens_beyond)
    for word in words:
        address_of(word)
        TrustedProxies(["127.0.0.0/8"]).client("127.0.0.1", [word])


def configuration(data: bytes) -> None:
    """A configuration file, and variables."""
    variables = dict(line.split("=", 1) for line in data.decode("latin-1").split("\n") if "=" in line)
    with _file(data) as path:
        load_even_if_wrong(path, environ=variables)


def document(data: bytes) -> None:
    """A record that the store holds."""
    kinds: tuple[Kind[Any], ...] = (CLIENTS, MEDIA, NODES, ROOMS, SESSIONS)
    for kind in kinds:
        with contextlib.suppress(ValueError, RecursionError):  # what its reader takes for a damaged record
            decode(kind, "key", data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__.replace("_", "-"): target
    for target in (
        frame,
        payload,
        relayed,
        saved_session,
        batch,
        nats,
        description,
        media,
        token,
        headers,
        configuration,
        document,
    )
}


def seeds(name: str) -> list[bytes]:
    """Return inputs that a target understands, for a fuzzer to begin with."""
    vectors = json.loads(_VECTORS.read_text(encoding="utf-8"))
    frames = [(vector["framing"], _bytes_of(vector)) for vector in (*vectors["frames"], *vectors["malformed"])]
    match name:
        case "frame":
            return [bytes([_FRAMINGS.index(Framing(framing))]) + data for framing, data in frames]
        case "payload":
            return [
                bytes([data[1], data[18]]) + data[21:] for framing, data in frames if framing == "v1" and len(data) > 21
            ]
        case "relayed":
            return [data for _, data in frames]
        case "nats":
            return [size + _NATS for size in (b"\x00", b"\x06", b"\xff")]
        case "description":
            return [_SDP.encode()]
        case "token":
            return [b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIiwiZXhwIjoxfQ.c2ln"]
        case "headers":
            return [b"Host\nlocalhost:8080\nOrigin\nhttp://[::1]:8080\nX-Forwarded-For\n192.0.2.1, ::1"]
        case "configuration":
            return [b'[server]\nport = 1\n[auth]\napi_keys = ["a:b"]\n', b"SIGNAL_MANAGER_SERVER_PORT=1"]
        case "document":
            return [b'{"room_id": "r", "is_active": true, "participants": [], "created_at": 1.5}']
        case _:
            return [b"\x00" * 16]


def _bytes_of(vector: dict[str, str]) -> bytes:
    return bytes.fromhex(vector["hex"]) if "hex" in vector else vector["text"].encode()


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[Path]:
    number, name = tempfile.mkstemp(suffix=".toml")
    try:
        os.write(number, data)
        os.close(number)
        yield Path(name)
    finally:
        Path(name).unlink()
