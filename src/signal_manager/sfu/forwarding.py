"""The packet path: forwards a publisher's packets to all subscribers, with new payload types and SSRCs.

`routing.py` finds the layer of an incoming packet and handles RTCP; `sessions.py` creates publications and
subscriptions. No media is decoded. Sequence numbers and timestamps keep their gaps, so a receiver's NACK names packets
of the publisher. After a switch of layer or source they are shifted to continue. A packet that the publisher
retransmits goes to all receivers as if it were on time, because none has it. `retransmission.py` resends a packet to
the one receiver that lost it.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import Callable, Sequence

from aiortc.rtp import (
    RTCP_PSFB_PLI,
    RTCP_RTPFB,
    RTCP_RTPFB_NACK,
    RtcpPsfbPacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSourceInfo,
    RtcpSrPacket,
    pack_rtcp_packet,
)

from signal_manager.sfu.keyframes import starts_key_frame
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.retransmission import Allowance, MissingPackets, PacketCache
from signal_manager.sfu.sdp import Codec
from signal_manager.sfu.settings import SfuSettings

__all__ = ["Layer", "Publication", "SendPacket", "Subscription", "send_time"]

SendPacket = Callable[[bytes], None]

# The SSRC our own reports come from: nothing is ever sent under it.
REPORTER_SSRC = 1
_HALF = 0x8000
_SDES_CNAME = 1
_SOUND = frozenset({"opus", "pcma", "pcmu"})
# Numbers that one NACK may name: reading it costs more than sending it.
_MAX_NACKED = 512
# What a track is expected to send before it is known (packets/s).
_USUAL_PACKET_RATE = 50.0
# When the times of retransmissions that are long past are forgotten.
_MAX_RESENT = 512


class Layer:
    """One encoding of a publication: its SSRCs, who receives it, and what arrived."""

    def __init__(self, publication: Publication, rid: str) -> None:
        self.publication = publication
        self.rid = rid
        self.ssrc: int | None = None
        self.rtx_ssrc: int | None = None
        self.subscribers: list[Subscription] = []
        self.packets = 0
        self.bytes = 0
        self.is_flowing = False  # packets came between the last two ticks
        self.highest = -1  # extended highest sequence number; -1 before the first packet
        self._first = 0
        self._asked_at = float("-inf")
        self._seen = (0, 0)  # expected and received at the last report
        self.recent_bytes = 0  # between the last two ticks
        self.bitrate = 0.0  # bit/s of payload, smoothed
        self.packet_rate = 0.0  # packets a second, smoothed
        self._ticked = (0, 0)  # packets and bytes at the last tick
        self._ticked_at = publication.started
        self._sender_report: tuple[RtcpSenderInfo, float] | None = None  # and when it came
        settings = publication.settings
        self.cache = PacketCache(max_bytes=settings.max_cache, max_age=settings.cache_age)
        self._missing = MissingPackets(
            interval=settings.resend_interval, max_requests=settings.max_requests_for_lost_packet
        )

    def take(self, header: bytes, body: bytes, now: float) -> bool:
        """Count a packet or a retransmission, and return whether the packet is new.

        Args:
            header: its fixed header (12 bytes), under the number that it was first sent with.
            body: its payload.
            now: `time.monotonic()`.
        """
        sequence = header[2] << 8 | header[3]
        highest, is_late = self.highest, False
        if highest < 0:
            self.highest = self._first = sequence
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
        self._seen = (0, 0)
        self._sender_report = None
        self.cache.clear()
        self._missing.clear()
        self.packets = self.bytes = 0
        self._ticked = (0, 0)
        for subscription in list(self.subscribers):
            subscription.resume(self)

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
        self._sender_report = (info, now)
        for subscription in self.subscribers:
            subscription.send_report(self, info)

    def introduce(self, subscription: Subscription, now: float) -> None:
        """Send a new receiver the publisher's clock, extrapolated from its last report.

        Otherwise the receiver cannot synchronise audio and video until the publisher's next report, five seconds later.
        """
        if self._sender_report is None:
            return
        info, at = self._sender_report
        elapsed = now - at
        subscription.send_report(
            self,
            RtcpSenderInfo(
                ntp_timestamp=(info.ntp_timestamp + int(elapsed * (1 << 32))) & 0xFFFFFFFFFFFFFFFF,
                rtp_timestamp=(info.rtp_timestamp + int(elapsed * self.publication.codec.clock_rate)) & 0xFFFFFFFF,
                packet_count=0,
                octet_count=0,
            ),
        )

    def report(self, now: float) -> tuple[int, int, int, int]:
        """Return fraction lost (of 256), total lost, and LSR and DLSR for a receiver report (RFC 3550, 6.4.1)."""
        expected, received = self.highest - self._first + 1, self.packets
        new, came = expected - self._seen[0], received - self._seen[1]
        self._seen = (expected, received)
        fraction = min(255, max(0, ((new - came) << 8) // new)) if new > 0 else 0
        if self._sender_report is None:
            return fraction, max(0, expected - received), 0, 0
        info, at = self._sender_report
        lsr = (info.ntp_timestamp >> 16) & 0xFFFFFFFF
        return fraction, max(0, expected - received), lsr, min(0xFFFFFFFF, int((now - at) * 65536))

    def asked_within(self, interval: float, now: float) -> bool:
        """Say whether the publisher was asked for a key frame in the last `interval` seconds."""
        return now - self._asked_at < interval

    def tick(self, now: float) -> None:
        """Find out whether packets still come."""
        self.cache.expire(now)
        self.is_flowing = self.packets > self._ticked[0]
        self.recent_bytes = self.bytes - self._ticked[1]
        if now > self._ticked_at:
            rate = 8 * self.recent_bytes / (now - self._ticked_at)
            packets = (self.packets - self._ticked[0]) / (now - self._ticked_at)
            self.packet_rate = packets if self.packet_rate == 0 else (self.packet_rate + packets) / 2
            self.bitrate = rate if self.bitrate == 0 else (self.bitrate + rate) / 2
        self._ticked_at = now
        self._ticked = (self.packets, self.bytes)


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
        self.codec = codec
        self.layers = {rid: Layer(self, rid) for rid in (rids or ("",))}
        self.subscriptions: set[Subscription] = set()
        self.send_rtcp = send_rtcp
        self.counters = counters
        self.last_flow = now  # when packets were last seen to come, by the clock of the ticks
        self.has_packets = False
        self.first_packet = asyncio.Event()  # also set when the publication ends

    @property
    def is_simulcast(self) -> bool:
        """Say whether there are layers to choose from."""
        return "" not in self.layers

    @property
    def codec(self) -> Codec:
        """Return what it is encoded with, under the publisher's payload types."""
        return self._codec

    @codec.setter
    def codec(self, codec: Codec) -> None:
        self._codec = codec
        self.resends = "nack" in codec.feedback  # the publisher sends lost packets again; so does the SFU

    @property
    def is_flowing(self) -> bool:
        """Say whether packets of any layer came lately."""
        return any(layer.is_flowing for layer in self.layers.values())

    @property
    def packet_rate(self) -> float:
        """Return how many packets a second a subscription is likely to cost."""
        measured = max(layer.packet_rate for layer in self.layers.values())
        return measured or _USUAL_PACKET_RATE

    def begin(self) -> None:
        """Wake the callers that wait for the first packet."""
        self.has_packets = True
        self.first_packet.set()

    def tick(self, now: float) -> None:
        """Look at what flows, and choose again for those whose layer may be replaced."""
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


class Subscription:
    """A track that a client receives: the stream it sees, and the layer that at present fills it."""

    def __init__(
        self,
        *,
        ssrc: int,
        rtx_ssrc: int,
        cname: str,
        codec: Codec,
        send: SendPacket,
        send_rtcp: SendPacket,
        settings: SfuSettings,
        resending: Allowance,
    ) -> None:
        self.ssrc = ssrc
        self.publication: Publication | None = None
        self.layer: Layer | None = None
        self.packets = 0
        self.bytes = 0
        self.preferred_rid: str | None = None
        self.may_choose_other = False  # ridNotAvailable: asciibetical
        self.lost = 0  # packets that were sent and did not arrive, as far as the client said so
        self._pending: Layer | None = None
        self._codec = codec
        self._cname = cname.encode()
        self._rtx_ssrc = rtx_ssrc.to_bytes(4, "big")
        self._ssrc = ssrc.to_bytes(4, "big")
        self._send = send
        self._send_rtcp = send_rtcp
        self._drop_rate = settings.drop_rate
        self._settings = settings
        self._resending = resending  # of all that this client receives
        self._resent: dict[int, float] = {}  # when a packet was sent again, by the publisher's number
        self._key_frames = Allowance(rate=1 / settings.key_frame_period, burst=1)
        self._wants_key_frame = False  # the client asked for one, and has not got it yet
        self._is_open = False
        self.is_held = False  # the client's network has no room for it
        self.ceiling: Layer | None = None  # nothing better than this one: the client's network has no room for it
        self._looked_at = (0, 0, 0)  # packets, bytes and losses when the receiver was last looked at
        self._missed_after = float("inf")  # the shortest time since then after which a lost packet was missed (s)
        self._first_byte = 0x80  # of every packet, and what stands behind its fixed header
        self._after_header = self._ssrc
        self._has_send_time = False
        self._sequence_shift = 0
        self._timestamp_shift = 0
        self._not_before = 0  # sequence numbers before it belong to a time when another layer was sent
        self._last_sequence = -1  # as the client sees it; -1 before the first packet
        self._last_timestamp = 0
        self._last_time = 0.0
        self._rtx_sequence = random.getrandbits(15)

    # -- what it receives ----------------------------------------------------------------------------------------------

    def attach(self, publication: Publication) -> None:
        """Receive this publication from its next key frame on, in place of what was received before."""
        self.detach()
        self.publication = publication
        self.is_held, self.ceiling = False, None
        publication.subscriptions.add(self)
        self.choose()

    def detach(self) -> None:
        """Receive nothing."""
        self._drop_layers()
        if self.publication is not None:
            self.publication.subscriptions.discard(self)
            self.publication = None

    def open(self, codec: Codec, send_time_id: int | None = None) -> None:
        """Let packets flow: the client answered.

        Args:
            codec: with the client's payload types.
            send_time_id: the id of the header extension for the time of sending, where it is negotiated.
        """
        self._codec = codec
        self._has_send_time = send_time_id is not None and codec.name not in _SOUND
        if send_time_id is not None and self._has_send_time:
            # One word of one-byte extensions (RFC 8285, 4.2), of which the time itself comes with each packet.
            extension = b"\xbe\xde\x00\x01" + bytes((send_time_id << 4 | 2,))
            self._first_byte, self._after_header = 0x90, self._ssrc + extension
        else:
            self._first_byte, self._after_header = 0x80, self._ssrc
        self._is_open = True
        layer = self._pending or self.layer
        if layer is not None:
            layer.ask_key_frame(time.monotonic())

    def pause(self) -> None:
        """Hold packets back: the client does not want to receive at present."""
        self._is_open = False

    def choose(self) -> None:
        """Choose the layer to receive, and wait for its next key frame."""
        publication = self.publication
        if publication is None or self.is_held:
            return
        wanted = self._wanted(publication)
        ceiling = self.ceiling
        if wanted is not None and ceiling is not None and ceiling.is_flowing and ceiling.bitrate < wanted.bitrate:
            wanted = ceiling
        if wanted is None or wanted is (self._pending or self.layer):
            return
        if wanted is self.layer and self._pending is not None:
            self._pending.subscribers.remove(self)
            self._pending = None
        else:
            self.resume(wanted)

    def resume(self, layer: Layer) -> None:
        """Switch to this layer at its next key frame; until then the layer before keeps flowing if it can."""
        if self._pending is not None and self._pending is not self.layer:
            self._pending.subscribers.remove(self)
        self._pending = layer
        if layer is self.layer:
            self.layer = None
        if self not in layer.subscribers:
            layer.subscribers.append(self)
        if self._is_open:
            layer.ask_key_frame(time.monotonic())

    def hold(self) -> None:
        """Send nothing until `limit` is called: the client's network has no room for it."""
        if not self.is_held:
            self.is_held = True
            self._drop_layers()
            self._count("subscriptions_held")

    def limit(self, ceiling: Layer | None) -> None:
        """Send this layer where a better one is wanted; None: send what is wanted."""
        if ceiling is not None and ceiling is not self.ceiling:
            self._count("subscriptions_limited")
        self.is_held, self.ceiling = False, ceiling
        self.choose()

    def candidates(self) -> list[Layer]:
        """Return the layers that may be sent, by their rate, of which the last is the one that is wanted."""
        publication = self.publication
        wanted = self._wanted(publication) if publication is not None else None
        if publication is None or wanted is None or not self._is_open:
            return []
        lower = [x for x in publication.layers.values() if x.is_flowing and 0 < x.bitrate < wanted.bitrate]
        return [*sorted(lower, key=lambda layer: layer.bitrate), wanted]

    @property
    def is_reported(self) -> bool:
        """Whether the client asks for what it lost."""
        return "nack" in self._codec.feedback

    def since_last_look(self) -> tuple[int, int, int, float]:
        """Return how many packets that the client can ask for again, bytes and losses came since this was called.

        The last figure is the shortest time after which one of these losses was reported; infinite where none was.
        """
        packets, sent, lost = self._looked_at
        self._looked_at = (self.packets, self.bytes, self.lost)
        missed_after, self._missed_after = self._missed_after, float("inf")
        return (self.packets - packets if self.is_reported else 0), self.bytes - sent, self.lost - lost, missed_after

    def _count(self, name: str) -> None:
        if self.publication is not None:
            counters = self.publication.counters
            setattr(counters, name, getattr(counters, name) + 1)

    def tick(self, now: float) -> None:
        """Choose again where the layer may be replaced, and ask for the key frame that could not be asked for."""
        if self.publication is not None and self.publication.is_simulcast:
            self.choose()
        if self._wants_key_frame:
            self.ask_key_frame(now)

    def ask_key_frame(self, now: float) -> None:
        """Ask the publisher for the key frame that this client wants, at once or when it is this client's turn.

        A key frame is for everybody who receives the layer, and larger than other pictures: a client that never gets
        one through must not make the others pay for its attempts.
        """
        layer = self._pending or self.layer
        if layer is None or not self._is_open:
            return
        self._wants_key_frame = True
        if layer.asked_within(self._settings.key_frame_interval, now):
            self._wants_key_frame = False  # one is on its way
        elif not layer.asked_within(self._settings.shared_key_frame_interval, now) and self._key_frames.take(1, now):
            self._wants_key_frame = False
            layer.ask_key_frame(now)
        else:
            layer.publication.counters.key_frame_requests_held_back += 1

    def resend(self, lost: Sequence[int], now: float) -> None:
        """Send again what this client lost; of what the SFU lacks itself, it has asked the publisher already."""
        layer = self.layer
        if layer is None or not self._is_open:
            return
        counters = layer.publication.counters
        for sequence in lost[:_MAX_NACKED]:
            number = (sequence - self._sequence_shift) & 0xFFFF
            packet = layer.cache.get(number)
            if packet is None or (number - self._not_before) & 0xFFFF >= _HALF:
                continue
            before = self._resent.get(number)
            if before is not None and now - before < self._settings.resend_interval:
                continue
            header, body, sent_at = packet
            if before is None:
                self.lost += 1
                if sent_at <= now:
                    self._missed_after = min(self._missed_after, now - sent_at)
            if not self._resending.take(len(body), now):
                counters.resends_refused += 1
                continue
            self._resent[number] = now
            counters.packets_resent += 1
            self._send_again(sequence & 0xFFFF, header, body, now)
        if len(self._resent) > _MAX_RESENT:
            self._resent = {number: at for number, at in self._resent.items() if now - at < self._settings.cache_age}

    def _wanted(self, publication: Publication) -> Layer | None:
        layers = publication.layers
        if not publication.is_simulcast:
            return layers[""]
        preferred = layers.get(self.preferred_rid or "")
        if preferred is not None and (preferred.is_flowing or not self.may_choose_other):
            return preferred
        flowing = [layer for layer in layers.values() if layer.is_flowing]
        if self.preferred_rid is None or self.may_choose_other:
            current = self._pending or self.layer
            if current in flowing or not flowing:
                return current or next(iter(layers.values()))
            return flowing[0] if self.preferred_rid is None else min(flowing, key=lambda layer: layer.rid)
        return None

    def _drop_layers(self) -> None:
        for layer in {self.layer, self._pending}:
            if layer is not None:
                layer.subscribers.remove(self)
        self.layer = self._pending = None

    # -- the packet path -----------------------------------------------------------------------------------------------

    def forward(self, layer: Layer, packet: bytes, body: bytes, timed: bytes, now: float) -> None:
        """Send one packet of the primary stream on.

        Args:
            layer: where it came from.
            packet: the RTP packet, of which only the fixed header is used.
            body: its payload, header extensions left out.
            timed: the same behind the time of sending, for clients that want to know it.
            now: `time.monotonic()`.
        """
        if not self._is_open:
            return
        incoming = packet[2] << 8 | packet[3]
        if layer is not self.layer:
            if layer is not self._pending:
                return
            if not starts_key_frame(self._codec.name, body):
                layer.ask_key_frame(now)
                return
            self._switch(layer, incoming, int.from_bytes(packet[4:8], "big"), now)
            layer.introduce(self, now)
        age = (incoming - self._not_before) & 0xFFFF
        if age >= _HALF:
            return
        if age > 0x6000:
            self._not_before = (incoming - 0x2000) & 0xFFFF
        if self._drop_rate and random.random() < self._drop_rate:  # noqa: S311 -- chance, no secret
            layer.publication.counters.packets_dropped_on_purpose += 1
            return
        sequence = (incoming + self._sequence_shift) & 0xFFFF
        timestamp = (int.from_bytes(packet[4:8], "big") + self._timestamp_shift) & 0xFFFFFFFF
        if self._last_sequence < 0 or (sequence - self._last_sequence) & 0xFFFF < _HALF:
            self._last_sequence, self._last_timestamp, self._last_time = sequence, timestamp, now
        self.packets += 1
        self.bytes += len(body)
        header = (
            (self._first_byte | packet[0] & 0x20) << 56
            | (packet[1] & 0x80 | self._codec.payload_type) << 48
            | sequence << 32
            | timestamp
        )
        self._send(header.to_bytes(8, "big") + self._after_header + (timed if self._has_send_time else body))

    def _send_again(self, sequence: int, header: bytes, body: bytes, now: float) -> None:
        """Send one packet of the cache (RFC 4588), as a plain one where the client did not negotiate RTX."""
        if self._drop_rate and random.random() < self._drop_rate:  # noqa: S311 -- chance, no secret
            return
        timestamp = (int.from_bytes(header[4:8], "big") + self._timestamp_shift) & 0xFFFFFFFF
        marker, rtx, original = header[1] & 0x80, self._codec.rtx_payload_type, sequence.to_bytes(2, "big")
        first = self._first_byte | header[0] & 0x20
        extension = self._after_header[4:] + send_time(now) if self._has_send_time else b""
        if rtx is None:
            head = bytes((first, marker | self._codec.payload_type)) + original + timestamp.to_bytes(4, "big")
            self._send(head + self._ssrc + extension + body)
            return
        self._rtx_sequence = (self._rtx_sequence + 1) & 0xFFFF
        head = bytes((first, marker | rtx)) + self._rtx_sequence.to_bytes(2, "big") + timestamp.to_bytes(4, "big")
        self._send(head + self._rtx_ssrc + extension + original + body)

    def _switch(self, layer: Layer, sequence: int, timestamp: int, now: float) -> None:
        """Make this packet of another layer the one that follows the last that was sent."""
        if self.layer is not None and self.layer is not layer:
            self.layer.subscribers.remove(self)
        self.layer, self._pending = layer, None
        self._not_before = sequence
        self._resent.clear()
        self._wants_key_frame = False
        if self._last_sequence >= 0:
            self._sequence_shift = (self._last_sequence + 1 - sequence) & 0xFFFF
            elapsed = max(1, int((now - self._last_time) * self._codec.clock_rate))
            self._timestamp_shift = (self._last_timestamp + elapsed - timestamp) & 0xFFFFFFFF

    def send_report(self, layer: Layer, info: RtcpSenderInfo) -> None:
        """Send the publisher's sender report under this stream's SSRC, so that audio and video stay together."""
        if layer is not self.layer or not self._is_open:
            return
        report = RtcpSrPacket(
            ssrc=self.ssrc,
            sender_info=RtcpSenderInfo(
                ntp_timestamp=info.ntp_timestamp,
                rtp_timestamp=(info.rtp_timestamp + self._timestamp_shift) & 0xFFFFFFFF,
                packet_count=self.packets & 0xFFFFFFFF,
                octet_count=self.bytes & 0xFFFFFFFF,
            ),
        )
        source = RtcpSourceInfo(ssrc=self.ssrc, items=[(_SDES_CNAME, self._cname)])
        self._send_rtcp(bytes(report) + bytes(RtcpSdesPacket(chunks=[source])))


def send_time(now: float) -> bytes:
    """Return a time as the header extension abs-send-time has it: 24 bits, of which 18 are the fraction of a second."""
    return (int(now * 262144) & 0xFFFFFF).to_bytes(3, "big")


def _nack(ssrc: int, lost: Sequence[int]) -> bytes:
    """Return a generic NACK (RFC 4585, 6.2.1); aiortc's own fails where the numbers wrap around."""
    entries: list[tuple[int, int]] = []
    for number in lost:
        if entries and 0 < (ahead := (number - entries[-1][0]) & 0xFFFF) <= 16:
            entries[-1] = (entries[-1][0], entries[-1][1] | 1 << (ahead - 1))
        elif not entries or number != entries[-1][0]:
            entries.append((number, 0))
    items = b"".join(struct.pack("!HH", *entry) for entry in entries)
    return pack_rtcp_packet(RTCP_RTPFB, RTCP_RTPFB_NACK, struct.pack("!LL", REPORTER_SSRC, ssrc) + items)
