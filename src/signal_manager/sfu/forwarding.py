"""The packet path: forwards a publisher's packets to one subscriber, with its payload types and SSRCs.

`routing.py` finds the layer of an incoming packet and walks over its receivers; `subscription.py` chooses the layer. No
media is decoded. Sequence numbers and timestamps keep their gaps, so a receiver's NACK names packets of the publisher.
After a switch of layer or source they are shifted to continue.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from aiortc.rtp import RtcpSdesPacket, RtcpSenderInfo, RtcpSourceInfo, RtcpSrPacket

from signal_manager.sfu.keyframes import starts_key_frame
from signal_manager.sfu.publication import Layer, SendPacket
from signal_manager.sfu.sdp import Codec

__all__ = ["OutgoingStream", "send_time"]

_HALF = 0x8000
_SDES_CNAME = 1
_SOUND = frozenset({"opus", "pcma", "pcmu"})


class OutgoingStream:
    """The stream that one client receives of a track, from whichever layer is chosen.

    Large because every packet reads and changes these fields, and another object between them would cost every packet.

    Args:
        send, send_rtcp: functions that send to the client.
        drop_rate: the share of packets to drop on purpose.
        on_switch: called when the stream switches to another layer.

    Attributes:
        layer: the present layer.
        pending: the layer to switch to at its next key frame.
        is_open: whether the client accepts packets.
        sequence_shift: the difference from the publisher's sequence numbers to the client's.
        not_before: the publisher's first sequence number since the present layer is sent.
    """

    def __init__(
        self,
        *,
        ssrc: int,
        rtx_ssrc: int,
        cname: str,
        codec: Codec,
        send: SendPacket,
        send_rtcp: SendPacket,
        drop_rate: float,
        on_switch: Callable[[], None],
    ) -> None:
        self.ssrc = ssrc
        self.layer: Layer | None = None
        self.pending: Layer | None = None
        self.packets = 0
        self.bytes = 0
        self.codec = codec
        self.is_open = False
        self._cname = cname.encode()
        self._rtx_ssrc = rtx_ssrc.to_bytes(4, "big")
        self._ssrc = ssrc.to_bytes(4, "big")
        self._send = send
        self._send_rtcp = send_rtcp
        self._drop_rate = drop_rate
        self._on_switch = on_switch
        self._first_byte = 0x80  # of every packet, and what stands behind its fixed header
        self._after_header = self._ssrc
        self._has_send_time = False
        self.sequence_shift = 0
        self._timestamp_shift = 0
        self.not_before = 0
        self._last_sequence = -1  # the client's sequence number; -1 before the first packet
        self._last_timestamp = 0
        self._last_time = 0.0
        self._rtx_sequence = random.getrandbits(15)

    @property
    def wanted(self) -> Layer | None:
        """The pending layer, or else the present one."""
        return self.pending or self.layer

    def open(self, codec: Codec, send_time_id: int | None = None) -> None:
        """Start sending, because the client has answered.

        Args:
            codec: with the client's payload types.
            send_time_id: the id of the header extension for the time of sending, or None if it is not negotiated.
        """
        self.codec = codec
        self._has_send_time = send_time_id is not None and codec.name not in _SOUND
        if send_time_id is not None and self._has_send_time:
            # One word of one-byte extensions (RFC 8285, 4.2); the time itself is added to each packet.
            extension = b"\xbe\xde\x00\x01" + bytes((send_time_id << 4 | 2,))
            self._first_byte, self._after_header = 0x90, self._ssrc + extension
        else:
            self._first_byte, self._after_header = 0x80, self._ssrc
        self.is_open = True

    def switch_to(self, layer: Layer) -> None:
        """Switch to this layer at its next key frame; until then the present layer continues."""
        if self.pending is not None and self.pending is not self.layer:
            self.pending.subscribers.remove(self)
        self.pending = layer
        if layer is self.layer:
            self.layer = None
        if self not in layer.subscribers:
            layer.subscribers.append(self)

    def stay(self) -> None:
        """Cancel a pending switch."""
        if self.pending is not None:
            self.pending.subscribers.remove(self)
            self.pending = None

    def drop_layers(self) -> None:
        """Stop receiving any layer."""
        for layer in {self.layer, self.pending}:
            if layer is not None:
                layer.subscribers.remove(self)
        self.layer = self.pending = None

    def forward(self, layer: Layer, packet: bytes, body: bytes, timed: bytes, now: float) -> None:
        """Forward one packet of the primary stream.

        Args:
            layer: the layer of the packet.
            packet: the RTP packet, of which only the fixed header is used.
            body: its payload, without header extensions.
            timed: the payload behind the time of sending, for clients that negotiated it.
            now: `time.monotonic()`.
        """
        if not self.is_open:
            return
        incoming = packet[2] << 8 | packet[3]
        if layer is not self.layer:
            if layer is not self.pending:
                return
            if not starts_key_frame(self.codec.name, body):
                layer.ask_key_frame(now)
                return
            self._switch(layer, incoming, int.from_bytes(packet[4:8], "big"), now)
            layer.introduce(self, now)
        age = (incoming - self.not_before) & 0xFFFF
        if age >= _HALF:
            return
        if age > 0x6000:
            self.not_before = (incoming - 0x2000) & 0xFFFF
        if self._drop_rate and random.random() < self._drop_rate:  # noqa: S311 -- chance, no secret
            layer.publication.counters.packets_dropped_on_purpose += 1
            return
        sequence = (incoming + self.sequence_shift) & 0xFFFF
        timestamp = (int.from_bytes(packet[4:8], "big") + self._timestamp_shift) & 0xFFFFFFFF
        if self._last_sequence < 0 or (sequence - self._last_sequence) & 0xFFFF < _HALF:
            self._last_sequence, self._last_timestamp, self._last_time = sequence, timestamp, now
        self.packets += 1
        self.bytes += len(body)
        header = (
            (self._first_byte | packet[0] & 0x20) << 56
            | (packet[1] & 0x80 | self.codec.payload_type) << 48
            | sequence << 32
            | timestamp
        )
        self._send(header.to_bytes(8, "big") + self._after_header + (timed if self._has_send_time else body))

    def _switch(self, layer: Layer, sequence: int, timestamp: int, now: float) -> None:
        """Shift sequence numbers and timestamps so that this packet of another layer follows the last one sent."""
        if self.layer is not None and self.layer is not layer:
            self.layer.subscribers.remove(self)
        self.layer, self.pending = layer, None
        self.not_before = sequence
        self._on_switch()
        if self._last_sequence >= 0:
            self.sequence_shift = (self._last_sequence + 1 - sequence) & 0xFFFF
            elapsed = max(1, int((now - self._last_time) * self.codec.clock_rate))
            self._timestamp_shift = (self._last_timestamp + elapsed - timestamp) & 0xFFFFFFFF

    def send_again(self, sequence: int, header: bytes, body: bytes, now: float) -> None:
        """Retransmit one packet of the cache (RFC 4588), as a plain packet if the client did not negotiate RTX."""
        if self._drop_rate and random.random() < self._drop_rate:  # noqa: S311 -- chance, no secret
            return
        timestamp = (int.from_bytes(header[4:8], "big") + self._timestamp_shift) & 0xFFFFFFFF
        marker, rtx, original = header[1] & 0x80, self.codec.rtx_payload_type, sequence.to_bytes(2, "big")
        first = self._first_byte | header[0] & 0x20
        extension = self._after_header[4:] + send_time(now) if self._has_send_time else b""
        if rtx is None:
            head = bytes((first, marker | self.codec.payload_type)) + original + timestamp.to_bytes(4, "big")
            self._send(head + self._ssrc + extension + body)
            return
        self._rtx_sequence = (self._rtx_sequence + 1) & 0xFFFF
        head = bytes((first, marker | rtx)) + self._rtx_sequence.to_bytes(2, "big") + timestamp.to_bytes(4, "big")
        self._send(head + self._rtx_ssrc + extension + original + body)

    def send_report(self, layer: Layer, info: RtcpSenderInfo) -> None:
        """Send the publisher's sender report under this stream's SSRC, so that audio and video stay together."""
        if layer is not self.layer or not self.is_open:
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
