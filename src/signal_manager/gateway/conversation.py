"""The decoded messages of one connection: message → state machine → actions.

`gateway/connection.py` receives and writes bytes; signals and heartbeats on its fast paths never arrive here.
`gateway/encoder.py` encodes. Work that has to be awaited runs in the background: `gateway/sign_in.py` answers CONNECT,
`gateway/answer.py` every other request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import assert_never

import msgspec
import structlog

from signal_manager.bus.base import Delivery
from signal_manager.errors import (
    InvalidRequestError,
    MalformedMessageError,
    RateLimitedError,
    SignalManagerError,
    UnavailableError,
)
from signal_manager.gateway.answer import RequestAnswer
from signal_manager.gateway.encoder import MessageEncoder
from signal_manager.gateway.limits import BEFORE_CONNECT, PENDING_REQUESTS
from signal_manager.gateway.ports import ConversationConnection
from signal_manager.gateway.registry import ConnectionRegistry
from signal_manager.gateway.sessions import ResumableSession
from signal_manager.gateway.sign_in import SignIn
from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.model import Caller
from signal_manager.observe.logs import tells
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.close_codes import CLOSE_CODES, CloseCode
from signal_manager.protocol.codec import decode_payload, guess_shape
from signal_manager.protocol.framing import Framing, decode_frame
from signal_manager.protocol.messages import (
    Connect,
    HeartbeatAck,
    Message,
    MessageType,
    PayloadType,
    Peer,
    Shape,
    Signal,
    SignalAck,
    TokenRenewAck,
)
from signal_manager.protocol.resume import UNCOUNTED
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
    Send,
    State,
)

__all__ = ["Conversation"]

log = structlog.get_logger(__name__)

# The reason that other members of a room are given, by the close code.
_REASONS: dict[int, str] = {CloseCode.NORMAL: "left", CloseCode.REPLACED: "replaced", CloseCode.EVICTED: "removed"}
_LOST = "connection lost"
# Payload types whose HEARTBEAT_ACK has no field for `received`.
_WITHOUT_ROOM = frozenset({PayloadType.BINARY, PayloadType.TEXT})


class Conversation:
    """The decoded messages of one connection, and the end of its session.

    Large because each event (a frame, a reply, a time limit, a drain) is one method here, and all of them change the
    same few fields: the caller, its session and its pending requests.

    Args:
        connection: carries the messages.
        registry: what all connections share.
        session: the state machine, which decides what the client may do now.
        framing: how messages are wrapped.

    Attributes:
        pending: requests that await their answers, by identity; None for none, as an empty table takes memory too.
    """

    __slots__ = (
        "_caller",
        "_farewell",
        "_registry",
        "_resumable",
        "connection",
        "encoder",
        "framing",
        "pending",
        "session",
    )

    def __init__(
        self,
        connection: ConversationConnection,
        registry: ConnectionRegistry,
        session: ConnectionStateMachine,
        framing: Framing,
    ) -> None:
        self.connection = connection
        self._registry = registry
        self.session = session
        self.framing = framing
        self.encoder = MessageEncoder(session, framing, registry.counters, registry.errors, registry.last_message)
        self._caller: Caller | None = None
        self._resumable: ResumableSession | None = None  # the session, if it may outlive this connection
        self._farewell: Sequence[Action] = ()  # what `part` does once the session is saved
        self.pending: dict[int, Received] | None = None

    @property
    def is_established(self) -> bool:
        """Whether the client is authenticated and this connection represents it."""
        return self._caller is not None

    @property
    def is_answering(self) -> bool:
        """Whether requests of the client await their answers."""
        return bool(self.pending) and self._caller is not None

    @property
    def pending_requests(self) -> int:
        """The number of requests that await their answers."""
        return len(self.pending or ())

    # -- what comes ----------------------------------------------------------------------------------------------

    def take(self, data: bytes, *, is_text: bool) -> None:
        """Decode a message and give it to the state machine."""
        now = time.monotonic()
        session = self.session
        payload_type, shape = session.payload_type, None
        if session.state is State.AWAITING_CONNECT and len(data) > BEFORE_CONNECT:
            self.perform(
                session.broken(CloseCode.TOO_LARGE, f"message larger than {BEFORE_CONNECT} bytes before CONNECT")
            )
            return
        try:
            if is_text is not (self.framing is Framing.JSON):
                wanted, came = ("text", "binary") if self.framing is Framing.JSON else ("binary", "text")
                raise MalformedMessageError(f"expected a {wanted} WebSocket message, got a {came} one")
            header = decode_frame(self.framing, data)
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
        """Answer a message that exceeds the rate, without decoding its payload."""
        message_id, payload_type, message_type = None, self.session.payload_type, None
        try:
            header = decode_frame(self.framing, data)
        except MalformedMessageError:
            pass
        else:
            message_id, payload_type, message_type = header.message_id, header.payload_type, header.message_type
            self._registry.counters.received[message_type].value += 1
        self._count(message_type, data)
        self.perform(self.session.limited(refusal, message_id=message_id, payload_type=payload_type))

    def _count(self, message_type: MessageType | None, data: bytes) -> None:
        """Count a message in the journal, and confirm it when that is due; the type of a malformed one may be None."""
        resumable = self._resumable
        if resumable is not None and message_type not in UNCOUNTED and resumable.client_session.journal.take(len(data)):
            self.confirm()

    def confirm(self) -> None:
        """Tell the client how many of its messages have arrived, so that it can drop its copies."""
        resumable, connection = self._resumable, self.connection
        assert resumable is not None  # noqa: S101 - only a session with a journal counts
        received = resumable.client_session.journal.tell()
        connection.write(self.encoder.confirmation(connection.relay_end, received), counts=False)

    # -- what goes -----------------------------------------------------------------------------------------------

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        """Send a message to the client in its own encoding (`Subscriber.deliver`)."""
        self.connection.write(self.encoder.message(message, message_id), self._registry.relay_context.batch)
        return Delivery.DELIVERED

    def acknowledge(self, target: str, signal: bytes, batch: WriteBatch | None) -> None:
        """Tell the client that a signal, given as its whole frame, was written to its target."""
        ack = self.encoder.acknowledgement(target, signal)
        if ack is not None:
            self.connection.write(ack, batch)

    def tell(self, request: Received, told: SignalAck | SignalManagerError | None) -> None:
        """Answer a signal whose outcome arrived late, on whichever connection the client has by now."""
        if isinstance(told, SignalManagerError):
            reply = self.encoder.reply(self.session.error(told, request))
        elif told is None or self.session.shape is Shape.TAGGED:
            return
        else:
            reply = self.encoder.reply(self.session.reply(told, request))
        if self._resumable is not None:
            self._resumable.tell(reply, self._registry.relay_context.batch)
        elif self._caller is not None:
            self.connection.write(reply, self._registry.relay_context.batch)

    def _send(self, action: Send) -> None:
        if (
            isinstance(action.message, HeartbeatAck)
            and self._resumable is not None
            and action.payload_type not in _WITHOUT_ROOM
        ):
            told = msgspec.structs.replace(action.message, received=self._resumable.client_session.journal.tell())
            action = msgspec.structs.replace(action, message=told)
        counts = spec_of(action.message).message_type not in UNCOUNTED
        self.connection.write(self.encoder.reply(action), self._registry.relay_context.batch, counts=counts)

    # -- actions -------------------------------------------------------------------------------------------------

    def perform(self, actions: Sequence[Action]) -> None:
        """Do what the state machine asks for."""
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Relay():
                    self._relay(action.signal)
                case Authenticate():
                    self.connection.hold()
                    self._registry.occupancy.introduced(self.connection)
                    sign_in = SignIn(self._registry, self, action.connect)
                    background = self._registry.background
                    begin = background.run if sign_in.is_immediate else background.start
                    begin(sign_in.run, name="authenticate")
                case Dispatch():
                    self._dispatch(action.request)
                case Confirm():
                    self._confirmed(action)
                case Ping():
                    self.connection.ping()
                case Absent():
                    if self._caller is not None:
                        self._registry.dispatcher.mark(self._caller.session_id, is_away=action.is_away)
                case Close():
                    self.leave(_REASONS.get(action.code, _LOST), may_resume=CLOSE_CODES[action.code].keeps_session)
                    self.connection.close(action.code, action.reason)
                case _:
                    assert_never(action)

    def _confirmed(self, action: Confirm) -> None:
        if self._resumable is not None:
            try:
                self._resumable.client_session.journal.confirm(action.received)
            except InvalidRequestError as error:
                self._send(self.session.error(error, action.heartbeat))

    def _relay(self, received: Received) -> None:
        """Send a signal through the codec: its target uses another encoding, or the signal is invalid."""
        signal, caller = received.message, self._caller
        assert isinstance(signal, Signal) and caller is not None  # noqa: S101, PT018 - the state machine implies it
        try:
            ack = self._registry.dispatcher.relay(
                caller, signal, received.message_id, later=partial(self.tell, received)
            )
        except SignalManagerError as error:
            self._send(self.session.error(error, received))
            return
        self._registry.counters.relayed_decoded.value += 1
        if isinstance(ack, SignalAck) and self.session.shape is not Shape.TAGGED:
            self._send(self.session.reply(ack, received))

    # -- time ----------------------------------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """Note that the client is alive."""
        self.perform(self.session.heard(now))

    def tick(self, now: float) -> float | None:
        """Enforce the time limits that have passed at `now`; return the next one."""
        self._look_for_room()
        self.perform(self.session.tick(now))
        return self.session.next_deadline()

    def _look_for_room(self) -> None:
        caller = self._caller
        self.session.is_in_room = caller is not None and self._registry.dispatcher.is_in_room(caller.session_id)

    # -- how it begins -------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether an exclusive request that was sent on an earlier connection awaits its answer."""
        return self._resumable is not None and self._resumable.is_busy

    def begin(self, caller: Caller, connect: Connect) -> None:
        """Let the connection represent the client from now on (`JoiningConversation.begin`)."""
        self._caller = caller
        self.connection.identified(connect, relays=caller.identity.grants.signal_to is None)
        if tells(logging.INFO):
            log.info("connection authenticated", client_id=connect.client_id, address=self.connection.address)

    def carry(self, resumable: ResumableSession) -> None:
        """Carry a session that outlives the connection (`JoiningConversation.carry`)."""
        self._resumable, self.pending = resumable, resumable.pending
        self.connection.keep_in(resumable.client_session.journal)

    # -- requests ------------------------------------------------------------------------------------------------

    def _dispatch(self, request: Received) -> None:
        """Answer a request in the background, unless too many await their answers already."""
        caller = self._caller
        assert caller is not None  # noqa: S101 - the state machine dispatches established connections only
        pending = self.pending
        if pending is None:
            pending = self.pending = {}
        if len(pending) >= PENDING_REQUESTS:
            error = RateLimitedError(f"{len(pending)} requests wait for their answers, expected fewer")
            self._send(self.session.error(error, request))
            return
        pending[id(request)] = request
        exclusive = spec_of(request.message).is_exclusive
        if exclusive:
            self.connection.hold()
            if self._resumable is not None:
                self._resumable.is_busy = True
        answer = RequestAnswer(self._registry, self, request, caller, self._resumable)
        self._registry.background.start(answer.run, name="answer")

    def renewed(self, caller: Caller) -> TokenRenewAck:
        """Replace what the client may do by what its new token allows (`AnsweredConversation.renewed`)."""
        ack = self.session.renewed(caller.identity, now=time.monotonic(), server_time=time.time_ns() // 1_000_000)
        if ack is None or self._caller is None:  # it continues elsewhere, with the token that it has shown there
            raise UnavailableError("the connection ended before the token was renewed")
        self._caller = caller
        if self._resumable is not None:
            self._resumable.caller = caller
        self.connection.restrict(relays=caller.identity.grants.signal_to is None)
        return ack

    def answered(self, request: Received, reply: bytes, *, exclusive: bool) -> None:
        """Send the reply to a request (`SessionConversation.answered`)."""
        if self.pending is not None:
            self.pending.pop(id(request), None)
            if not self.pending and self._resumable is None:
                self.pending = None
        self.connection.write(reply)
        if exclusive:
            if self._resumable is not None:
                self._resumable.is_busy = False
            self.connection.release()

    # -- how it ends ---------------------------------------------------------------------------------------------

    def go_away(self, reconnect_after: int) -> None:
        """Tell the client that the service stops (`DrainedConversation.go_away`)."""
        self.perform(self.session.draining(reconnect_after=reconnect_after))

    def turned_away(self, reason: str) -> None:
        """End before the client is authenticated, because there is no room for it."""
        self.perform(self.session.turned_away(reason))

    def evict(self) -> None:
        """End because an operator asked for it."""
        self.perform(self.session.evicted())

    def fell_behind(self) -> None:
        """End because the client reads too slowly (`SlowClient.fell_behind`)."""
        self.perform(self.session.fell_behind())

    def broken(self, code: CloseCode, reason: str) -> None:
        """End because what the client sent cannot be handled (`FramedConversation.broken`)."""
        self.perform(self.session.broken(code, reason))

    def insistent(self) -> None:
        """End because the client has exceeded its rate for too long (`FramedConversation.insistent`)."""
        self.perform(self.session.insistent())

    def hung_up(self, *, may_return: bool) -> None:
        """End because the client closed the connection (`FramedConversation.hung_up`)."""
        self.session.lost()
        self.leave(may_resume=may_return)

    def replaced(self, *, same_instance: bool) -> None:
        """End in favour of a newer connection (`Subscriber.replaced`)."""
        actions = self.session.replaced(same_instance=same_instance)
        self.leave(_LOST if same_instance else "replaced")  # the close code invites the instance, not the session
        self.perform(actions)

    def handed_over(self) -> None:
        """Close, because the session continues elsewhere (`SessionConversation.handed_over`)."""
        self._let_go()
        self.perform(self.session.replaced(same_instance=True))

    def freeze(self) -> None:
        """Ignore all further input, because the session is about to be saved (`DrainedConversation.freeze`)."""
        self._farewell = self.session.stopped()
        if self._resumable is not None and self._resumable.client_session.journal.is_complete:
            self._registry.bus.detach(self.connection.client_id, self.connection)
            self._let_go()

    def part(self) -> None:
        """Close the connection after `freeze` (`DrainedConversation.part`)."""
        farewell, self._farewell = self._farewell, ()
        self.perform(farewell)

    def leave(self, reason: str = _LOST, *, may_resume: bool = False) -> None:
        """Stop representing the client; a session that can be resumed waits for its client instead."""
        caller, resumable = self._caller, self._resumable
        self._look_for_room()
        self._let_go()
        if caller is None:
            return
        if resumable is not None:
            if may_resume and resumable.suspend(self.connection, self.session):
                return
            resumable.ended()
        self._registry.bus.detach(caller.identity.client_id, self.connection)
        self._registry.depart(caller, reason)

    def _let_go(self) -> None:
        self._caller = None
        self._resumable = None
        self.pending = None
        self.connection.let_go()
