"""The answer to one request: the dispatcher's, or that of a new token. It runs as background work."""

from __future__ import annotations

import time
from typing import Protocol

import structlog

from signal_manager.errors import AuthenticationError, SignalManagerError
from signal_manager.gateway.encoder import MessageEncoder
from signal_manager.gateway.ports import ConversationConnection, SessionConversation
from signal_manager.gateway.registry import ConnectionRegistry
from signal_manager.gateway.sessions import ResumableSession
from signal_manager.gateway.sign_in import renew
from signal_manager.model import Caller
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.messages import Message, TokenRenew, TokenRenewAck
from signal_manager.protocol.state_machine import ConnectionStateMachine, Received

__all__ = ["AnsweredConversation", "RequestAnswer"]

log = structlog.get_logger(__name__)

# The reason that other members of a room are given for a client whose session ended while it was let in.
_LOST = "connection lost"


class AnsweredConversation(SessionConversation, Protocol):
    """A conversation as the answer to one of its requests sees it."""

    @property
    def connection(self) -> ConversationConnection:
        """The connection that carries the conversation."""

    @property
    def session(self) -> ConnectionStateMachine:
        """What the client may do now."""

    @property
    def encoder(self) -> MessageEncoder:
        """How the messages to the client are encoded."""

    @property
    def is_established(self) -> bool:
        """Whether the client is authenticated and this connection represents it."""

    def renewed(self, caller: Caller) -> TokenRenewAck:
        """Replace what the client may do by what its new token allows.

        Raises:
            UnavailableError: the connection no longer represents the client.
        """


class RequestAnswer:
    """Ask for the answer to one request and send it.

    Args:
        registry: what all connections share.
        conversation: the request came on it.
        request: what to answer.
        caller: who asks.
        resumable: the session, if it may outlive the connection; the answer then goes to its connection of that time.
    """

    __slots__ = ("_caller", "_conversation", "_registry", "_request", "_resumable")

    def __init__(
        self,
        registry: ConnectionRegistry,
        conversation: AnsweredConversation,
        request: Received,
        caller: Caller,
        resumable: ResumableSession | None,
    ) -> None:
        self._registry = registry
        self._conversation = conversation
        self._request = request
        self._caller = caller
        self._resumable = resumable

    async def run(self) -> None:
        """Answer the request."""
        conversation, request, caller = self._conversation, self._request, self._caller
        try:
            action = conversation.session.reply(await self._ask(request.message), request)
        except SignalManagerError as error:
            action = conversation.session.error(error, request)
        except Exception:
            log.exception("request failed", client_id=caller.identity.client_id)
            action = conversation.session.error(SignalManagerError("internal error"), request)
        reply = conversation.encoder.reply(action)
        exclusive = spec_of(request.message).is_exclusive
        if self._resumable is None:
            conversation.answered(request, reply, exclusive=exclusive)
            is_there = conversation.is_established
        else:
            is_there = self._resumable.answered(request, reply, exclusive=exclusive)
        if not is_there:  # the session has ended, and this request may have let the client join a room since
            self._registry.dispatcher.left(caller, _LOST)

    async def _ask(self, message: Message) -> Message:
        registry, caller, source = self._registry, self._caller, self._conversation.connection.source
        if isinstance(message, TokenRenew):
            return self._conversation.renewed(await renew(registry, caller, message.auth_token, source=source))
        token = getattr(message, "auth_token", None)
        if not token:
            return await registry.dispatcher.answer(caller, message)
        # A request with a token of its own counts as an attempt, so that it is no cheaper way to guess one.
        usage = registry.occupancy.usage
        usage.check_authentication(source, time.monotonic())
        try:
            return await registry.dispatcher.answer(caller, message)
        except AuthenticationError:
            usage.authentication_failed(source, time.monotonic())
            raise
