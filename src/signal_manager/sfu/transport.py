"""One UDP port for all sessions: ICE-lite (RFC 8445, 2.5), and telling STUN, DTLS and SRTP apart (RFC 7983).

Neighbours: `secure_transport` receives one session's datagrams from its `IceEndpoint`. The ufrag of a STUN check with
valid integrity assigns its address to a session; later datagrams from this address belong to the session. All others
are dropped.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from aioice import stun

from signal_manager.errors import ConfigurationError
from signal_manager.sfu.metrics import Counters

__all__ = ["Address", "IceEndpoint", "MediaPort"]

Address = tuple[Any, ...]

# The most datagrams to read before the event loop does other work.
_READ_BATCH = 64
# The size of SRTP buffers; no WebRTC peer sends larger packets.
_MAX_DATAGRAM = 1500
# Enough for a burst of key frames of several publishers while Python does other work.
_SOCKET_BUFFER = 4 * 1024 * 1024
# Linux's SO_MEMINFO: a socket's memory in nine 32-bit numbers, of which the last counts datagrams that the kernel lost.
_SO_MEMINFO, _MEMINFO = 55, struct.Struct("=9L")

_log = structlog.get_logger(__name__)


def _nothing(*_: object) -> None:
    """Do nothing: the default handler."""


class IceEndpoint:
    """One session's end of the media port."""

    def __init__(self, port: MediaPort, *, max_addresses: int) -> None:
        self._port = port
        self._max_addresses = max_addresses
        self._credentials: dict[
            str, str
        ] = {}  # ufrag -> pwd; two entries until a client uses the credentials of a restart
        self._addresses: list[Address] = []  # validated addresses, the oldest first
        self._is_closed = False
        self.ufrag = ""
        self.pwd = ""
        self.address: Address | None = None
        self.last_seen = time.monotonic()
        self.on_nominated: Callable[[], None] = _nothing
        self.on_srtp: Callable[[bytes], None] = _nothing
        self.on_dtls: Callable[[bytes], None] = _nothing
        self.on_failure: Callable[[], None] = _nothing
        self.restart()

    def restart(self) -> None:
        """Create new credentials; the former ones work until the first check with the new ones."""
        if self._is_closed:
            return
        for ufrag in [ufrag for ufrag in self._credentials if ufrag != self.ufrag]:
            self._forget(ufrag)
        self.ufrag, self.pwd = secrets.token_hex(4), secrets.token_urlsafe(16).replace("-", "+").replace("_", "/")
        self._credentials[self.ufrag] = self.pwd
        self._port.by_ufrag[self.ufrag] = self

    def pwd_of(self, ufrag: str) -> str:
        """Return the password that signs checks for this ufrag, or None."""
        return self._credentials[ufrag]

    def validated(self, address: Address, *, ufrag: str, is_nominated: bool) -> None:
        """Note a STUN check with valid integrity."""
        self.last_seen = time.monotonic()
        if ufrag == self.ufrag:
            for old in [old for old in self._credentials if old != ufrag]:
                self._forget(old)
        if address not in self._addresses:
            self._addresses.append(address)
            if len(self._addresses) > self._max_addresses:
                oldest = next(a for a in self._addresses if a != self.address)
                self._addresses.remove(oldest)
                self._port.by_address.pop(oldest, None)
        self._port.by_address[address] = self
        if is_nominated or self.address is None:
            self.address = address
            self.on_nominated()

    def receive(self, data: bytes) -> None:
        """Pass on one datagram that is not STUN."""
        if 127 < data[0] < 192:
            self.on_srtp(data)
        elif 19 < data[0] < 64:
            self.on_dtls(data)

    def send(self, data: bytes) -> None:
        """Send one datagram to the nominated address."""
        if self.address is not None:
            self._port.send(data, self.address)

    def close(self) -> None:
        """Remove this endpoint and its addresses from the port."""
        self._is_closed = True
        for ufrag in list(self._credentials):
            self._forget(ufrag)
        for address in self._addresses:
            if self._port.by_address.get(address) is self:
                del self._port.by_address[address]
        self._addresses.clear()
        self.address = None
        self.on_nominated = self.on_failure = self.on_srtp = self.on_dtls = _nothing

    def _forget(self, ufrag: str) -> None:
        del self._credentials[ufrag]
        self._port.by_ufrag.pop(ufrag, None)


class MediaPort:
    """The UDP socket that all sessions share."""

    def __init__(self, counters: Counters) -> None:
        self.by_ufrag: dict[str, IceEndpoint] = {}
        self.by_address: dict[Address, IceEndpoint] = {}
        self.candidates: tuple[tuple[str, int], ...] = ()
        self._counters = counters
        self._socket: socket.socket | None = None

    async def start(self, host: str, port: int, *, public_addresses: tuple[str, ...] = ()) -> None:
        """Bind the port and offer `public_addresses`, or else `host` itself, as host candidates.

        Raises:
            ConfigurationError: the host is not an address of this machine, the port is taken, or the host means all
                addresses and `public_addresses` is empty.
        """
        addresses = public_addresses or (host,)
        if any(address in ("", "0.0.0.0", "::") for address in addresses):  # noqa: S104 -- refused, not bound
            raise ConfigurationError(
                "the media port listens on all addresses: expected public addresses to offer to clients"
            )
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            family, kind, protocol, _, address = found[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self._socket.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)
            self._socket.bind(address)
            given = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        except OSError as error:
            await self.stop()
            raise ConfigurationError(f"cannot listen on UDP {host} port {port}: {error.strerror}") from error
        if given < _SOCKET_BUFFER:
            _log.warning(
                "small socket buffer: bursts of media may be lost",
                given=given,
                wanted=_SOCKET_BUFFER,
                set="net.core.rmem_max",
            )
        # asyncio's own transport queues datagrams without bound when the kernel refuses them; this one drops them.
        loop.add_reader(self._socket, self._readable)
        bound_port = self._socket.getsockname()[1]
        self.candidates = tuple((address, bound_port) for address in addresses)

    async def stop(self) -> None:
        """Close the port."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def count_missed(self) -> None:
        """Count the datagrams that the kernel had no room for; only Linux reports them."""
        if self._socket is None or sys.platform != "linux":
            return
        with suppress(OSError, struct.error):
            memory = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            self._counters.datagrams_missed = _MEMINFO.unpack(memory)[-1]

    def send(self, data: bytes, address: Address) -> None:
        """Send one datagram; drop it if the kernel has no room for it."""
        if self._socket is None:
            return
        try:
            self._socket.sendto(data, address)
        except OSError:
            self._counters.send_failures += 1

    def _readable(self) -> None:
        for _ in range(_READ_BATCH):
            if self._socket is None:
                return
            try:
                data, address = self._socket.recvfrom(_MAX_DATAGRAM + 1)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an earlier datagram
            self._receive(data, address)

    def _receive(self, data: bytes, address: Address) -> None:
        if not data or len(data) > _MAX_DATAGRAM:
            self._counters.refused_datagrams += 1
        elif data[0] < 4:
            self._check(data, address)
        elif (endpoint := self.by_address.get(address)) is None:
            self._counters.refused_datagrams += 1
        else:
            try:
                endpoint.receive(data)
            except Exception:  # the edge of a connection: a client's datagram can end only its own session
                _log.exception("media session failed", ufrag=endpoint.ufrag)
                endpoint.on_failure()

    def _check(self, data: bytes, address: Address) -> None:
        """Answer a valid STUN check, and ignore any other (RFC 8489, 9.1.3)."""
        try:
            message = stun.parse_message(data)
            ufrag = message.attributes["USERNAME"].partition(":")[0]
            endpoint = self.by_ufrag[ufrag]
            pwd = endpoint.pwd_of(ufrag).encode()
            is_valid = message.message_class == stun.Class.REQUEST and message.check_message_integrity(pwd)
        except (ValueError, KeyError, struct.error):
            is_valid = False
        if not is_valid:
            self._counters.refused_stun += 1
            return
        response = stun.Message(
            message_method=stun.Method.BINDING,
            message_class=stun.Class.RESPONSE,
            transaction_id=message.transaction_id,
            attributes={"XOR-MAPPED-ADDRESS": address[:2]},
        )
        response.add_message_integrity(pwd)
        self.send(bytes(response), address)
        endpoint.validated(address, ufrag=ufrag, is_nominated="USE-CANDIDATE" in message.attributes)
