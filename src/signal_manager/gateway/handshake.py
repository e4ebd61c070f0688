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
from picows import WSListener, WSUpgradeRequest, WSUpgradeResponseWithListener

from signal_manager.gateway.limits import Sample
from signal_manager.gateway.picows_protocol import PicowsProtocol
from signal_manager.gateway.tls import Certificate

__all__ = ["Handshakes", "Upgrade"]

log = structlog.get_logger(__name__)

# aiofastnet takes 512 KiB for each TLS connection by default; this is two records of the largest size (RFC 8446,
# section 5.2) in each direction.
_TLS_BUFFER = 2 * (16 * 1024 + 256)
# How long a client may take to answer our close_notify.
_TLS_SHUTDOWN = 2.0

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

    async def _connect(
        self, accepted: socket.socket, peer: str, began: float
    ) -> tuple[asyncio.Transport, PicowsProtocol]:
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

    def _make_protocol(self, peer: str, began: float) -> PicowsProtocol:
        return PicowsProtocol(
            lambda request: self._upgrade(request, peer, began),
            logger=self._logger,
            max_frame_size=self._max_frame_size,
            read_buffer_size=self._read_buffer_size,
        )

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
