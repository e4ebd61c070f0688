"""RTP and RTCP of one session: assigns packets to layers, and acts on receiver and sender reports.

Neighbours: `secure_transport` passes in decrypted packets, `forwarding` sends them on. A stream is identified by the
SSRC in its SDP, or else by the MID and RID extensions of its first packets (RFC 8843, 9.2 and RFC 8852).
"""

from __future__ import annotations

import struct
import time
from contextlib import suppress

from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    AnyRtcpPacket,
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSrPacket,
    pack_remb_fci,
    unpack_header_extensions,
    unpack_remb_fci,
)

from signal_manager.sfu.congestion import Receiver
from signal_manager.sfu.forwarding import send_time
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.publication import REPORTER_SSRC, Layer, Publication, SendPacket
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.subscription import Subscription
from signal_manager.sfu.twcc import ArrivalFeedback, transport_number

__all__ = ["MediaRouter"]

# The most reports that fit one packet's five-bit counter (RFC 3550, 6.4.2).
_MAX_REPORTS = 31


class MediaRouter:
    """Routes the packets of one session to its tracks."""

    def __init__(self, *, send_rtcp: SendPacket, settings: SfuSettings, counters: Counters) -> None:
        self.publications: dict[str, Publication] = {}  # by mid
        self.subscriptions: dict[str, Subscription] = {}  # by mid
        self._send_rtcp = send_rtcp
        self._settings = settings
        self._counters = counters
        self.receiver = Receiver(settings, time.monotonic())
        self._arrivals = ArrivalFeedback(REPORTER_SSRC)
        self._number_id = 0  # id of the header extension with the transport-wide number; 0 if there is none
        self._routes: dict[int, tuple[Layer, bool]] = {}  # SSRC -> layer, and whether the SSRC carries retransmissions
        self._by_ssrc: dict[int, Subscription] = {}
        self._extensions: dict[int, str] = {}

    # -- tracks --------------------------------------------------------------------------------------------------------

    def publish(
        self, publication: Publication, *, ssrc: int | None, rtx_ssrc: int | None, extensions: dict[int, str]
    ) -> None:
        """Add a track that this session's client sends."""
        self.publications[publication.mid] = publication
        self._extensions |= extensions
        self._number_id = next((n for n, name in self._extensions.items() if name == "transport number"), 0)
        self.signal(publication, ssrc=ssrc, rtx_ssrc=rtx_ssrc)

    def signal(self, publication: Publication, *, ssrc: int | None, rtx_ssrc: int | None) -> None:
        """Bind the SSRCs that a description names for a track without layers."""
        layer = publication.layers.get("")
        if layer is None:
            return
        if ssrc is not None:
            self._bind(layer, ssrc, is_rtx=False)
        if rtx_ssrc is not None:
            self._bind(layer, rtx_ssrc, is_rtx=True)

    def unpublish(self, mid: str) -> bool:
        """End the publication of this mid; return whether there was one."""
        publication = self.publications.pop(mid, None)
        if publication is None:
            return False
        for ssrc in [ssrc for ssrc, (layer, _) in self._routes.items() if layer.publication is publication]:
            del self._routes[ssrc]
        publication.end()
        return True

    def subscribe(self, mid: str, subscription: Subscription) -> None:
        """Add a track that this session's client receives."""
        self.subscriptions[mid] = subscription
        self._by_ssrc[subscription.stream.ssrc] = subscription

    def unsubscribe(self, mid: str) -> bool:
        """End the subscription of this mid; return whether there was one."""
        subscription = self.subscriptions.pop(mid, None)
        if subscription is None:
            return False
        self._by_ssrc.pop(subscription.stream.ssrc, None)
        subscription.pause()
        subscription.detach()
        return True

    def close(self) -> None:
        """Close every track."""
        for mid in list(self.publications):
            self.unpublish(mid)
        for mid in list(self.subscriptions):
            self.unsubscribe(mid)

    # -- RTP -----------------------------------------------------------------------------------------------------------

    def receive_rtp(self, packet: bytes) -> None:
        """Forward one packet of this session's client to its subscribers."""
        counters = self._counters
        counters.packets_received += 1
        counters.bytes_received += len(packet)
        now = time.monotonic()
        header = 12 + 4 * (packet[0] & 0x0F)
        route = self._routes.get(int.from_bytes(packet[8:12], "big"))
        if packet[0] & 0x10:
            end = header + 4 + 4 * int.from_bytes(packet[header + 2 : header + 4], "big")
            if self._number_id and end <= len(packet):
                number = transport_number(packet, header, end, self._number_id)
                if number is not None and self._arrivals.take(number, now):
                    self._tell_arrivals(packet, now)
            if route is None:
                route = self._learn(packet, packet[header:end])
            header = end
        elif route is None:
            route = self._learn(packet, b"")
        if route is None or header > len(packet):
            counters.packets_unrouted += 1
            return
        layer, is_rtx = route
        body = packet[header:]
        if is_rtx:
            if len(body) < 2 or packet[0] & 0x20:
                return  # padding, which probes for bandwidth, retransmits nothing
            # RFC 4588, 4: the original sequence number precedes the payload.
            packet, body = packet[:2] + body[:2] + packet[4:12], body[2:]
        if not layer.take(packet[:12], body, now):
            return  # a duplicate: a publisher repeats packets to probe for bandwidth
        if not layer.publication.has_packets:
            layer.is_flowing = True
            layer.publication.begin()
        timed = send_time(now) + body if layer.publication.kind == "video" else body
        # A copy, because switching layers removes subscribers from the list during the loop.
        for stream in tuple(layer.subscribers):
            stream.forward(layer, packet, body, timed, now)

    def _tell_arrivals(self, packet: bytes, now: float) -> None:
        for message in self._arrivals.build(int.from_bytes(packet[8:12], "big"), now):
            self._send_rtcp(message)

    def _learn(self, packet: bytes, extension: bytes) -> tuple[Layer, bool] | None:
        """Bind an unknown SSRC to a layer; return None for a stream that was not negotiated."""
        payload_type = packet[1] & 0x7F
        try:
            profile = int.from_bytes(extension[:2], "big")
            names = {
                self._extensions[number]: value.decode("ascii")
                for number, value in unpack_header_extensions(profile, extension[4:])
                if number in self._extensions
            }
        except (ValueError, struct.error):
            return None
        publication = self._publication(names.get("mid"), payload_type)
        if publication is None or len(self._routes) >= self._settings.max_ssrcs:
            return None
        is_rtx = payload_type == publication.codec.rtx_payload_type
        rid = names.get("rrid" if is_rtx else "rid", "")
        layer = publication.layers.get(rid if publication.is_simulcast else "")
        if layer is None:
            return None
        # A publication closed by force may still send; its packets must not pass for another track of the same codec.
        if "mid" not in names and (layer.rtx_ssrc if is_rtx else layer.ssrc) is not None:
            return None
        ssrc = int.from_bytes(packet[8:12], "big")
        self._bind(layer, ssrc, is_rtx=is_rtx)
        return self._routes[ssrc]

    def _publication(self, mid: str | None, payload_type: int) -> Publication | None:
        if mid is not None:
            candidates = [publication for publication in [self.publications.get(mid)] if publication is not None]
        else:
            candidates = list(self.publications.values())
        fitting = [
            publication
            for publication in candidates
            if payload_type in (publication.codec.payload_type, publication.codec.rtx_payload_type)
        ]
        return fitting[0] if len(fitting) == 1 else None

    def _bind(self, layer: Layer, ssrc: int, *, is_rtx: bool) -> None:
        if self._routes.get(ssrc) == (layer, is_rtx):
            return
        before = layer.rtx_ssrc if is_rtx else layer.ssrc
        if before is not None:
            self._routes.pop(before, None)
        self._routes[ssrc] = (layer, is_rtx)
        if is_rtx:
            layer.rtx_ssrc = ssrc
            return
        layer.ssrc = ssrc
        if before is not None:
            layer.reset()
        elif layer.subscribers:
            layer.ask_key_frame(time.monotonic())

    # -- RTCP ----------------------------------------------------------------------------------------------------------

    def receive_rtcp(self, data: bytes) -> None:
        """Act on one compound RTCP packet of this session's client; ignore one that is malformed."""
        try:
            packets = RtcpPacket.parse(data)
        except (ValueError, struct.error, IndexError):
            self._counters.refused_datagrams += 1
            return
        now = time.monotonic()
        for packet in packets:
            self._act_on(packet, now)
        self.receiver.evaluate(self.subscriptions.values(), now)

    def _act_on(self, packet: AnyRtcpPacket, now: float) -> None:
        match packet:
            case RtcpSrPacket(ssrc=ssrc, sender_info=info, reports=reports):
                self._take_reports(reports)
                route = self._routes.get(ssrc)
                if route is not None and not route[1]:
                    route[0].take_sender_report(info, now)
            case RtcpPsfbPacket(fmt=fmt) if fmt in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
                media_ssrc = packet.media_ssrc
                if fmt == RTCP_PSFB_FIR and len(packet.fci) >= 4:  # FIR names the source in its entry (RFC 5104, 4.3.1)
                    media_ssrc = int.from_bytes(packet.fci[:4], "big")
                subscription = self._by_ssrc.get(media_ssrc)
                if subscription is not None:
                    subscription.ask_key_frame(now)
            case RtcpPsfbPacket(fmt=fmt, fci=fci) if fmt == RTCP_PSFB_APP:
                with suppress(ValueError, struct.error, IndexError):
                    bitrate, ssrcs = unpack_remb_fci(fci)
                    self.receiver.take_estimate(bitrate, ssrcs, now)
            case RtcpRtpfbPacket(fmt=fmt, media_ssrc=media_ssrc, lost=lost) if fmt == RTCP_RTPFB_NACK:
                subscription = self._by_ssrc.get(media_ssrc)
                if subscription is not None:
                    subscription.resend(lost, now)
            case RtcpRrPacket(reports=reports):
                self._take_reports(reports)
            case _:
                pass

    def _take_reports(self, reports: list[RtcpReceiverInfo]) -> None:
        """Note the share of audio packets that the client lost; for video, its NACKs show the loss."""
        for report in reports:
            subscription = self._by_ssrc.get(report.ssrc)
            if subscription is not None and not subscription.is_reported:
                self.receiver.take_loss(report.fraction_lost / 256)

    def tick(self, now: float) -> None:
        """Evaluate the client's reception, and send it a report and a maximum bit rate for what it sends."""
        self.receiver.evaluate(self.subscriptions.values(), now)
        layers = []
        for publication in self.publications.values():
            publication.tick(now)
            layers += [layer for layer in publication.layers.values() if layer.ssrc is not None and layer.highest >= 0]
        for begin in range(0, len(layers), _MAX_REPORTS):
            self._send_reports(layers[begin : begin + _MAX_REPORTS], now)

    def _send_reports(self, layers: list[Layer], now: float) -> None:
        reports = [self._report(layer, now) for layer in layers]
        estimate = pack_remb_fci(self._settings.max_bitrate, [report.ssrc for report in reports])
        self._send_rtcp(
            bytes(RtcpRrPacket(ssrc=REPORTER_SSRC, reports=reports))
            + bytes(RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=REPORTER_SSRC, media_ssrc=0, fci=estimate))
        )

    @staticmethod
    def _report(layer: Layer, now: float) -> RtcpReceiverInfo:
        fraction, lost, lsr, dlsr = layer.report(now)
        return RtcpReceiverInfo(
            ssrc=layer.ssrc or 0,
            fraction_lost=fraction,
            packets_lost=min(lost, 0x7FFFFF),
            highest_sequence=layer.highest & 0xFFFFFFFF,
            jitter=0,
            lsr=lsr,
            dlsr=dlsr,
        )
