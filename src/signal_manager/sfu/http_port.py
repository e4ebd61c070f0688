"""An HTTP port for an application: the SFU's, or the front of several workers."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.applications import Starlette

from signal_manager.asgi import Guest
from signal_manager.errors import ConfigurationError

__all__ = ["SfuHttp"]


class SfuHttp:
    """An application behind an HTTP port."""

    def __init__(self, app: Starlette, *, host: str, port: int, max_connections: int) -> None:
        self.port = port
        self._app = app
        self._host = host
        self._max_connections = max_connections
        self._server: Guest | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        """Return the base URL for a client of Cloudflare Realtime."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/v1"

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: the address cannot be bound.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self.port))
        except OSError as error:
            listener.close()
            raise ConfigurationError(f"cannot listen on {self._host} port {self.port}: {error.strerror}") from error
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            log_config=None,
            access_log=False,
            limit_concurrency=self._max_connections,
            timeout_graceful_shutdown=1,
        )
        self._server = Guest(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="sfu-http")
        await self._server.is_up.wait()

    async def stop(self) -> None:
        """Close the port, and wait until requests have ended."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait([self._serving])
            self._server = self._serving = None

    async def wait_closed(self) -> None:
        """Wait until the server ends by itself, which means that it failed."""
        if self._serving is not None:
            await self._serving
