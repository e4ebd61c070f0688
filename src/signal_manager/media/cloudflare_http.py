"""HTTP connections to the SFU, in pools of a few each.

`cloudflare.py` sends its calls here. httpx looks at all connections of a client for each request and each of its ends,
several times where they are idle: one client with a hundred connections spends more on that than the calls cost.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping

import httpx

__all__ = ["Pools"]

# Connections of one client, and calls that it is given at a time.
POOL_SIZE = 8


class _Pool:
    """One client and how many calls it has."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.calls = 0


class Pools:
    """As many clients as there are calls for; few calls at a time all go through the first.

    Args:
        max_connections: held at most, over all clients.
        timeout: limits of one request.
        is_local: whether the SFU is on this machine, where a proxy from the environment is of no use.
        is_secure: whether it is asked over TLS.
    """

    def __init__(self, *, max_connections: int, timeout: httpx.Timeout, is_local: bool, is_secure: bool) -> None:
        self._size = min(POOL_SIZE, max_connections)
        self._most = max(1, max_connections // self._size)
        self._timeout = timeout
        self._is_local = is_local
        # Shared, and left without authorities where it is not used, since reading them takes a while.
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
        """Send a request and give the response, whose body is still to be read; raises what httpx does."""
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
