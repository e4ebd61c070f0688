"""Who a client is, and which session it may go on with: what has to be waited for between CONNECT and its answer.

`gateway/conversation.py` asks here in the background, and welcomes the client or turns it away by what comes out.
"""

from __future__ import annotations

import time

import msgspec
import structlog

from signal_manager.bus.base import Claimed
from signal_manager.errors import AuthenticationError, RateLimitedError, SignalManagerError, UnavailableError
from signal_manager.gateway.limits import ClientAddress
from signal_manager.gateway.ports import RegisteredConnection
from signal_manager.gateway.registry import ConnectionRegistry
from signal_manager.gateway.sessions import ResumableSession
from signal_manager.model import Caller, taken_up_at
from signal_manager.protocol.messages import Connect
from signal_manager.protocol.resume import WireFormat

__all__ = ["Admission", "ServiceFullError", "admit", "renew", "session_to_go_on_with"]

log = structlog.get_logger(__name__)


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """A client that has proved who it is, and what the other nodes said to that."""

    caller: Caller
    claimed: Claimed
    former: ResumableSession | None  # the session that it wants to go on with, as far as it is here or in storage


class ServiceFullError(UnavailableError):
    """The client is who it says, and the service is full."""


async def admit(
    registry: ConnectionRegistry, connect: Connect, *, connection: RegisteredConnection, wire_format: WireFormat | None
) -> Admission:
    """Find out who a client is, and have the other nodes let go of it.

    Args:
        registry: what all connections share.
        connect: what the client says.
        connection: its connection, which is counted among `max_connections` once it is let in.
        wire_format: how its session would be written; None for a client whose session ends with its connection.

    Raises:
        SignalManagerError: it is refused, or nobody can tell now; that is counted and in the log by then.
    """
    source = connection.source
    try:
        registry.occupancy.usage.check_authentication(source, time.monotonic())
        caller = await registry.dispatcher.admit(connect, is_near=source.is_near)
        if not registry.occupancy.take_seat(connection):  # before others let go of the client
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
    """Find out what a client may do by another token of its own; failures count as those of CONNECT.

    Raises:
        SignalManagerError: it is refused, or nobody can tell now; that is counted and in the log by then.
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


def session_to_go_on_with(registry: ConnectionRegistry, admission: Admission) -> ResumableSession | None:
    """Return the session that an admitted client had, wherever it was; None when there is none."""
    former, handed_over = admission.former, admission.claimed.handed_over
    if former is None and handed_over is not None:
        former = registry.session_store.receive(admission.caller.identity.client_id, handed_over)
        if former is not None:
            registry.background.start(registry.session_store.adopt(former), name="adopt")
    return former


async def _former(registry: ConnectionRegistry, caller: Caller, connect: Connect) -> ResumableSession | None:
    if connect.resume is None:
        return None
    return await registry.session_store.find(connect.resume, caller.identity.client_id)


async def _claim(
    registry: ConnectionRegistry, caller: Caller, connect: Connect, wire_format: WireFormat | None
) -> Claimed:
    """Have the other nodes let go of the client, and of its session where it wants to go on with that.

    The device that its user has left must not take the client back from the one that is used now.
    """
    wants = (
        registry.session_store.ask(connect.resume, wire_format)
        if connect.resume is not None and wire_format is not None
        else None
    )
    return await registry.bus.claim(
        caller.identity.client_id,
        connect.instance_id,
        wants=wants,
        yields=connect.resume is not None,
        taken_up_at=taken_up_at(caller.session_id),
    )
