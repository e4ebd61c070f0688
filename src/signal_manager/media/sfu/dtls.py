"""DTLS-SRTP (RFC 5764) on top of aiortc's RTCDtlsTransport, without its packet pump.

Neighbours: `transport` delivers the datagrams, `forwarding` gets RTP and RTCP in clear, `datachannels` rides on the
DTLS itself. SRTP goes straight from the socket to the receiver: no queue, no task switch; only DTLS takes the queue.
Names with an underscore are private to aiortc, which is why it is pinned.
"""

from __future__ import annotations

import asyncio
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

from signal_manager.media.sfu.metrics import Counters
from signal_manager.media.sfu.transport import IceEndpoint

__all__ = ["Handshakes", "SecureTransport", "fingerprint_of"]

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


class SecureTransport(RTCDtlsTransport):
    """One session's DTLS association and its SRTP keys.

    The handshake starts when there is a validated address to talk to and the peer's fingerprint is known; datagrams
    of an address that passed no STUN check never get here, so a flood of ClientHellos costs nothing.
    """

    def __init__(
        self, endpoint: IceEndpoint, *, certificate: RTCCertificate, handshakes: Handshakes, counters: Counters
    ) -> None:
        super().__init__(endpoint, [certificate])  # type: ignore[arg-type]  # it uses role, _recv and _send only
        self._endpoint = endpoint
        self._handshakes = handshakes
        self._counters = counters
        self._fingerprints: tuple[tuple[str, str], ...] = ()
        self._handshake: asyncio.Task[None] | None = None
        self.on_rtp: Callable[[bytes], None] = lambda data: None
        self.on_rtcp: Callable[[bytes], None] = lambda data: None
        self.on_connected: Callable[[], None] = lambda: None
        self.on_closed: Callable[[], None] = lambda: None
        endpoint.on_srtp = self._receive_srtp

    @property
    def is_connected(self) -> bool:
        """Say whether media can flow."""
        return self._state is State.CONNECTED

    @property
    def is_over(self) -> bool:
        """Say whether the association failed or was closed; it never comes back."""
        return self._state in (State.CLOSED, State.FAILED)

    @property
    def is_client(self) -> bool:
        """Say whether the peer waits for our ClientHello."""
        return self._role == "client"

    def expect(self, fingerprints: tuple[tuple[str, str], ...], *, is_client: bool) -> None:
        """Learn who the peer must prove to be, and who speaks first."""
        self._fingerprints = fingerprints
        self._set_role("client" if is_client else "server")
        self.begin()

    def begin(self) -> None:
        """Start the handshake if all it needs is there and there is room for it; otherwise the next check will."""
        if self._handshake is not None or self._endpoint.address is None or not self._fingerprints:
            return
        if self._handshakes.may_start:
            self._handshakes.pending += 1
            self._handshake = asyncio.create_task(self._shake_hands(), name="sfu-dtls-handshake")

    async def _shake_hands(self) -> None:
        fingerprints = [RTCDtlsFingerprint(algorithm, value) for algorithm, value in self._fingerprints]
        try:
            async with asyncio.timeout(self._handshakes.time_limit):
                await self.start(RTCDtlsParameters(fingerprints=fingerprints))
        except TimeoutError:
            self._set_state(State.FAILED)
        except Exception as error:  # a background task's edge: OpenSSL raises in many ways
            _log.warning("DTLS handshake failed", error=type(error).__name__)
            self._set_state(State.FAILED)
        finally:
            self._handshakes.pending -= 1

    def _set_state(self, state: State) -> None:
        if state is self._state:
            return
        super()._set_state(state)
        if state is State.CONNECTED:
            self._counters.handshakes += 1
            self.on_connected()
        elif state in (State.CLOSED, State.FAILED):
            self._counters.handshakes_failed += state is State.FAILED
            self.on_closed()

    def _receive_srtp(self, data: bytes) -> None:
        srtp = self._rx_srtp
        if srtp is None or len(data) < 12:
            return
        try:
            # RFC 5761: what would be RTP payload types 64-95 with a marker is RTCP.
            if 191 < data[1] < 224:
                self.on_rtcp(srtp.unprotect_rtcp(data))
            else:
                self.on_rtp(srtp.unprotect(data))
        except pylibsrtp.Error:
            self._counters.refused_datagrams += 1

    def send_rtp(self, packet: bytes) -> None:
        """Encrypt and send one RTP packet; it is lost where the association is not up."""
        if self._state is State.CONNECTED:
            try:
                self._endpoint.send(self._tx_srtp.protect(packet))
            except (pylibsrtp.Error, ValueError):
                self._counters.send_failures += 1

    def send_rtcp(self, packet: bytes) -> None:
        """Encrypt and send one compound RTCP packet; it is lost where the association is not up."""
        if self._state is State.CONNECTED:
            self._endpoint.send(self._tx_srtp.protect_rtcp(packet))

    async def _send_data(self, data: bytes) -> None:
        # SCTP's timers fire after the association is gone, too: then the datagram is lost like any other.
        if self._state is State.CONNECTED:
            await super()._send_data(data)

    def _register_data_receiver(self, receiver: Any) -> None:
        super()._register_data_receiver(_GuardedReceiver(receiver))

    def _unregister_data_receiver(self, receiver: Any) -> None:
        if isinstance(self._data_receiver, _GuardedReceiver) and self._data_receiver.receiver is receiver:
            self._data_receiver = None

    async def close(self) -> None:
        """End the association, telling the peer."""
        if self._handshake is not None and not self._handshake.done():
            self._handshake.cancel()
            await asyncio.wait([self._handshake])
        self.on_connected = self.on_closed = lambda: None
        task = self._task
        await self.stop()
        if task is not None:
            await asyncio.wait([task])
