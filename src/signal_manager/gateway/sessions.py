"""Sessions that outlive their connections.

When a connection drops, its session represents the client on the bus and buffers messages. The client's next
connection resumes the session. `protocol/resume.py` decides which sessions can be resumed, and `gateway/drain.py` saves
them when the service stops.
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
    SignalManagerError,
    UnavailableError,
)
from signal_manager.gateway.dispatcher import Dispatcher
from signal_manager.gateway.ports import RelayTarget, SessionConnection
from signal_manager.gateway.saved_sessions import SavedSessions
from signal_manager.gateway.shares import SenderShares
from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.model import Caller, ClientId, Identity, SavedSession, SessionId, taken_up_at
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.codec import decode_payload, encode_payload
from signal_manager.protocol.framing import ID_AT, PAYLOAD_TYPE_AT, TYPE_AT, Framing, encode_frame
from signal_manager.protocol.journal import MESSAGE_OVERHEAD, SERVICE_CONFIRM_WEIGHT, Budget, Journal
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
from signal_manager.protocol.resume import SESSION_OVERHEAD, ClientSession, Outcome, SessionPhase, WireFormat
from signal_manager.protocol.state_machine import ConnectionStateMachine, Received
from signal_manager.storage.base import Storage

__all__ = ["ResumableSession", "ResumeSettings", "SessionStore", "relay_each", "wanted"]

log = structlog.get_logger(__name__)

# Bytes of a resume token. 128 bits cannot be guessed, and these are more.
_TOKEN_BYTES = 24
# The reason that members of a room are given for a client that did not return.
_LOST = "connection lost"
_RESTARTING = "the service is restarting, expected the request to be sent again"


class ResumeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long a session waits for its client, and how much is kept for it.

    Attributes:
        window: seconds; 0 ends every session with its connection.
        buffer_bytes: for one session.
        total_bytes: for all sessions.
    """

    window: float = 30.0
    buffer_bytes: int = 262_144
    total_bytes: int = 268_435_456


class ResumableSession:
    """One client's session over all its connections. While it has none, it represents the client on the bus.

    Large because the bus, its connection and operators each need methods of one object.

    Args:
        owner: knows all sessions by their id.
        client_session: the state, and the messages that are kept for the client.
        caller: the client, as the rest of the service knows it.
        connection: carries the session now; None while the client is away.
    """

    # The codec writes signals to a client that is away, and their sender learns the outcome.
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
        # Requests of all connections that await their answers, by identity.
        self.pending: dict[int, Received] = {}
        # The weight of the messages that others have left here while the client is away, by sender.
        self.left_by: dict[str, int] = {}
        self.is_busy = False  # whether an exclusive request awaits its reply, which later messages have to wait for

    # -- what the bus calls --------------------------------------------------------------------------------------

    @property
    def instance_id(self) -> str | None:
        """The name that the client gives to its running copy."""
        return self.client_session.instance_id

    @property
    def taken_up_at(self) -> int:
        """When the user took up the device (`Subscriber.taken_up_at`)."""
        return taken_up_at(self.session_id)

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        """Keep a message for the client (`Subscriber.deliver`).

        Raises:
            TooLargeError: no buffer could hold the signal.
            RateLimitedError: there is no room for the signal. The session continues.
        """
        data = self._encode(message, message_id, self.client_session.wire_format.payload_type)
        sender = message.sender_client_id if isinstance(message, Signal) else None
        if sender is None or not self.is_away:
            return self._queue(data)
        weight = len(data) + MESSAGE_OVERHEAD
        journal, left_there = self.client_session.journal, self.left_by.get(sender, 0)
        self._owner.shares.check(sender, weight, target=self.client_id, left_there=left_there, journal=journal)
        delivery = self._queue(data)
        if delivery is Delivery.QUEUED:
            self.left_by[sender] = left_there + weight
            self._owner.shares.add(sender, weight)
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
        """Wait for the client to return after its connection has ended; return False if the session ends instead.

        Args:
            connection: the connection that has ended.
            session: its state machine, which knows how long the client may be absent from a room.
        """
        now = time.monotonic()
        if not self.client_session.drop(now, latest=session.must_return_by(now)):
            self._owner.forget(self)
            return False
        self.connection = None
        self._owner.suspended(self, connection)
        return True

    def answered(self, request: Received, reply: bytes, *, exclusive: bool) -> bool:
        """Send the reply to a request, or keep it while the client is away; return False if the session has ended."""
        if id(request) not in self.pending:
            return self.client_session.phase is not SessionPhase.ENDED  # `freeze` has answered it
        if self.connection is not None:
            self.connection.conversation.answered(request, reply, exclusive=exclusive)
            return True
        del self.pending[id(request)]
        if exclusive:
            self.is_busy = False
        if self.client_session.phase is not SessionPhase.AWAY:
            return False
        self._owner.mark(self, is_away=True)  # the request may have let it join a room
        return self._queue(reply) is Delivery.QUEUED

    def resume(self, connection: SessionConnection, caller: Caller, received: int) -> tuple[bytes, ...]:
        """Continue on a new connection; return the messages that the client misses."""
        former, self.connection, self.caller = self.connection, connection, caller
        self.address = connection.address
        missing = self.client_session.resume(received)
        self._owner.resumed(self, former, connection)
        if former is not None:
            former.conversation.handed_over()
        return missing

    def ended(self) -> None:
        """End together with the connection."""
        self.client_session.end()
        self.connection = None
        self._owner.forget(self)

    def end(self, reason: str) -> None:
        """End while the client is away."""
        self.client_session.end()
        self._owner.ended(self, reason)

    def freeze(self) -> None:
        """Stop before the session is saved; answer the requests that are pending with 503."""
        self.connection = None
        for request in self.pending.values():
            error = UnavailableError(_RESTARTING)
            refusal = ErrorMessage(error_code=error.code, error_message=error.message, retryable=True)
            self.client_session.journal.keep(self._encode(refusal, request.message_id, request.payload_type))
        self.pending.clear()

    # -- what operators see and do (`LiveSession`) -----------------------------------------------------------------

    @property
    def client_id(self) -> ClientId:
        """The authenticated client."""
        return self.client_session.client_id

    @property
    def session_id(self) -> SessionId:
        """The session's id."""
        return self.client_session.session_id

    @property
    def is_away(self) -> bool:
        """Whether the session waits for its client to return."""
        return self.client_session.phase is SessionPhase.AWAY

    @property
    def framing(self) -> str:
        """How messages are wrapped."""
        return self.client_session.wire_format.framing.value

    @property
    def encoding(self) -> str:
        """How the client writes payloads."""
        return self.client_session.wire_format.payload_type.name.lower()

    @property
    def age(self) -> float:
        """Seconds since the session began."""
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
        """End the session because an operator asked for it."""
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
    """The session that a client wants to resume on another node."""

    offer: Resume
    framing: Framing
    payload_type: PayloadType
    shape: Shape


_encode_wanted = msgspec.msgpack.Encoder().encode
_decode_wanted = msgspec.msgpack.Decoder(_Wanted).decode


def wanted(offer: Resume, wire_format: WireFormat) -> bytes:
    """Return what another node needs to hand a session over (`SessionStore.hand_over`)."""
    return _encode_wanted(_Wanted(offer, wire_format.framing, wire_format.payload_type, wire_format.shape))


def relay_each(
    deliver: Callable[[Message, bytes], Delivery], target: str, sender: str, signals: Sequence[tuple[bytes, bytes]]
) -> Sequence[Exceptional]:
    """Deliver signals of another node through the codec; arguments and result are those of `Subscriber.relay`."""
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

    Large because each move of a session (here, away, saved, handed over, ended) is one method, and all of them change
    the same two tables.

    Args:
        bus: delivers messages to sessions whose clients are away.
        dispatcher: updates rooms and records.
        storage: keeps sessions from one start to the next; None for a service whose sessions end with it.
        settings: bounds of time and memory.
        metrics: counts the outcomes of resume requests.
        depart: called with every session that has ended while its client was away.

    Attributes:
        shares: bounds what one sender leaves for clients that are away.
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
        self._depart = depart
        self._budget = Budget(settings.total_bytes)
        self._saved = SavedSessions(storage, budget=self._budget, window=settings.window, limit=settings.buffer_bytes)
        self.shares = SenderShares(buffer_bytes=settings.buffer_bytes, total_bytes=settings.total_bytes)
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
        """End a session that its client has lost to a newer device; do nothing if another client owns it."""
        is_here = self._sessions.get(session.session_id) is session
        if (
            is_here
            and session.client_session.judge(offer, client_id, session.client_session.wire_format)
            is not Outcome.FORBIDDEN
        ):
            (session.connection or session).replaced(same_instance=False)

    def finds_at_once(self, offer: Resume) -> bool:
        """Tell whether `find` waits for nothing."""
        return SessionId(offer.session_id) in self._sessions or not self._saved.is_kept

    async def find(self, offer: Resume, client_id: ClientId) -> ResumableSession | None:
        """Return the session that a client wants to resume, from here or from storage; None if there is none.

        Raises:
            UnavailableError: the store does not answer.
        """
        session_id = SessionId(offer.session_id)
        session = self._sessions.get(session_id)
        if session is not None:
            return session
        saved = await self._saved.take(session_id)
        client_session = self._saved.load(saved) if saved is not None else None
        if saved is None or client_session is None:
            return None
        if client_session.judge(offer, client_id, client_session.wire_format) is Outcome.FORBIDDEN:
            await self._saved.put_back(saved)  # another client owns it
            return None
        return self._admit(client_session)

    def hand_over(self, client_id: ClientId, wants: bytes) -> bytes | None:
        """End a session here and return its state for another node; None if it cannot continue there."""
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
        """Take in a session that another node has handed over; return None if it cannot be read."""
        saved = SavedSession(session_id=SessionId(""), client_id=client_id, state=state, expires_at=0.0)
        client_session = self._saved.load(saved)
        return self._admit(client_session) if client_session is not None else None

    def judge(
        self, session: ResumableSession | None, offer: Resume, client_id: ClientId, wire_format: WireFormat
    ) -> bool:
        """Return whether a client may resume a session, and count the outcome.

        A session of the client that cannot be resumed ends, because no client returns to it.
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
        """End the sessions whose clients stayed away for too long, or whose messages no longer fit the budget."""
        for session in tuple(self._away.values()):
            if session.client_session.has_expired(now) or session.client_session.has_overflowed():
                self.ended(session, _LOST)

    async def reclaim(self) -> int:
        """Load the sessions that an earlier start has saved, so that their clients can resume; return how many.

        Raises:
            UnavailableError: the store does not answer.
        """
        reclaimed = 0
        while page := await self._saved.take_page():
            for client_session in map(self._saved.load, page):
                if client_session is not None:
                    await self.adopt(self._admit(client_session))
                    reclaimed += 1
        return reclaimed

    async def adopt(self, session: ResumableSession) -> None:
        """Mark the record of a registered client online again, for this session on this node."""
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
        """Write frozen sessions to storage (`SavedSessions.save`), and mark their clients' records offline."""
        if self._saved.is_kept:
            await asyncio.gather(*(self._release(session) for session in sessions))
            await self._saved.save([session.client_session for session in sessions])

    async def _release(self, session: ResumableSession) -> None:
        """Mark the record of a client offline until the client returns."""
        try:
            session.client_session.is_registered = await self._dispatcher.release(session.caller)
        except SignalManagerError as error:
            log.warning("client record not updated", client_id=session.client_id, reason=error.message)

    # -- what sessions report ------------------------------------------------------------------------------------

    def suspended(self, session: ResumableSession, connection: SessionConnection) -> None:
        """Let a session represent its client in place of its connection."""
        self._away[session.session_id] = session
        self.mark(session, is_away=True)
        self._bus.swap(session.client_id, connection, session)

    def resumed(
        self, session: ResumableSession, former: SessionConnection | None, connection: SessionConnection
    ) -> None:
        """Let a new connection represent the client in place of the session or of another connection."""
        self._away.pop(session.session_id, None)
        self.shares.take_back(session.left_by)
        self.mark(session, is_away=False)
        if not self._bus.swap(session.client_id, session if former is None else former, connection):
            self._bus.attach(session.client_id, connection)

    def mark(self, session: ResumableSession, *, is_away: bool) -> None:
        """Tell the members of the session's room that the client is away, or back."""
        self._dispatcher.mark(session.session_id, is_away=is_away)

    def forget(self, session: ResumableSession) -> None:
        """Forget a session that has ended."""
        self._sessions.pop(session.session_id, None)
        self._away.pop(session.session_id, None)
        self.shares.take_back(session.left_by)

    def ended(self, session: ResumableSession, reason: str) -> None:
        """Clean up after a session that has ended while its client was away."""
        self.forget(session)
        self._bus.detach(session.client_id, session)
        self._depart(session.caller, reason)

    def _admit(self, client_session: ClientSession) -> ResumableSession:
        """Let a saved session wait for its client; a client that is connected here is not disturbed."""
        caller = Caller(Identity(client_id=client_session.client_id), client_session.session_id, "")
        session = self._sessions[client_session.session_id] = ResumableSession(self, client_session, caller, None)
        self._away[client_session.session_id] = session
        if client_session.client_id not in self._bus.subscribers:
            self._bus.attach(client_session.client_id, session)
        return session
