"""The TCP port: accepts sockets, bounds unfinished handshakes, and survives a lack of file descriptors.

This module takes a socket through TLS to its HTTP request, which `server` answers. The accept loop is our own because
aiofastnet's fails on EMFILE, and because only an accept loop can refuse an address before it costs anything.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from aiofastnet import connect_accepted_socket
from picows import WSAutoPingStrategy, WSListener, WSUpgradeRequest, WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # the stub leaves it out; hence picows' pin

from signal_manager.errors import ConfigurationError
from signal_manager.gateway.limits import HALF_OPEN, ClientAddress, Sample, Tally, TrustedProxies, address_of
from signal_manager.gateway.ports import BufferedConnection
from signal_manager.gateway.tls import Certificate

__all__ = ["Listener", "Upgrade", "listen"]

log = structlog.get_logger(__name__)

# Connections that may wait to be accepted: many clients come back at once after a restart.
_BACKLOG = 4096
# Sockets that are accepted before other work gets a turn.
_ACCEPTS_PER_TURN = 64
# A socket that has been half open for longer gives way when there are too many: the clients that mean it need a few
# round trips.
_PATIENCE = 2.0
# How long the listener pauses after too many half-open sockets, or a lack of descriptors or memory (s).
_PAUSE_FULL = 0.05
_PAUSE_SHORTAGE = 0.5
# A flood is worth one line in this many seconds.
_COMPLAINT_INTERVAL = 10.0
# aiofastnet takes 512 KiB for each TLS connection by default; this is two records of the largest size (RFC 8446,
# section 5.2) in each direction.
_TLS_BUFFER = 2 * (16 * 1024 + 256)
# How long a client may take to answer our close_notify.
_TLS_SHUTDOWN = 2.0

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# Bytes that are read at once, before and after a client has proved who it is. Less than what makes the buffer double
# beside a message that a stranger may send.
_STRANGERS_READ = 8192
_CLIENTS_READ = 65_536

# What an HTTP request from this address, on a socket accepted at this time, gets.
Upgrade = Callable[[WSUpgradeRequest, str, float], WSListener | WSUpgradeResponseWithListener | None]


def listen(host: str, port: int, *, is_shared: bool = False, is_passive: bool = False) -> socket.socket:
    """Return a listening socket, before anything else starts, because a taken port is the most common mistake.

    Args:
        host: an address or a name; `::` means every address of both families.
        port: 0 takes a free one.
        is_shared: whether other processes listen there too; the kernel hands out connections.
        is_passive: whether to hold the address only, and take no connections.

    Raises:
        ConfigurationError: the address cannot be listened on; the message says why.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # IPv4 first: a name such as localhost has both, and clients that were told 127.0.0.1 expect it.
        family, _, _, _, address = min(found, key=lambda entry: entry[0] is not socket.AF_INET)
        dualstack = family is socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
        if is_passive:
            return _hold(address[:2], family, dualstack=dualstack)
        return socket.create_server(
            address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=dualstack, reuse_port=is_shared
        )
    except OSError as error:
        raise ConfigurationError(_explain(error, host, port)) from error


def _hold(address: Any, family: socket.AddressFamily, *, dualstack: bool) -> socket.socket:
    """Return a socket that is bound beside those that listen, and does not listen itself."""
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family is socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not dualstack))
        holder.bind(address)
    except OSError:
        holder.close()
        raise
    return holder


class Listener:
    """Accept sockets and bring each to its HTTP request.

    Args:
        upgrade: answers the request.
        listening: what to accept from, made by `listen`; the listener closes it.
        time_limit: seconds from accepting a socket to its WebSocket.
        max_half_open: sockets of one address that may be on that way at one time; loopback and proxies are not counted.
        proxies: the addresses that many clients come from.
        max_frame_size, read_buffer_size: in bytes.
        certificate: for TLS.
        sample: limits the log lines about strangers.
    """

    def __init__(
        self,
        upgrade: Upgrade,
        listening: socket.socket,
        *,
        time_limit: float,
        max_half_open: int,
        proxies: TrustedProxies,
        max_frame_size: int,
        read_buffer_size: int,
        certificate: Certificate | None = None,
        sample: Sample | None = None,
    ) -> None:
        self.host: str = listening.getsockname()[0]
        self.port: int = listening.getsockname()[1]
        self._upgrade = upgrade
        self._listening = listening
        self._time_limit = time_limit
        self._max_half_open = max_half_open
        self._proxies = proxies
        self._max_frame_size = max_frame_size
        self._read_buffer_size = read_buffer_size
        self._certificate = certificate
        self._sample = sample or Sample()
        self._logger = _Quiet(logging.getLogger("picows.server"), {})
        # The unfinished handshakes and when each began, oldest first.
        self._half_open: dict[asyncio.Task[None], float] = {}
        self._by_address = Tally()
        # Given up for a moment when there is no other descriptor, so that a waiting client can be sent away.
        self._reserve: int | None = None
        self._resume_timer: asyncio.TimerHandle | None = None
        self._quiet_until = 0.0
        self._outer_handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None = None

    @property
    def half_open(self) -> int:
        """The number of unfinished handshakes."""
        return len(self._half_open)

    async def start(self) -> None:
        """Accept sockets.

        Raises:
            ConfigurationError: there is no file descriptor to keep in reserve.
        """
        loop = asyncio.get_running_loop()
        try:
            self._reserve = os.open(os.devnull, os.O_RDONLY)
        except OSError as error:
            raise ConfigurationError(_explain(error, self.host, self.port)) from error
        self._listening.setblocking(False)
        if self._certificate is not None:
            self._outer_handler = loop.get_exception_handler()
            loop.set_exception_handler(self._report)
        self._resume()

    async def stop(self) -> None:
        """Stop listening and end every unfinished handshake; WebSocket connections continue."""
        loop = asyncio.get_running_loop()
        if self._certificate is not None:
            loop.set_exception_handler(self._outer_handler)
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        if self._listening.fileno() >= 0:
            loop.remove_reader(self._listening)
            self._listening.close()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        handshakes = list(self._half_open)
        for handshake in handshakes:
            handshake.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)

    # -- accepting -----------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        self._resume_timer = None
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        if self._resume_timer is None:
            self._resume_timer = loop.call_later(seconds, self._resume)

    def _accept(self) -> None:
        """Accept the waiting sockets, as far as there is room for them."""
        for _ in range(_ACCEPTS_PER_TURN):
            if len(self._half_open) >= HALF_OPEN and not self._give_up_oldest():
                self._pause(_PAUSE_FULL)
                return
            try:
                accepted, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._complain("cannot accept connections", reason=error.strerror)
                if error.errno not in _SHORTAGES or not self._send_one_away():
                    self._pause(_PAUSE_SHORTAGE)
                    return
                continue
            self._open(accepted, peer[0])

    def _give_up_oldest(self) -> bool:
        """End the oldest handshake if it has had time enough."""
        oldest, began = next(iter(self._half_open.items()))
        if time.monotonic() - began < _PATIENCE:
            return False
        del self._half_open[oldest]
        oldest.cancel()
        return True

    def _send_one_away(self) -> bool:
        """Accept a client with the reserve descriptor and close it, so that it knows and the loop does not spin."""
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        with suppress(OSError):
            self._listening.accept()[0].close()
        with suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY)
        return self._reserve is not None

    def _open(self, accepted: socket.socket, peer: str) -> None:
        address = ClientAddress(peer, ()) if self._proxies.trusts(peer) else address_of(peer)
        if not self._by_address.has_room(address, self._max_half_open):
            accepted.close()
            self._complain("too many handshakes from one address", address=peer)
            return
        self._by_address.enter(address)
        began = time.monotonic()
        task = asyncio.get_running_loop().create_task(self._shake_hands(accepted, peer, began), name="handshake")
        self._half_open[task] = began
        task.add_done_callback(partial(self._opened, address))

    def _opened(self, address: ClientAddress, task: asyncio.Task[None]) -> None:
        self._by_address.leave(address)
        self._half_open.pop(task, None)

    def _complain(self, event: str, **facts: Any) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _COMPLAINT_INTERVAL
            log.warning(event, half_open=len(self._half_open), **facts)

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Pass over what aiofastnet reports when a client leaves during its TLS handshake; `_shake_hands` logs it.

        It reports the class in place of an exception, which the standard handler cannot print.
        """
        if isinstance(context.get("exception"), type):
            return
        if self._outer_handler is not None:
            self._outer_handler(loop, context)
        else:
            loop.default_exception_handler(context)

    # -- one socket ----------------------------------------------------------------------------------------------

    async def _shake_hands(self, accepted: socket.socket, peer: str, began: float) -> None:
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


def _explain(error: OSError, host: str, port: int) -> str:
    """Say in one line why listening failed and which setting to change."""
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {where}: the port is taken; change server.port or stop what uses it"
    if error.errno == errno.EACCES:
        return f"cannot listen on {where}: not permitted; use a port above 1023"
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {where}: server.host is no address of this machine"
    return f"cannot listen on {where}: {os.strerror(error.errno) if error.errno else error}"
