"""One participant's media session over a `MediaBackend`: asyncio around the pure `Negotiation`.

Rooms call its methods and get results or errors; everything about order, retries, deadlines and losses is decided by
`negotiation.py` and only carried out here. What must be closed goes into the `Ledger` before anyone learns of it, and
to the `Closer` when its session is given up.
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
    """Give one participant's media session one thing to do at a time.

    Every method raises what `MediaBackend` promises, and besides: SessionReplacedError when the session was given up
    while the operation waited or when there is none (the client must build a new connection, and `open` be called);
    QueuedTooLongError, TooManyCallsError when too much is waiting. An error whose `after` is `After.REPLACE` means the
    same as SessionReplacedError.

    Cancelling a method forgets the operation if it has not begun; else it takes its course, and an offer that nobody
    receives ends the session when its answer is missed.

    Args:
        backend: the SFU, shared by all participants.
        ledger: where what was caused is remembered before it is announced.
        closer: what closes it; shared by all participants.
        metrics: where given-up sessions are counted.
        on_replaced: called soon after a session was lost (not by `close`), from the event loop.
        limits: how long and how many.
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
        # A call may be made when another's reply comes; its log lines and spans are its own request's all the same.
        self._contexts: dict[int, contextvars.Context] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._unrecorded: dict[MediaSessionId, set[str]] = {}  # closed mids that the ledger could not be told of

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
        """How many operations wait for the SFU or for each other."""
        return len(self._futures)

    async def open(self, *, correlation_id: str | None = None) -> MediaSessionId:
        """Return the session, opened now if there is none."""
        session_id: MediaSessionId = await self._request(ops.Open(correlation_id))
        return session_id

    async def publish(self, offer_sdp: str, tracks: Sequence[LocalTrack] = ()) -> Published:
        """See `MediaBackend.publish`."""
        published: Published = await self._request(ops.Publish(offer_sdp, tuple(tracks)))
        return published

    async def pull(self, tracks: Sequence[RemoteTrack]) -> Pulled:
        """See `MediaBackend.pull`; one that comes too early is repeated for a while before its errors are returned.

        It is repeated no longer once `source_gone` was called for all that is pulled from.
        """
        pulled: Pulled = await self._request(ops.Pull(tuple(tracks)))
        return pulled

    async def answer(self, answer_sdp: str) -> None:
        """See `MediaBackend.answer`; a refused answer may be corrected while its time lasts.

        Raises InvalidRequestError when no offer waits for one, AnswerTooLateError when none waits any more.
        """
        await self._request(ops.Answer(answer_sdp))

    async def close_tracks(self, mids: Sequence[str], *, offer_sdp: str | None = None) -> ClosedTracks:
        """See `MediaBackend.close_tracks`."""
        closed: ClosedTracks = await self._request(ops.CloseTracks(tuple(mids), offer_sdp))
        return closed

    async def update_tracks(self, updates: Sequence[TrackUpdate]) -> tuple[TrackResult, ...]:
        """See `MediaBackend.update_tracks`."""
        updated: tuple[TrackResult, ...] = await self._request(ops.UpdateTracks(tuple(updates)))
        return updated

    async def establish_channels(self, *, offer_sdp: str | None = None) -> EstablishedChannels:
        """See `MediaBackend.establish_channels`."""
        established: EstablishedChannels = await self._request(ops.EstablishChannels(offer_sdp))
        return established

    async def open_channels(self, channels: Sequence[DataChannel]) -> tuple[ChannelResult, ...]:
        """See `MediaBackend.open_channels`."""
        opened: tuple[ChannelResult, ...] = await self._request(ops.OpenChannels(tuple(channels)))
        return opened

    async def update_channels(self, updates: Sequence[ChannelUpdate]) -> tuple[ChannelResult, ...]:
        """See `MediaBackend.update_channels`."""
        updated: tuple[ChannelResult, ...] = await self._request(ops.UpdateChannels(tuple(updates)))
        return updated

    async def close_channels(self, ids: Sequence[int]) -> tuple[ChannelResult, ...]:
        """See `MediaBackend.close_channels`."""
        closed: tuple[ChannelResult, ...] = await self._request(ops.CloseChannels(tuple(ids)))
        return closed

    def source_gone(self, session_id: MediaSessionId) -> None:
        """Take note that a publisher's session has ended: what is pulled from it alone is not waited for any longer."""
        self._perform(self._negotiation.source_gone(session_id, asyncio.get_running_loop().time()))

    def abandon(self) -> None:
        """Give the session up, because the client builds a new connection; call `open` for the next one."""
        self._perform(self._negotiation.abandon())

    def close(self) -> None:
        """End it, because the participant has left: what is waiting is refused, what exists is closed."""
        self._perform(self._negotiation.close())

    async def closed(self) -> None:
        """Wait, after `close`, until no call is with the SFU any more; the backend's time limits bound that."""
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
                        context=self._contexts.get(effect.request),  # None once its client is gone
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
        # The loop may call a moment early by its clock's resolution: the timer is then simply set again.
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
        """Tell the ledger what a reply brought or confirmed, before anyone acts on it."""
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
            # Closing them again, as the closer would, could hit newer tracks of the same mids: that waits for the end.
            _log.info("media_ledger_failed", session_id=session_id, error=error.message)
            self._unrecorded.setdefault(session_id, set()).update(mids)
