"""A publisher's track: its layers, their receivers, and the packets that arrived.

`routing.py` finds the layer of an incoming packet; `forwarding.py` sends it on. A packet that the publisher retransmits
goes to all receivers as if it were on time, because none has it.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from typing import Protocol

from aiortc.rtp import (
    RTCP_PSFB_PLI,
    RTCP_RTPFB,
    RTCP_RTPFB_NACK,
    RtcpPsfbPacket,
    RtcpSenderInfo,
    pack_rtcp_packet,
)

from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.reports import StreamReports
from signal_manager.sfu.retransmission import MissingPackets, PacketCache
from signal_manager.sfu.sdp import Codec
from signal_manager.sfu.settings import SfuSettings

__all__ = ["REPORTER_SSRC", "Layer", "LayerReceiver", "Publication", "PublicationSubscriber", "SendPacket"]

SendPacket = Callable[[bytes], None]

# The SSRC of the SFU's own reports; no media is sent with it.
REPORTER_SSRC = 1
_HALF = 0x8000
# Packets per second that a track is expected to send, until they are measured.
_USUAL_PACKET_RATE = 50.0


class LayerReceiver(Protocol):
    """The part of a client's stream that layers use."""

    def forward(self, layer: Layer, packet: bytes, body: bytes, timed: bytes, now: float) -> None:
        """Forward one packet of the layer."""

    def send_report(self, layer: Layer, info: RtcpSenderInfo) -> None:
        """Forward the publisher's clock."""


class PublicationSubscriber(Protocol):
    """The part of a subscription that its publication uses."""

    def tick(self, now: float) -> None:
        """Choose the layer again if the track has several."""

    def restarted(self, layer: Layer) -> None:
        """Switch to this layer again if it is received, because its sequence numbers have restarted."""

    def detach(self) -> None:
        """Stop receiving the publication."""


class Rates:
    """The rates of one layer.

    Attributes:
        recent_bytes: the bytes between the last two ticks.
        bits: the bits of payload per second, smoothed.
        packets: the packets per second, smoothed.
    """

    def __init__(self, now: float) -> None:
        self.recent_bytes = 0
        self.bits = 0.0
        self.packets = 0.0
        self._ticked = (0, 0)  # packets and bytes at the last tick
        self._ticked_at = now

    def reset(self) -> None:
        """Start counting again."""
        self._ticked = (0, 0)

    def tick(self, packets: int, size: int, now: float) -> bool:
        """Note the packets and bytes so far; return whether packets came since the last tick."""
        before = self._ticked[0]
        self.recent_bytes = size - self._ticked[1]
        if now > self._ticked_at:
            bits = 8 * self.recent_bytes / (now - self._ticked_at)
            rate = (packets - before) / (now - self._ticked_at)
            self.packets = rate if self.packets == 0 else (self.packets + rate) / 2
            self.bits = bits if self.bits == 0 else (self.bits + bits) / 2
        self._ticked_at = now
        self._ticked = (packets, size)
        return packets > before


class Layer:
    """One encoding of a publication: its SSRCs, its receivers, and the packets that arrived."""

    def __init__(self, publication: Publication, rid: str) -> None:
        self.publication = publication
        self.rid = rid
        self.ssrc: int | None = None
        self.rtx_ssrc: int | None = None
        self.subscribers: list[LayerReceiver] = []
        self.packets = 0
        self.bytes = 0
        self.is_flowing = False  # whether packets arrived between the last two ticks
        self.highest = -1  # extended highest sequence number; -1 before the first packet
        self._asked_at = float("-inf")
        self._reports = StreamReports()
        self.rates = Rates(publication.started)
        settings = publication.settings
        self.cache = PacketCache(max_bytes=settings.max_cache, max_age=settings.cache_age)
        self._missing = MissingPackets(
            interval=settings.resend_interval, max_requests=settings.max_requests_for_lost_packet
        )

    def take(self, header: bytes, body: bytes, now: float) -> bool:
        """Count a packet or a retransmission, and return whether the packet is new.

        Args:
            header: its fixed header (12 bytes), with its original sequence number.
            body: its payload.
            now: `time.monotonic()`.
        """
        sequence = header[2] << 8 | header[3]
        highest, is_late = self.highest, False
        if highest < 0:
            self.highest = self._reports.first = sequence
        else:
            ahead = (sequence - highest) & 0xFFFF
            if ahead == 1:
                self.highest = highest + 1
            elif ahead < _HALF:
                if ahead == 0:
                    return False
                self.highest = highest + ahead
                if self.publication.resends:
                    self._ask_for(self._missing.skipped((highest + 1) & 0xFFFF, ahead - 1, now))
            elif sequence in self.cache:
                return False
            else:
                is_late = True
                self._missing.came(sequence)
        self.packets += 1
        self.bytes += len(body)
        if self.publication.resends:
            self.cache.put(sequence, header, body, now, is_late=is_late)
            if now >= self._missing.due:
                self._ask_for(self._missing.ask_again(now))
        return True

    def reset(self) -> None:
        """Start again after the publisher changed its SSRC, because its numbers are unrelated to earlier ones."""
        self.highest = -1
        self._reports.reset()
        self.cache.clear()
        self._missing.clear()
        self.packets = self.bytes = 0
        self.rates.reset()
        for subscription in list(self.publication.subscriptions):
            subscription.restarted(self)

    def ask_key_frame(self, now: float) -> None:
        """Send the publisher a PLI, at most one per interval."""
        publication = self.publication
        if self.ssrc is None or publication.kind != "video":
            return
        if self.asked_within(publication.settings.key_frame_interval, now):
            return
        self._asked_at = now
        publication.counters.key_frame_requests += 1
        pli = RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=REPORTER_SSRC, media_ssrc=self.ssrc)
        publication.send_rtcp(bytes(pli))

    def _ask_for(self, lost: list[int]) -> None:
        """Send the publisher a NACK for these sequence numbers."""
        if self.ssrc is not None and lost:
            self.publication.counters.packets_asked_again += len(lost)
            self.publication.send_rtcp(_nack(self.ssrc, lost))

    def take_sender_report(self, info: RtcpSenderInfo, now: float) -> None:
        """Forward the publisher's clock to all receivers of this layer."""
        self._reports.take(info, now)
        for receiver in self.subscribers:
            receiver.send_report(self, info)

    def introduce(self, receiver: LayerReceiver, now: float) -> None:
        """Send a new receiver the publisher's clock, extrapolated from its last report.

        Otherwise the receiver cannot synchronise audio and video until the publisher's next report, five seconds later.
        """
        info = self._reports.clock(self.publication.codec.clock_rate, now)
        if info is not None:
            receiver.send_report(self, info)

    def report(self, now: float) -> tuple[int, int, int, int]:
        """Return the figures of a receiver report (`StreamReports.report`)."""
        return self._reports.report(self.highest, self.packets, now)

    @property
    def bitrate(self) -> float:
        """Return the bits of payload a second, smoothed."""
        return self.rates.bits

    def asked_within(self, interval: float, now: float) -> bool:
        """Return whether the publisher was asked for a key frame in the last `interval` seconds."""
        return now - self._asked_at < interval

    def tick(self, now: float) -> None:
        """Update the rates, and note whether packets still arrive."""
        self.cache.expire(now)
        self.is_flowing = self.rates.tick(self.packets, self.bytes, now)


class Publication:
    """A track that a client sends: one layer, or several with simulcast."""

    def __init__(
        self,
        *,
        session_id: str,
        track_name: str,
        mid: str,
        kind: str,
        codec: Codec,
        rids: Sequence[str],
        send_rtcp: SendPacket,
        settings: SfuSettings,
        counters: Counters,
        now: float,
    ) -> None:
        self.session_id = session_id
        self.track_name = track_name
        self.mid = mid
        self.kind = kind
        self.settings = settings
        self.started = now
        self.encoded_with(codec)
        self.layers = {rid: Layer(self, rid) for rid in (rids or ("",))}
        self.subscriptions: set[PublicationSubscriber] = set()
        self.send_rtcp = send_rtcp
        self.counters = counters
        self.last_flow = now  # when packets last arrived, by the clock of the ticks
        self.has_packets = False
        self.first_packet = asyncio.Event()  # set by the first packet, and also when the publication ends

    @property
    def is_simulcast(self) -> bool:
        """Return whether there are layers to choose from."""
        return "" not in self.layers

    def encoded_with(self, codec: Codec) -> None:
        """Apply a description: the codec, with the publisher's payload types."""
        self.codec = codec
        self.resends = "nack" in codec.feedback  # the publisher retransmits lost packets, so the SFU requests them

    @property
    def is_flowing(self) -> bool:
        """Return whether packets of any layer arrived lately."""
        return any(layer.is_flowing for layer in self.layers.values())

    @property
    def packet_rate(self) -> float:
        """Return the packets per second that a subscription is likely to cost."""
        measured = max(layer.rates.packets for layer in self.layers.values())
        return measured or _USUAL_PACKET_RATE

    def begin(self) -> None:
        """Wake the callers that wait for the first packet."""
        self.has_packets = True
        self.first_packet.set()

    def tick(self, now: float) -> None:
        """Update the layers' rates, and let each subscription choose its layer again."""
        for layer in self.layers.values():
            layer.tick(now)
        if self.is_flowing:
            self.last_flow = now
        for subscription in self.subscriptions:
            subscription.tick(now)

    def end(self) -> None:
        """Stop forwarding to everyone."""
        for subscription in list(self.subscriptions):
            subscription.detach()
        self.first_packet.set()


def _nack(ssrc: int, lost: Sequence[int]) -> bytes:
    """Return a generic NACK (RFC 4585, 6.2.1); aiortc's own fails when the numbers wrap around."""
    entries: list[tuple[int, int]] = []
    for number in lost:
        if entries and 0 < (ahead := (number - entries[-1][0]) & 0xFFFF) <= 16:
            entries[-1] = (entries[-1][0], entries[-1][1] | 1 << (ahead - 1))
        elif not entries or number != entries[-1][0]:
            entries.append((number, 0))
    items = b"".join(struct.pack("!HH", *entry) for entry in entries)
    return pack_rtcp_packet(RTCP_RTPFB, RTCP_RTPFB_NACK, struct.pack("!LL", REPORTER_SSRC, ssrc) + items)
