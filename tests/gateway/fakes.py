"""What surrounds the gateway's parts, without a socket: one fake per port, and the socket itself.

A fake keeps what it was asked to do and answers as the real part would.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from picows import WSFrame, WSMsgType, WSTransport

from signal_manager.bus.base import Delivery, Exceptional
from signal_manager.errors import AuthenticationError, SignalManagerError
from signal_manager.form import is_compiled
from signal_manager.gateway.limits import ClientAddress
from signal_manager.gateway.outgoing import Outgoing
from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.model import ClientId, Grants, Identity, SessionId
from signal_manager.observe.counts import Counter
from signal_manager.protocol.close_codes import CloseCode
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.journal import Journal
from signal_manager.protocol.messages import Connect, Message
from signal_manager.protocol.relay import RelayEnd
from signal_manager.protocol.state_machine import Received
from signal_manager.protocol.websocket import messages_in

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "ELSEWHERE",
    "PING",
    "PONG",
    "TEXT",
    "FakeAuthenticator",
    "FakeConnection",
    "FakeConversation",
    "FakeSocket",
    "frame",
]

BINARY, TEXT, CONTINUATION = WSMsgType.BINARY, WSMsgType.TEXT, WSMsgType.CONTINUATION
PING, PONG, CLOSE = WSMsgType.PING, WSMsgType.PONG, WSMsgType.CLOSE

ELSEWHERE = ClientAddress("192.0.2.7", (b"192.0.2.7",))


def frame(
    data: bytes = b"", frame_type: WSMsgType = BINARY, *, fin: bool = True, rsv: bool = False, last: bool = True
) -> WSFrame:
    """Return a frame as picows reads it; `last` is the last one of its read."""
    made = SimpleNamespace(
        msg_type=frame_type,
        fin=fin,
        rsv1=rsv,
        rsv2=False,
        rsv3=False,
        last_in_buffer=last,
        payload_size=len(data),
        get_payload_as_bytes=lambda: data,
    )
    return cast("WSFrame", made)


class FakeSocket:
    """A WebSocket and its TCP transport at once; `picows` has the type that the gateway expects.

    Attributes:
        received: the messages that the client gets.
        writes: the number of system calls that carried them.
        closed_with: the code and reason of the close frame.
        pings, pongs: control frames that the client gets.
        is_cut: whether the socket was closed without waiting for the client.
        is_paused: whether nothing is read.
        waiting: bytes that the client has not read.
    """

    def __init__(self) -> None:
        if is_compiled():
            pytest.skip("the compiled form takes a WSTransport of picows; integration tests have real ones")
        self.received: list[bytes] = []
        self.writes = 0
        self.closed_with: tuple[int, str] | None = None
        self.pings = 0
        self.pongs: list[bytes] = []
        self.is_cut = False
        self.is_paused = False
        self.is_disconnected = False
        self.waiting = 0
        self.write_buffer = 0
        self.request = SimpleNamespace(headers={"User-Agent": "test"})
        self.response = SimpleNamespace(headers={"Upgrade": "websocket"})
        self.close_handshake: Any = None

    @property
    def picows(self) -> WSTransport:
        """The socket as the gateway sees it."""
        return cast("WSTransport", self)

    # -- what the gateway calls of WSTransport ---------------------------------------------------------------------

    @property
    def underlying_transport(self) -> FakeSocket:
        return self

    @property
    def is_close_frame_sent(self) -> bool:
        return self.closed_with is not None

    def send(self, frame_type: WSMsgType, data: bytes) -> None:
        self.writes += 1
        self.received.append(data)

    def send_ping(self) -> None:
        self.pings += 1

    def send_pong(self, payload: bytes) -> None:
        self.pongs.append(payload)

    def send_close(self, code: int, reason: str) -> None:
        self.closed_with = (int(code), reason)

    def disconnect(self, graceful: bool = True) -> None:
        self.is_disconnected = True
        self.is_cut = self.is_cut or not graceful

    # -- what it calls of asyncio's transport ----------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.received += messages_in(data)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def set_write_buffer_limits(self, high: int) -> None:
        self.write_buffer = high

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


class FakeAuthenticator:
    """Accept any client, unless its token is "wrong" (`auth.Authenticator`).

    Attributes:
        grants: what clients may do; everything unless they are in it.
        expires_at: when tokens end.
        error: raised for every client.
        gate: answers wait for it.
        asked: clients and their tokens.
        is_immediate: whether it says that it waits for nothing.
    """

    def __init__(self) -> None:
        self.is_immediate = False
        self.grants: dict[str, Grants] = {}
        self.expires_at: float | None = None
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[tuple[str, str]] = []

    async def authenticate(self, client_id: ClientId, token: str) -> Identity:
        self.asked.append((client_id, token))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if token == "wrong":
            raise AuthenticationError("invalid credentials")
        return Identity(client_id=client_id, grants=self.grants.get(client_id, Grants()), expires_at=self.expires_at)


class FakeConversation:
    """A conversation as the session, the drain, the frame handler and what is written see it.

    Attributes:
        did: the calls of its methods, in order.
    """

    def __init__(self) -> None:
        self.did: list[object] = []
        self.is_established = True
        self.is_answering = False
        self.pending_requests = 0

    def handed_over(self) -> None:
        self.did.append("handed over")

    def answered(self, request: Received, reply: bytes, *, exclusive: bool) -> None:
        self.did.append(("answered", request, reply, exclusive))

    def go_away(self, reconnect_after: int) -> None:
        self.did.append(("go away", reconnect_after))

    def freeze(self) -> None:
        self.did.append("freeze")

    def part(self) -> None:
        self.did.append("part")

    def hung_up(self, *, may_return: bool) -> None:
        self.did.append(("hung up", may_return))

    def broken(self, code: CloseCode, reason: str) -> None:
        self.did.append(("broken", code))

    def insistent(self) -> None:
        self.did.append("insistent")

    def fell_behind(self) -> None:
        self.did.append("fell behind")


class FakeConnection:
    """A connection as everything else in the gateway sees it: every interface of `gateway/ports.py` that it has.

    Attributes:
        did: the calls of its methods, in order.
        written: the messages to its client.
        delivered: the messages that the bus had for its client.
        handled: the messages of its client, each with its frame type.
    """

    relay_end: RelayEnd | None = None
    is_away = False
    framing = "v1"
    encoding = "json"
    age = 0.0
    has_seat = False

    def __init__(self, name: str = "a", *, instance_id: str | None = None, source: ClientAddress = ELSEWHERE) -> None:
        self.conversation = FakeConversation()
        self.outgoing = Outgoing(self.conversation, Framing.V1, limit=100, bytes_sent=Counter())
        self.did: list[object] = []
        self.written: list[bytes] = []
        self.delivered: list[Message] = []
        self.handled: list[tuple[bytes, WSMsgType]] = []
        self.client_id = ClientId(name)
        self.session_id = SessionId(f"session-of-{name}")
        self.instance_id = instance_id
        self.taken_up_at = 0
        self.source = source
        self.is_established = True
        self.received = 0
        self.sent = 0

    @property
    def address(self) -> str:
        return self.source.text

    # -- the bus and the relay path --------------------------------------------------------------------------------

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        self.delivered.append(message)
        return Delivery.DELIVERED

    def relay(self, sender: str, signals: Any) -> list[Exceptional]:
        self.did.append(("relay", sender, signals))
        return []

    def replaced(self, *, same_instance: bool) -> None:
        self.did.append(("replaced", same_instance))

    def told(self, head: bytes, target: str, wants_ack: bool, result: Delivery | SignalManagerError) -> None:
        self.did.append(("told", target, result))

    def write(self, data: bytes, batch: WriteBatch | None = None, *, counts: bool = True) -> None:
        self.written.append(data)

    # -- the registry, the occupancy, the drain and operators ------------------------------------------------------

    def tick(self, now: float) -> None:
        self.did.append(("tick", now))

    def give_way(self) -> None:
        self.did.append("give way")

    def cut(self) -> None:
        self.did.append("cut")

    def evict(self) -> None:
        self.did.append("evict")

    # -- the conversation ------------------------------------------------------------------------------------------

    def ping(self) -> None:
        self.did.append("ping")

    def close(self, code: CloseCode, reason: str) -> None:
        self.did.append(("close", code, reason))

    def hold(self) -> None:
        self.did.append("hold")

    def release(self) -> None:
        self.did.append("release")

    def identified(self, connect: Connect, *, relays: bool) -> None:
        self.did.append(("identified", connect.client_id, relays))

    def restrict(self, *, relays: bool) -> None:
        self.did.append(("restrict", relays))

    def keep_in(self, journal: Journal) -> None:
        self.did.append(("keep in", journal))

    def let_go(self) -> None:
        self.did.append("let go")

    # -- frames and what was received ------------------------------------------------------------------------------

    def message(self, data: bytes, frame_type: WSMsgType) -> None:
        self.handled.append((data, frame_type))

    def handle(self, data: bytes, frame_type: WSMsgType) -> None:
        self.handled.append((data, frame_type))

    def buffered(self, size: int) -> None:
        self.did.append(("buffered", size))
