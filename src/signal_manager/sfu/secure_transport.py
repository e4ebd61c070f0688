"""DTLS-SRTP (RFC 5764) between one session's address and what the session does with packets in clear.

Neighbours: `transport` delivers the datagrams, `forwarding` gets RTP and RTCP in clear, `sctp` the data of data
channels. `dtls` and `srtp` do the work without I/O; socket and clock meet them here. Nothing waits in a queue: each
datagram goes from the socket to its receiver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pylibsrtp
import structlog

from signal_manager.sfu.dtls import Association, Certificate, State, is_client_hello
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.srtp import is_rtcp
from signal_manager.sfu.transport import IceEndpoint

__all__ = ["Handshakes", "SecureTransport"]

# Header, index and authentication tag: nothing shorter is worth decrypting.
_SMALLEST_SRTCP = 20

_log = structlog.get_logger(__name__)


class Handshakes:
    """How many handshakes are under way, and the bound on that: each costs public-key work."""

    def __init__(self, limit: int, *, time_limit: float) -> None:
        self.time_limit = time_limit
        self._limit = limit
        self.pending = 0

    @property
    def may_start(self) -> bool:
        """Return whether there is room for one more."""
        return self.pending < self._limit


class SecureTransport:
    """One session's DTLS-SRTP, over as many associations as it takes.

    A handshake starts when there is a validated address to talk to and the peer's fingerprint is known; datagrams of
    an address that passed no STUN check never get here, so a flood of ClientHellos costs nothing. An association that
    ended is followed by another when the peer comes again: Chromium starts afresh, under the same ICE credentials,
    when the section that carried the BUNDLE is closed.
    """

    def __init__(
        self, endpoint: IceEndpoint, *, certificate: Certificate, handshakes: Handshakes, counters: Counters
    ) -> None:
        self._endpoint = endpoint
        self._certificate = certificate
        self._handshakes = handshakes
        self._counters = counters
        self._fingerprints: tuple[tuple[str, str], ...] = ()
        self._association: Association | None = None
        self._deadline: asyncio.TimerHandle | None = None  # while a handshake is under way
        self._timer: asyncio.TimerHandle | None = None
        self.is_client = False  # whether the peer waits for our ClientHello
        self.is_closed = False
        self.on_rtp: Callable[[bytes], None] = lambda data: None
        self.on_rtcp: Callable[[bytes], None] = lambda data: None
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.on_connected: Callable[[], None] = lambda: None
        endpoint.on_srtp = self._receive_srtp
        endpoint.on_dtls = self._receive_dtls

    @property
    def is_connected(self) -> bool:
        """Return whether media can flow."""
        return self._association is not None and self._association.state is State.CONNECTED

    def expect(self, fingerprints: tuple[tuple[str, str], ...], *, is_client: bool) -> None:
        """Learn who the peer must prove to be, and who speaks first."""
        self._fingerprints = fingerprints
        self.is_client = is_client
        self.begin()

    def begin(self) -> None:
        """Start a handshake if there is none, all it needs is there, and there is room for it; or else later.

        Every nomination of ICE calls this, and ICE repeats itself every few seconds.
        """
        if self.is_closed or self._endpoint.address is None or not self._fingerprints:
            return
        if self._association is None and self._handshakes.may_start:
            self._handshakes.pending += 1
            loop = asyncio.get_running_loop()
            self._association = Association(self._certificate, self._fingerprints, is_client=self.is_client)
            self._deadline = loop.call_later(self._handshakes.time_limit, self._give_up)
            self._settle(self._association)

    def end(self) -> None:
        """End the association, telling the peer; another one may follow."""
        if self._association is not None:
            self._association.close()
            self._settle(self._association)

    def close(self) -> None:
        """End the association, telling the peer, and start no other."""
        self.is_closed = True
        self.end()

    def send_data(self, data: bytes) -> None:
        """Encrypt and send one packet of data; it is lost where no association is up."""
        association = self._association
        if association is not None and association.state is State.CONNECTED:
            association.send(data)
            self._settle(association)

    def send_rtp(self, packet: bytes) -> None:
        """Encrypt and send one RTP packet; it is lost where no association is up."""
        association = self._association
        if association is not None and association.srtp is not None:
            try:
                self._endpoint.send(association.srtp.protect(packet))
            except (pylibsrtp.Error, ValueError):  # too old to retransmit, or too long once it is encrypted
                self._counters.send_failures += 1

    def send_rtcp(self, packet: bytes) -> None:
        """Encrypt and send one compound RTCP packet; it is lost where no association is up."""
        association = self._association
        if association is not None and association.srtp is not None:
            try:
                self._endpoint.send(association.srtp.protect_rtcp(packet))
            except (pylibsrtp.Error, ValueError):
                self._counters.send_failures += 1

    def _receive_srtp(self, data: bytes) -> None:
        if len(data) < _SMALLEST_SRTCP:
            self._counters.refused_datagrams += 1
            return
        association = self._association
        if association is None or association.srtp is None:
            self._counters.early_datagrams += 1
            return
        is_report = is_rtcp(data)
        try:
            packet = association.srtp.unprotect_rtcp(data) if is_report else association.srtp.unprotect(data)
        except pylibsrtp.Error:
            self._counters.refused_datagrams += 1
        else:
            (self.on_rtcp if is_report else self.on_rtp)(packet)

    def _receive_dtls(self, data: bytes) -> None:
        if self._association is None and not self.is_client and is_client_hello(data):
            self.begin()  # the peer comes again
        association = self._association
        if association is None:
            self._counters.early_datagrams += 1
            return
        received = association.receive(data)
        self._settle(association)
        for each in received:
            self.on_data(each)

    def _settle(self, association: Association) -> None:
        """Send an association's pending datagrams, and note its new state."""
        for datagram in association.take():
            self._endpoint.send(datagram)
        if self._deadline is not None:
            if association.state is State.HANDSHAKING:
                self._wait(association)
                return
            self._finish()
            if association.state is State.CONNECTED:
                self._counters.handshakes += 1
                self.on_connected()
            elif association.state is State.FAILED:
                self._counters.handshakes_failed += 1
                _log.warning("DTLS handshake failed", error=association.error)
        if association.is_over:
            self._association = None

    def _wait(self, association: Association) -> None:
        """Look again when it is time to send something again."""
        timeout = association.timeout
        if self._timer is not None:
            self._timer.cancel()
        self._timer = (
            None if timeout is None else asyncio.get_running_loop().call_later(timeout, self._resend, association)
        )

    def _resend(self, association: Association) -> None:
        self._timer = None
        association.handle_timeout()
        self._settle(association)

    def _give_up(self) -> None:
        """Fail a handshake that took too long."""
        if self._association is not None:
            self._association.fail("the handshake took too long")
            self._settle(self._association)

    def _finish(self) -> None:
        self._handshakes.pending -= 1
        for timer in (self._deadline, self._timer):
            if timer is not None:
                timer.cancel()
        self._deadline = self._timer = None
