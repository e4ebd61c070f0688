"""A track that a client receives: which layer fills its stream, and when a key frame is asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence

from signal_manager.sfu.forwarding import OutgoingStream
from signal_manager.sfu.publication import Layer, Publication, SendPacket
from signal_manager.sfu.resending import Resender
from signal_manager.sfu.retransmission import Allowance
from signal_manager.sfu.sdp import Codec
from signal_manager.sfu.settings import SfuSettings

__all__ = ["Subscription"]


class Subscription:
    """A track that a client receives: the stream it sees, and the choice of the layer that fills it.

    Args:
        resending: how much may be sent again, of all that this client receives.
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
        settings: SfuSettings,
        resending: Allowance,
    ) -> None:
        self.stream = OutgoingStream(
            ssrc=ssrc,
            rtx_ssrc=rtx_ssrc,
            cname=cname,
            codec=codec,
            send=send,
            send_rtcp=send_rtcp,
            drop_rate=settings.drop_rate,
            on_switch=self._switched,
        )
        self.publication: Publication | None = None
        self.preferred_rid: str | None = None
        self.may_choose_other = False  # ridNotAvailable: asciibetical
        self.is_held = False  # the client's network has no room for it
        self.ceiling: Layer | None = None  # nothing better than this one: the client's network has no room for it
        self._settings = settings
        self._resender = Resender(self.stream, settings, resending)
        self._key_frames = Allowance(rate=1 / settings.key_frame_period, burst=1)
        self._wants_key_frame = False  # the client asked for one, and has not got it yet
        self._looked_at = (0, 0, 0)  # packets, bytes and losses when the receiver was last looked at

    def attach(self, publication: Publication) -> None:
        """Receive this publication from its next key frame on, in place of what was received before."""
        self.detach()
        self.publication = publication
        self.is_held, self.ceiling = False, None
        publication.subscriptions.add(self)
        self.choose()

    def detach(self) -> None:
        """Receive nothing."""
        self.stream.drop_layers()
        if self.publication is not None:
            self.publication.subscriptions.discard(self)
            self.publication = None

    def open(self, codec: Codec, send_time_id: int | None = None) -> None:
        """Let packets flow: the client answered (`OutgoingStream.open`)."""
        self.stream.open(codec, send_time_id)
        layer = self.stream.wanted
        if layer is not None:
            layer.ask_key_frame(time.monotonic())

    def pause(self) -> None:
        """Hold packets back: the client does not want to receive at present."""
        self.stream.is_open = False

    def choose(self) -> None:
        """Choose the layer to receive, and wait for its next key frame."""
        publication = self.publication
        if publication is None or self.is_held:
            return
        wanted = self._wanted(publication)
        ceiling = self.ceiling
        if wanted is not None and ceiling is not None and ceiling.is_flowing and ceiling.bitrate < wanted.bitrate:
            wanted = ceiling
        if wanted is None or wanted is self.stream.wanted:
            return
        if wanted is self.stream.layer:
            self.stream.stay()
        else:
            self.resume(wanted)

    def resume(self, layer: Layer) -> None:
        """Switch to this layer at its next key frame; until then the layer before keeps flowing if it can."""
        self.stream.switch_to(layer)
        if self.stream.is_open:
            layer.ask_key_frame(time.monotonic())

    def restarted(self, layer: Layer) -> None:
        """Switch to this layer again if it is received, because its sequence numbers have restarted."""
        if self.stream in layer.subscribers:
            self.resume(layer)

    def hold(self) -> None:
        """Send nothing until `limit` is called: the client's network has no room for it."""
        if not self.is_held:
            self.is_held = True
            self.stream.drop_layers()
            if self.publication is not None:
                self.publication.counters.subscriptions_held += 1

    def limit(self, ceiling: Layer | None) -> None:
        """Send this layer where a better one is wanted; None: send what is wanted."""
        if ceiling is not None and ceiling is not self.ceiling and self.publication is not None:
            self.publication.counters.subscriptions_limited += 1
        self.is_held, self.ceiling = False, ceiling
        self.choose()

    def candidates(self) -> list[Layer]:
        """Return the layers that may be sent, by their rate, of which the last is the one that is wanted."""
        publication = self.publication
        wanted = self._wanted(publication) if publication is not None else None
        if publication is None or wanted is None or not self.stream.is_open:
            return []
        lower = [x for x in publication.layers.values() if x.is_flowing and 0 < x.bitrate < wanted.bitrate]
        return [*sorted(lower, key=lambda layer: layer.bitrate), wanted]

    @property
    def is_reported(self) -> bool:
        """Whether the client asks for what it lost."""
        return "nack" in self.stream.codec.feedback

    def since_last_look(self) -> tuple[int, int, int, float]:
        """Return how many packets that the client can ask for again, bytes and losses came since this was called.

        The last figure is the shortest time after which one of these losses was reported; infinite where none was.
        """
        before = self._looked_at
        packets, sent, lost = self._looked_at = (self.stream.packets, self.stream.bytes, self._resender.lost)
        reported = packets - before[0] if self.is_reported else 0
        return reported, sent - before[1], lost - before[2], self._resender.take_missed_after()

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
        layer = self.stream.wanted
        if layer is None or not self.stream.is_open:
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
        """Send again what this client lost (`Resender.resend`)."""
        self._resender.resend(lost, now)

    def _wanted(self, publication: Publication) -> Layer | None:
        layers = publication.layers
        if not publication.is_simulcast:
            return layers[""]
        preferred = layers.get(self.preferred_rid or "")
        if preferred is not None and (preferred.is_flowing or not self.may_choose_other):
            return preferred
        flowing = [layer for layer in layers.values() if layer.is_flowing]
        if self.preferred_rid is None or self.may_choose_other:
            current = self.stream.wanted
            if current in flowing or not flowing:
                return current or next(iter(layers.values()))
            return flowing[0] if self.preferred_rid is None else min(flowing, key=lambda layer: layer.rid)
        return None

    def _switched(self) -> None:
        self._wants_key_frame = False
        self._resender.forget()
