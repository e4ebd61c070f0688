"""HTTP in this process's event loop: uvicorn as a guest that leaves signals, logging and the loop to its host.

The admin port is served by it. Nothing of ours is imported here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

__all__ = ["HttpServer"]

# Requests in progress that a stopping server waits for (s).
_GRACE = 1


class HttpServer:
    """Serve an ASGI application.

    Args:
        app: what to serve.
        host, port: where to listen; port 0 takes a free one, which `port` tells after `start`.
        max_connections: further ones are answered with 503.
    """

    def __init__(self, app: Callable[..., Any], *, host: str, port: int, max_connections: int) -> None:
        self.port = port
        self._host = host
        self._server = _Guest(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level="warning",  # that it starts and stops is said by whoever starts and stops it
                access_log=False,
                server_header=False,
                # A proxy's word on where a request comes from is not needed, and so not believed.
                proxy_headers=False,
                ws="none",
                limit_concurrency=max_connections,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family)
        self.port = listener.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        is_up = asyncio.create_task(self._server.is_up.wait(), name="http is up")
        await asyncio.wait([self._serving, is_up], return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():  # it failed, or is_up would have come first
            is_up.cancel()
            await self._serving

    async def stop(self) -> None:
        """Stop listening, and give requests in progress a second."""
        if self._serving is None:
            return
        self._server.should_exit = True
        await asyncio.wait([self._serving])
        self._serving = None


class _Guest(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signal handlers alone: they are the host's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.is_up.set()
