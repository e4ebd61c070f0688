"""Fetches the public keys that an identity provider publishes at a URL (JWKS, RFC 7517), and keeps them fresh.

`JwksKeys` implements `signed_tokens.PublicKeys`. The composition root opens it and passes it to `SignedTokens`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import jwt
import msgspec
import structlog

from signal_manager.errors import UnavailableError

__all__ = ["JwksKeys"]

MAX_JWKS_BYTES = 262_144  # providers publish a handful of keys of about 1 KiB
REFRESH_INTERVAL = 300.0  # s; RFC 7517 gives none; providers publish new keys hours before they use them
COOLDOWN = 5.0  # s between two requests, even if many tokens name unknown keys
TIMEOUT = 5.0  # s for one whole request, so that a CONNECT that waits for it keeps its own limit

log = structlog.get_logger(__name__)


class JwksKeys:
    """Public keys from a URL (RFC 7517), fetched regularly and when a token names an unknown key.

    An async context manager. The service starts and keeps running while the URL fails: the last good keys stay, and
    `find` raises UnavailableError if there are none.

    Args:
        url: where the key set is published.
        refresh_interval: seconds between two regular requests.
        cooldown: the fewest seconds between two requests for unknown keys.
        timeout: seconds for one whole request.
        clock: monotonic seconds, for the cooldown.
    """

    def __init__(
        self,
        url: str,
        *,
        refresh_interval: float = REFRESH_INTERVAL,
        cooldown: float = COOLDOWN,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._refresh_interval = refresh_interval
        self._cooldown = cooldown
        self._timeout = timeout
        self._clock = clock
        import httpx  # noqa: PLC0415 - few services have such keys, and it takes long to import

        self._client = httpx.AsyncClient()
        self._keys: list[jwt.PyJWK] = []
        self._asked_at = -math.inf  # when the last request ended
        self._request: asyncio.Task[None] | None = None  # shared by all callers that wait for it
        self._schedule: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._shared_request()
        self._schedule = asyncio.create_task(self._refresh_regularly(), name="jwks-schedule")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = [task for task in (self._schedule, self._request) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key called `kid` for `algorithm`, or None; may wait for one request.

        Raises:
            UnavailableError: no keys have been received since the start.
        """
        key = self._known(kid, algorithm)
        if key is None and (self._is_requesting() or self._clock() - self._asked_at >= self._cooldown):
            # Shielded, so that a cancelled caller does not end the request that others wait for.
            await asyncio.shield(self._shared_request())
            key = self._known(kid, algorithm)
        if not self._keys:
            raise UnavailableError("the keys that verify tokens cannot be fetched now")
        return key

    def _known(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        fitting = [key for key in self._keys if key.algorithm_name == algorithm and (kid is None or key.key_id == kid)]
        return fitting[0] if len(fitting) == 1 else None

    def _is_requesting(self) -> bool:
        return self._request is not None and not self._request.done()

    def _shared_request(self) -> asyncio.Task[None]:
        if self._request is None or self._request.done():
            self._request = asyncio.create_task(self._refresh(), name="jwks-request")
        return self._request

    async def _refresh_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_interval)
            await self._shared_request()

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                self._keys = _public_keys(await self._fetch())
        except Exception as error:
            reason = str(error) if isinstance(error, _UnusableKeySetError) else type(error).__name__
            log.warning("jwks_refresh_failed", reason=reason, keys_kept=len(self._keys))
        finally:
            self._asked_at = self._clock()

    async def _fetch(self) -> bytes:
        body = bytearray()
        async with self._client.stream("GET", self._url, headers={"accept": "application/json"}) as response:
            if response.status_code != HTTPStatus.OK:
                raise _UnusableKeySetError(f"expected status 200, got {response.status_code}")
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_JWKS_BYTES:
                    raise _UnusableKeySetError(f"the key set is larger than {MAX_JWKS_BYTES} bytes")
        return bytes(body)


class _UnusableKeySetError(Exception):
    """The response is no key set. The message is this module's own, so the log may show it."""


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


def _public_keys(body: bytes) -> list[jwt.PyJWK]:
    try:
        entries = msgspec.json.decode(body, type=_KeySet).keys
    except (msgspec.DecodeError, RecursionError):
        raise _UnusableKeySetError('expected {"keys": [...]} in JSON') from None
    keys = [key for entry in entries if (key := _public_key(entry))]
    if not keys:
        raise _UnusableKeySetError(f"none of its {len(entries)} keys can verify RS256 or ES256")
    return keys


def _public_key(entry: dict[str, Any]) -> jwt.PyJWK | None:
    # A shared secret ("oct") must not be published, and a key for encryption must not verify.
    if entry.get("kty") not in {"RSA", "EC"} or entry.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(entry)
    except (jwt.PyJWTError, AttributeError, TypeError, ValueError):
        return None  # one malformed entry does not affect the others
    is_long_enough = key.Algorithm.check_key_length(key.key) is None
    return key if key.algorithm_name in {"RS256", "ES256"} and is_long_enough else None
