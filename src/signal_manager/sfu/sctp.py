"""SCTP of aiortc on our DTLS: the one module that uses names private to aiortc's SCTP.

Neighbours: `secure_transport` carries the packets, `datachannels` opens channels on the association. aiortc's
RTCSctpTransport asks five things of an RTCDtlsTransport, which `_DtlsForSctp` answers. docs/upstream.md says what would
make this module unnecessary.
"""

from __future__ import annotations

import asyncio

import structlog
from aiortc import RTCSctpTransport
from aiortc.rtcsctptransport import RTCSctpCapabilities

from signal_manager.sfu.secure_transport import SecureTransport

__all__ = ["Sctp"]

_log = structlog.get_logger(__name__)


class _DtlsForSctp:
    """What aiortc's SCTP takes for an RTCDtlsTransport, in aiortc's words."""

    def __init__(self, transport: SecureTransport) -> None:
        self._transport = transport
        self.is_started = asyncio.Event()

    @property
    def state(self) -> str:
        if self._transport.is_closed:
            return "closed"
        return "connected" if self._transport.is_connected else "connecting"

    @property
    def _role(self) -> str:
        return "client" if self._transport.is_client else "server"

    async def _send_data(self, data: bytes) -> None:
        # SCTP's timers fire while there is no association, too: then the packet is lost like any other.
        self._transport.send_data(data)

    def _register_data_receiver(self, receiver: RTCSctpTransport) -> None:
        self.is_started.set()

    def _unregister_data_receiver(self, receiver: RTCSctpTransport) -> None:
        self.is_started.clear()


class Sctp:
    """One session's SCTP association, over as many DTLS associations as it takes.

    Packets wait in a queue, because aiortc handles them in a task, one after the other. Beyond the bound they are lost
    as if the network lost them.

    Attributes:
        rtc: aiortc's transport, for its data channels.
    """

    def __init__(self, transport: SecureTransport, *, max_queued: int) -> None:
        self._transport = transport
        self._dtls = _DtlsForSctp(transport)
        self.rtc = RTCSctpTransport(self._dtls)  # type: ignore[arg-type]  # tests/sfu/test_sctp.py holds it to this
        self._packets: asyncio.Queue[bytes] = asyncio.Queue(max_queued)
        self._pump = asyncio.create_task(self._handle_packets(), name="sfu-sctp-packets")
        transport.on_data = self._receive

    async def start(self, capabilities: RTCSctpCapabilities, port: int) -> None:
        """Start the association; what the peer sent until now is handled then."""
        await self.rtc.start(capabilities, port)

    async def stop(self) -> None:
        """End the association, telling the peer."""
        await self.rtc.stop()
        self._pump.cancel()
        await asyncio.wait([self._pump])

    def _receive(self, packet: bytes) -> None:
        if not self._packets.full():
            self._packets.put_nowait(packet)

    async def _handle_packets(self) -> None:
        await self._dtls.is_started.wait()
        while True:
            packet = await self._packets.get()
            try:
                await self.rtc._handle_data(packet)
            except Exception as error:  # the connection's edge: aiortc asserts on some of what a peer sends
                _log.warning("SCTP failed", error=type(error).__name__)
                self._transport.end()
