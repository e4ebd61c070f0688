"""Calls the HTTP interface of Cloudflare Realtime: one request and its reply, repetitions, and what is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec
import tenacity

from signal_manager.media import cloudflare_wire as wire
from signal_manager.media.errors import (
    After,
    MediaFault,
    NoAnswerError,
    SessionGoneError,
    SessionNotReadyError,
)
from signal_manager.observe.metrics import Metrics

__all__ = ["MAX_REPLY", "CloudflareClient", "Endpoint", "Transport"]

# An offer for dozens of tracks stays well below 1 MB. A larger reply is not from an SFU.
MAX_REPLY = 4 * 1024 * 1024

Reply = TypeVar("Reply", bound=wire.ErrorJson)


@dataclass(frozen=True, kw_only=True)
class Endpoint(Generic[Reply]):
    """One call of the interface; `is_safe` means that a repetition does no harm."""

    name: str
    method: Literal["GET", "POST", "PUT"]
    path: str
    reply: type[Reply]
    is_safe: bool = False


class Transport(Protocol):
    """Carries requests to an SFU: over HTTP (`cloudflare_http.py`), or to one in this process."""

    async def exchange(
        self, method: str, url: str, *, content: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Send a request, and return the status and the body of its response.

        Raises:
            UnreachableError: the request has not reached the SFU.
            NoAnswerError: the SFU may have carried the request out, and its response is missing.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class CloudflareClient:
    """Makes calls, with the secret of the app unless another one is given.

    Args:
        transport: carries the requests.
        secret: the app's; it appears in no log or error.
        hidden: other secrets that appear in none either.
        metrics: counts the latency and outcomes of calls.
        request_timeout: the limit for one HTTP request in seconds, from connecting to the last byte.
        retry_wait: the longest first pause before a safe call is repeated, in seconds; it doubles, with full jitter.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        secret: str,
        hidden: Sequence[str] = (),
        metrics: Metrics,
        request_timeout: float,
        retry_wait: float,
    ) -> None:
        self._transport = transport
        self._secret = secret
        self._secrets = (secret, *hidden)
        self._metrics = metrics
        self._request_timeout = request_timeout
        self._retry_wait = retry_wait

    async def call(self, endpoint: Endpoint[Reply], url: str, body: Any = None) -> Reply:
        """Make one call about a session; repeat a safe call at most twice, within the time limit of one request."""
        began = time.monotonic()
        try:
            return await self.attempt(endpoint, url, body, of_session=True)
        except MediaFault as error:
            if not (endpoint.is_safe and _may_repeat(error)):
                raise
            failures: list[MediaFault] = [error]

        async def attempt() -> Reply:
            if failures:  # the first attempt, which was made already
                raise failures.pop()
            return await self.attempt(endpoint, url, body, of_session=True)

        # Built only now, because it costs more than most calls do.
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_repeat),
            stop=tenacity.stop_after_attempt(3)
            | tenacity.stop_after_delay(self._request_timeout - (time.monotonic() - began)),
            wait=tenacity.wait_random_exponential(multiplier=self._retry_wait, max=2.0),
            reraise=True,
        )
        return await attempts(attempt)

    async def attempt(
        self,
        endpoint: Endpoint[Reply],
        url: str,
        body: Any,
        *,
        query: str = "",
        token: str | None = None,
        of_session: bool = False,
    ) -> Reply:
        """Send one request, read its reply, and count the outcome."""
        started = time.perf_counter()
        outcome = "cancelled"
        try:
            status, content = await self._exchange(
                endpoint.method, url + endpoint.path + query, body, self._secret if token is None else token
            )
            reply = _read(status, content, endpoint.reply, of_session=of_session, secrets=self._secrets)
            outcome = "partial" if reply.has_failed_items() else "ok"
        except MediaFault as fault:
            outcome = fault.error_code
            if endpoint.is_safe and fault.after is After.REPLACE and not isinstance(fault, SessionGoneError):
                fault.after = After.TRY_LATER  # a repetition does no harm, even if the SFU has carried the call out
            raise
        finally:
            self._metrics.media_calls.labelled(endpoint.name, outcome).add()
            self._metrics.media_call_seconds.labelled(endpoint.name).observe(time.perf_counter() - started)
        return reply

    async def _exchange(self, method: str, url: str, body: Any, token: str) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        content = None if body is None else msgspec.json.encode(body)
        try:
            async with asyncio.timeout(self._request_timeout):
                return await self._transport.exchange(method, url, content=content, headers=headers)
        except TimeoutError as error:
            raise NoAnswerError("the SFU did not answer (TimeoutError)") from error


def _read(status: int, content: bytes, shape: type[Reply], *, of_session: bool, secrets: Sequence[str]) -> Reply:
    """Return the decoded reply, or raise the error that it stands for."""
    if not 200 <= status < 300:
        raise wire.fault_of(status, content, of_session=of_session, secrets=secrets)
    try:
        reply: Reply = msgspec.json.decode(content or b"{}", type=shape)
    except msgspec.MsgspecError as error:
        raise NoAnswerError("a reply of unexpected shape, expected the documented JSON") from error
    if reply.error_code:
        raise wire.fault_of(status, content, of_session=of_session, secrets=secrets)
    return reply


def _may_repeat(error: BaseException) -> bool:
    """Tell whether to repeat a safe call at once after this error.

    A session that is not ready is no reason to repeat, because the SFU has already waited for it.
    """
    return (
        isinstance(error, MediaFault) and error.after is After.TRY_LATER and not isinstance(error, SessionNotReadyError)
    )
