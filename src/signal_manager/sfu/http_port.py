"""An HTTP port for an application: the SFU's, or the front of several workers."""

from __future__ import annotations

import os

from starlette.applications import Starlette

from signal_manager.asgi import HttpServer
from signal_manager.errors import ConfigurationError

__all__ = ["SfuHttp"]


class SfuHttp:
    """An application behind an HTTP port."""

    def __init__(self, app: Starlette, *, host: str, port: int, max_connections: int) -> None:
        self._host = host
        self._server = HttpServer(app, host=host, port=port, max_connections=max_connections)

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return self._server.port

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
        try:
            await self._server.start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise ConfigurationError(f"cannot listen on {self._host} port {self.port}: {reason}") from error

    async def stop(self) -> None:
        """Close the port, and wait until requests have ended."""
        await self._server.stop()
