"""Carries requests to an SFU over HTTP, in pools of a few connections each.

`cloudflare.py` sends its calls through this module. httpx visits all connections of a client at the start and end of
each request. With a hundred connections in one client, that costs more than the calls.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping

import httpx

from signal_manager.errors import ConfigurationError
from signal_manager.media.cloudflare_client import MAX_REPLY
from signal_manager.media.errors import NoAnswerError, UnreachableError

__all__ = ["Pools"]

# Connections of one client, and calls that it gets at once.
POOL_SIZE = 8


class _Pool:
    """One client, and its number of calls in progress."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.calls = 0


class Pools:
    """A growing list of clients. While there are few calls, all go through the first client.

    Args:
        base_url: where the SFU is. One on this machine is never reached through a proxy from the environment.
        max_connections: the most connections of all clients together.
        timeout: the limit of one request in seconds.

    Raises:
        ConfigurationError: `base_url` is not an HTTP URL.
    """

    def __init__(self, base_url: str, *, max_connections: int, timeout: float) -> None:
        url = _checked(base_url)
        # On HTTP/2 its debug log contains all headers, and so the secrets.
        logging.getLogger("hpack").setLevel(logging.WARNING)
        self._size = min(POOL_SIZE, max_connections)
        self._most = max(1, max_connections // self._size)
        self._timeout = httpx.Timeout(timeout, connect=min(5.0, timeout))
        self._is_local = url.host in {"127.0.0.1", "::1", "localhost"}
        # One context for all clients. Without TLS it has no authorities, because loading them takes a while.
        self._context = httpx.create_ssl_context() if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._pools = [self._open()]

    @property
    def first(self) -> httpx.AsyncClient:
        """The client that carries a single call."""
        return self._pools[0].client

    async def exchange(
        self, method: str, url: str, *, content: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Send a request, and return the status and the body of its response; raises the errors of `Transport`."""
        pool = self._choose()
        pool.calls += 1
        try:
            async with pool.client.stream(method, url, content=content, headers=headers) as response:
                received = bytearray()
                async for part in response.aiter_bytes():
                    received += part
                    if len(received) > MAX_REPLY:
                        raise NoAnswerError(f"a reply of more than {MAX_REPLY} bytes, expected at most that")
                return response.status_code, bytes(received)
        # The texts of httpx's and ssl's errors name hosts and addresses, which clients must not see.
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise UnreachableError(f"the SFU cannot be reached ({type(error).__name__})") from error
        except httpx.HTTPError as error:
            raise NoAnswerError(f"the SFU did not answer ({type(error).__name__})") from error
        finally:
            pool.calls -= 1

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.client.aclose()

    def _choose(self) -> _Pool:
        for pool in self._pools:
            if pool.calls < self._size:
                return pool
        if len(self._pools) < self._most:
            self._pools.append(self._open())
            return self._pools[-1]
        return min(self._pools, key=lambda pool: pool.calls)

    def _open(self) -> _Pool:
        client = httpx.AsyncClient(
            http2=True,
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=self._size, max_keepalive_connections=self._size),
            verify=self._context,
            trust_env=not self._is_local,
        )
        return _Pool(client)


def _checked(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"cloudflare.base_url is no URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host or not 0 < (url.port or 443) < 65536:
        raise ConfigurationError(f"cloudflare.base_url is {base_url!r}, expected http:// or https:// with a host")
    return url
