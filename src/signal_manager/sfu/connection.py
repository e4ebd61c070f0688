"""One client's PeerConnection as the SFU sees it: ICE, DTLS, and the descriptions that set them up.

Neighbours: `sessions` decides what the m-sections carry; `negotiation` is the pure part, `transport` and
`secure_transport` are the moving one. Here they meet: a description starts the transport, restarts ICE, or is refused
before anything changes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from signal_manager.sfu.capacity import Load
from signal_manager.sfu.dtls import Certificate
from signal_manager.sfu.errors import bad_description, gone, not_ready
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.negotiation import Negotiation, Sending
from signal_manager.sfu.sdp import Description, RemoteSection, SdpError, Section, TransportLines, parse
from signal_manager.sfu.secure_transport import Handshakes, SecureTransport
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.transport import IceEndpoint, MediaPort
from signal_manager.sfu.wire import SessionDescription

__all__ = ["Connection", "Resources"]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What all connections of one SFU have in common."""

    settings: SfuSettings
    counters: Counters
    port: MediaPort
    certificate: Certificate
    handshakes: Handshakes
    load: Load
    prefix: str = ""  # of the ids of this SFU's sessions, where it is one of several workers


class Connection:
    """ICE, DTLS and negotiation of one session."""

    def __init__(self, resources: Resources, *, on_connected: Callable[[], None]) -> None:
        settings = resources.settings
        self.negotiation = Negotiation(max_sections=settings.max_sections)
        self._settings = settings
        self._candidates = resources.port.candidates
        self._fingerprint = resources.certificate.fingerprint
        self._was_connected = False
        self._has_failed = False
        self._is_closed = False
        self._connected = asyncio.Event()
        self._on_connected = on_connected
        self._remote_ice = ("", "")
        self._remote_fingerprints: tuple[tuple[str, str], ...] = ()
        self._endpoint = IceEndpoint(resources.port, max_addresses=settings.max_addresses)
        self.transport = SecureTransport(
            self._endpoint,
            certificate=resources.certificate,
            handshakes=resources.handshakes,
            counters=resources.counters,
        )
        self._endpoint.on_nominated = self._nominate
        self._endpoint.on_failure = self._fail
        self.transport.on_connected = self._connect

    # -- life ----------------------------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Return whether packets can flow now."""
        silence = time.monotonic() - self._endpoint.last_seen
        return self.transport.is_connected and not self._has_failed and silence < self._settings.silence_timeout

    @property
    def is_lost(self) -> bool:
        """Return whether packets flowed once and do not now."""
        return self._was_connected and not self.is_connected

    def is_expired(self, now: float, *, last_request: float) -> bool:
        """Return whether it is over: never connected in time, or lost and not back in time."""
        if self._was_connected:
            return self._has_failed or now - self._endpoint.last_seen > self._settings.reuse_window
        return now - last_request > self._settings.unconnected_timeout

    async def ready(self) -> None:
        """Wait for the transport, unless nothing was negotiated yet: the first negotiation is what connects it.

        Raises:
            RefusedError: 425 where it did not connect in time, 410 where it was lost and did not come back in time.
        """
        self.check_open()
        if not self.negotiation.is_established or self.is_connected:
            return
        self._connected.clear()
        try:
            async with asyncio.timeout(self._settings.connect_wait):
                await self._connected.wait()
        except TimeoutError:
            pass
        self.check_open()
        if not self.is_connected:
            raise (
                gone("Session appears to be disconnected. Please check if the PeerConnection is connected.")
                if self._was_connected
                else not_ready()
            )

    def check_open(self) -> None:
        """Refuse a request after the end of the connection.

        Raises:
            RefusedError: 410.
        """
        if self._is_closed or self._has_failed:
            raise gone("the session expired or failed")

    def close(self) -> None:
        """End the connection, tell the client, and wake the callers that wait for it."""
        self._is_closed = True
        self._connected.set()
        self.transport.close()
        self._endpoint.close()

    def _connect(self) -> None:
        self._was_connected = True
        self._connected.set()
        self._on_connected()

    def _nominate(self) -> None:
        self.transport.begin()
        if self.transport.is_connected:
            self._connected.set()

    def _fail(self) -> None:
        self._has_failed = self._was_connected = True

    # -- descriptions --------------------------------------------------------------------------------------------------

    def read_offer(self, description: SessionDescription) -> Description:
        """Return a client's offer, checked against what was negotiated before.

        Raises:
            RefusedError: it cannot be read, or comes out of order; nothing has changed.
        """
        offer = self._read(description, "offer")
        self.negotiation.check_offer(offer)
        return offer

    def apply_offer(
        self, offer: Description, *, receive: Collection[str], send: Mapping[str, Sending]
    ) -> list[tuple[Section, RemoteSection]]:
        """Apply an offer; restart ICE if the offer does."""
        pairs = self.negotiation.apply_offer(offer, receive=receive, send=send)
        remote_ice = (offer.ufrag, offer.pwd)
        if self._remote_ice[0] and offer.ufrag and remote_ice != self._remote_ice:
            self._endpoint.restart()
        self._start(offer)
        return pairs

    def apply_answer(self, description: SessionDescription) -> list[tuple[Section, RemoteSection]]:
        """Apply the client's answer to the SFU's offer.

        Raises:
            RefusedError: the answer cannot be parsed, or no offer waits for it; an offer keeps waiting.
        """
        answer = self._read(description, "answer")
        pairs = self.negotiation.apply_answer(answer)
        self._start(answer)
        return pairs

    def answer(self) -> SessionDescription:
        """Return the SFU's answer to the applied offer."""
        return self._describe("answer", "active" if self.transport.is_client else "passive")

    def offer(self) -> SessionDescription:
        """Return an offer for the present sections; the next description must be its answer."""
        self.negotiation.offered()
        return self._describe("offer", "actpass")

    def check_stable(self) -> None:
        """Refuse while an offer of the SFU waits for its answer.

        Raises:
            RefusedError: 406.
        """
        if self.negotiation.has_pending_offer:
            raise bad_description("an offer of the SFU waits for its answer: send that to /renegotiate first")

    def _read(self, description: SessionDescription, expected: str) -> Description:
        if description.type != expected:
            raise bad_description(f"the description is an {description.type}, expected an {expected}")
        try:
            parsed = parse(description.sdp, max_size=self._settings.max_sdp)
        except SdpError as error:
            raise bad_description(str(error)) from None
        # A new identity would need a DTLS association of its own, which means a new session here.
        known = self._remote_fingerprints
        if known and parsed.fingerprints and not set(parsed.fingerprints) & set(known):
            raise bad_description("the fingerprint is not the one this session was negotiated with")
        return parsed

    def _start(self, remote: Description) -> None:
        if not remote.ufrag or not remote.fingerprints:
            return
        self._remote_ice = (remote.ufrag, remote.pwd)
        if not self._remote_fingerprints:
            self._remote_fingerprints = remote.fingerprints
            self.transport.expect(remote.fingerprints, is_client=remote.setup == "passive")

    def _describe(self, kind: str, setup: str) -> SessionDescription:
        lines = TransportLines(
            ufrag=self._endpoint.ufrag,
            pwd=self._endpoint.pwd,
            fingerprint=self._fingerprint,
            setup=setup,
            candidates=self._candidates,
        )
        sdp = self.negotiation.render(lines)
        return SessionDescription(sdp=sdp, type="offer" if kind == "offer" else "answer")
