"""Estimates the bandwidth of one client from loss and delay, and divides it among its tracks.

`routing.py` passes the client's reports on and calls `evaluate` every half second. `forwarding.py` switches layers and
pauses video accordingly. Audio is never paused: video gives way first. The bandwidth falls at once if the network
cannot carry it, and rises step by step; after a failed attempt the next one comes later.

Loss alone says little: a full queue loses packets, and so does a bad radio, where sending less does not help. A client
requests a lost packet when the next packet arrives. Behind a full queue that request is late. If it is not late, only
heavy loss counts, because some networks drop excess traffic without queueing it. Then the SFU checks whether the loss
falls once it sends less.
"""

from __future__ import annotations

from collections.abc import Collection

from signal_manager.sfu.congestion_signs import Attempts, Estimates, QueueSigns
from signal_manager.sfu.publication import Layer
from signal_manager.sfu.retransmission import Allowance
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.subscription import Subscription

__all__ = ["Receiver"]

# A larger share of lost packets is more than a bad radio loses (all figures are smoothed over about two seconds).
_HEAVY_LOSS = 0.2
# The same limit during an attempt with more bandwidth than before.
_LOSS_OF_ATTEMPT = 0.12
# With this share of lost packets, a rising delay means a full queue.
_SOME_LOSS = 0.02
# The evidence to restrict: two half seconds of heavy loss, or four of rising delay alone.
_ENOUGH_EVIDENCE = 2.0
# Limits for a client that requests lost packets at once, and the weight of both kinds of evidence.
_LOSS_WITHOUT_QUEUE = 0.25
_HEAVY_WITHOUT_QUEUE, _RISING_WITHOUT_QUEUE = 0.5, 0.25
# If this share of the former loss remains although less is sent, the loss does not depend on the bandwidth.
_SHARE_LEFT = 0.6
# On such a path, loss is heavy if it exceeds the usual loss by this much.
_BEYOND_USUAL = 0.15
# Seconds after a change during which reports still describe the time before it.
_SETTLE = 1.5
# Fewer packets cannot tell loss from chance.
_FEWEST_PACKETS = 10
# The share of the arriving bit rate that is used after a loss, so that the queue empties.
_HEADROOM = 0.9
_SMOOTHING = 0.4


class Receiver:
    """One client's receiving side.

    Args:
        settings: limits of the SFU.
        now: `time.monotonic()`.
    """

    def __init__(self, settings: SfuSettings, now: float) -> None:
        self.allowed: float | None = None  # bit/s of audio and video; None while nothing limits them
        self.resending = Allowance(rate=settings.resend_floor, burst=settings.resend_burst)
        self._settings = settings
        self._at = now
        self._sent_rate = 0.0  # bit/s, smoothed
        self._loss: float | None = None  # share, smoothed; None before the first report
        self._evidence = 0.0
        self._estimates = Estimates(settings.max_sections)
        self._settled_at = now
        self._attempts = Attempts(first=settings.first_attempt, last=settings.last_attempt)
        self._queue = QueueSigns()
        self._suspected = 0.0  # loss without a queue before the bandwidth was lowered
        self._usual_loss = 0.0  # share that is lost at any bandwidth
        self._reports = 0  # reports on audio since the bandwidth was lowered
        self._sound_loss = 0.0

    # -- what the client reports ---------------------------------------------------------------------------------------

    def take_estimate(self, bitrate: float, ssrcs: Collection[int], now: float) -> None:
        """Handle the client's own estimate of its bandwidth (`Estimates.take`)."""
        self._estimates.take(bitrate, ssrcs, now)

    def take_loss(self, share: float) -> None:
        """Handle a report of the share of audio packets lost lately."""
        self._sound_loss = share
        self._reports += 1

    # -- what follows from it ------------------------------------------------------------------------------------------

    def evaluate(self, subscriptions: Collection[Subscription], now: float) -> None:
        """Evaluate the last half second; lower the bandwidth after losses, or raise it when it is time."""
        elapsed = now - self._at
        if elapsed < self._settings.evaluation_interval:
            return
        self._at = now
        packets, sent, lost, missed_after = 0, 0, 0, float("inf")
        for subscription in subscriptions:
            more = subscription.since_last_look()
            packets, sent, lost = packets + more[0], sent + more[1], lost + more[2]
            missed_after = min(missed_after, more[3])
        self._queue.take(missed_after)
        rate = 8 * sent / elapsed
        self._sent_rate += _SMOOTHING * (rate - self._sent_rate)
        share = self._settings.resend_share if self._evidence == 0 else self._settings.resend_share / 2
        self.resending.rate = max(share * self._sent_rate / 8, self._settings.resend_floor)
        if packets >= _FEWEST_PACKETS:
            loss = min(1.0, lost / packets)
            self._loss = loss if self._loss is None else self._loss + _SMOOTHING * (loss - self._loss)
        if now < self._settled_at:
            return
        self._weigh(now)
        # An attempt ends at the first sign of trouble, because audio is lost too meanwhile.
        if self._evidence >= (1 if self._attempts.is_under_way(now) else _ENOUGH_EVIDENCE):
            self._restrict(subscriptions, now)
        elif self.allowed is not None:
            self._relax(subscriptions, now)

    def _weigh(self, now: float) -> None:
        fallen = self._estimates.fallen(now)
        is_rising = fallen is not None and fallen < 0.95 * self._sent_rate
        loss, has_queue = self._loss or 0.0, self._queue.has_queue()
        if has_queue or (self._loss is not None and loss < self._usual_loss / 2):
            self._usual_loss = 0.0
        if has_queue is False:
            is_heavy = loss > max(_LOSS_WITHOUT_QUEUE, self._usual_loss + _BEYOND_USUAL)
            self._evidence += _HEAVY_WITHOUT_QUEUE * is_heavy + _RISING_WITHOUT_QUEUE * is_rising
        else:
            is_heavy = loss > (_LOSS_OF_ATTEMPT if self._attempts.is_under_way(now) else _HEAVY_LOSS)
            self._evidence += is_heavy + is_rising * (1 if loss > _SOME_LOSS else 0.5)
        if not is_rising and not is_heavy:
            self._evidence = max(0.0, self._evidence - 0.5)

    def _restrict(self, subscriptions: Collection[Subscription], now: float) -> None:
        """Lower the bandwidth to somewhat less than what arrived."""
        came_through = self._sent_rate * (1 - (self._loss or 0.0))
        fallen = self._estimates.fallen(now)
        if fallen is not None:
            came_through = min(came_through, fallen)
        self.allowed = _HEADROOM * came_through
        self._attempts.fail(now)
        self._suspected = (self._loss or 0.0) if self._queue.has_queue() is False else 0.0
        self._reports = 0
        self._begin_anew(now + _SETTLE)
        share_out(subscriptions, self.allowed)

    def _relax(self, subscriptions: Collection[Subscription], now: float) -> None:
        """Raise the bandwidth by one step, if the last step succeeded and it is time."""
        if self._is_lost_anyhow():
            self._usual_loss, self._suspected = self._suspected, 0.0
            self._attempts.hurry(now)
        if self._evidence > 0 or not self._attempts.is_due(now):
            return
        self._attempts.settle()
        need = next_step(subscriptions)
        if need is None:
            self.allowed = None
            return
        self._suspected = 0.0  # later losses say nothing about the loss at the lower bandwidth
        self.allowed = max(need, self.allowed or 0.0)
        self._attempts.make(now)
        self._begin_anew(now)
        share_out(subscriptions, self.allowed)

    def _is_lost_anyhow(self) -> bool:
        """Tell whether the loss stayed the same although less is sent."""
        # The first report covers the time before the change too.
        left = self._loss if self._loss is not None else self._sound_loss if self._reports > 1 else 0.0
        return self._suspected > 0 and left >= _SHARE_LEFT * self._suspected

    def _begin_anew(self, settled_at: float) -> None:
        self._evidence, self._loss = 0.0, None
        self._estimates.forget()
        self._settled_at = settled_at


def share_out(subscriptions: Collection[Subscription], allowed: float) -> None:
    """Choose a layer for each video: audio first, then the lowest layer of each video, then better ones."""
    left, videos = _parted(subscriptions, allowed)
    chosen: dict[Subscription, int] = {}
    for subscription, layers in sorted(videos, key=lambda item: item[1][0].bitrate):
        if layers[0].bitrate <= left:
            left -= layers[0].bitrate
            chosen[subscription] = 0
    is_better = True
    while is_better:
        is_better = False
        for subscription, layers in videos:
            level = chosen.get(subscription)
            if level is None or level + 1 >= len(layers):
                continue
            more = layers[level + 1].bitrate - layers[level].bitrate
            if more <= left:
                left -= more
                chosen[subscription] = level + 1
                is_better = True
    for subscription, layers in videos:
        level = chosen.get(subscription)
        if level is None:
            subscription.hold()
        else:
            subscription.limit(None if level + 1 == len(layers) else layers[level])


def next_step(subscriptions: Collection[Subscription]) -> float | None:
    """Return the rate (bit/s) that allows the cheapest improvement; None if every track has its best layer."""
    used, steps = 0.0, list[float]()
    left, videos = _parted(subscriptions, 0.0)
    for subscription, layers in videos:
        if subscription.is_held:
            steps.append(layers[0].bitrate)
            continue
        level = next((n for n, layer in enumerate(layers) if layer is subscription.ceiling), len(layers) - 1)
        used += layers[level].bitrate
        if level + 1 < len(layers):
            steps.append(layers[level + 1].bitrate - layers[level].bitrate)
    # A little more than now, because rates are never quite the same.
    return 1.05 * (used - left + min(steps)) if steps else None


def _parted(
    subscriptions: Collection[Subscription], allowed: float
) -> tuple[float, list[tuple[Subscription, list[Layer]]]]:
    """Return the bandwidth left after audio, and each video with its possible layers, the lowest first."""
    left = allowed
    videos = []
    for subscription in subscriptions:
        publication = subscription.publication
        if publication is None:
            continue
        layers = subscription.candidates()
        if publication.kind != "video":
            left -= sum(layer.bitrate for layer in layers[-1:])
        elif layers:
            videos.append((subscription, layers))
    return left, videos
