"""DTLS-SRTP (RFC 5764) on top of aiortc's RTCDtlsTransport, without its packet pump.

Neighbours: `transport` delivers the datagrams, `forwarding` gets RTP and RTCP in clear, `datachannels` rides on the
DTLS itself. SRTP goes straight from the socket to the receiver: no queue, no task switch; only DTLS takes the queue.
Names with an underscore are private to aiortc and pylibsrtp, which is why both are pinned.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pylibsrtp
import structlog
from aiortc.rtcdtlstransport import (
    RTCCertificate,
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCDtlsTransport,
    State,
)

from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.transport import IceEndpoint

__all__ = ["Handshakes", "SecureTransport", "fingerprint_of"]

# Header, index and authentication tag: nothing shorter is worth decrypting.
_SMALLEST_SRTCP = 20

# libsrtp itself: `pylibsrtp` does not count it among its names.
_SRTP: Any = pylibsrtp

_log = structlog.get_logger(__name__)


def fingerprint_of(certificate: RTCCertificate) -> str:
    """Return the SHA-256 fingerprint that descriptions announce."""
    return next(f.value for f in certificate.getFingerprints() if f.algorithm == "sha-256")


class Handshakes:
    """How many handshakes are under way, and the bound on that: each costs public-key work."""

    def __init__(self, limit: int, *, time_limit: float) -> None:
        self.time_limit = time_limit
        self._limit = limit
        self.pending = 0

    @property
    def may_start(self) -> bool:
        """Say whether there is room for one more."""
        return self.pending < self._limit


class _GuardedReceiver:
    """Keeps what a peer's SCTP breaks inside that peer's connection."""

    def __init__(self, receiver: Any) -> None:
        self.receiver = receiver

    async def _handle_data(self, data: bytes) -> None:
        try:
            await self.receiver._handle_data(data)
        except Exception as error:  # the connection's edge: aiortc asserts on some of what a peer sends
            _log.warning("SCTP failed", error=type(error).__name__)
            raise ConnectionError("SCTP failed") from error


class _Protector:
    """The protection of outgoing RTP, in pylibsrtp's own buffer.

    `Session.protect` makes a new length for every packet and looks up what never changes: a third of what encrypting
    costs, and encrypting is most of what forwarding costs.
    """

    def __init__(self, session: Any) -> None:
        self._session = session  # keeps what libsrtp has alive
        self._srtp = session._srtp[0]
        self._data = session._cdata
        self._buffer = session._buffer
        self._length = _SRTP.ffi.new("int *")
        self._longest = len(session._cdata) - pylibsrtp.SRTP_MAX_TRAILER_LEN

    def __call__(self, packet: bytes) -> bytes:
        """Return the packet encrypted.

        Raises:
            ValueError: it is too long.
            pylibsrtp.Error: it is too old to be sent again.
        """
        size, length = len(packet), self._length
        if size > self._longest:
            raise ValueError("packet is too long")
        length[0] = size
        self._buffer[0:size] = packet
        error = _SRTP.lib.srtp_protect(self._srtp, self._data, length)
        if error:
            raise pylibsrtp.Error(pylibsrtp.ERRORS[error])
        protected: bytes = self._buffer[0 : length[0]]
        return protected


class _Association(RTCDtlsTransport):
    """One DTLS association: a handshake and the keys that came of it."""

    def __init__(self, owner: SecureTransport, endpoint: IceEndpoint, certificate: RTCCertificate) -> None:
        super().__init__(endpoint, [certificate])  # type: ignore[arg-type]  # it uses role, _recv and _send only
        self._owner = owner

    def _set_state(self, state: State) -> None:
        if state is not self._state:
            super()._set_state(state)
            self._owner.changed(self, state)

    @property
    def is_connected(self) -> bool:
        return self._state is State.CONNECTED

    @property
    def is_over(self) -> bool:
        return self._state in (State.CLOSED, State.FAILED)

    async def run(self, fingerprints: tuple[tuple[str, str], ...], time_limit: float) -> None:
        """Shake hands; whatever goes wrong, the association has failed."""
        expected = [RTCDtlsFingerprint(algorithm, value) for algorithm, value in fingerprints]
        try:
            async with asyncio.timeout(time_limit):
                await self.start(RTCDtlsParameters(fingerprints=expected))
        except TimeoutError:
            self._set_state(State.FAILED)
        except Exception as error:  # a background task's edge: OpenSSL raises in many ways
            _log.warning("DTLS handshake failed", error=type(error).__name__)
            self._set_state(State.FAILED)

    def unprotect(self, data: bytes, *, is_rtcp: bool) -> bytes | None:
        if self._rx_srtp is None:
            return None
        return self._rx_srtp.unprotect_rtcp(data) if is_rtcp else self._rx_srtp.unprotect(data)

    @functools.cached_property
    def protect(self) -> Callable[[bytes], bytes]:
        return _Protector(self._tx_srtp)

    def protect_rtcp(self, packet: bytes) -> bytes:
        return self._tx_srtp.protect_rtcp(packet)

    async def close(self) -> None:
        """End the association, telling the peer."""
        pump = self._task
        await self.stop()
        if pump is not None:
            await asyncio.wait([pump])


class SecureTransport:
    """One session's DTLS-SRTP, over as many associations as it takes.

    A handshake starts when there is a validated address to talk to and the peer's fingerprint is known; datagrams of
    an address that passed no STUN check never get here, so a flood of ClientHellos costs nothing. An association that
    ended is followed by another when the peer comes again: Chromium starts afresh, under the same ICE credentials,
    when the section that carried the BUNDLE is closed. To aiortc's SCTP this is the DTLS transport all the while.
    """

    def __init__(
        self, endpoint: IceEndpoint, *, certificate: RTCCertificate, handshakes: Handshakes, counters: Counters
    ) -> None:
        self._endpoint = endpoint
        self._certificate = certificate
        self._handshakes = handshakes
        self._counters = counters
        self._fingerprints: tuple[tuple[str, str], ...] = ()
        self._role = "auto"  # aiortc's SCTP reads it
        self._association: _Association | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._data_receiver: _GuardedReceiver | None = None
        self._is_closed = False
        self.on_rtp: Callable[[bytes], None] = lambda data: None
        self.on_rtcp: Callable[[bytes], None] = lambda data: None
        self.on_connected: Callable[[], None] = lambda: None
        endpoint.on_srtp = self._receive_srtp

    @property
    def is_connected(self) -> bool:
        """Say whether media can flow."""
        return self._association is not None and self._association.is_connected

    @property
    def is_client(self) -> bool:
        """Say whether the peer waits for our ClientHello."""
        return self._role == "client"

    def expect(self, fingerprints: tuple[tuple[str, str], ...], *, is_client: bool) -> None:
        """Learn who the peer must prove to be, and who speaks first."""
        self._fingerprints = fingerprints
        self._role = "client" if is_client else "server"
        self.begin()

    def begin(self) -> None:
        """Start a handshake if there is none, all it needs is there, and there is room for it; or else later.

        Every nomination of ICE calls this, and ICE repeats itself every few seconds.
        """
        if self._is_closed or self._endpoint.address is None or not self._fingerprints:
            return
        if self._association is None and self._handshakes.may_start:
            self._handshakes.pending += 1
            self._association = _Association(self, self._endpoint, self._certificate)
            self._association._set_role(self._role)
            if self._data_receiver is not None:
                self._association._register_data_receiver(self._data_receiver)
            self._handshake = asyncio.create_task(self._shake_hands(self._association), name="sfu-dtls-handshake")

    async def _shake_hands(self, association: _Association) -> None:
        try:
            await association.run(self._fingerprints, self._handshakes.time_limit)
        finally:
            self._handshakes.pending -= 1

    def changed(self, association: _Association, state: State) -> None:
        """Take note of an association's new state."""
        if association is not self._association or self._is_closed:
            return
        if state is State.CONNECTED:
            self._counters.handshakes += 1
            self.on_connected()
        elif association.is_over:
            self._counters.handshakes_failed += state is State.FAILED
            self._association = None

    def _receive_srtp(self, data: bytes) -> None:
        association = self._association
        if len(data) < _SMALLEST_SRTCP:
            self._counters.refused_datagrams += 1
            return
        if association is None:
            self._counters.early_datagrams += 1
            return
        # RFC 5761: what would be RTP payload types 64-95 with a marker is RTCP.
        is_rtcp = 191 < data[1] < 224
        try:
            packet = association.unprotect(data, is_rtcp=is_rtcp)
        except pylibsrtp.Error:
            self._counters.refused_datagrams += 1
            return
        if packet is None:
            self._counters.early_datagrams += 1
        else:
            (self.on_rtcp if is_rtcp else self.on_rtp)(packet)

    def send_rtp(self, packet: bytes) -> None:
        """Encrypt and send one RTP packet; it is lost where no association is up."""
        association = self._association
        if association is not None and association.is_connected:
            try:
                self._endpoint.send(association.protect(packet))
            except (pylibsrtp.Error, ValueError):  # too old to retransmit, or too long once it is encrypted
                self._counters.send_failures += 1

    def send_rtcp(self, packet: bytes) -> None:
        """Encrypt and send one compound RTCP packet; it is lost where no association is up."""
        association = self._association
        if association is not None and association.is_connected:
            try:
                self._endpoint.send(association.protect_rtcp(packet))
            except (pylibsrtp.Error, ValueError):
                self._counters.send_failures += 1

    # -- what aiortc's SCTP calls --------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Return the state in aiortc's words."""
        return "closed" if self._is_closed else "connected" if self.is_connected else "connecting"

    async def _send_data(self, data: bytes) -> None:
        # SCTP's timers fire while there is no association, too: then the datagram is lost like any other.
        if self._association is not None and self._association.is_connected:
            await self._association._send_data(data)

    def _register_data_receiver(self, receiver: Any) -> None:
        self._data_receiver = _GuardedReceiver(receiver)
        if self._association is not None:
            self._association._register_data_receiver(self._data_receiver)

    def _unregister_data_receiver(self, receiver: Any) -> None:
        if self._data_receiver is not None and self._data_receiver.receiver is receiver:
            if self._association is not None:
                self._association._unregister_data_receiver(self._data_receiver)
            self._data_receiver = None

    async def close(self) -> None:
        """End the association, telling the peer, and start no other."""
        self._is_closed = True
        if self._handshake is not None and not self._handshake.done():
            self._handshake.cancel()
            await asyncio.wait([self._handshake])
        if self._association is not None:
            await self._association.close()
            self._association = None
