"""A small signaling service for the client's tests: it can misbehave in every way that the real one never does.

It speaks through `websockets` and the project's codec; the same client against the real service is in
tests/integration/test_sdk.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request
from websockets.typing import Subprotocol

from signal_manager.client import Clock, RetryPolicy, SignalClient
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.codec import decode_payload, encode_payload
from signal_manager.protocol.framing import SUBPROTOCOLS, Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import (
    Connect,
    ConnectAck,
    ConnectionInfo,
    Disconnect,
    ErrorMessage,
    Heartbeat,
    HeartbeatAck,
    IceServers,
    IceServersAck,
    Message,
    PayloadType,
    Peer,
    Register,
    RegisterAck,
    RoomJoin,
    RoomJoinAck,
    RoomLeave,
    RoomLeaveAck,
    Shape,
    Signal,
    SignalAck,
    Unregister,
    UnregisterAck,
)

T = TypeVar("T")

TOKEN = "right"


async def within(awaitable: Awaitable[T], seconds: float = 30.0) -> T:
    """Wait for what must happen, but not for ever."""
    return await asyncio.wait_for(awaitable, seconds)


class Client:
    """The service's side of one connection."""

    def __init__(self, service: FakeService, socket: ServerConnection) -> None:
        self.framing = Framing.V1 if socket.subprotocol is None else SUBPROTOCOLS[socket.subprotocol]
        self.payload_type = PayloadType.JSON
        self.connect: Connect | None = None
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        self.socket = socket
        self._service = service

    async def send(self, message: Message, message_id: bytes | None = None) -> None:
        frame = self._encode(message, message_id)
        await self.socket.send(frame.decode() if self.framing is Framing.JSON else frame)

    def send_together(self, messages: list[tuple[Message, bytes | None]]) -> None:
        """Send several messages so that they arrive in one read."""
        data = bytearray()
        for message, message_id in messages:
            frame = self._encode(message, message_id)
            # RFC 6455, section 5.2: one final binary frame, with the short or the 16-bit length.
            data += b"\x82"
            data += bytes((len(frame),)) if len(frame) < 126 else b"\x7e" + len(frame).to_bytes(2)
            data += frame
        self.send_bytes(bytes(data))

    def send_bytes(self, data: bytes) -> None:
        """Send WebSocket frames that the test wrote itself."""
        self.socket.transport.write(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.socket.close(code, reason)

    def abort(self) -> None:
        self.socket.transport.abort()

    def _encode(self, message: Message, message_id: bytes | None) -> bytes:
        payload_type, payload = encode_payload(message, self.payload_type, Shape.PLAIN, sent_by=Peer.SERVICE)
        message_type = spec_of(message).message_type
        return encode_frame(self.framing, message_type, message_id or uuid4().bytes, payload_type, payload)

    async def serve(self) -> None:
        async for data in self.socket:
            raw = data.encode() if isinstance(data, str) else data
            frame = decode_frame(self.framing, raw)
            message = decode_payload(frame.message_type, frame.payload_type, frame.payload, sent_by=Peer.CLIENT).message
            if isinstance(message, Connect):
                self.connect = message
                self.payload_type = frame.payload_type
            self.received.put_nowait(message)
            await self._service.answer(self, frame.message_id, message)


class FakeService:
    """Accepts clients whose token is `TOKEN`, relays their signals, and lets a test replace any answer.

    Set `answer` to a coroutine function to take over; `default_answer` is the usual one. While `door` is clear,
    upgrades wait, and the first one sets `knocked`.
    """

    def __init__(
        self,
        *,
        ack: dict[str, Any] | None = None,
        subprotocols: Sequence[str] = (*SUBPROTOCOLS,),
        ssl_context: SSLContext | None = None,
    ) -> None:
        self.port = 0
        self.ack = ack or {"heartbeat_interval": 30.0, "heartbeat_timeout": 90.0}
        self.answer: Callable[[Client, bytes, Message], Awaitable[None]] = self.default_answer
        self.clients: dict[str, Client] = {}
        self.accepted: asyncio.Queue[Client] = asyncio.Queue()
        self.door = asyncio.Event()
        self.door.set()
        self.knocked = asyncio.Event()
        self._subprotocols = subprotocols
        self._ssl_context = ssl_context
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"{'ws' if self._ssl_context is None else 'wss'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after `stop` on the same port again."""
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            self.port,
            ssl=self._ssl_context,
            subprotocols=[Subprotocol(name) for name in self._subprotocols] or None,
            ping_interval=None,
            close_timeout=1,
            max_size=None,
            process_request=self._open_door,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self, code: int = 1012) -> None:
        self.door.set()
        if self._server is not None:
            self._server.close(code=code)
            await self._server.wait_closed()
            self._server = None

    async def default_answer(self, client: Client, message_id: bytes, message: Message) -> None:
        match message:
            case Connect() if message.auth_token != TOKEN:
                await client.send(ErrorMessage(error_code=401, error_message="authentication failed"), message_id)
                await client.close(4401, "authentication failed")
            case Connect():
                self.clients[message.client_id] = client
                await client.send(ConnectAck(status="success", session_id=str(uuid4()), **self.ack), message_id)
                self.accepted.put_nowait(client)
            case Heartbeat():
                await client.send(HeartbeatAck(timestamp=message.timestamp), message_id)
            case Disconnect():
                await client.close(1000, "asked for")
            case Register():
                reply = RegisterAck(version="1.0.0", status=200, message="ok", client_id="x", session_id="s")
                await client.send(reply, message_id)
            case Unregister():
                await client.send(UnregisterAck(version="1.0.0", status=200, message="ok", client_id="x"), message_id)
            case Signal():
                await self._relay(client, message_id, message)
            case RoomJoin():
                await client.send(self.welcome(message), message_id)
            case IceServers():
                await client.send(IceServersAck(ice_servers=[]), message_id)
            case RoomLeave():
                left = RoomLeaveAck(version="1.0.0", status=200, message="ok", room_id=message.room_id, client_id="x")
                await client.send(left, message_id)
            case _:
                raise AssertionError(f"nobody sends a service {message}")

    @staticmethod
    def welcome(message: RoomJoin, **fields: Any) -> RoomJoinAck:
        """What a service without a media backend answers, unless told otherwise."""
        session_id = fields.setdefault("session_id", "")
        given: dict[str, Any] = {"participants": [], "tracks": [], "sequence": 1, "ice_servers": []} | fields
        info = ConnectionInfo(
            room_id=message.room_id,
            role=message.role,
            app_id="",
            session_id=session_id,
            status="Connected",
            metadata={},
        )
        return RoomJoinAck(
            version="1.0.0",
            status=200,
            message="ok",
            room_id=message.room_id,
            app_id="",
            stun_url="",
            connection_info=info,
            **given,
        )

    async def _relay(self, client: Client, message_id: bytes, signal: Signal) -> None:
        target = self.clients.get(signal.target_client_id or "")
        if target is None or client.connect is None:
            error = ErrorMessage(error_code=404, error_message=f"no client {signal.target_client_id!r} is connected")
            await client.send(error, message_id)
            return
        relayed = type(signal)(sender_client_id=client.connect.client_id, signal_data=signal.signal_data)
        await target.send(relayed)
        if signal.ack:
            await client.send(SignalAck(status="delivered", target_client_id=signal.target_client_id), message_id)

    async def _open_door(self, _: ServerConnection, request: Request) -> None:
        if not self.door.is_set():
            self.knocked.set()
            await self.door.wait()

    async def _handle(self, socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await Client(self, socket).serve()


class ManualClock(Clock):
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.time + seconds, future))
        self.asked.put_nowait(seconds)
        await future

    def advance(self, seconds: float) -> None:
        self.time += seconds
        for deadline, future in self._sleepers:
            if deadline <= self.time and not future.done():
                future.set_result(None)


def make_client(service: FakeService | str, client_id: str = "alice", **options: Any) -> SignalClient:
    """Return a client that, unless told otherwise, comes back without delay."""
    url = service if isinstance(service, str) else service.url
    options.setdefault("retry", RetryPolicy(random=lambda: 0.0))
    return SignalClient(url, client_id, options.pop("token", TOKEN), **options)
