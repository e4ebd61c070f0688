"""One participant's media session over a `MediaBackend`: asyncio around the pure `Negotiation`.

Rooms call its methods and get results or errors. `negotiation.py` decides about order, retries, deadlines and losses;
this module carries out the decisions. It writes new mids to the `Ledger` before it returns them, and hands those of a
session that was given up to the `Closer`.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import structlog

from signal_manager.errors import SignalManagerError
from signal_manager.media import operations as ops
from signal_manager.media.base import (
    WHOLE_SESSION,
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
from signal_manager.media.errors import NoAnswerError, SessionReplacedError
from signal_manager.media.negotiation import (
    CallSfu,
    CloseMids,
    Effect,
    Limits,
    Negotiation,
    Refuse,
    ReplaceSession,
    Reply,
    State,
    SweepSession,
)
from signal_manager.observe.metrics import Metrics

__all__ = ["Negotiator"]

_log = structlog.get_logger(__name__)


class Negotiator:
    """Runs the operations of one participant's media session one at a time.

    Every method raises the errors of `MediaBackend`. It also raises SessionReplacedError if there is no session, or if
    the session was given up while the operation waited: the client must build a new connection, and the caller calls
    `open`. QueuedTooLongError and TooManyCallsError mean that too much is waiting. An error whose `after` is
    `After.REPLACE` means the same as SessionReplacedError.

    Cancelling a method drops an operation that has not begun. One that has begun continues; if it ends in an offer, the
    session is given up because no answer comes.

    Args:
        backend: the SFU, shared by all participants.
        ledger: records new mids before the caller learns of them.
        closer: closes the mids of sessions that were given up; shared by all participants.
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
        self._backend = backend
        self._ledger = ledger
        self._closer = closer
        self._metrics = metrics
        self._on_replaced = on_replaced
        self._negotiation = Negotiation(limits=limits)
        self._numbers = itertools.count(1)
        self._futures: dict[int, asyncio.Future[Any]] = {}
        # The reply to one request may start the call of another. Its log lines and spans belong to its own request.
        self._contexts: dict[int, contextvars.Context] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._unrecorded: dict[MediaSessionId, set[str]] = {}  # closed mids that the ledger could not record

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
        return len(self._futures)

    async def open(self, *, correlation_id: str | None = None) -> MediaSessionId:
        """Return the session, and open one if there is none."""
        session_id: MediaSessionId = await self._request(ops.Open(correlation_id))
        return session_id

    async def publish(self, offer_sdp: str, tracks: Sequence[LocalTrack] = ()) -> Published:
        """Publish the offer's m-sections as `tracks` and return the SFU's answer."""
        published: Published = await self._request(ops.Publish(offer_sdp, tuple(tracks)))
        return published

    async def pull(self, tracks: Sequence[RemoteTrack]) -> Pulled:
        """Pull tracks of other sessions; repeat a pull that comes too early for a while before returning its errors.

        The repetition ends when `source_gone` was called for all publishers of these tracks.
        """
        pulled: Pulled = await self._request(ops.Pull(tuple(tracks)))
        return pulled

    async def answer(self, answer_sdp: str) -> None:
        """Answer the SFU's last offer; the client may correct a refused answer until the deadline.

        Raises:
            InvalidRequestError: no offer waits for an answer.
            AnswerTooLateError: the deadline of the offer has passed.
        """
        await self._request(ops.Answer(answer_sdp))

    async def close_tracks(self, mids: Sequence[str], *, offer_sdp: str | None = None) -> ClosedTracks:
        """Close tracks at once, or by negotiation with an offer."""
        closed: ClosedTracks = await self._request(ops.CloseTracks(tuple(mids), offer_sdp))
        return closed

    async def update_tracks(self, updates: Sequence[TrackUpdate]) -> tuple[TrackResult, ...]:
        """Change the layer or source of pulled tracks, without negotiation."""
        updated: tuple[TrackResult, ...] = await self._request(ops.UpdateTracks(tuple(updates)))
        return updated

    async def establish_channels(self, *, offer_sdp: str | None = None) -> EstablishedChannels:
        """Negotiate the transport for data channels, once per session."""
        established: EstablishedChannels = await self._request(ops.EstablishChannels(offer_sdp))
        return established

    async def open_channels(self, channels: Sequence[DataChannel]) -> tuple[ChannelResult, ...]:
        """Publish data channels or subscribe to them."""
        opened: tuple[ChannelResult, ...] = await self._request(ops.OpenChannels(tuple(channels)))
        return opened

    async def update_channels(self, updates: Sequence[ChannelUpdate]) -> tuple[ChannelResult, ...]:
        """Grant or revoke the right to reply on data channels."""
        updated: tuple[ChannelResult, ...] = await self._request(ops.UpdateChannels(tuple(updates)))
        return updated

    async def close_channels(self, ids: Sequence[int]) -> tuple[ChannelResult, ...]:
        """Close data channels by id."""
        closed: tuple[ChannelResult, ...] = await self._request(ops.CloseChannels(tuple(ids)))
        return closed

    def source_gone(self, session_id: MediaSessionId) -> None:
        """Stop repeating pulls of tracks from this publisher's session, which has ended."""
        self._perform(self._negotiation.source_gone(session_id, asyncio.get_running_loop().time()))

    def abandon(self) -> None:
        """Give the session up, because the client builds a new connection; call `open` for the next session."""
        self._perform(self._negotiation.abandon())

    def close(self) -> None:
        """End the negotiation, because the participant has left: refuse what waits, and close what exists."""
        self._perform(self._negotiation.close())

    async def closed(self) -> None:
        """Wait, after `close`, until no call to the SFU is in progress. The backend's time limits bound the wait."""
        await asyncio.gather(*self._calls)

    async def _request(self, operation: ops.Operation) -> Any:
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        future = self._futures[number] = loop.create_future()
        self._contexts[number] = contextvars.copy_context()
        self._perform(self._negotiation.submit(number, operation, loop.time()))
        try:
            return await future
        except asyncio.CancelledError:
            self._perform(self._negotiation.withdraw(number, loop.time()))
            raise
        finally:
            del self._futures[number]
            del self._contexts[number]

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case CallSfu():
                    task = asyncio.create_task(
                        self._carry_out(effect),
                        name=f"media call {effect.session_id}",
                        context=self._contexts.get(effect.request),  # None after the caller has gone
                    )
                    self._calls.add(task)
                    task.add_done_callback(self._calls.discard)
                case Reply(request=number, result=result):
                    future = self._futures.get(number)
                    if future is not None and not future.done():
                        future.set_result(result)
                case Refuse(request=number, error=error):
                    future = self._futures.get(number)
                    if future is not None and not future.done():
                        future.set_exception(error)
                case CloseMids(session_id=session_id, mids=mids):
                    self._closer.close(session_id, mids)
                case SweepSession(session_id=session_id, is_unsettled=is_unsettled):
                    self._closer.sweep(session_id, is_unsettled=is_unsettled)
                    if unrecorded := self._unrecorded.pop(session_id, None):
                        self._closer.close(session_id, sorted(unrecorded))
                case ReplaceSession(reason=reason):
                    self._metrics.media_sessions_replaced.labelled(reason.value).add()
                    if self._on_replaced is not None:
                        asyncio.get_running_loop().call_soon(self._on_replaced, effect)
                case _:
                    assert_never(effect)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._negotiation.next_deadline()
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._tick)

    def _tick(self) -> None:
        # The loop may call a moment too early, within its clock's resolution. Then the timer is set again.
        self._perform(self._negotiation.tick(asyncio.get_running_loop().time()))

    async def _carry_out(self, call: CallSfu) -> None:
        loop = asyncio.get_running_loop()
        mids: tuple[str, ...] = ()
        try:
            result = await self._ask(call)
            mids = ops.caused_mids(result)
            await self._record(call, result)
        except SignalManagerError as error:
            effects = self._negotiation.failed(call.call, error, loop.time(), mids=mids)
        except Exception:
            _log.exception("media_call_failed", session_id=call.session_id)
            unexpected = NoAnswerError("the media backend failed in a way it does not promise")
            effects = self._negotiation.failed(call.call, unexpected, loop.time(), mids=mids)
        else:
            effects = self._negotiation.replied(call.call, result, loop.time())
        self._perform(effects)

    async def _ask(self, call: CallSfu) -> ops.Result:
        backend = self._backend
        if isinstance(call.operation, ops.Open):
            return await backend.open_session(correlation_id=call.operation.correlation_id)
        if call.session_id is None:
            raise AssertionError("a call without a session, expected Open alone to be one")
        session_id = call.session_id
        match call.operation:
            case ops.Publish(offer_sdp, tracks):
                return await backend.publish(session_id, offer_sdp, tracks)
            case ops.Pull(tracks):
                return await backend.pull(session_id, tracks)
            case ops.Answer(answer_sdp):
                await backend.answer(session_id, answer_sdp)
                return None
            case ops.CloseTracks(mids, offer_sdp):
                return await backend.close_tracks(session_id, mids, offer_sdp=offer_sdp)
            case ops.UpdateTracks(updates):
                return await backend.update_tracks(session_id, updates)
            case ops.EstablishChannels(offer_sdp):
                return await backend.establish_channels(session_id, offer_sdp=offer_sdp)
            case ops.OpenChannels(channels):
                return await backend.open_channels(session_id, channels)
            case ops.UpdateChannels(updates):
                return await backend.update_channels(session_id, updates)
            case ops.CloseChannels(ids):
                return await backend.close_channels(session_id, ids)
            case _:
                assert_never(call.operation)

    async def _record(self, call: CallSfu, result: ops.Result) -> None:
        """Record in the ledger what a result created or closed, before the caller learns of it."""
        session_id = call.session_id
        try:
            if session_id is None:
                await self._ledger.caused(MediaSessionId(str(result)), WHOLE_SESSION)
            elif mids := ops.caused_mids(result):
                await self._ledger.caused(session_id, *mids)
        except SignalManagerError as error:
            raise SessionReplacedError("what was negotiated could not be recorded, so that it was undone") from error
        if session_id is not None and (mids := ops.closed_mids(result)):
            await self._forget(session_id, mids)

    async def _forget(self, session_id: MediaSessionId, mids: tuple[str, ...]) -> None:
        try:
            await self._ledger.closed(session_id, *mids)
        except SignalManagerError as error:
            # Closing them again could hit newer tracks with the same mids, so this waits for the end of the session.
            _log.info("media_ledger_failed", session_id=session_id, error=error.message)
            self._unrecorded.setdefault(session_id, set()).update(mids)
