"""One member's media session over a `MediaBackend`: asyncio around the pure `Negotiation`.

Rooms call its methods and get results or errors. `negotiation.py` decides about order, retries, deadlines and losses;
`negotiation_runner.py` carries the decisions out, over the calls of `recorded_calls.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from signal_manager.media import operations as ops
from signal_manager.media.base import (
    ChannelResult,
    ChannelUpdate,
    ClosedTracks,
    DataChannel,
    EstablishedChannels,
    Ledger,
    LocalTrack,
    MediaBackend,
    MediaSessionId,
    Published,
    Pulled,
    RemoteTrack,
    TrackResult,
    TrackUpdate,
)
from signal_manager.media.closing import Closer
from signal_manager.media.negotiation import Limits, Negotiation, ReplaceSession, State
from signal_manager.media.negotiation_runner import NegotiationRunner
from signal_manager.media.recorded_calls import RecordedCalls
from signal_manager.observe.metrics import Metrics

__all__ = ["Negotiator"]

_log = structlog.get_logger(__name__)


class Negotiator:
    """Runs the operations of one member's media session one at a time.

    Every method raises the errors of `MediaBackend`. It also raises SessionReplacedError if there is no session, or if
    the session was given up while the operation waited: the client must build a new connection, and the caller calls
    `open`. QueuedTooLongError and TooManyCallsError mean that too much is waiting. An error whose `after` is
    `After.REPLACE` means the same as SessionReplacedError.

    Cancelling a method drops an operation that has not begun. One that has begun continues; if it ends in an offer, the
    session is given up because no answer comes.

    Args:
        backend: the SFU, shared by all members.
        ledger: records new mids before the caller learns of them.
        closer: closes the mids of sessions that were given up; shared by all members.
        metrics: counts sessions that were given up.
        on_replaced: called from the event loop soon after a session was lost, but not after `close`.
        limits: the limits of time and number.
    """

    def __init__(
        self,
        backend: MediaBackend,
        *,
        ledger: Ledger,
        closer: Closer,
        metrics: Metrics,
        on_replaced: Callable[[ReplaceSession], None] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._negotiation = negotiation = Negotiation(limits=limits)
        calls = RecordedCalls(backend, ledger)
        self._runner = NegotiationRunner(negotiation, calls, closer=closer, metrics=metrics, on_replaced=on_replaced)

    @property
    def session_id(self) -> MediaSessionId | None:
        """The present session, or None while there is none."""
        return self._negotiation.session_id

    @property
    def is_awaiting_answer(self) -> bool:
        """Whether an offer of the SFU waits for the client's answer."""
        return self._negotiation.state is State.AWAITING_ANSWER

    @property
    def pending(self) -> int:
        """The number of operations that wait for the SFU or in the queue."""
        return self._runner.pending

    async def open(self, *, correlation_id: str | None = None) -> MediaSessionId:
        """Return the session, and open one if there is none."""
        session_id: MediaSessionId = await self._runner.request(ops.Open(correlation_id))
        return session_id

    async def publish(self, offer_sdp: str, tracks: Sequence[LocalTrack] = ()) -> Published:
        """Publish the offer's m-sections as `tracks` and return the SFU's answer."""
        published: Published = await self._runner.request(ops.Publish(offer_sdp, tuple(tracks)))
        return published

    async def pull(self, tracks: Sequence[RemoteTrack]) -> Pulled:
        """Pull tracks of other sessions; repeat a pull that comes too early for a while before returning its errors.

        The repetition ends when `source_gone` was called for all publishers of these tracks.
        """
        pulled: Pulled = await self._runner.request(ops.Pull(tuple(tracks)))
        return pulled

    async def answer(self, answer_sdp: str) -> None:
        """Answer the SFU's last offer; the client may correct a refused answer until the deadline.

        Raises:
            InvalidRequestError: no offer waits for an answer.
            AnswerTooLateError: the deadline of the offer has passed.
        """
        await self._runner.request(ops.Answer(answer_sdp))

    async def close_tracks(self, mids: Sequence[str], *, offer_sdp: str | None = None) -> ClosedTracks:
        """Close tracks at once, or by negotiation with an offer."""
        closed: ClosedTracks = await self._runner.request(ops.CloseTracks(tuple(mids), offer_sdp))
        return closed

    async def update_tracks(self, updates: Sequence[TrackUpdate]) -> tuple[TrackResult, ...]:
        """Change the layer or source of pulled tracks, without negotiation."""
        updated: tuple[TrackResult, ...] = await self._runner.request(ops.UpdateTracks(tuple(updates)))
        return updated

    async def establish_channels(self, *, offer_sdp: str | None = None) -> EstablishedChannels:
        """Negotiate the transport for data channels, once per session."""
        established: EstablishedChannels = await self._runner.request(ops.EstablishChannels(offer_sdp))
        return established

    async def open_channels(self, channels: Sequence[DataChannel]) -> tuple[ChannelResult, ...]:
        """Publish data channels or subscribe to them."""
        opened: tuple[ChannelResult, ...] = await self._runner.request(ops.OpenChannels(tuple(channels)))
        return opened

    async def update_channels(self, updates: Sequence[ChannelUpdate]) -> tuple[ChannelResult, ...]:
        """Grant or revoke the right to reply on data channels."""
        updated: tuple[ChannelResult, ...] = await self._runner.request(ops.UpdateChannels(tuple(updates)))
        return updated

    async def close_channels(self, ids: Sequence[int]) -> tuple[ChannelResult, ...]:
        """Close data channels by id."""
        closed: tuple[ChannelResult, ...] = await self._runner.request(ops.CloseChannels(tuple(ids)))
        return closed

    def source_gone(self, session_id: MediaSessionId) -> None:
        """Stop repeating pulls of tracks from this publisher's session, which has ended."""
        self._runner.perform(self._negotiation.source_gone(session_id, asyncio.get_running_loop().time()))

    def abandon(self) -> None:
        """Give the session up, because the client builds a new connection; call `open` for the next session."""
        self._runner.perform(self._negotiation.abandon())

    def close(self) -> None:
        """End the negotiation, because the member has left: refuse what waits, and close what exists."""
        self._runner.perform(self._negotiation.close())

    async def closed(self) -> None:
        """Wait, after `close`, until no call to the SFU is in progress. The backend's time limits bound the wait."""
        await self._runner.idle()
