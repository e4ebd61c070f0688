"""Sessions that outlive their connections: who is away, what waits for whom, and what another start needs of them.

A `gateway/connection.py` hands its session over when it drops and gets it back on the next one; meanwhile the session
itself stands for its client on the bus. What may be resumed is decided in `protocol/resume.py`; `gateway/drain.py`
saves them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from uuid import uuid4

import msgspec
import structlog

from signal_manager.bus.base import Bus, Delivery, Exceptional
from signal_manager.errors import (
    InvalidRequestError,
    MalformedMessageError,
    RateLimitedError,
    SignalManagerError,
    TooLargeError,
    UnavailableError,
)
from signal_manager.gateway.dispatcher import Dispatcher
from signal_manager.gateway.ports import RelayTarget, SessionConnection
from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.model import Caller, ClientId, Identity, SavedSession, SessionId, taken_up_at
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.codec import decode_payload, encode_payload
from signal_manager.protocol.framing import ID_AT, PAYLOAD_TYPE_AT, TYPE_AT, Framing, encode_frame
from signal_manager.protocol.messages import (
    Connect,
    ErrorMessage,
    Message,
    MessageType,
    PayloadType,
    Peer,
    Resume,
    Shape,
    Signal,
)
from signal_manager.protocol.relay import RelayEnd, client_payload
from signal_manager.protocol.resume import (
    MESSAGE_OVERHEAD,
    SERVICE_CONFIRM_WEIGHT,
    SESSION_OVERHEAD,
    Budget,
    ClientSession,
    Journal,
    Outcome,
    SessionPhase,
    WireFormat,
)
from signal_manager.protocol.state_machine import ConnectionStateMachine, Received
from signal_manager.storage.base import Storage

__all__ = ["ResumableSession", "ResumeSettings", "SessionStore"]

log = structlog.get_logger(__name__)

# Of a token, in bytes: 128 bits are beyond guessing, and these are more.
_TOKEN_BYTES = 24
# Of one client's buffer while it is away, and of all buffers: what one sender may leave there. The rest is for others.
_BUFFER_SHARE = 0.75
_TOTAL_SHARE = 1 / 16
# What the other members of a room are told of a client that did not come back.
_LOST = "connection lost"
_RESTARTING = "the service is restarting, expected the request to be sent again"


class ResumeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long a session waits for its client (s), and what may be kept for it; a window of 0 is for no such thing."""

    window: float = 30.0
    buffer_bytes: int = 262_144
    total_bytes: int = 268_435_456


class ResumableSession:
    """One client's session over all its connections; its client's place on the bus while it has none.

    Args:
        owner: where it is known by its id.
        client_session: its state, and what it keeps for the client.
        caller: who it is to the rest of the service.
        connection: what carries it now.
    """

    # How signals reach a client that is away: through the codec, which tells their sender what became of them.
    relay_end: RelayEnd | None = None

    __slots__ = (
        "_opened_at",
        "_owner",
        "address",
        "caller",
        "client_session",
        "connection",
        "is_busy",
        "left_by",
        "pending",
    )

    def __init__(
        self, owner: SessionStore, client_session: ClientSession, caller: Caller, connection: SessionConnection | None
    ) -> None:
        self._owner = owner
        self._opened_at = time.monotonic()
        self.client_session = client_session
        self.caller = caller
        self.connection = connection
        self.address = connection.address if connection is not None else "unknown"
        # Requests that are being answered, over all connections, by their identity.
        self.pending: dict[int, Received] = {}
        self.left_by: dict[
            str, int
        ] = {}  # the weight of what others have left here while the client is away, by sender
        self.is_busy = False  # with an exclusive request: whatever comes later has to wait for its reply

    # -- what the bus calls --------------------------------------------------------------------------------------

    @property
    def instance_id(self) -> str | None:
        """What the client calls the running copy of itself."""
        return self.client_session.instance_id

    @property
    def taken_up_at(self) -> int:
        """When its user took up the device (`Subscriber.taken_up_at`)."""
        return taken_up_at(self.session_id)

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        """Keep a message for the client (`Subscriber.deliver`).

        Raises:
            TooLargeError: no buffer could hold the signal.
            RateLimitedError: there is no room for the signal. Its sender is refused, the session stays.
        """
        data = self._encode(message, message_id, self.client_session.wire_format.payload_type)
        sender = message.sender_client_id if isinstance(message, Signal) else None
        if sender is None or not self.is_away:
            return self._queue(data)
        weight = len(data) + MESSAGE_OVERHEAD
        self._owner.check_share(self, sender, weight)
        delivery = self._queue(data)
        if delivery is Delivery.QUEUED:
            self.left_by[sender] = self.left_by.get(sender, 0) + weight
            self._owner.left(sender, weight)
        return delivery

    def relay(self, sender: str, signals: Sequence[tuple[bytes, bytes]]) -> Sequence[Exceptional]:
        """Keep signals of another node's client for the client (`Subscriber.relay`)."""
        return relay_each(self.deliver, self.client_id, sender, signals)

    def tell(self, data: bytes, batch: WriteBatch | None) -> None:
        """Send an encoded message on the session's connection, or keep it while the client is away."""
        if self.connection is not None:
            self.connection.write(data, batch)
        else:
            self._queue(data)

    def write(self, data: bytes, batch: WriteBatch | None = None) -> None:
        """Keep an encoded message for the client (`RelayTarget.write`)."""
        self._queue(data)

    def replaced(self, *, same_instance: bool) -> None:
        """End: the client has a newer session (`Subscriber.replaced`)."""
        self.end(_LOST if same_instance else "replaced")

    # -- what its connection calls -------------------------------------------------------------------------------

    def suspend(self, connection: SessionConnection, session: ConnectionStateMachine) -> bool:
        """Wait for the client to come back, now that its connection is gone; False when the session ends instead.

        Args:
            session: what the connection has been; it knows how long its client may be missed in a room.
        """
        now = time.monotonic()
        if not self.client_session.drop(now, latest=session.must_return_by(now)):
            self._owner.forget(self)
            return False
        self.connection = None
        self._owner.suspended(self, connection)
        return True

    def answered(self, request: Received, reply: bytes, *, exclusive: bool) -> bool:
        """Hand over the reply to a request, wherever the client is now; False when the session has ended."""
        if id(request) not in self.pending:
            return self.client_session.phase is not SessionPhase.ENDED  # it was answered when the session was saved
        if self.connection is not None:
            self.connection.conversation.answered(request, reply, exclusive=exclusive)
            return True
        del self.pending[id(request)]
        if exclusive:
            self.is_busy = False
        if self.client_session.phase is not SessionPhase.AWAY:
            return False
        self._owner.mark(self, is_away=True)  # the request may have brought it into a room
        return self._queue(reply) is Delivery.QUEUED

    def resume(self, connection: SessionConnection, caller: Caller, received: int) -> tuple[bytes, ...]:
        """Go on, on a new connection, and return what the client misses."""
        former, self.connection, self.caller = self.connection, connection, caller
        self.address = connection.address
        missing = self.client_session.resume(received)
        self._owner.resumed(self, former, connection)
        if former is not None:
            former.conversation.handed_over()
        return missing

    def ended(self) -> None:
        """Take note that the client has left, or was made to, together with its connection."""
        self.client_session.end()
        self.connection = None
        self._owner.forget(self)

    def end(self, reason: str) -> None:
        """End while the client is away."""
        self.client_session.end()
        self._owner.ended(self, reason)

    def freeze(self) -> None:
        """Stop for good, so that what is saved is the last word: requests on their way are answered with 503."""
        self.connection = None
        for request in self.pending.values():
            error = UnavailableError(_RESTARTING)
            refusal = ErrorMessage(error_code=error.code, error_message=error.message, retryable=True)
            self.client_session.journal.keep(self._encode(refusal, request.message_id, request.payload_type))
        self.pending.clear()

    # -- what operators see and do (`LiveSession`) -----------------------------------------------------------------

    @property
    def client_id(self) -> ClientId:
        """The client that it proved to be."""
        return self.client_session.client_id

    @property
    def session_id(self) -> SessionId:
        """The session's id."""
        return self.client_session.session_id

    @property
    def is_away(self) -> bool:
        """Whether it waits for its client to come back."""
        return self.client_session.phase is SessionPhase.AWAY

    @property
    def framing(self) -> str:
        """How its messages are wrapped."""
        return self.client_session.wire_format.framing.value

    @property
    def encoding(self) -> str:
        """How it writes payloads."""
        return self.client_session.wire_format.payload_type.name.lower()

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._opened_at

    @property
    def received(self) -> int:
        """Messages from the client, over all its connections."""
        return self.client_session.journal.received

    @property
    def sent(self) -> int:
        """Messages to the client, over all its connections."""
        return self.client_session.journal.sent

    def evict(self) -> None:
        """End the session because an operator says so."""
        if self.connection is not None:
            self.connection.evict()
        else:
            self.end("removed")

    def _queue(self, data: bytes) -> Delivery:
        if not self.is_away:
            return Delivery.OFFLINE
        if self.client_session.queue(data):
            return Delivery.QUEUED
        self._owner.ended(self, _LOST)
        return Delivery.OFFLINE

    def _encode(self, message: Message, message_id: bytes | None, payload_type: PayloadType) -> bytes:
        wire_format = self.client_session.wire_format
        payload_type, payload = encode_payload(message, payload_type, Shape.PLAIN, sent_by=Peer.SERVICE)
        message_type = spec_of(message).message_type
        data = encode_frame(wire_format.framing, message_type, message_id or uuid4().bytes, payload_type, payload)
        self._owner.metrics.messages_sent.labelled(message_type.name).add()
        return data


class _Wanted(msgspec.Struct, frozen=True):
    """What a client that has come to another node wants to go on with."""

    offer: Resume
    framing: Framing
    payload_type: PayloadType
    shape: Shape


_encode_wanted = msgspec.msgpack.Encoder().encode
_decode_wanted = msgspec.msgpack.Decoder(_Wanted).decode


def relay_each(
    deliver: Callable[[Message, bytes], Delivery], target: str, sender: str, signals: Sequence[tuple[bytes, bytes]]
) -> Sequence[Exceptional]:
    """Deliver signals that another node has taken apart through the codec; otherwise as `Subscriber.relay`."""
    exceptional: list[Exceptional] = []
    for place, (head, body) in enumerate(signals):
        result: Delivery | SignalManagerError
        try:
            payload = client_payload(head[PAYLOAD_TYPE_AT], target, body)
            decoded = decode_payload(
                MessageType(head[TYPE_AT]), PayloadType(head[PAYLOAD_TYPE_AT]), payload, sent_by=Peer.CLIENT
            )
            message = msgspec.structs.replace(decoded.message, sender_client_id=sender)
            result = deliver(message, head[ID_AT:PAYLOAD_TYPE_AT])
        except MalformedMessageError as error:
            result = InvalidRequestError(error.message)
        except SignalManagerError as error:
            result = error
        if result is not Delivery.DELIVERED:
            exceptional.append((place, result))
    return exceptional


class SessionStore:
    """All sessions of this process that can be resumed.

    Args:
        bus: where they stand for their clients while those are away.
        dispatcher: is told of sessions that have ended.
        storage: keeps them from one start to the next; None for a service that does not.
        metrics: counts what becomes of them.
        depart: called with every session that has ended while its client was away.
    """

    def __init__(
        self,
        *,
        bus: Bus[RelayTarget],
        dispatcher: Dispatcher,
        storage: Storage | None,
        settings: ResumeSettings,
        metrics: Metrics,
        depart: Callable[[Caller, str], None],
    ) -> None:
        self.metrics = metrics
        self.settings = settings
        self._bus = bus
        self._dispatcher = dispatcher
        self._storage = storage
        self._depart = depart
        self._budget = Budget(settings.total_bytes)
        self._left_by: dict[
            str, int
        ] = {}  # the weight of what each sender has left in buffers of clients that are away
        self._sessions: dict[SessionId, ResumableSession] = {}
        self._away: dict[SessionId, ResumableSession] = {}
        metrics.sessions_away.read_from(lambda: len(self._away))
        metrics.resume_buffer_bytes.read_from(lambda: self._budget.used)

    def away(self) -> Iterator[ResumableSession]:
        """Yield the sessions whose clients are away."""
        return iter(tuple(self._away.values()))

    def open(
        self, connection: SessionConnection, caller: Caller, connect: Connect, wire_format: WireFormat
    ) -> ResumableSession:
        """Begin a session that outlives its connection."""
        settings = self.settings
        client_session = ClientSession(
            session_id=caller.session_id,
            client_id=caller.identity.client_id,
            instance_id=connect.instance_id,
            token=secrets.token_urlsafe(_TOKEN_BYTES),
            wire_format=wire_format,
            window=settings.window,
            journal=Journal(
                limit=settings.buffer_bytes,
                budget=self._budget,
                confirm_at=SERVICE_CONFIRM_WEIGHT,
                overhead=SESSION_OVERHEAD,
            ),
        )
        session = self._sessions[client_session.session_id] = ResumableSession(self, client_session, caller, connection)
        return session

    def give_up(self, session: ResumableSession, offer: Resume, client_id: ClientId) -> None:
        """End the session that a client names and has lost to a newer device; nothing if it is somebody else's."""
        is_here = self._sessions.get(session.session_id) is session
        if (
            is_here
            and session.client_session.judge(offer, client_id, session.client_session.wire_format)
            is not Outcome.FORBIDDEN
        ):
            (session.connection or session).replaced(same_instance=False)

    async def find(self, offer: Resume, client_id: ClientId) -> ResumableSession | None:
        """Return the session that a client wants to resume, or None; an earlier start may have saved it.

        Raises:
            UnavailableError: the store does not answer.
        """
        session_id = SessionId(offer.session_id)
        session = self._sessions.get(session_id)
        if session is not None or self._storage is None:
            return session
        saved = await self._storage.take_session(session_id, now=time.time())
        if saved is None:
            return None
        client_session = self._load(saved)
        if (
            client_session is not None
            and client_session.judge(offer, client_id, client_session.wire_format) is Outcome.FORBIDDEN
        ):
            await self._storage.save_sessions([saved])  # it is for somebody else to come back to
            return None
        return self._admit(client_session) if client_session is not None else None

    def ask(self, offer: Resume, wire_format: WireFormat) -> bytes:
        """Return what another node needs to know to hand a session over."""
        return _encode_wanted(_Wanted(offer, wire_format.framing, wire_format.payload_type, wire_format.shape))

    def hand_over(self, client_id: ClientId, wants: bytes) -> bytes | None:
        """End a session here so that it can go on at another node, and return it; None when it cannot go on there."""
        try:
            wanted = _decode_wanted(wants)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        session = self._sessions.get(SessionId(wanted.offer.session_id))
        wire_format = WireFormat(wanted.framing, wanted.payload_type, wanted.shape)
        if session is None or session.client_session.judge(wanted.offer, client_id, wire_format) is not Outcome.RESUMED:
            return None
        former = session.connection
        self.forget(session)
        self._bus.detach(client_id, session if former is None else former)
        session.freeze()
        if former is not None:
            former.conversation.handed_over()
        session.client_session.is_registered = self._dispatcher.hand_over(session.caller)
        return session.client_session.save()

    def receive(self, client_id: ClientId, state: bytes) -> ResumableSession | None:
        """Take a session that another node has handed over; None when it is of no use here."""
        saved = SavedSession(session_id=SessionId(""), client_id=client_id, state=state, expires_at=0.0)
        client_session = self._load(saved)
        return self._admit(client_session) if client_session is not None else None

    def judge(
        self, session: ResumableSession | None, offer: Resume, client_id: ClientId, wire_format: WireFormat
    ) -> bool:
        """Say whether a client may go on with a session, and count what became of its wish.

        A session that is the client's own and cannot go on ends: it would only wait for nobody.
        """
        outcome = Outcome.UNKNOWN if session is None else session.client_session.judge(offer, client_id, wire_format)
        self.metrics.resumes.labelled(outcome.value).add()
        if session is not None and outcome in {Outcome.DIFFERENT, Outcome.INCOMPLETE}:
            former = session.connection
            if former is None:
                session.end(_LOST)
            else:
                former.replaced(same_instance=True)
        return outcome is Outcome.RESUMED

    def sweep(self, now: float) -> None:
        """End the sessions whose clients stayed away for too long, or whose messages gave way to others'."""
        for session in tuple(self._away.values()):
            if session.client_session.has_expired(now) or session.client_session.has_overflowed():
                self.ended(session, _LOST)

    async def reclaim(self) -> int:
        """Take back what an earlier start of this service has saved, so that its clients are expected; return how many.

        Raises:
            UnavailableError: the store does not answer.
        """
        reclaimed = 0
        while self._storage is not None:
            page = await self._storage.take_sessions(now=time.time())
            if not page:
                break
            for client_session in map(self._load, page):
                if client_session is not None:
                    session = self._admit(client_session)
                    await self.adopt(session)
                    reclaimed += 1
        return reclaimed

    async def adopt(self, session: ResumableSession) -> None:
        """Let the record of a client that had registered be this session's again, on this node."""
        if not session.client_session.is_registered:
            return
        try:
            await self._dispatcher.adopt(session.caller)
        except SignalManagerError as error:
            log.warning("client record not updated", client_id=session.client_id, reason=error.message)

    def freeze(self) -> list[ResumableSession]:
        """Stop all sessions that can be saved, forget them here, and return them."""
        frozen = [session for session in self._sessions.values() if session.client_session.journal.is_complete]
        self._sessions.clear()
        self._away.clear()
        for session in frozen:
            session.freeze()
            self._bus.detach(session.client_id, session)
        return frozen

    async def save(self, sessions: Sequence[ResumableSession]) -> None:
        """Write frozen sessions to storage; those that cannot be written are lost, and the log says so."""
        if self._storage is None:
            return
        await asyncio.gather(*(self._release(session) for session in sessions))
        expires_at = time.time() + self.settings.window
        records = [
            SavedSession(
                session_id=session.session_id,
                client_id=session.client_id,
                state=session.client_session.save(),
                expires_at=expires_at,
            )
            for session in sessions
        ]
        try:
            refused = await self._storage.save_sessions(records)
        except SignalManagerError as error:
            log.error("sessions not saved", sessions=len(records), reason=error.message)
            return
        if refused:
            log.warning("sessions too large to be saved", sessions=len(refused))

    async def _release(self, session: ResumableSession) -> None:
        """Let storage say that a client is offline until it comes back to the next start."""
        try:
            session.client_session.is_registered = await self._dispatcher.release(session.caller)
        except SignalManagerError as error:
            log.warning("client record not updated", client_id=session.client_id, reason=error.message)

    # -- what sessions report ------------------------------------------------------------------------------------

    def suspended(self, session: ResumableSession, connection: SessionConnection) -> None:
        """Let a session stand for its client in its connection's place."""
        self._away[session.session_id] = session
        self.mark(session, is_away=True)
        self._bus.swap(session.client_id, connection, session)

    def resumed(
        self, session: ResumableSession, former: SessionConnection | None, connection: SessionConnection
    ) -> None:
        """Let a new connection stand for its client in its session's place, or in another connection's."""
        self._away.pop(session.session_id, None)
        self._take_back(session)
        self.mark(session, is_away=False)
        if not self._bus.swap(session.client_id, session if former is None else former, connection):
            self._bus.attach(session.client_id, connection)

    def mark(self, session: ResumableSession, *, is_away: bool) -> None:
        """Let the members of a session's room know that its client is away, or back."""
        self._dispatcher.mark(session.session_id, is_away=is_away)

    def forget(self, session: ResumableSession) -> None:
        """Forget a session that has ended."""
        self._sessions.pop(session.session_id, None)
        self._away.pop(session.session_id, None)
        self._take_back(session)

    def check_share(self, session: ResumableSession, sender: str, weight: int) -> None:
        """Let one sender leave only so much in one buffer, and in all of them.

        Raises:
            TooLargeError: no sender could leave as much.
            RateLimitedError: it has to wait until the client is back.
        """
        share = int(self.settings.buffer_bytes * _BUFFER_SHARE)
        if weight > share:
            raise TooLargeError(
                f"the signal is {weight - MESSAGE_OVERHEAD} bytes, expected at most {share - MESSAGE_OVERHEAD}"
                f" since client {session.client_id} is away"
            )
        left, left_in_all = session.left_by.get(sender, 0), self._left_by.get(sender, 0)
        if (
            left + weight > share
            or left_in_all + weight > self.settings.total_bytes * _TOTAL_SHARE
            or not session.client_session.journal.has_room(weight - MESSAGE_OVERHEAD)
        ):
            raise RateLimitedError(f"client {session.client_id} is away, and no more of this is kept for it")

    def left(self, sender: str, weight: int) -> None:
        """Count what a sender has left in a buffer."""
        self._left_by[sender] = self._left_by.get(sender, 0) + weight

    def _take_back(self, session: ResumableSession) -> None:
        """Count no longer what was left for a client that is back, or will never be."""
        for sender, weight in session.left_by.items():
            left = self._left_by[sender] - weight
            if left:
                self._left_by[sender] = left
            else:
                del self._left_by[sender]
        session.left_by.clear()

    def ended(self, session: ResumableSession, reason: str) -> None:
        """Clean up after a session that has ended while its client was away."""
        self.forget(session)
        self._bus.detach(session.client_id, session)
        self._depart(session.caller, reason)

    def _load(self, saved: SavedSession) -> ClientSession | None:
        settings = self.settings
        try:
            client_session = ClientSession.load(
                saved.state,
                window=settings.window,
                limit=settings.buffer_bytes,
                budget=self._budget,
                now=time.monotonic(),
            )
        except MalformedMessageError as error:
            log.warning("saved session not readable", session_id=saved.session_id, reason=error.message)
            return None
        return (
            client_session if client_session.phase is SessionPhase.AWAY else None
        )  # it may be larger than what is kept here

    def _admit(self, client_session: ClientSession) -> ResumableSession:
        """Expect the client of a session that was saved; one that is here already is not disturbed."""
        caller = Caller(Identity(client_id=client_session.client_id), client_session.session_id, "")
        session = self._sessions[client_session.session_id] = ResumableSession(self, client_session, caller, None)
        self._away[client_session.session_id] = session
        if client_session.client_id not in self._bus.subscribers:
            self._bus.attach(client_session.client_id, session)
        return session
