"""A gateway without a port: real registry, dispatcher, storage and bus, and clients on sockets that are not real."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypeVar

from picows import WSMsgType

from signal_manager.bus.base import Bus
from signal_manager.bus.local import LocalBus
from signal_manager.gateway.connection import Connection
from signal_manager.gateway.dispatcher import Dispatcher
from signal_manager.gateway.limits import ClientAddress, Limits
from signal_manager.gateway.ports import RelayTarget
from signal_manager.gateway.registry import ConnectionRegistry
from signal_manager.gateway.sessions import ResumeSettings
from signal_manager.model import NodeId
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.codec import decode_payload, encode_payload
from signal_manager.protocol.framing import Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import Connect, ConnectAck, Message, PayloadType, Peer, Resume, Shape
from signal_manager.protocol.state_machine import SessionSettings
from signal_manager.records.registrations import Registrations
from signal_manager.rooms import RoomService
from signal_manager.storage.memory import MemoryStorage
from tests.gateway.fakes import BINARY, ELSEWHERE, TEXT, FakeAuthenticator, FakeSocket, frame

__all__ = ["ID", "NODE", "Gateway", "GatewayClient"]

ID = bytes(range(16))
NODE = NodeId("n")
M = TypeVar("M", bound=Message)


class Gateway:
    """All that connections share, and what stands behind it.

    Args:
        bus: None for a bus of one process.
        storage: None for a new one.
        keeps_sessions: whether sessions are saved in it.
        has_rooms: whether the service has rooms, without media.
        **limits: the service's limits.
    """

    def __init__(
        self,
        *,
        bus: Bus[RelayTarget] | None = None,
        storage: MemoryStorage | None = None,
        keeps_sessions: bool = True,
        has_rooms: bool = False,
        settings: SessionSettings | None = None,
        resume: ResumeSettings | None = None,
        **limits: Any,
    ) -> None:
        self.bus = bus or LocalBus[RelayTarget]()
        self.storage = storage or MemoryStorage()
        self.authenticator = FakeAuthenticator()
        self.metrics = Metrics()
        self.registrations = Registrations(storage=self.storage, node_id=NODE)
        self.rooms = (
            RoomService(storage=self.storage, bus=self.bus, media=None, metrics=self.metrics, node_id=NODE)
            if has_rooms
            else None
        )
        self.dispatcher = Dispatcher(
            authenticator=self.authenticator, bus=self.bus, registrations=self.registrations, rooms=self.rooms
        )
        self.registry = ConnectionRegistry(
            dispatcher=self.dispatcher,
            bus=self.bus,
            settings=settings or SessionSettings(),
            limits=Limits(**limits),
            metrics=self.metrics,
            resume=resume or ResumeSettings(),
            storage=self.storage if keeps_sessions else None,
        )
        self.bus.serve_others(
            hand_over=self.registry.session_store.hand_over,
            join=lambda: None,
            flush=self.registry.relay_context.close_batch,
        )

    def connect(self, framing: Framing = Framing.V1, **arguments: Any) -> GatewayClient:
        """Return a client whose socket has just been upgraded."""
        return GatewayClient(self, framing, **arguments)

    async def client(self, name: str, framing: Framing = Framing.V1, **connect: Any) -> GatewayClient:
        """Return a client that is signed in."""
        client = self.connect(framing)
        await client.sign_in(name, **connect)
        assert client.welcome is not None
        client.socket.received.clear()
        return client

    async def settled(self) -> None:
        """Wait until nothing goes on in the background."""
        while tasks := tuple(self.registry.background.tasks):
            await asyncio.wait(tasks)

    def value(self, name: str, label: str | None = None) -> float:
        """Return a metric."""
        family = getattr(self.metrics, name)
        return float(family.labelled(*(() if label is None else (label,))).value)


class GatewayClient:
    """A client, its socket, and the connection that the gateway has for it."""

    def __init__(
        self,
        gateway: Gateway,
        framing: Framing = Framing.V1,
        *,
        payload_type: PayloadType = PayloadType.JSON,
        shape: Shape = Shape.PLAIN,
        source: ClientAddress = ELSEWHERE,
        names_protocol: bool = True,
    ) -> None:
        self.gateway = gateway
        self.framing = framing
        self.payload_type = payload_type
        self.shape = shape
        self.socket = FakeSocket()
        self.connection = Connection(
            gateway.registry, framing, source=source, opened_at=time.monotonic(), names_protocol=names_protocol
        )
        self.connection.on_ws_connected(self.socket.picows)
        self.welcome: ConnectAck | None = None

    # -- what it sends ---------------------------------------------------------------------------------------------

    def encode(self, message: Message, message_id: bytes = ID) -> bytes:
        """Return a message as this client writes it."""
        payload_type, payload = encode_payload(message, self.payload_type, self.shape, sent_by=Peer.CLIENT)
        return encode_frame(self.framing, spec_of(message).message_type, message_id, payload_type, payload)

    def send(self, message: Message, message_id: bytes = ID, *, last: bool = True) -> None:
        """Send a message; without `last` more follows in the same read."""
        self.send_data(self.encode(message, message_id), last=last)

    def send_data(self, data: bytes, frame_type: WSMsgType | None = None, *, last: bool = True) -> None:
        """Send a message as bytes."""
        natural = TEXT if self.framing is Framing.JSON else BINARY
        self.connection.on_ws_frame(self.socket.picows, frame(data, frame_type or natural, last=last))

    async def sign_in(self, name: str = "a", *, token: str = "t", **connect: Any) -> None:
        """Send CONNECT and wait for its answer."""
        self.send(Connect(client_id=name, auth_token=token, **connect))
        await self.gateway.settled()
        acks = [message for message in self.messages if isinstance(message, ConnectAck)]
        self.welcome = acks[-1] if acks else None

    @property
    def offer(self) -> Resume:
        """What this client sends on its next connection to resume its session, if it has received everything."""
        assert self.welcome is not None
        assert self.welcome.resume_token is not None
        return Resume(
            session_id=self.welcome.session_id,
            resume_token=self.welcome.resume_token,
            received=len(self.socket.received),
        )

    def lose(self) -> None:
        """Lose the connection."""
        self.connection.on_ws_disconnected(self.socket.picows)

    # -- what it gets ----------------------------------------------------------------------------------------------

    @property
    def messages(self) -> list[Message]:
        """All messages that it got."""
        return [self.decode(data) for data in self.socket.received]

    def decode(self, data: bytes) -> Message:
        """Return a message from the service."""
        header = decode_frame(self.framing, data)
        return decode_payload(header.message_type, header.payload_type, header.payload, sent_by=Peer.SERVICE).message

    def last(self, kind: type[M]) -> M:
        """Return the last message, which must be of this kind."""
        message = self.messages[-1]
        assert isinstance(message, kind), message
        return message

    @property
    def close_code(self) -> int | None:
        """The code that the service closed with."""
        return self.socket.closed_with[0] if self.socket.closed_with is not None else None
