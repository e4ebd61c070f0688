"""Where a client's token comes from, and when it is renewed before it ends.

`link.py` asks before every connection, and has the token of a live one renewed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from signal_manager.client.timing import Clock, RetryPolicy
from signal_manager.errors import TOKEN_EXPIRED, AuthenticationError, SignalManagerError, UnavailableError
from signal_manager.protocol.messages import Heartbeat, HeartbeatAck, Message, TokenRenew, TokenRenewAck

__all__ = ["Renewal", "Token", "TokenSource", "is_expiry"]

logger = logging.getLogger(__name__)

# A token, or a function that fetches one.
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]

# The part of a token's remaining life after which it is renewed, at the latest; and by how much of it clients differ,
# so that those who came together do not renew together. What is left is for trying again.
_RENEWED_AFTER = 0.8
_JITTER = 0.1
# Seconds between two renewals, however short a token lives or wrong a clock is.
_SHORTEST_PAUSE = 5.0
# And the most that trying again waits beside it.
_LONGEST_PAUSE = 60.0
# Seconds that a renewal waits for its answer.
_ANSWER_TIME = 10.0


def is_expiry(error: SignalManagerError) -> bool:
    """Tell whether a new token is the cure for this error."""
    return isinstance(error, AuthenticationError) and (error.details or {}).get("reason") == TOKEN_EXPIRED


class TokenSource:
    """Fetch tokens.

    Args:
        token: the token, or the function to ask for one.
    """

    def __init__(self, token: Token) -> None:
        self._token = token

    @property
    def can_renew(self) -> bool:
        """Tell whether asking again may bring another token."""
        return not isinstance(self._token, str)

    async def fetch(self, *, timeout: float) -> str:
        """Return a token, within `timeout` seconds.

        Raises:
            UnavailableError: the function failed, took too long, or returned something else.
        """
        if isinstance(self._token, str):
            return self._token
        try:
            async with asyncio.timeout(timeout):
                token = self._token()
                if inspect.isawaitable(token):
                    token = await token
        except TimeoutError:
            raise UnavailableError(f"the function that fetches the token took longer than {timeout} s") from None
        except Exception as error:  # the application's edge
            raise UnavailableError(f"the function that fetches the token failed: {error!r}") from error
        if not isinstance(token, str):
            raise UnavailableError(f"the function that fetches the token returned no string: {type(token).__name__}")
        return token

    def explain(self, error: SignalManagerError) -> SignalManagerError:
        """Return the error that ends a client, with what its application can do about it."""
        if not is_expiry(error) or self.can_renew:
            return error
        advice = "a client that is given a function in place of a token has it renewed"
        return AuthenticationError(f"{error.message}; {advice}", details=error.details)


class Asks(Protocol):
    """A connection, as far as a renewal knows it."""

    @property
    def is_closed(self) -> bool:
        """Tell whether it has ended."""

    async def request(self, message: Message, expected: type[Message]) -> Message:
        """Send a request and return its reply."""


class Renewal:
    """Renew the token of one connection, again and again, before it ends.

    Args:
        source: fetches the new ones.
        connection: whose token it is.
        clock: where time comes from.
        on_failure: called with every failure; the token is tried again in time.
    """

    def __init__(
        self,
        source: TokenSource,
        connection: Asks,
        *,
        clock: Clock,
        on_failure: Callable[[SignalManagerError], None],
    ) -> None:
        self._source = source
        self._connection = connection
        self._clock = clock
        self._on_failure = on_failure
        self._backoff = RetryPolicy(base_delay=_SHORTEST_PAUSE, max_delay=_LONGEST_PAUSE)

    async def run(self, expires_at: int | None) -> None:
        """Renew a token that ends at `expires_at` (ms since the epoch) until the connection or the renewing ends."""
        while expires_at is not None and self._source.can_renew:
            left = await self._left(expires_at)
            part = _RENEWED_AFTER - _JITTER * random.random()  # noqa: S311 - no secret
            await self._clock.sleep(max(part * left, _SHORTEST_PAUSE))
            failures = 0
            while True:
                try:
                    expires_at = await self._renew()
                    break
                except SignalManagerError as error:
                    if self._connection.is_closed:
                        return
                    logger.warning("token not renewed: %s", error.message)
                    self._on_failure(error)
                await self._clock.sleep(_SHORTEST_PAUSE + self._backoff.delay(failures))
                failures += 1

    async def _renew(self) -> int | None:
        token = await self._source.fetch(timeout=_ANSWER_TIME)
        ack = await self._ask(TokenRenew(auth_token=token), TokenRenewAck)
        assert isinstance(ack, TokenRenewAck)  # noqa: S101 - `request` says so
        return ack.expires_at

    async def _left(self, expires_at: int) -> float:
        """Return how long a token lives (s) by the service's clock, or by this machine's where that is not told."""
        now = time.time() * 1000
        try:
            ack = await self._ask(Heartbeat(timestamp=0), HeartbeatAck)
        except SignalManagerError as error:
            logger.debug("the service does not say what time it is: %s", error.message)
        else:
            assert isinstance(ack, HeartbeatAck)  # noqa: S101 - `request` says so
            now = now if ack.server_time is None else ack.server_time
        return (expires_at - now) / 1000

    async def _ask(self, message: Message, expected: type[Message]) -> Message:
        try:
            async with asyncio.timeout(_ANSWER_TIME):
                return await self._connection.request(message, expected)
        except TimeoutError:
            raise UnavailableError(f"no {expected.__name__} within {_ANSWER_TIME} s") from None
