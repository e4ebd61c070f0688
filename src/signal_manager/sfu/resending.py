"""Sends one receiver again what it lost, from the cache of the layer that it receives."""

from __future__ import annotations

from collections.abc import Sequence

from signal_manager.sfu.forwarding import OutgoingStream
from signal_manager.sfu.retransmission import Allowance
from signal_manager.sfu.settings import SfuSettings

__all__ = ["Resender"]

_HALF = 0x8000
# Numbers that one NACK may name: reading it costs more than sending it.
_MAX_NACKED = 512
# When the times of retransmissions that are long past are forgotten.
_MAX_RESENT = 512


class Resender:
    """Answers the NACKs of one client for one stream.

    Args:
        stream: what is sent to the client.
        settings: limits.
        allowance: how much may be sent again, of all that this client receives.

    Attributes:
        lost: packets that were sent and did not arrive, as far as the client said so.
    """

    def __init__(self, stream: OutgoingStream, settings: SfuSettings, allowance: Allowance) -> None:
        self.lost = 0
        self._stream = stream
        self._settings = settings
        self._allowance = allowance
        self._resent: dict[int, float] = {}  # when a packet was sent again, by the publisher's number
        self._missed_after = float("inf")  # the shortest time after which a lost packet was missed (s)

    def take_missed_after(self) -> float:
        """Return the shortest time after which a packet was missed since the last call; infinite if none was."""
        missed_after, self._missed_after = self._missed_after, float("inf")
        return missed_after

    def forget(self) -> None:
        """Forget what was sent again, because another layer fills the stream."""
        self._resent.clear()

    def resend(self, lost: Sequence[int], now: float) -> None:
        """Send again what this client lost; of what the SFU lacks itself, it has asked the publisher already."""
        stream = self._stream
        layer = stream.layer
        if layer is None or not stream.is_open:
            return
        counters = layer.publication.counters
        for sequence in lost[:_MAX_NACKED]:
            number = (sequence - stream.sequence_shift) & 0xFFFF
            packet = layer.cache.get(number)
            if packet is None or (number - stream.not_before) & 0xFFFF >= _HALF:
                continue
            before = self._resent.get(number)
            if before is not None and now - before < self._settings.resend_interval:
                continue
            header, body, sent_at = packet
            if before is None:
                self.lost += 1
                if sent_at <= now:
                    self._missed_after = min(self._missed_after, now - sent_at)
            if not self._allowance.take(len(body), now):
                counters.resends_refused += 1
                continue
            self._resent[number] = now
            counters.packets_resent += 1
            stream.send_again(sequence & 0xFFFF, header, body, now)
        if len(self._resent) > _MAX_RESENT:
            self._resent = {number: at for number, at in self._resent.items() if now - at < self._settings.cache_age}
