"""From an accepted socket to its WebSocket: TLS, the HTTP request, and bounds on time and on the read buffer.

`gateway/listener.py` accepts the socket, and `gateway/server.py` answers the request.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from aiofastnet import connect_accepted_socket
from picows import WSAutoPingStrategy, WSListener, WSUpgradeRequest, WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # the stub leaves it out; hence picows' pin

from signal_manager.gateway.limits import Sample
from signal_manager.gateway.ports import BufferedConnection
from signal_manager.gateway.tls import Certificate

__all__ = ["Handshakes", "Upgrade"]

log = structlog.get_logger(__name__)

# aiofastnet takes 512 KiB for each TLS connection by default; this is two records of the largest size (RFC 8446,
# section 5.2) in each direction.
_TLS_BUFFER = 2 * (16 * 1024 + 256)
# How long a client may take to answer our close_notify.
_TLS_SHUTDOWN = 2.0

# Bytes that are read at once, before and after a client has proved who it is. Less than what makes the buffer double
# beside a message that a stranger may send.
_STRANGERS_READ = 8192
_CLIENTS_READ = 65_536

# What an HTTP request from this address, on a socket accepted at this time, gets.
Upgrade = Callable[[WSUpgradeRequest, str, float], WSListener | WSUpgradeResponseWithListener | None]


class Handshakes:
    """Take accepted sockets through TLS and HTTP.

    Args:
        upgrade: answers the request.
        time_limit: seconds from accepting a socket to its WebSocket.
        max_frame_size, read_buffer_size: in bytes.
        certificate: for TLS.
        sample: limits the log lines about strangers.
    """

    def __init__(
        self,
        upgrade: Upgrade,
        *,
        time_limit: float,
        max_frame_size: int,
        read_buffer_size: int,
        certificate: Certificate | None = None,
        sample: Sample | None = None,
    ) -> None:
        self._upgrade = upgrade
        self._time_limit = time_limit
        self._max_frame_size = max_frame_size
        self._read_buffer_size = read_buffer_size
        self._certificate = certificate
        self._sample = sample or Sample()
        self._logger = _Quiet(logging.getLogger("picows.server"), {})
        self._outer_handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None = None

    def start(self) -> None:
        """Keep failed TLS handshakes out of the event loop's error report."""
        if self._certificate is not None:
            loop = asyncio.get_running_loop()
            self._outer_handler = loop.get_exception_handler()
            loop.set_exception_handler(self._report)

    def stop(self) -> None:
        """Restore the event loop's error report."""
        if self._certificate is not None:
            asyncio.get_running_loop().set_exception_handler(self._outer_handler)

    async def run(self, accepted: socket.socket, peer: str, began: float) -> None:
        """Take a socket through TLS and HTTP; ends when it is a WebSocket, or closed."""
        transport: asyncio.Transport | None = None
        is_open = False
        try:
            async with asyncio.timeout(self._time_limit):
                transport, protocol = await self._connect(accepted, peer, began)
                await protocol.wait_until_handshake_complete()
                is_open = True
        except TimeoutError:
            if self._sample.takes("handshake took too long", time.monotonic()):
                log.info("handshake took too long", address=peer)
        except OSError as error:
            if self._sample.takes("TLS handshake failed", time.monotonic()):
                log.info("TLS handshake failed", address=peer, reason=_reason(error))
        except Exception:
            log.exception("handshake failed", address=peer)
        finally:
            if not is_open and transport is not None:
                transport.abort()
            elif not is_open:
                accepted.close()

    async def _connect(self, accepted: socket.socket, peer: str, began: float) -> tuple[asyncio.Transport, WSProtocol]:
        tls: dict[str, Any] = {}
        if self._certificate is not None:
            tls = {
                "ssl": self._certificate.context,
                "ssl_handshake_timeout": self._time_limit,
                "ssl_shutdown_timeout": _TLS_SHUTDOWN,
                "ssl_incoming_bio_size": _TLS_BUFFER,
                "ssl_outgoing_bio_size": _TLS_BUFFER,
            }
        loop = asyncio.get_running_loop()
        return await connect_accepted_socket(loop, partial(self._make_protocol, peer, began), accepted, **tls)

    def _make_protocol(self, peer: str, began: float) -> WSProtocol:
        protocol = _Reading(
            None,  # host and port, for clients
            None,  # path, for clients
            False,  # is_client_side
            lambda request: self._upgrade(request, peer, began),
            self._logger,
            True,  # disconnect_on_exception
            None,  # websocket_handshake_timeout: ours covers TLS as well
            False,  # enable_auto_ping
            0.0,  # auto_ping_idle_timeout
            0.0,  # auto_ping_reply_timeout
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,  # enable_auto_pong: a swallowed ping could be the last frame of a read, which flushes the rest
            self._max_frame_size,
            None,  # extra_headers, for clients
            self._read_buffer_size,
        )
        protocol.at_once, protocol.largest = _STRANGERS_READ, 0
        return protocol

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Pass over what aiofastnet reports when a client leaves during its TLS handshake; `run` logs it.

        It reports the class in place of an exception, which the standard handler cannot print.
        """
        if isinstance(context.get("exception"), type):
            return
        if self._outer_handler is not None:
            self._outer_handler(loop, context)
        else:
            loop.default_exception_handler(context)


class _Reading(WSProtocol):  # type: ignore[misc]  # the stub leaves its base out
    """picows' protocol, with a bound on the size of a read and of the read buffer.

    The buffer doubles whenever a read fills it and never shrinks. Small reads let only a message that is not whole yet
    make it grow; and what is free in it, right after it has grown, says how large it is, give or take half.
    """

    __slots__ = ("at_once", "largest")

    at_once: int  # bytes that may be read
    largest: int  # that was free in the buffer so far

    def get_buffer(self, size_hint: int) -> memoryview:
        """Return where to read to (`asyncio.BufferedProtocol`)."""
        free: memoryview = _get_buffer(self, size_hint)
        return free if len(free) <= self.at_once else self._bounded(free)

    def _bounded(self, free: memoryview) -> memoryview:
        connection: BufferedConnection | None = self.listener
        if connection is None:
            return free[: self.at_once]
        if len(free) > self.largest:
            self.largest = len(free)
            connection.buffered(len(free))
        if connection.is_established:
            self.at_once = _CLIENTS_READ
        return free[: self.at_once]


_get_buffer = WSProtocol.get_buffer


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """picows' logger, at debug level: our own line about a connection's end says what its client did wrong.

    An adapter also because picows makes a logger of its own for each connection otherwise: 1 KB each.
    """

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log at debug level, except for unhandled exceptions."""
        super().log(level if kwargs.get("exc_info") else logging.DEBUG, msg, *args, **kwargs)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or "connection lost"
