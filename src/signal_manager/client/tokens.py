"""Fetches a client's token, and renews it before it expires.

`link.py` fetches a token before every connection, and runs a `Renewal` while the connection lasts.
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

# A token is renewed after this part of its remaining life, less a random part of up to `_JITTER`. The jitter keeps
# clients that connected together from renewing together. The rest of the life is left for more attempts.
_RENEWED_AFTER = 0.8
_JITTER = 0.1
# Seconds between two renewals at least, even if the token's life is short or a clock is wrong.
_SHORTEST_PAUSE = 5.0
# The most seconds that backoff adds to that pause.
_LONGEST_PAUSE = 60.0
# Seconds that a renewal waits for its reply.
_ANSWER_TIME = 10.0


def is_expiry(error: SignalManagerError) -> bool:
    """Tell whether a new token can solve this error."""
    return isinstance(error, AuthenticationError) and (error.details or {}).get("reason") == TOKEN_EXPIRED


class TokenSource:
    """Provide tokens for connections and renewals.

    Args:
        token: the token, or the function that fetches one.
    """

    def __init__(self, token: Token) -> None:
        self._token = token

    @property
    def can_renew(self) -> bool:
        """Tell whether the token comes from a function, which may return another one."""
        return not isinstance(self._token, str)

    async def fetch(self, *, timeout: float) -> str:
        """Return a token, within `timeout` seconds.

        Raises:
            UnavailableError: the function failed, took too long, or returned no string.
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
            raise UnavailableError(
                f"expected a string from the function that fetches the token, got {type(token).__name__}"
            )
        return token

    def explain(self, error: SignalManagerError) -> SignalManagerError:
        """Return the error that ends a client, with advice for its application."""
        if not is_expiry(error) or self.can_renew:
            return error
        advice = "a client that is given a function in place of a token has it renewed"
        return AuthenticationError(f"{error.message}; {advice}", details=error.details)


class Asks(Protocol):
    """The part of a connection that a renewal uses."""

    @property
    def is_closed(self) -> bool:
        """Tell whether the connection has ended."""

    async def request(self, message: Message, expected: type[Message]) -> Message:
        """Send a request and return its reply."""


class Renewal:
    """Renew the token of one connection each time before it expires.

    Args:
        source: fetches new tokens.
        connection: the connection to renew the token of.
        clock: the source of time.
        on_failure: called with the error of each failed attempt; another attempt follows.
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
        """Renew a token that expires at `expires_at` (ms since 1970), and its successors, until the connection ends."""
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
        """Return the seconds until a token expires, by the service's clock, or by this machine's if that is unknown."""
        now = time.time() * 1000
        try:
            ack = await self._ask(Heartbeat(timestamp=0), HeartbeatAck)
        except SignalManagerError as error:
            logger.debug("the service did not tell its time: %s", error.message)
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
