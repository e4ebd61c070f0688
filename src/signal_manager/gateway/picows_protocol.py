"""picows' asyncio protocol, with a bound on the size of a read and of the read buffer.

This is the one module that uses a name of picows that is not public: `ws_create_server` brings an accept loop of its
own and reads as much as fits. docs/upstream.md says what we ask of picows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from picows import WSAutoPingStrategy, WSListener, WSUpgradeRequest, WSUpgradeResponseWithListener

from signal_manager.gateway.ports import BufferedConnection

try:
    from picows.picows import WSProtocol  # type: ignore[attr-defined]  # the stub leaves it out
except ImportError as error:
    raise ImportError(
        f"picows {version('picows')} has no class WSProtocol in picows.picows, on which the service builds; "
        "install picows 2.3, and see docs/upstream.md"
    ) from error

__all__ = ["PicowsProtocol"]

# The most bytes of one read, before and after the client is authenticated. The first is small enough that the largest
# message before CONNECT does not make the buffer double.
_STRANGERS_READ = 8192
_CLIENTS_READ = 65_536
# While the connection is yet to say what it does about a buffer that has grown.
_NEXT_TO_NOTHING = 1

Upgrade = Callable[[WSUpgradeRequest], WSListener | WSUpgradeResponseWithListener | None]


class PicowsProtocol(WSProtocol):  # type: ignore[misc]  # the stub leaves its base out
    """The server's side of one WebSocket (`asyncio.BufferedProtocol`).

    The buffer doubles when a read fills it, and never shrinks. Reads are small, so it grows only for an incomplete
    message. Right after it has grown, about half of it is free, so the free space tells its size.

    Args:
        upgrade: answers the HTTP request; the listener that it returns is a `BufferedConnection`.
        logger: an adapter, because picows makes a logger of its own from a plain one for each connection.
        max_frame_size: in bytes; picows ends the connection at a larger frame.
        read_buffer_size: in bytes, at first.
        lost: called when the socket has closed.

    Attributes:
        lost: the argument; None once nobody needs to know.
    """

    __slots__ = ("_at_once", "_largest", "lost")

    if TYPE_CHECKING:

        async def wait_until_handshake_complete(self) -> None:
            """Wait for the end of the HTTP upgrade."""

    def __init__(
        self,
        upgrade: Upgrade,
        *,
        logger: logging.LoggerAdapter[Any],
        max_frame_size: int,
        read_buffer_size: int,
        lost: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            host_port=None,  # for clients
            ws_path=None,  # for clients
            is_client_side=False,
            ws_listener_factory=upgrade,
            logger=logger,
            disconnect_on_exception=True,
            websocket_handshake_timeout=None,  # the listener's covers TLS as well
            enable_auto_ping=False,
            auto_ping_idle_timeout=0.0,
            auto_ping_reply_timeout=0.0,
            auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
            enable_auto_pong=False,  # a swallowed ping could be the last frame of a read, which flushes the rest
            max_frame_size=max_frame_size,
            extra_headers=None,  # for clients
            read_buffer_init_size=read_buffer_size,
        )
        self._at_once = _STRANGERS_READ  # the most bytes of the next read
        self._largest = 0  # the most free bytes in the buffer so far
        self.lost = lost

    def get_buffer(self, size_hint: int) -> memoryview:
        """Return the part of the buffer for the next read."""
        free: memoryview = _get_buffer(self, size_hint)
        return free if len(free) <= self._at_once else self._bounded(free)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection, or a handshake that has not become one."""
        super().connection_lost(exc)
        if self.lost is not None:
            self.lost()

    def _bounded(self, free: memoryview) -> memoryview:
        connection: BufferedConnection | None = self.listener
        if connection is None or self._at_once == _NEXT_TO_NOTHING:
            return free[: self._at_once]
        if len(free) > self._largest:
            self._largest = len(free)
            if not self.transport.is_secure:
                # The event loop reads into what it is given now, so the socket must not be paused or closed before it
                # has. It goes on reading while a read is full.
                self._at_once = _NEXT_TO_NOTHING
                asyncio.get_running_loop().call_soon(self._report)
                return free[: self._at_once]
            connection.buffered(len(free))
        if connection.is_established:
            self._at_once = _CLIENTS_READ
        return free[: self._at_once]

    def _report(self) -> None:
        self._at_once = _STRANGERS_READ
        if not self.transport.is_disconnected:
            self.listener.buffered(self._largest)


_get_buffer = WSProtocol.get_buffer
