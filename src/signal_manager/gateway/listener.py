"""The TCP port: accepts sockets, bounds unfinished handshakes, and survives a lack of file descriptors.

`gateway/handshake.py` takes each socket to its WebSocket. The accept loop is our own because aiofastnet's fails on
EMFILE, and because only an accept loop can refuse an address before it costs anything.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from signal_manager.errors import ConfigurationError
from signal_manager.gateway.handshake import Handshake, Handshakes
from signal_manager.gateway.limits import HALF_OPEN, ClientAddress, Tally, TrustedProxies, address_of

__all__ = ["Listener", "listen"]

log = structlog.get_logger(__name__)

# Connections that may wait to be accepted: many clients come back at once after a restart.
_BACKLOG = 4096
# Sockets that are accepted before other work gets a turn. Each goes on to its handshake and its sign-in in the next
# turns, so that this also bounds how long a crowd keeps messages waiting: 8 of them take about 5 ms, with TLS 10.
_ACCEPTS_PER_TURN = 8
# A socket that has been half open for longer gives way when there are too many: the clients that mean it need a few
# round trips.
_PATIENCE = 2.0
# How long the listener pauses after too many half-open sockets, or a lack of descriptors or memory (s).
_PAUSE_FULL = 0.05
_PAUSE_SHORTAGE = 0.5
# A flood is worth one line in this many seconds.
_COMPLAINT_INTERVAL = 10.0
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


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
    """Accept sockets, and bound the handshakes that begin on them.

    Args:
        handshakes: take each socket to its WebSocket.
        listening: what to accept from, made by `listen`; the listener closes it.
        max_half_open: sockets of one address that may be on that way at one time; loopback and proxies are not counted.
        proxies: the addresses that many clients come from.
    """

    def __init__(
        self, handshakes: Handshakes, listening: socket.socket, *, max_half_open: int, proxies: TrustedProxies
    ) -> None:
        self.host: str = listening.getsockname()[0]
        self.port: int = listening.getsockname()[1]
        self._handshakes = handshakes
        self._listening = listening
        self._max_half_open = max_half_open
        self._proxies = proxies
        # The unfinished handshakes and when each began, oldest first.
        self._half_open: dict[Handshake, float] = {}
        self._is_empty = asyncio.Event()
        self._by_address = Tally()
        # Given up for a moment when there is no other descriptor, so that a waiting client can be sent away.
        self._reserve: int | None = None
        self._resume_timer: asyncio.TimerHandle | None = None
        self._quiet_until = 0.0

    @property
    def half_open(self) -> int:
        """The number of unfinished handshakes."""
        return len(self._half_open)

    async def start(self) -> None:
        """Accept sockets.

        Raises:
            ConfigurationError: there is no file descriptor to keep in reserve.
        """
        try:
            self._reserve = os.open(os.devnull, os.O_RDONLY)
        except OSError as error:
            raise ConfigurationError(_explain(error, self.host, self.port)) from error
        self._listening.setblocking(False)
        self._handshakes.start()
        self._resume()

    async def stop(self) -> None:
        """Stop listening and end every unfinished handshake; WebSocket connections continue."""
        self._handshakes.stop()
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        handshakes = list(self._half_open)
        for handshake in handshakes:
            handshake.cancel()
        if handshakes:
            self._is_empty.clear()
            await self._is_empty.wait()

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
        handshake = self._handshakes.begin(accepted, peer, began, partial(self._opened, address))
        self._half_open[handshake] = began

    def _opened(self, address: ClientAddress, handshake: Handshake) -> None:
        self._by_address.leave(address)
        self._half_open.pop(handshake, None)
        if not self._half_open:
            self._is_empty.set()

    def _complain(self, event: str, **facts: Any) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _COMPLAINT_INTERVAL
            log.warning(event, half_open=len(self._half_open), **facts)


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
