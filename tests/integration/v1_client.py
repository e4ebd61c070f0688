"""A test client that speaks the wire protocol by hand, with struct, json and an independent WebSocket library.

It knows nothing of our codec or SDK, so what the integration tests prove of the service does not rest on the code that
the service is made of.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self
from uuid import UUID, uuid4

import cbor2
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

__all__ = [
    "ALICE",
    "BOB",
    "DIALECTS",
    "MESSAGE_TYPES",
    "NIL_ID",
    "ORIGINAL",
    "PAYLOAD_TYPES",
    "SIGNAL_TYPES",
    "Client",
    "Dialect",
    "RawSocket",
    "Received",
    "connect",
    "frame",
    "protobuf",
    "string8",
]

# The clients of the default configuration.
ALICE = ("test_client_1", "test_token_1")
BOB = ("test_client_2", "test_token_2")

# Far beyond anything that should happen, and short of a hanging test run.
TIME_LIMIT = 30.0
CLOSE_LIMIT = 10.0

NIL_ID = UUID(int=0)
MESSAGE_TYPES = {
    "CONNECT": 0x01,
    "CONNECT_ACK": 0x02,
    "DISCONNECT": 0x03,
    "HEARTBEAT": 0x04,
    "HEARTBEAT_ACK": 0x05,
    "GOAWAY": 0x06,
    "TOKEN_RENEW": 0x07,
    "TOKEN_RENEW_ACK": 0x08,
    "SIGNAL_OFFER": 0x10,
    "SIGNAL_ANSWER": 0x11,
    "SIGNAL_ICE_CANDIDATE": 0x12,
    "SIGNAL_MESSAGE": 0x13,
    "SIGNAL_ACK": 0x14,
    "REGISTER": 0x20,
    "REGISTER_ACK": 0x21,
    "UNREGISTER": 0x22,
    "UNREGISTER_ACK": 0x23,
    "WEBRTC_ROOM_CREATE": 0x30,
    "WEBRTC_ROOM_CREATE_ACK": 0x31,
    "WEBRTC_ROOM_JOIN": 0x32,
    "WEBRTC_ROOM_JOIN_ACK": 0x33,
    "WEBRTC_ROOM_LEAVE": 0x34,
    "WEBRTC_ROOM_LEAVE_ACK": 0x35,
    "ROOM_EVENT": 0x36,
    "ROOM_STATE": 0x38,
    "ROOM_STATE_ACK": 0x39,
    "METADATA_UPDATE": 0x3A,
    "METADATA_UPDATE_ACK": 0x3B,
    "TRACKS_NEW": 0x40,
    "TRACKS_NEW_ACK": 0x41,
    "RENEGOTIATE": 0x42,
    "RENEGOTIATE_ACK": 0x43,
    "TRACKS_CLOSE": 0x44,
    "TRACKS_CLOSE_ACK": 0x45,
    "TRACKS_UPDATE": 0x46,
    "TRACKS_UPDATE_ACK": 0x47,
    "DATACHANNELS_NEW": 0x48,
    "DATACHANNELS_NEW_ACK": 0x49,
    "ICE_SERVERS": 0x4A,
    "ICE_SERVERS_ACK": 0x4B,
    "TRACKS_MUTE": 0x4C,
    "TRACKS_MUTE_ACK": 0x4D,
    "ERROR": 0xFF,
}
PAYLOAD_TYPES = {"BINARY": 0x01, "JSON": 0x02, "TEXT": 0x03, "PROTOBUF": 0x04, "CBOR": 0x05}
SIGNAL_TYPES = ("SIGNAL_OFFER", "SIGNAL_ANSWER", "SIGNAL_ICE_CANDIDATE", "SIGNAL_MESSAGE")
# "SIGNAL_OFFER" is "SignalOffer" in the tagged shape; these have no variant there.
_WITHOUT_VARIANT = ("GOAWAY", "SIGNAL_MESSAGE", "SIGNAL_ACK")
_START_BYTES = {"v1": 0xAA, "v2": 0xAB}
_LENGTH_FORMATS = {"v1": ">H", "v2": ">I"}


# -- payloads by hand ------------------------------------------------------------------------------------------------


def string8(text: str | bytes) -> bytes:
    """Return a BINARY string: one byte of length, then its UTF-8."""
    data = text.encode() if isinstance(text, str) else text
    return bytes([len(data)]) + data


def protobuf(*fields: tuple[int, str | bytes]) -> bytes:
    """Return a Protobuf message of length-delimited fields, each given as (number, content)."""
    wire = b""
    for number, content in fields:
        data = content.encode() if isinstance(content, str) else content
        wire += _varint(number << 3 | 2) + _varint(len(data)) + data
    return wire


def read_protobuf(wire: bytes) -> dict[int, int | bytes]:
    """Return the last value of each varint and length-delimited field of a Protobuf message."""
    fields: dict[int, int | bytes] = {}
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = wire[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(wire):
        key = number()
        if key & 7 == 1:  # a double, which no test reads
            position += 8
        elif key & 7 == 0:
            fields[key >> 3] = number()
        else:
            size = number()
            fields[key >> 3] = wire[position : position + size]
            position += size
    return fields


def _varint(value: int) -> bytes:
    wire = b""
    while value > 0x7F:
        wire += bytes([value & 0x7F | 0x80])
        value >>= 7
    return wire + bytes([value])


def _variant(message_type: str) -> str:
    assert message_type not in _WITHOUT_VARIANT
    return message_type.title().replace("_", "").replace("Webrtc", "WebRTC")


# -- dialects --------------------------------------------------------------------------------------------------------


class Dialect(NamedTuple):
    """One way to write payloads: a payload type and, for JSON and CBOR, a shape."""

    name: str
    payload_type: str
    tagged: bool = False

    def write(self, message_type: str, fields: dict[str, Any]) -> bytes:
        """Return the payload of a JSON or CBOR message."""
        content = {_variant(message_type): fields} if self.tagged else fields
        return cbor2.dumps(content) if self.payload_type == "CBOR" else json.dumps(content).encode()

    def credentials(self, client_id: str, token: str) -> bytes:
        """Return CONNECT's payload."""
        match self.payload_type:
            case "BINARY":
                return string8(client_id) + string8(token)
            case "TEXT":
                return f"{client_id}:{token}".encode()
            case "PROTOBUF":
                return protobuf((1, client_id), (2, token))
            case _:
                return self.write("CONNECT", {"client_id": client_id, "auth_token": token})

    def signal(self, message_type: str, target: str, data: str) -> bytes:
        """Return the payload of a signal to `target`."""
        match self.payload_type:
            case "BINARY":
                return string8(target) + data.encode()
            case "TEXT":
                return f"{target}:{data}".encode()
            case "PROTOBUF":
                return protobuf((1, target), (4, json.dumps(data)))
            case _:
                return self.write(message_type, {"target_client_id": target, "signal_data": data})

    def read_signal(self, received: Received) -> tuple[str, str]:
        """Return the sender and the data of a delivered signal, which must be in this dialect."""
        if self in ORIGINAL:
            return TAGGED.read_signal(received)
        assert received.payload_type == self.payload_type
        match self.payload_type:
            case "BINARY":
                end = 1 + received.payload[0]
                return received.payload[1:end].decode(), received.payload[end:].decode()
            case "TEXT":
                sender, _, data = received.payload.decode().partition(":")
                return sender, data
            case "PROTOBUF":
                wire = read_protobuf(received.payload)
                sent = wire[3] if 3 in wire else json.loads(_bytes(wire[4]))
                return _bytes(wire[2]).decode(), sent.decode() if isinstance(sent, bytes) else str(sent)
            case _:
                fields = received.fields
                data = fields["signal_data"]
                return str(fields["sender_client_id"]), data.decode() if isinstance(data, bytes) else str(data)


def _bytes(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


PLAIN = Dialect("plain JSON", "JSON")
TAGGED = Dialect("tagged JSON", "JSON", tagged=True)
BINARY = Dialect("BINARY", "BINARY")
TEXT = Dialect("TEXT", "TEXT")
PROTOBUF = Dialect("PROTOBUF", "PROTOBUF")
CBOR = Dialect("CBOR", "CBOR")
# How the original service's clients write; it answers them all in tagged JSON.
ORIGINAL = (
    Dialect("original BINARY", "BINARY", tagged=True),
    Dialect("original TEXT", "TEXT", tagged=True),
    Dialect("original JSON", "JSON", tagged=True),
)
DIALECTS = (PLAIN, TAGGED, BINARY, TEXT, PROTOBUF, CBOR)


# -- messages --------------------------------------------------------------------------------------------------------


class Received(NamedTuple):
    """One message as it came."""

    type: str
    id: UUID
    payload_type: str
    payload: bytes
    tagged: bool

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a JSON or CBOR message, out of their variant on a tagged connection."""
        content = cbor2.loads(self.payload) if self.payload_type == "CBOR" else json.loads(self.payload)
        if self.tagged:
            assert list(content) == [_variant(self.type)], f"not tagged {_variant(self.type)}: {content}"
            content = content[_variant(self.type)]
        assert isinstance(content, dict)
        return content

    @property
    def error_code(self) -> int:
        """The code of an ERROR in any payload type that has one."""
        assert self.type == "ERROR", self
        if self.payload_type == "TEXT":
            return int(self.payload.split(b":")[0])
        if self.payload_type == "PROTOBUF":
            code = read_protobuf(self.payload)[1]
            assert isinstance(code, int)
            return code
        return int(self.fields["error_code"])


def frame(message_type: str | int, payload_type: str | int, payload: bytes, *, id: UUID, version: str = "v1") -> bytes:
    """Return one message of v1 or v2: header, then payload."""
    kind = MESSAGE_TYPES[message_type] if isinstance(message_type, str) else message_type
    encoding = PAYLOAD_TYPES[payload_type] if isinstance(payload_type, str) else payload_type
    length = struct.pack(_LENGTH_FORMATS[version], len(payload))
    return bytes([_START_BYTES[version], kind]) + id.bytes + bytes([encoding]) + length + payload


# -- the client ------------------------------------------------------------------------------------------------------


class Client:
    """A connection of a client that does what the test says, right or wrong.

    `dialect` is how `log_in` and `signal` write; `version` is the framing: v1, v2 or json.
    """

    def __init__(self, websocket: ClientConnection, *, version: str, dialect: Dialect) -> None:
        self.websocket = websocket
        self.version = version
        self.dialect = dialect
        # Whether it is one of the original service's: answered in tagged JSON alone.
        self.is_original = websocket.subprotocol is None and dialect.tagged and dialect.payload_type != "CBOR"

    async def send_raw(self, data: bytes | str) -> None:
        """Send one WebSocket message: binary for bytes, text for str."""
        await self.websocket.send(data)

    async def send(
        self, message_type: str, payload: dict[str, Any] | bytes | str = b"", payload_type: str | None = None
    ) -> UUID:
        """Send a message and return its id; a payload in fields is written as JSON (or CBOR) in the client's shape."""
        message_id = uuid4()
        if isinstance(payload, dict):
            writer = self.dialect if self.dialect.payload_type in ("JSON", "CBOR") else PLAIN
            payload_type = payload_type or writer.payload_type
            payload = writer.write(message_type, payload)
        elif isinstance(payload, str):
            payload = payload.encode()
        await self.websocket.send(
            self._wrap(message_type, payload_type or self.dialect.payload_type, payload, message_id)
        )
        return message_id

    async def send_fragmented(self, message: bytes, *, piece: int) -> None:
        """Send one WebSocket message in frames of `piece` bytes."""

        def pieces() -> Iterator[bytes]:
            for start in range(0, len(message), piece):
                yield message[start : start + piece]

        await self.websocket.send(pieces())

    async def signal(self, message_type: str, target: str, data: str) -> UUID:
        """Send a signal in the client's dialect."""
        payload = self.dialect.signal(message_type, target, data)
        return await self.send(message_type, payload, self.dialect.payload_type)

    async def log_in(self, client: tuple[str, str] = ALICE) -> Self:
        """Send CONNECT with a client's id and token, and wait for CONNECT_ACK."""
        request = await self.send("CONNECT", self.dialect.credentials(*client), self.dialect.payload_type)
        reply = await self.expect("CONNECT_ACK")
        assert reply.id == request
        return self

    async def receive(self) -> Received:
        """Return the next message; fail when the connection closes instead."""
        async with asyncio.timeout(TIME_LIMIT):
            return self._unwrap(await self.websocket.recv())

    async def expect(self, message_type: str) -> Received:
        """Return the next message, which must be of this type."""
        received = await self.receive()
        assert received.type == message_type, f"expected {message_type}, got {received}"
        return received

    async def expect_error(self, code: int, *, id: UUID | None = None) -> Received:
        """Return the next message, which must be ERROR with this code, and answer this request if one is given."""
        received = await self.expect("ERROR")
        assert received.error_code == code, f"expected code {code}, got {received}"
        assert id is None or received.id == id, f"expected an answer to {id}, got {received}"
        return received

    async def expect_close(self, code: int) -> str:
        """Wait for the service's close frame, which must carry this code and be next; return its reason."""
        with pytest.raises(ConnectionClosed) as closed:
            raise AssertionError(f"expected close {code}, got {await self.receive()}")
        close_frame = closed.value.rcvd
        assert close_frame is not None, f"expected close {code}, the connection was lost"
        assert close_frame.code == code, f"expected close {code}, got {close_frame}"
        return close_frame.reason

    async def check_alive(self) -> None:
        """Prove that the connection works and that nothing was waiting to be read."""
        timestamp = struct.unpack(">Q", os.urandom(8))[0]
        if self.version == "json":
            request = await self.send("HEARTBEAT", {"timestamp": timestamp})
        else:
            request = await self.send("HEARTBEAT", struct.pack(">Q", timestamp), "BINARY")
        reply = await self.expect("HEARTBEAT_ACK")
        assert reply.id == request
        if self.version == "json" or self.is_original:
            assert reply.fields["timestamp"] == timestamp
        else:
            assert reply.payload == struct.pack(">Q", timestamp)

    def _wrap(self, message_type: str, payload_type: str, payload: bytes, message_id: UUID) -> bytes | str:
        if self.version != "json":
            return frame(message_type, payload_type, payload, id=message_id, version=self.version)
        message = {"type": message_type, "id": str(message_id)}
        return json.dumps(message | ({"payload": json.loads(payload)} if payload else {}))

    def _unwrap(self, data: bytes | str) -> Received:
        if self.version == "json":
            assert isinstance(data, str), "a binary message on a text connection"
            message = json.loads(data)
            payload = json.dumps(message.get("payload", {})).encode()
            return Received(message["type"], UUID(message["id"]), "JSON", payload, self.dialect.tagged)
        assert isinstance(data, bytes), f"a text message on a binary connection: {data}"
        header = struct.Struct(">BB16sB" + _LENGTH_FORMATS[self.version][1:])
        start, kind, message_id, encoding, length = header.unpack_from(data)
        payload = data[header.size :]
        assert start == _START_BYTES[self.version]
        assert length == len(payload)
        message_type = {value: name for name, value in MESSAGE_TYPES.items()}[kind]
        payload_type = {value: name for name, value in PAYLOAD_TYPES.items()}[encoding]
        return Received(message_type, UUID(bytes=message_id), payload_type, payload, self.dialect.tagged)


@asynccontextmanager
async def connect(
    url: str, subprotocol: str | None = None, *, dialect: Dialect = PLAIN, max_queue: int | None = 16
) -> AsyncIterator[Client]:
    """Open a WebSocket; the client sends nothing but what the test says, and answers pings.

    A client that speaks BINARY or TEXT and names no subprotocol is one of the original service's, so these name v1
    unless they are in the ORIGINAL dialects. With `max_queue` None it keeps all messages, read or not.
    """
    if subprotocol is None and dialect in (BINARY, TEXT):
        subprotocol = "signal-manager.v1"
    async with websocket_connect(
        url,
        subprotocols=[Subprotocol(subprotocol)] if subprotocol else None,
        compression=None,
        ping_interval=None,
        proxy=None,
        max_size=None,
        max_queue=max_queue,
        open_timeout=TIME_LIMIT,
        close_timeout=CLOSE_LIMIT,
    ) as websocket:
        assert websocket.subprotocol == subprotocol
        version = subprotocol.removeprefix("signal-manager.") if subprotocol else "v1"
        yield Client(websocket, version=version, dialect=dialect)


class RawSocket:
    """A WebSocket without a library, for what no library would do: it never answers a ping."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int) -> AsyncIterator[RawSocket]:
        """Connect and upgrade (RFC 6455, section 4.1)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIME_LIMIT)
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            yield cls(reader, writer)
        finally:
            writer.close()

    def write_frame(self, opcode: int, payload: bytes, *, final: bool = True) -> None:
        """Send one WebSocket frame, masked with zeros (RFC 6455, section 5.2)."""
        head = bytes([opcode | (0x80 if final else 0)])
        size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
        self._writer.write(head + size + bytes(4) + payload)

    async def read_frame(self) -> tuple[int, bytes]:
        """Return the opcode and the payload of the next frame."""
        async with asyncio.timeout(TIME_LIMIT):
            head = await self._reader.readexactly(2)
            size = head[1]
            if size == 126:
                size = struct.unpack(">H", await self._reader.readexactly(2))[0]
            return head[0] & 0x0F, await self._reader.readexactly(size)
