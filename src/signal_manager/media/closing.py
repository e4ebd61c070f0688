"""Closes tracks and channels of given-up media sessions until the SFU confirms it, so that nothing keeps running.

`Closings` is the pure part: it knows what to close, when to try again, and when it is done. `Closer` makes the calls to
a `MediaBackend` and updates the `Ledger`; one serves all members. The ledger still has what a crash interrupts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import msgspec
import structlog

from signal_manager.errors import SignalManagerError
from signal_manager.media.base import WHOLE_SESSION, Ledger, MediaBackend, MediaSessionId
from signal_manager.media.errors import SessionGoneError, SfuRefusedError
from signal_manager.media.operations import closed_mids
from signal_manager.observe.metrics import Metrics

__all__ = ["Closer", "Closing", "Closings"]

_log = structlog.get_logger(__name__)

Item = TypeVar("Item")

# Seconds between attempts, per session, while an SFU is down for long.
LONGEST_PAUSE = 60.0
# The SFU may still carry out a call whose reply was lost: it waits up to 5 s for a transport and 8 s for packets.
SETTLING_TIME = 30.0
# The most mids in one request.
CHUNK = 64


class Closing(msgspec.Struct, frozen=True):
    """One attempt: close these mids, and with `sweep` everything else that the session holds."""

    session_id: MediaSessionId
    mids: frozenset[str]
    sweep: bool
    settles_at: float  # a sweep before this time proves nothing, even if it finds nothing
    version: int  # of the entry when the attempt began


class _Entry(msgspec.Struct):
    mids: set[str]
    due_at: float
    sweep: bool = False
    settles_at: float = 0.0
    failures: int = 0
    version: int = 0  # counts additions, so that an attempt confirms only what it knew
    is_running: bool = False
    is_settling: bool = False  # everything visible is closed; only one more look is left


class Closings:
    """Schedules what to close; `now` is in seconds of any one clock.

    Args:
        parallel: the most attempts at once.
        capacity: the most sessions at once; the ledger's regular clean-up closes others.
        first_pause: seconds after the first failure; the pause doubles up to LONGEST_PAUSE.
        settling_time: seconds for which a sweep of an unsettled session proves nothing.
        jitter: returns numbers from 0 to 1, which shorten pauses by up to half.
    """

    def __init__(
        self,
        *,
        parallel: int = 8,
        capacity: int = 10_000,
        first_pause: float = 0.5,
        settling_time: float = SETTLING_TIME,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._parallel = parallel
        self._capacity = capacity
        self._first_pause = first_pause
        self._settling_time = settling_time
        self._jitter = jitter
        self._entries: dict[MediaSessionId, _Entry] = {}
        self._running = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_attended(self) -> bool:
        """Tell whether only second looks at unsettled sessions are left."""
        return all(entry.is_settling for entry in self._entries.values())

    def add(
        self,
        session_id: MediaSessionId,
        mids: Iterable[str],
        now: float,
        *,
        sweep: bool = False,
        is_unsettled: bool = False,
    ) -> bool:
        """Add mids to close at once; return False if there is no room for another session."""
        entry = self._entries.get(session_id)
        if entry is None:
            if len(self._entries) >= self._capacity:
                return False
            entry = self._entries[session_id] = _Entry(set(), now)
        entry.mids |= set(mids)
        entry.sweep |= sweep
        entry.is_settling = False
        entry.version += 1
        entry.due_at = now
        if is_unsettled:
            entry.settles_at = now + self._settling_time
        return True

    def due(self, now: float) -> list[Closing]:
        """Return the attempts to start now; report each with `confirmed` or `failed`."""
        begun = []
        for session_id, entry in self._entries.items():
            if self._running >= self._parallel:
                break
            if entry.due_at <= now and not entry.is_running:
                entry.is_running = True
                self._running += 1
                begun.append(Closing(session_id, frozenset(entry.mids), entry.sweep, entry.settles_at, entry.version))
        return begun

    def confirmed(self, closing: Closing, now: float, *, is_gone: bool = False) -> None:
        """Report that everything in the attempt is closed.

        A session that is gone needs no second look, because no call can take effect there.
        """
        entry = self._end(closing)
        entry.failures = 0
        if closing.version == entry.version:
            entry.mids.clear()
            entry.sweep = entry.sweep and not (is_gone or closing.settles_at <= now)
        if entry.mids or entry.sweep:
            entry.due_at = now if entry.mids else max(now, entry.settles_at)
            entry.is_settling = entry.due_at > now
        else:
            del self._entries[closing.session_id]

    def failed(self, closing: Closing, now: float) -> None:
        """Report that the SFU did not confirm everything; the whole attempt is repeated later."""
        entry = self._end(closing)
        pause: float = min(LONGEST_PAUSE, self._first_pause * 2 ** min(entry.failures, 10))
        entry.failures += 1
        entry.due_at = now + pause * (1 - self._jitter() / 2)

    def next_deadline(self) -> float | None:
        """Return when to call `due` next if nothing else happens; None for never."""
        if self._running >= self._parallel:
            return None  # the next event is the end of an attempt
        return min((entry.due_at for entry in self._entries.values() if not entry.is_running), default=None)

    def _end(self, closing: Closing) -> _Entry:
        entry = self._entries[closing.session_id]
        entry.is_running = False
        self._running -= 1
        return entry


class Closer:
    """Closes mids in the background and retries until the SFU confirms.

    An async context manager. On exit it cancels its attempts; the ledger still has what was not confirmed. Call
    `drained` before that to wait.
    """

    def __init__(
        self, backend: MediaBackend, *, ledger: Ledger, metrics: Metrics, closings: Closings | None = None
    ) -> None:
        self._backend = backend
        self._ledger = ledger
        self._metrics = metrics
        self._closings = Closings() if closings is None else closings
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._attended = asyncio.Event()
        self._attended.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._spawn(self._run(), "media closer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self, session_id: MediaSessionId, mids: Sequence[str]) -> bool:
        """Close these mids of a session that was given up; return False if only the ledger has them."""
        return self._add(session_id, mids)

    def sweep(self, session_id: MediaSessionId, *, is_unsettled: bool = False) -> bool:
        """Close everything in a session that was given up; with `is_unsettled`, look at it again later."""
        return self._add(session_id, (), sweep=True, is_unsettled=is_unsettled)

    async def drained(self) -> None:
        """Wait until nothing is left to close. The caller limits the time."""
        await self._drained.wait()

    async def attended(self) -> None:
        """Wait until everything visible is closed. The caller limits the time.

        This does not wait for the effects of calls in progress; the ledger has those.
        """
        await self._attended.wait()

    def _add(
        self, session_id: MediaSessionId, mids: Sequence[str], *, sweep: bool = False, is_unsettled: bool = False
    ) -> bool:
        now = asyncio.get_running_loop().time()
        if not self._closings.add(session_id, mids, now, sweep=sweep, is_unsettled=is_unsettled):
            self._metrics.media_closings.labelled("dropped").add()
            return False
        self._drained.clear()
        self._attended.clear()
        self._changed.set()
        return True

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            for closing in self._closings.due(loop.time()):
                self._spawn(self._attempt(closing), f"closing {closing.session_id}")
            try:
                async with asyncio.timeout_at(self._closings.next_deadline()):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _attempt(self, closing: Closing) -> None:
        loop = asyncio.get_running_loop()
        try:
            is_gone = await self._carry_out(closing)
        except SignalManagerError as error:
            _log.info("media_closing_failed", session_id=closing.session_id, error=error.message)
            self._closings.failed(closing, loop.time())
            self._metrics.media_closings.labelled("failed").add()
        except Exception:
            _log.exception("media_closing_failed", session_id=closing.session_id)
            self._closings.failed(closing, loop.time())
            self._metrics.media_closings.labelled("failed").add()
        else:
            self._closings.confirmed(closing, loop.time(), is_gone=is_gone)
            self._metrics.media_closings.labelled("confirmed").add()
        self._changed.set()
        if self._closings.is_attended:
            self._attended.set()
        if not len(self._closings):
            self._drained.set()

    async def _carry_out(self, closing: Closing) -> bool:
        """Close the mids at the SFU, then remove them from the ledger; return whether the session is gone."""
        session_id = closing.session_id
        is_gone = False
        try:
            await self._close_mids(session_id, sorted(closing.mids))
            if closing.sweep:
                await self._sweep(session_id, known=closing.mids)
        except SessionGoneError:
            is_gone = True
        confirmed = set(closing.mids)
        if closing.sweep and (is_gone or closing.settles_at <= asyncio.get_running_loop().time()):
            confirmed.add(WHOLE_SESSION)
        if confirmed:
            await self._ledger.closed(session_id, *sorted(confirmed))
        return is_gone

    async def _close_mids(self, session_id: MediaSessionId, mids: Sequence[str]) -> None:
        for chunk in _chunks(mids):
            closed = closed_mids(await self._backend.close_tracks(session_id, chunk))
            if missing := len(set(chunk) - set(closed)):
                raise SfuRefusedError(f"{missing} of {len(chunk)} tracks were not confirmed to be closed")

    async def _sweep(self, session_id: MediaSessionId, *, known: frozenset[str]) -> None:
        # Close inactive tracks too: a muted track may become active again.
        state = await self._backend.session_state(session_id)
        mids = {track.mid for track in state.tracks if track.mid}
        await self._close_mids(session_id, sorted(mids - known))
        channels = [channel.id for channel in state.channels if channel.id]  # 0 is the SFU's own channel
        for chunk in _chunks(channels):
            await self._backend.close_channels(session_id, chunk)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
