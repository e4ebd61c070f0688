"""Sign-in: who a client is, which session it may continue, and what CONNECT is answered.

Everything that has to be awaited between CONNECT and its answer is here. It runs as background work.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol

import msgspec
import structlog

from signal_manager.auth.authenticators import is_immediate
from signal_manager.bus.base import Claimed, claims_at_once
from signal_manager.errors import (
    AuthenticationError,
    ConflictError,
    RateLimitedError,
    SignalManagerError,
    UnavailableError,
)
from signal_manager.gateway.limits import ClientAddress
from signal_manager.gateway.ports import ConversationConnection, RegisteredConnection
from signal_manager.gateway.registry import ConnectionRegistry
from signal_manager.gateway.sessions import ResumableSession, wanted
from signal_manager.model import Caller, taken_up_at
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.messages import Connect, Shape
from signal_manager.protocol.resume import WireFormat
from signal_manager.protocol.state_machine import Action, ConnectionStateMachine, ResumeTerms, State

__all__ = ["Admission", "JoiningConversation", "ServiceFullError", "SignIn", "admit", "renew"]

log = structlog.get_logger(__name__)


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated client, and the other nodes' answer to its claim."""

    caller: Caller
    claimed: Claimed
    former: ResumableSession | None  # the session that it wants to continue, if this node or storage has it


class ServiceFullError(UnavailableError):
    """The client is authenticated, and the service is full."""


async def admit(
    registry: ConnectionRegistry, connect: Connect, *, connection: RegisteredConnection, wire_format: WireFormat | None
) -> Admission:
    """Authenticate a client, and make the other nodes give it up.

    Args:
        registry: what all connections share.
        connect: the client's CONNECT.
        connection: takes one of `max_connections` seats once the client is authenticated.
        wire_format: how its session is written; None for a session that ends with its connection.

    Raises:
        SignalManagerError: the client is refused, or cannot be authenticated now. The metrics and the log have it.
    """
    source = connection.source
    try:
        registry.occupancy.usage.check_authentication(source, time.monotonic())
        caller = await registry.dispatcher.admit(connect, is_near=source.is_near)
        if not registry.occupancy.take_seat(connection):  # before the other nodes give the client up
            raise ServiceFullError("the service is full")
        former = await _former(registry, caller, connect) if wire_format is not None else None
        claimed = await _claim(registry, caller, connect, wire_format if former is None else None)
        if not claimed.is_won and former is not None and connect.resume is not None:
            registry.session_store.give_up(former, connect.resume, caller.identity.client_id)
    except SignalManagerError as error:
        _count(registry, error, source)
        if registry.sample.takes("connection refused", time.monotonic()):
            log.info("connection refused", client_id=connect.client_id, address=source.text, reason=error.message)
        raise
    registry.metrics.authentications.labelled("accepted").add()
    return Admission(caller=caller, claimed=claimed, former=former)


async def renew(registry: ConnectionRegistry, caller: Caller, token: str, *, source: ClientAddress) -> Caller:
    """Check another token of a client and return what it allows; failures count like those of CONNECT.

    Raises:
        SignalManagerError: the token is refused, or cannot be checked now. The metrics and the log have it.
    """
    try:
        registry.occupancy.usage.check_authentication(source, time.monotonic())
        renewed = await registry.dispatcher.renew(caller, token, is_near=source.is_near)
    except SignalManagerError as error:
        _count(registry, error, source)
        client_id = caller.identity.client_id
        log.info("token not renewed", client_id=client_id, address=source.text, reason=error.message)
        raise
    registry.metrics.authentications.labelled("renewed").add()
    return renewed


def _count(registry: ConnectionRegistry, error: SignalManagerError, source: ClientAddress) -> None:
    outcome = "unavailable" if error.may_retry else "refused"
    if isinstance(error, AuthenticationError):
        registry.occupancy.usage.authentication_failed(source, time.monotonic())
    elif isinstance(error, RateLimitedError):
        outcome = "limited"
    registry.metrics.authentications.labelled(outcome).add()


def session_to_resume(registry: ConnectionRegistry, admission: Admission) -> ResumableSession | None:
    """Return the earlier session of an admitted client, wherever it is; None if there is none."""
    former, handed_over = admission.former, admission.claimed.handed_over
    if former is None and handed_over is not None:
        former = registry.session_store.receive(admission.caller.identity.client_id, handed_over)
        if former is not None:
            registry.background.start(partial(registry.session_store.adopt, former), name="adopt")
    return former


async def _former(registry: ConnectionRegistry, caller: Caller, connect: Connect) -> ResumableSession | None:
    if connect.resume is None:
        return None
    return await registry.session_store.find(connect.resume, caller.identity.client_id)


async def _claim(
    registry: ConnectionRegistry, caller: Caller, connect: Connect, wire_format: WireFormat | None
) -> Claimed:
    """Make the other nodes give up the client, and hand over its session if it wants to continue that.

    A device that the user has left must not take the client back from the device that is used now.
    """
    wants = wanted(connect.resume, wire_format) if connect.resume is not None and wire_format is not None else None
    return await registry.bus.claim(
        caller.identity.client_id,
        connect.instance_id,
        wants=wants,
        yields=connect.resume is not None,
        taken_up_at=taken_up_at(caller.session_id),
    )


class JoiningConversation(Protocol):
    """A conversation as the sign-in of its client sees it."""

    @property
    def connection(self) -> ConversationConnection:
        """The connection that carries the conversation."""

    @property
    def session(self) -> ConnectionStateMachine:
        """What the client may do now."""

    @property
    def framing(self) -> Framing:
        """How messages are wrapped."""

    @property
    def is_busy(self) -> bool:
        """Whether an exclusive request that was sent on an earlier connection awaits its answer."""

    def perform(self, actions: list[Action]) -> None:
        """Do what the state machine asks for."""

    def begin(self, caller: Caller, connect: Connect) -> None:
        """Let the connection represent the client from now on."""

    def carry(self, resumable: ResumableSession) -> None:
        """Carry a session that outlives the connection."""


class SignIn:
    """The sign-in of one client, from its CONNECT to the answer.

    Args:
        registry: what all connections share.
        conversation: welcomes the client or turns it away.
        connect: the client's CONNECT.
    """

    def __init__(self, registry: ConnectionRegistry, conversation: JoiningConversation, connect: Connect) -> None:
        self._registry = registry
        self._conversation = conversation
        self._connection = conversation.connection
        self._session = conversation.session
        self._connect = connect

    @property
    def is_immediate(self) -> bool:
        """Whether `run` waits for nothing: no storage, and no other node."""
        registry, offer = self._registry, self._connect.resume
        return (
            claims_at_once(registry.bus)
            and is_immediate(registry.dispatcher.door(is_near=self._connection.source.is_near))
            and (offer is None or registry.session_store.finds_at_once(offer))
        )

    async def run(self) -> None:
        """Authenticate the client and answer it."""
        conversation, connect, session = self._conversation, self._connect, self._session
        wire_format = self._wire_format()
        try:
            admission = await admit(self._registry, connect, connection=self._connection, wire_format=wire_format)
        except ServiceFullError as error:
            conversation.perform(session.turned_away(error.message))
            self._connection.release()
            return
        except SignalManagerError as error:
            conversation.perform(session.refused(error))
            self._connection.release()
            return
        caller, claimed = admission.caller, admission.claimed
        if session.state is not State.AUTHENTICATING:  # the client has left meanwhile
            if claimed.is_won:
                self._registry.bus.release(caller.identity.client_id)
        elif not claimed.is_won and connect.resume is not None:  # the user has taken up another device
            conversation.perform(
                session.refused(ConflictError("replaced: another device of this client has come since"))
            )
        elif not claimed.is_won:  # the client is on another node by now
            conversation.perform(self._accepted(caller))
            conversation.perform(session.replaced(same_instance=False))
        else:
            self._welcome(admission, wire_format)
        if not conversation.is_busy:
            self._connection.release()

    def _wire_format(self) -> WireFormat | None:
        """Return how this client's session is written; None for a session that ends with its connection.

        A tagged client knows nothing of sessions that can be resumed.
        """
        session = self._session
        can_resume = self._connect.resumable and session.shape is Shape.PLAIN
        if not can_resume or self._registry.session_store.settings.window <= 0:
            return None
        return WireFormat(self._conversation.framing, session.payload_type, session.shape)

    def _welcome(self, admission: Admission, wire_format: WireFormat | None) -> None:
        """Accept the client: to its earlier session, with all messages that it misses, or to a new one."""
        connect, caller, session_store = self._connect, admission.caller, self._registry.session_store
        client_id = caller.identity.client_id
        former = session_to_resume(self._registry, admission)
        if wire_format is None:
            actions = self._accepted(caller)
            self._conversation.begin(caller, connect)
            self._registry.bus.attach(client_id, self._connection)
            self._conversation.perform(actions)
            return
        offer = connect.resume
        if offer is not None and session_store.judge(former, offer, client_id, wire_format) and former:
            caller = msgspec.structs.replace(caller, session_id=former.session_id)
            self._carry(former, caller, missing_from=offer.received)
            return
        self._carry(session_store.open(self._connection, caller, connect, wire_format), caller, missing_from=None)

    def _carry(self, resumable: ResumableSession, caller: Caller, *, missing_from: int | None) -> None:
        """Begin a session that outlives its connection, or continue one after the first `missing_from` messages."""
        client_session = resumable.client_session
        terms = ResumeTerms(
            token=client_session.token,
            window=client_session.window,
            resumed=missing_from is not None,
            received=client_session.journal.tell(),
        )
        actions = self._accepted(caller, terms)
        self._conversation.begin(caller, self._connect)
        missing: tuple[bytes, ...] = ()
        if missing_from is None:
            self._registry.bus.attach(caller.identity.client_id, self._connection)
        else:
            missing = resumable.resume(self._connection, caller, missing_from)
        self._conversation.carry(resumable)
        self._conversation.perform(actions)
        for data in missing:
            self._connection.write(data, counts=False)

    def _accepted(self, caller: Caller, terms: ResumeTerms | None = None) -> list[Action]:
        now, server_time = time.monotonic(), time.time_ns() // 1_000_000
        return self._session.accepted(
            caller.identity, caller.session_id, now=now, server_time=server_time, resume=terms
        )
