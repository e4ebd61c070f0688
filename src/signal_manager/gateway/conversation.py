"""What a client and the service say to each other: message → session → actions, and requests on to the dispatcher.

`gateway/connection.py` brings messages in and takes bytes out; signals and heartbeats that it can handle without
decoding them never get here. What must be waited for runs in the background: `gateway/sign_in.py` for CONNECT, the
dispatcher for requests.
"""

from __future__ import annotations

import time
from functools import partial
from typing import assert_never
from uuid import uuid4

import msgspec
import structlog

from signal_manager.bus.base import Delivery
from signal_manager.errors import (
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    MalformedMessageError,
    RateLimitedError,
    SignalManagerError,
    TooLargeError,
    UnavailableError,
)
from signal_manager.gateway.limits import BEFORE_CONNECT, PENDING_REQUESTS
from signal_manager.gateway.ports import ConversationConnection
from signal_manager.gateway.registry import ConnectionRegistry
from signal_manager.gateway.sessions import ResumableSession
from signal_manager.gateway.sign_in import Admission, ServiceFullError, admit, renew, session_to_go_on_with
from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.model import Caller
from signal_manager.protocol import heartbeat
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.close_codes import CLOSE_CODES, CloseCode
from signal_manager.protocol.codec import decode_payload, encode_payload, guess_shape
from signal_manager.protocol.codec.fields import raw_signal_data
from signal_manager.protocol.framing import ID_AT, PAYLOAD_TYPE_AT, Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import (
    Connect,
    ErrorMessage,
    Heartbeat,
    HeartbeatAck,
    Message,
    MessageType,
    PayloadType,
    Peer,
    Shape,
    Signal,
    SignalAck,
    TokenRenew,
)
from signal_manager.protocol.resume import UNCOUNTED, WireFormat
from signal_manager.protocol.state_machine import (
    Absent,
    Action,
    Authenticate,
    Close,
    Confirm,
    ConnectionStateMachine,
    Dispatch,
    Ping,
    Received,
    Relay,
    ResumeTerms,
    Send,
    State,
)

__all__ = ["Conversation"]

log = structlog.get_logger(__name__)

# What the other members of a room are told of a connection that was closed so.
_REASONS: dict[int, str] = {CloseCode.NORMAL: "left", CloseCode.REPLACED: "replaced", CloseCode.EVICTED: "removed"}
_LOST = "connection lost"
# Their layout of HEARTBEAT_ACK has no place for `received`.
_WITHOUT_ROOM = frozenset({PayloadType.BINARY, PayloadType.TEXT})


class Conversation:
    """What is said on one connection.

    Args:
        connection: carries the messages.
        registry: what all connections share.
        session: decides what may be said.
        framing: how messages are wrapped.
    """

    __slots__ = (
        "_caller",
        "_connection",
        "_farewell",
        "_framing",
        "_registry",
        "_resumable",
        "_session",
        "pending",
    )

    def __init__(
        self,
        connection: ConversationConnection,
        registry: ConnectionRegistry,
        session: ConnectionStateMachine,
        framing: Framing,
    ) -> None:
        self._connection = connection
        self._registry = registry
        self._session = session
        self._framing = framing
        self._caller: Caller | None = None
        self._resumable: ResumableSession | None = None  # the session, where it may outlive this connection
        self._farewell: list[Action] = []  # what is left to do once the session is saved
        self.pending: dict[int, Received] = {}  # requests that are being answered, by their identity

    @property
    def is_established(self) -> bool:
        """Whether the connection is its client's presence now."""
        return self._caller is not None

    @property
    def is_answering(self) -> bool:
        """Whether something that the client has said is still to be answered."""
        return bool(self.pending) and self._caller is not None

    @property
    def pending_requests(self) -> int:
        """The number of requests that await their answers."""
        return len(self.pending)

    # -- what comes ----------------------------------------------------------------------------------------------

    def take(self, data: bytes, *, is_text: bool) -> None:
        """Decode a message and give it to the session."""
        now = time.monotonic()
        session = self._session
        payload_type, shape = session.payload_type, None
        if session.state is State.AWAITING_CONNECT and len(data) > BEFORE_CONNECT:
            self.perform(
                session.broken(CloseCode.TOO_LARGE, f"message larger than {BEFORE_CONNECT} bytes before CONNECT")
            )
            return
        try:
            if is_text is not (self._framing is Framing.JSON):
                wanted, came = ("text", "binary") if self._framing is Framing.JSON else ("binary", "text")
                raise MalformedMessageError(f"expected a {wanted} WebSocket message, got a {came} one")
            header = decode_frame(self._framing, data)
            payload_type = header.payload_type
            self._registry.counters.received[header.message_type].value += 1
            if not session.reads(header.message_type):
                shape = guess_shape(payload_type, header.payload)
                self._count(header.message_type, data)
                self.perform(
                    session.unread(
                        header.message_type, message_id=header.message_id, payload_type=payload_type, shape=shape
                    )
                )
                return
            try:
                decoded = decode_payload(header.message_type, payload_type, header.payload, sent_by=Peer.CLIENT)
            except MalformedMessageError as error:
                error.message_id = header.message_id
                shape = guess_shape(payload_type, header.payload)
                raise
            finally:
                self._count(header.message_type, data)
        except MalformedMessageError as error:
            if error.message_id is None:
                self._count(None, data)
            self.perform(session.malformed(error, payload_type=payload_type, shape=shape, now=now))
            return
        received = Received(decoded.message, header.message_id, payload_type, decoded.shape)
        self.perform(session.receive(received, now=now, server_time=time.time_ns() // 1_000_000))

    def refuse(self, data: bytes, refusal: RateLimitedError) -> None:
        """Answer a message that is beyond the rate, and is not read any further."""
        message_id, payload_type, message_type = None, self._session.payload_type, None
        try:
            header = decode_frame(self._framing, data)
        except MalformedMessageError:
            pass
        else:
            message_id, payload_type, message_type = header.message_id, header.payload_type, header.message_type
            self._registry.counters.received[message_type].value += 1
        self._count(message_type, data)
        self.perform(self._session.limited(refusal, message_id=message_id, payload_type=payload_type))

    def _count(self, message_type: MessageType | None, data: bytes) -> None:
        """Count a message for the session, and confirm it when that is due; None is for what has no type."""
        resumable = self._resumable
        if resumable is not None and message_type not in UNCOUNTED and resumable.client_session.journal.take(len(data)):
            self.confirm()

    def confirm(self) -> None:
        """Tell the client how many of its messages have come, so that it need not keep them."""
        resumable, session = self._resumable, self._session
        assert resumable is not None  # noqa: S101 - whoever counts has one
        timestamp, received = time.time_ns() // 1_000_000, resumable.client_session.journal.tell()
        end = self._connection.relay_end
        if end is not None and session.payload_type is PayloadType.JSON:  # only plain sessions can be resumed
            self._registry.counters.sent[MessageType.HEARTBEAT].value += 1
            beat = heartbeat.confirmation(end, uuid4().bytes, timestamp=timestamp, received=received)
        else:
            message = Heartbeat(timestamp=timestamp, received=received)
            beat = self._encode(message, None, session.payload_type, session.shape)
        self._connection.write(beat, counts=False)

    # -- what goes -----------------------------------------------------------------------------------------------

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        """Send a message to the client in its own encoding (`Subscriber.deliver`)."""
        session = self._session
        if session.shape is Shape.TAGGED and spec_of(message).variant is None:
            raise InvalidRequestError(f"the target's protocol has no {spec_of(message).message_type.name}")
        if session.shape is Shape.TAGGED and isinstance(message, Signal):
            message = _in_words_of_the_original(message)
        try:
            data = self._encode(message, message_id, session.payload_type, session.shape)
        except TooLargeError:
            if session.shape is not Shape.TAGGED or not isinstance(message, Signal):
                raise
            # As `relay.write` does: without its sender it may fit, and the original's clients know of none.
            message = msgspec.structs.replace(message, sender_client_id=None)
            data = self._encode(message, message_id, session.payload_type, session.shape)
        self._connection.write(data, self._registry.batch)
        return Delivery.DELIVERED

    def acknowledge(self, target: str, data: bytes, batch: WriteBatch | None) -> None:
        """Tell the client that the signal in `data`, a whole frame, was written to its target."""
        ack = SignalAck(status="delivered", target_client_id=target)
        if self._session.shape is not Shape.TAGGED:
            message_id, payload_type = data[ID_AT:PAYLOAD_TYPE_AT], PayloadType(data[PAYLOAD_TYPE_AT])
            self._connection.write(self._encode(ack, message_id, payload_type, self._session.shape), batch)

    def tell(self, request: Received, told: SignalAck | SignalManagerError | None) -> None:
        """Answer a signal whose way was known only after others were handled, wherever its client is by now."""
        if isinstance(told, SignalManagerError):
            reply = self._encoded(self._session.error(told, request))
        elif told is None or self._session.shape is Shape.TAGGED:
            return
        else:
            reply = self._encoded(self._session.reply(told, request))
        if self._resumable is not None:
            self._resumable.tell(reply, self._registry.batch)
        elif self._caller is not None:
            self._connection.write(reply, self._registry.batch)

    def _send(self, action: Send) -> None:
        if (
            isinstance(action.message, HeartbeatAck)
            and self._resumable is not None
            and action.payload_type not in _WITHOUT_ROOM
        ):
            told = msgspec.structs.replace(action.message, received=self._resumable.client_session.journal.tell())
            action = msgspec.structs.replace(action, message=told)
        counts = spec_of(action.message).message_type not in UNCOUNTED
        self._connection.write(self._encoded(action), self._registry.batch, counts=counts)

    def _encoded(self, action: Send) -> bytes:
        """Return a message's bytes, or those of the ERROR that it is too large for this client's framing."""
        if isinstance(action.message, ErrorMessage):
            self._registry.errors.record(action.message, self._session.client_id)
        try:
            return self._encode(action.message, action.message_id, action.payload_type, action.shape)
        except TooLargeError as error:
            refusal = self._session.error(error, _as_request(action))
            return self._encode(refusal.message, refusal.message_id, refusal.payload_type, refusal.shape)

    def _encode(self, message: Message, message_id: bytes | None, payload_type: PayloadType, shape: Shape) -> bytes:
        payload_type, payload = encode_payload(message, payload_type, shape, sent_by=Peer.SERVICE)
        message_type = spec_of(message).message_type
        frame = encode_frame(self._framing, message_type, message_id or uuid4().bytes, payload_type, payload)
        self._registry.counters.sent[message_type].value += 1
        return frame

    # -- actions -------------------------------------------------------------------------------------------------

    def perform(self, actions: list[Action]) -> None:
        """Do what the session asks for."""
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Relay():
                    self._relay(action.signal)
                case Authenticate():
                    self._connection.hold()
                    self._registry.occupancy.introduced(self._connection)
                    self._registry.background.start(self._authenticate(action.connect), name="authenticate")
                case Dispatch():
                    self._dispatch(action.request)
                case Confirm():
                    self._confirmed(action)
                case Ping():
                    self._connection.ping()
                case Absent():
                    if self._caller is not None:
                        self._registry.dispatcher.mark(self._caller.session_id, is_away=action.is_away)
                case Close():
                    self.leave(_REASONS.get(action.code, _LOST), may_resume=CLOSE_CODES[action.code].keeps_session)
                    self._connection.close(action.code, action.reason)
                case _:
                    assert_never(action)

    def _confirmed(self, action: Confirm) -> None:
        if self._resumable is not None:
            try:
                self._resumable.client_session.journal.confirm(action.received)
            except InvalidRequestError as error:
                self._send(self._session.error(error, action.heartbeat))

    def _relay(self, received: Received) -> None:
        """Send a signal the long way: its target uses another encoding, or something about it is wrong."""
        signal, caller = received.message, self._caller
        assert isinstance(signal, Signal) and caller is not None  # noqa: S101, PT018 - the session says so
        try:
            ack = self._registry.dispatcher.relay(
                caller, signal, received.message_id, later=partial(self.tell, received)
            )
        except SignalManagerError as error:
            self._send(self._session.error(error, received))
            return
        self._registry.counters.relayed_decoded.value += 1
        if isinstance(ack, SignalAck) and self._session.shape is not Shape.TAGGED:
            self._send(self._session.reply(ack, received))

    # -- time ----------------------------------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """Take a sign of life."""
        self.perform(self._session.heard(now))

    def tick(self, now: float) -> float | None:
        """Do what is due at `now`, and return when something is due next."""
        self._look_for_room()
        self.perform(self._session.tick(now))
        return self._session.next_deadline()

    def _look_for_room(self) -> None:
        caller = self._caller
        self._session.is_in_room = caller is not None and self._registry.dispatcher.is_in_room(caller.session_id)

    # -- how it begins -------------------------------------------------------------------------------------------

    async def _authenticate(self, connect: Connect) -> None:
        session, registry = self._session, self._registry
        wire_format = self._wire_format(connect)
        try:
            admission = await admit(registry, connect, connection=self._connection, wire_format=wire_format)
        except ServiceFullError as error:
            self.perform(session.turned_away(error.message))
            self._connection.release()
            return
        except SignalManagerError as error:
            self.perform(session.refused(error))
            self._connection.release()
            return
        caller, claimed = admission.caller, admission.claimed
        if session.state is not State.AUTHENTICATING:  # the client has gone meanwhile
            if claimed.is_won:
                registry.bus.release(caller.identity.client_id)
        elif not claimed.is_won and connect.resume is not None:  # the device that its user has left
            self.perform(session.refused(ConflictError("replaced: another device of this client has come since")))
        elif not claimed.is_won:  # it is on another node by now
            self.perform(self._accepted(caller))
            self.perform(session.replaced(same_instance=False))
        else:
            self._welcome(admission, connect, wire_format)
        if self._resumable is None or not self._resumable.is_busy:
            self._connection.release()

    def _wire_format(self, connect: Connect) -> WireFormat | None:
        """Return how this client's session is written; None for one that ends with its connection.

        A tagged client knows nothing of sessions that can be resumed.
        """
        session = self._session
        may_resume = (
            connect.resumable and session.shape is Shape.PLAIN and self._registry.session_store.settings.window > 0
        )
        return WireFormat(self._framing, session.payload_type, session.shape) if may_resume else None

    def _welcome(self, admission: Admission, connect: Connect, wire_format: WireFormat | None) -> None:
        """Accept a client: to the session it had, with all that it misses, or to a new one."""
        caller, session_store = admission.caller, self._registry.session_store
        former = session_to_go_on_with(self._registry, admission)
        if wire_format is None:
            actions = self._accepted(caller)
            self._join(caller, connect)
            self._registry.bus.attach(caller.identity.client_id, self._connection)
            self.perform(actions)
            return
        offer = connect.resume
        if offer is not None and session_store.judge(former, offer, caller.identity.client_id, wire_format) and former:
            caller = msgspec.structs.replace(caller, session_id=former.session_id)
            self._carry(former, caller, connect, missing_from=offer.received)
            return
        self._carry(
            session_store.open(self._connection, caller, connect, wire_format), caller, connect, missing_from=None
        )

    def _carry(
        self, resumable: ResumableSession, caller: Caller, connect: Connect, *, missing_from: int | None
    ) -> None:
        """Make a session that outlives its connections go on here, from where its client was, or begin."""
        client_session = resumable.client_session
        terms = ResumeTerms(
            token=client_session.token,
            window=client_session.window,
            resumed=missing_from is not None,
            received=client_session.journal.tell(),
        )
        actions = self._accepted(caller, terms)
        self._join(caller, connect)
        missing: tuple[bytes, ...] = ()
        if missing_from is None:
            self._registry.bus.attach(caller.identity.client_id, self._connection)
        else:
            missing = resumable.resume(self._connection, caller, missing_from)
        self._resumable, self.pending = resumable, resumable.pending
        self._connection.keep_in(client_session.journal)
        self.perform(actions)
        for data in missing:
            self._connection.write(data, counts=False)

    def _accepted(self, caller: Caller, terms: ResumeTerms | None = None) -> list[Action]:
        now, server_time = time.monotonic(), time.time_ns() // 1_000_000
        return self._session.accepted(
            caller.identity, caller.session_id, now=now, server_time=server_time, resume=terms
        )

    def _join(self, caller: Caller, connect: Connect) -> None:
        """Make this connection its client's presence."""
        self._caller = caller
        self._connection.identified(connect, relays=caller.identity.grants.signal_to is None)
        log.info("connection authenticated", client_id=connect.client_id, address=self._connection.address)

    # -- requests ------------------------------------------------------------------------------------------------

    def _dispatch(self, request: Received) -> None:
        """Have a request answered in the background, unless too many are being answered already."""
        caller = self._caller
        assert caller is not None  # noqa: S101 - the session dispatches established connections only
        if len(self.pending) >= PENDING_REQUESTS:
            error = RateLimitedError(f"{len(self.pending)} requests wait for their answers, expected fewer")
            self._send(self._session.error(error, request))
            return
        self.pending[id(request)] = request
        exclusive = spec_of(request.message).is_exclusive
        if exclusive:
            self._connection.hold()
            if self._resumable is not None:
                self._resumable.is_busy = True
        self._registry.background.start(
            self._answer(caller, request, self._resumable, exclusive=exclusive), name="answer"
        )

    async def _answer(
        self, caller: Caller, request: Received, resumable: ResumableSession | None, *, exclusive: bool
    ) -> None:
        try:
            action = self._session.reply(await self._ask(caller, request.message), request)
        except SignalManagerError as error:
            action = self._session.error(error, request)
        except Exception:
            log.exception("request failed", client_id=caller.identity.client_id)
            action = self._session.error(SignalManagerError("internal error"), request)
        reply = self._encoded(action)
        if resumable is None:
            self.answered(request, reply, exclusive=exclusive)
            is_there = self._caller is not None
        else:
            is_there = resumable.answered(request, reply, exclusive=exclusive)
        if not is_there:  # the session has ended, and this request may have come in after that
            self._registry.dispatcher.left(caller, _LOST)

    async def _ask(self, caller: Caller, message: Message) -> Message:
        if isinstance(message, TokenRenew):
            return self._renewed(
                await renew(self._registry, caller, message.auth_token, source=self._connection.source)
            )
        token = getattr(message, "auth_token", None)
        if not token:
            return await self._registry.dispatcher.answer(caller, message)
        # A request that brings a token of its own is no cheaper way to guess one.
        usage, source = self._registry.occupancy.usage, self._connection.source
        usage.check_authentication(source, time.monotonic())
        try:
            return await self._registry.dispatcher.answer(caller, message)
        except AuthenticationError:
            usage.authentication_failed(source, time.monotonic())
            raise

    def _renewed(self, caller: Caller) -> Message:
        """Let the client do from now on what its new token says, and nothing that only the old one said."""
        ack = self._session.renewed(caller.identity, now=time.monotonic(), server_time=time.time_ns() // 1_000_000)
        if ack is None or self._caller is None:  # it goes on elsewhere, by the token that it has shown there
            raise UnavailableError("the connection ended before the token was renewed")
        self._caller = caller
        if self._resumable is not None:
            self._resumable.caller = caller
        self._connection.restrict(relays=caller.identity.grants.signal_to is None)
        return ack

    def answered(self, request: Received, reply: bytes, *, exclusive: bool) -> None:
        """Send the reply to a request (`SessionConversation.answered`)."""
        self.pending.pop(id(request), None)
        self._connection.write(reply)
        if exclusive:
            if self._resumable is not None:
                self._resumable.is_busy = False
            self._connection.release()

    # -- how it ends ---------------------------------------------------------------------------------------------

    def go_away(self, reconnect_after: int) -> None:
        """Tell the client that the service stops (`DrainedConversation.go_away`)."""
        self.perform(self._session.draining(reconnect_after=reconnect_after))

    def turned_away(self, reason: str) -> None:
        """End before the client is authenticated, because there is no room for it."""
        self.perform(self._session.turned_away(reason))

    def evict(self) -> None:
        """End because an operator asked for it."""
        self.perform(self._session.evicted())

    def fell_behind(self) -> None:
        """End because the client reads too slowly (`SlowClient.fell_behind`)."""
        self.perform(self._session.fell_behind())

    def broken(self, code: CloseCode, reason: str) -> None:
        """End because what the client sent cannot be handled (`FramedConversation.broken`)."""
        self.perform(self._session.broken(code, reason))

    def insistent(self) -> None:
        """End because the client has exceeded its rate for too long (`FramedConversation.insistent`)."""
        self.perform(self._session.insistent())

    def hung_up(self, *, may_return: bool) -> None:
        """End because the client closed the connection (`FramedConversation.hung_up`)."""
        self._session.lost()
        self.leave(may_resume=may_return)

    def replaced(self, *, same_instance: bool) -> None:
        """End in favour of a newer connection (`Subscriber.replaced`)."""
        actions = self._session.replaced(same_instance=same_instance)
        self.leave(_LOST if same_instance else "replaced")  # for good, although the code invites the instance back
        self.perform(actions)

    def handed_over(self) -> None:
        """End since the session goes on elsewhere (`SessionConversation.handed_over`)."""
        self._let_go()
        self.perform(self._session.replaced(same_instance=True))

    def freeze(self) -> None:
        """Let nothing count that still comes; `part` says good-bye (`DrainedConversation.freeze`)."""
        self._farewell = self._session.stopped()
        if self._resumable is not None and self._resumable.client_session.journal.is_complete:
            self._registry.bus.detach(self._connection.client_id, self._connection)
            self._let_go()

    def part(self) -> None:
        """Say good-bye after `freeze` (`DrainedConversation.part`)."""
        farewell, self._farewell = self._farewell, []
        self.perform(farewell)

    def leave(self, reason: str = _LOST, *, may_resume: bool = False) -> None:
        """Stop being the client's presence; a session that may be resumed waits for its client instead."""
        caller, resumable = self._caller, self._resumable
        self._look_for_room()
        self._let_go()
        if caller is None:
            return
        if resumable is not None:
            if may_resume and resumable.suspend(self._connection, self._session):
                return
            resumable.ended()
        self._registry.bus.detach(caller.identity.client_id, self._connection)
        self._registry.depart(caller, reason)

    def _let_go(self) -> None:
        self._caller = None
        self._resumable = None
        self.pending = {}
        self._connection.let_go()


def _as_request(action: Send) -> Received:
    return Received(action.message, action.message_id or bytes(16), action.payload_type, action.shape)


def _in_words_of_the_original(signal: Signal) -> Signal:
    """Return a signal whose data is text: the original's clients end their connection at any other JSON value."""
    data = signal.signal_data
    if isinstance(data, str | bytes):
        return signal
    return msgspec.structs.replace(signal, signal_data=raw_signal_data(data).decode())
