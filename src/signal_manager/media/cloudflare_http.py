"""HTTP connections to the SFU, in pools of a few each.

`cloudflare.py` sends its calls through this module. httpx visits all connections of a client at the start and end of
each request. With a hundred connections in one client, that costs more than the calls.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping

import httpx

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
        max_connections: the most connections of all clients together.
        timeout: limits of one request.
        is_local: whether the SFU is on this machine; then a proxy from the environment is ignored.
        is_secure: whether the connections use TLS.
    """

    def __init__(self, *, max_connections: int, timeout: httpx.Timeout, is_local: bool, is_secure: bool) -> None:
        self._size = min(POOL_SIZE, max_connections)
        self._most = max(1, max_connections // self._size)
        self._timeout = timeout
        self._is_local = is_local
        # One context for all clients. Without TLS it has no authorities, because loading them takes a while.
        self._context = httpx.create_ssl_context() if is_secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._pools = [self._open()]

    @property
    def first(self) -> httpx.AsyncClient:
        """The client that carries a single call."""
        return self._pools[0].client

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, url: str, *, content: bytes | None, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and yield the response before its body is read; raises httpx's errors."""
        pool = self._choose()
        pool.calls += 1
        try:
            async with pool.client.stream(method, url, content=content, headers=headers) as response:
                yield response
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
