"""The tracks of one session: its publications, its subscriptions, and the m-sections that carry them.

Neighbours: `sessions` decides by Cloudflare's rules what may be published and pulled. This module makes the packets
flow, through `routing` and `forwarding`, as soon as the sections of `connection` allow it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from signal_manager.sfu.connection import Connection
from signal_manager.sfu.datachannels import DataChannels
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.negotiation import Sending
from signal_manager.sfu.publication import Publication
from signal_manager.sfu.routing import MediaRouter
from signal_manager.sfu.sdp import Codec, Description, Outgoing, RemoteSection, Section
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.subscription import Subscription
from signal_manager.sfu.wire import TrackObject

__all__ = ["Tracks"]


class Tracks:
    """The publications and subscriptions of one session."""

    def __init__(
        self,
        session_id: str,
        *,
        connection: Connection,
        channels: DataChannels,
        settings: SfuSettings,
        counters: Counters,
    ) -> None:
        self.published: dict[str, Publication] = {}  # by track name
        self.sources: dict[str, tuple[str, str]] = {}  # mid of a pulled track -> publisher session and track name
        self.router = MediaRouter(
            send_rtcp=connection.transport.send_rtcp,
            settings=settings,
            counters=counters,
        )
        connection.transport.on_rtp = self.router.receive_rtp
        connection.transport.on_rtcp = self.router.receive_rtcp
        self._session_id = session_id
        self._connection = connection
        self._channels = channels
        self._settings = settings
        self._counters = counters

    def close(self) -> None:
        """Close every track."""
        self.router.close()
        self.published.clear()
        self.sources.clear()

    def tick(self, now: float) -> None:
        """Send RTCP reports, and close publications that have received no packet for too long."""
        self.router.tick(now)
        for publication in list(self.published.values()):
            if now - publication.last_flow > self._settings.track_timeout:
                self._counters.tracks_collected += 1
                self.end(publication.mid)

    def apply_offer(
        self, offer: Description, *, receive: Collection[str] = (), send: Mapping[str, Sending] | None = None
    ) -> list[tuple[Section, RemoteSection]]:
        """Take over a client's offer: `receive` are mids of new publications, `send` what is newly sent, by mid."""
        published = {publication.mid for publication in self.published.values()}
        pairs = self._connection.apply_offer(offer, receive={*receive, *published}, send=send or {})
        self.settle(pairs)
        return pairs

    def settle(self, pairs: list[tuple[Section, RemoteSection]]) -> None:
        """Start, pause and end tracks as the negotiated sections now demand."""
        for section, remote in pairs:
            if section.is_rejected:
                self.end(section.mid)
            elif section.is_data:
                self._channels.accept(port=remote.sctp_port, max_message_size=remote.max_message_size)
            publication = self.router.publications.get(section.mid)
            if publication is not None and section.receives and section.codecs:
                publication.encoded_with(section.codecs[0])
                self.router.signal(publication, ssrc=remote.ssrc, rtx_ssrc=remote.rtx_ssrc)
        self.open_subscriptions()

    def open_subscriptions(self) -> None:
        """Start sending on settled sections; not before the transport is up, as a lost key frame costs 0.3 s."""
        if not self._connection.transport.is_connected:
            return
        for mid, subscription in self.router.subscriptions.items():
            section = self._connection.negotiation.section(mid)
            if section is not None and section.sends and section.is_settled and section.codecs:
                subscription.open(section.codecs[0], section.send_time_id)
            else:
                subscription.pause()

    def receive(self, name: str, section: Section, remote: RemoteSection) -> None:
        """Publish a track that the client sends on a section."""
        publication = Publication(
            session_id=self._session_id,
            track_name=name,
            mid=section.mid,
            kind=section.kind,
            codec=section.codecs[0],
            rids=section.rids,
            send_rtcp=self._connection.transport.send_rtcp,
            settings=self._settings,
            counters=self._counters,
            now=time.monotonic(),
        )
        self.published[name] = publication
        self.router.publish(publication, ssrc=remote.ssrc, rtx_ssrc=remote.rtx_ssrc, extensions=section.extensions)

    def send(self, mid: str, source: Publication, track: TrackObject, outgoing: Outgoing, codec: Codec) -> Subscription:
        """Subscribe the client to a publication on a section; packets flow once the client has answered."""
        subscription = Subscription(
            ssrc=outgoing.ssrc,
            rtx_ssrc=outgoing.rtx_ssrc,
            cname=outgoing.stream_id,
            codec=codec,
            send=self._send_rtp,
            send_rtcp=self._connection.transport.send_rtcp,
            settings=self._settings,
            resending=self.router.receiver.resending,
        )
        self.prefer(subscription, track)
        subscription.attach(source)
        self.router.subscribe(mid, subscription)
        self.sources[mid] = (source.session_id, source.track_name)
        return subscription

    def _send_rtp(self, packet: bytes) -> None:
        self._counters.packets_forwarded += 1
        self._counters.bytes_forwarded += len(packet)
        self._connection.transport.send_rtp(packet)

    @staticmethod
    def prefer(subscription: Subscription, track: TrackObject) -> None:
        """Apply the simulcast preferences of a request."""
        if track.simulcast is not None:
            subscription.preferred_rid = track.simulcast.preferred_rid
            subscription.may_choose_other = track.simulcast.rid_not_available == "asciibetical"

    def end(self, mid: str) -> bool:
        """End the publication and the subscription of a section; return whether it had any."""
        publication = self.router.publications.get(mid)
        if publication is not None:
            self.published.pop(publication.track_name, None)
        was_pulled = self.router.unsubscribe(mid)
        self.sources.pop(mid, None)
        was_published = self.router.unpublish(mid)
        section = self._connection.negotiation.section(mid)
        if section is not None and not section.is_data:
            section.idle()
        return was_published or was_pulled
