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
from typing import Any, Protocol

import structlog
from aiofastnet import connect_accepted_socket
from picows import WSListener, WSUpgradeRequest, WSUpgradeResponseWithListener

from signal_manager.gateway.limits import Sample
from signal_manager.gateway.picows_protocol import PicowsProtocol
from signal_manager.gateway.tls import Certificate

__all__ = ["Handshake", "Handshakes", "Upgrade"]

log = structlog.get_logger(__name__)

# aiofastnet takes 512 KiB for each TLS connection by default; this is two records of the largest size (RFC 8446,
# section 5.2) in each direction.
_TLS_BUFFER = 2 * (16 * 1024 + 256)
# How long a client may take to answer our close_notify.
_TLS_SHUTDOWN = 2.0


class Upgrade(Protocol):
    """Answers HTTP requests."""

    def __call__(
        self, request: WSUpgradeRequest, peer: str, accepted_at: float
    ) -> WSListener | WSUpgradeResponseWithListener | None:
        """Return what a request from this address gets, on a socket that was accepted then."""


class Handshake(Protocol):
    """A socket on its way to a WebSocket."""

    def cancel(self) -> object:
        """Close the socket."""


class Handshakes:
    """Take accepted sockets through TLS and HTTP.

    Args:
        upgrade: answers the request.
        time_limit: seconds from accepting a socket to its WebSocket.
        max_frame_size, read_buffer_size: in bytes.
        certificate: for TLS.
        sample: limits the log lines about strangers.

    Attributes:
        upgrade, time_limit: the arguments.
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
        self.upgrade = upgrade
        self.time_limit = time_limit
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

    def begin(self, accepted: socket.socket, peer: str, began: float, over: Callable[[Handshake], None]) -> Handshake:
        """Take a socket to its WebSocket from now on.

        Args:
            accepted: belongs to the handshake.
            peer: the socket's other end.
            began: when it was accepted, on the monotonic clock.
            over: called once, in a later turn of the event loop, when it is a WebSocket or closed.
        """
        loop = asyncio.get_running_loop()
        if self._certificate is None:
            return _PlainHandshake(self, loop, accepted, peer=peer, began=began, over=over)
        task = loop.create_task(self._secure(self._certificate, accepted, peer, began), name="handshake")
        task.add_done_callback(over)
        return task

    async def _secure(self, certificate: Certificate, accepted: socket.socket, peer: str, began: float) -> None:
        """Take a socket through TLS and HTTP; ends when it is a WebSocket, or closed."""
        transport: asyncio.Transport | None = None
        is_open = False
        try:
            async with asyncio.timeout(self.time_limit):
                transport, protocol = await connect_accepted_socket(
                    asyncio.get_running_loop(),
                    partial(self.make_protocol, partial(self.upgrade, peer=peer, accepted_at=began)),
                    accepted,
                    ssl=certificate.context,
                    ssl_handshake_timeout=self.time_limit,
                    ssl_shutdown_timeout=_TLS_SHUTDOWN,
                    ssl_incoming_bio_size=_TLS_BUFFER,
                    ssl_outgoing_bio_size=_TLS_BUFFER,
                )
                await protocol.wait_until_handshake_complete()
                is_open = True
        except TimeoutError:
            self.took_too_long(peer)
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

    # -- what handshakes share -----------------------------------------------------------------------------------

    def make_protocol(
        self,
        upgrade: Callable[[WSUpgradeRequest], WSListener | WSUpgradeResponseWithListener | None],
        lost: Callable[[], None] | None = None,
    ) -> PicowsProtocol:
        """Return the protocol for one socket."""
        return PicowsProtocol(
            upgrade,
            logger=self._logger,
            max_frame_size=self._max_frame_size,
            read_buffer_size=self._read_buffer_size,
            lost=lost,
        )

    def took_too_long(self, peer: str) -> None:
        """Log a handshake that has reached its time limit."""
        if self._sample.takes("handshake took too long", time.monotonic()):
            log.info("handshake took too long", address=peer)

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


class _PlainHandshake:
    """A handshake without TLS, on the event loop's own transport.

    aiofastnet's keeps room for 256 parts of a write in each transport: 4 KiB, half of what an idle connection costs.
    """

    __slots__ = ("_accepted", "_began", "_connecting", "_handshakes", "_over", "_peer", "_protocol", "_timer")

    def __init__(
        self,
        handshakes: Handshakes,
        loop: asyncio.AbstractEventLoop,
        accepted: socket.socket,
        *,
        peer: str,
        began: float,
        over: Callable[[Handshake], None],
    ) -> None:
        self._handshakes = handshakes
        self._peer = peer
        self._began = began
        self._over: Callable[[Handshake], None] | None = over
        self._accepted = accepted
        self._protocol = protocol = handshakes.make_protocol(self._answer, self._end)
        self._timer = loop.call_later(handshakes.time_limit, self._give_up)
        self._connecting = loop.create_task(loop.connect_accepted_socket(lambda: protocol, accepted), name="handshake")
        self._connecting.add_done_callback(self._connected)

    def cancel(self) -> None:
        """Close the socket (`Handshake.cancel`)."""
        if self._protocol.transport is None:
            self._connecting.cancel()
        else:
            self._protocol.transport.underlying_transport.abort()

    def _connected(self, connecting: asyncio.Task[tuple[asyncio.Transport, PicowsProtocol]]) -> None:
        error = None if connecting.cancelled() else connecting.exception()
        if error is not None:
            log.error("handshake failed", address=self._peer, exc_info=error)
        if error is not None or connecting.cancelled():
            self._accepted.close()
            self._end()

    def _answer(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener | None:
        answer = self._handshakes.upgrade(request, self._peer, self._began)
        listener = answer.listener if isinstance(answer, WSUpgradeResponseWithListener) else answer
        if listener is not None:  # otherwise the socket has still to be closed
            self._end()
        return answer

    def _give_up(self) -> None:
        self._handshakes.took_too_long(self._peer)
        self.cancel()

    def _end(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            self._timer.cancel()
            self._protocol.lost = None  # nothing of the handshake stays with the connection
            over(self)


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """picows' logger, at debug level: our own line about a connection's end says what its client did wrong.

    An adapter also because picows makes a logger of its own for each connection otherwise: 1 KB each.
    """

    def info(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log at debug level; without a detour, because picows tells twice of each connection."""
        if self.logger.isEnabledFor(logging.DEBUG):
            self.logger.debug(msg, *args, **kwargs)

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log at debug level, except for unhandled exceptions."""
        super().log(level if kwargs.get("exc_info") else logging.DEBUG, msg, *args, **kwargs)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or "connection lost"
