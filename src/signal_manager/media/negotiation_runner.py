"""Carries out what a `Negotiation` decides: asyncio's tasks, timers and futures around the pure state machine."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Callable
from typing import Any, assert_never

from signal_manager.media.closing import Closer
from signal_manager.media.negotiation import (
    CallSfu,
    CloseMids,
    Effect,
    Negotiation,
    Refuse,
    ReplaceSession,
    Reply,
    SweepSession,
)
from signal_manager.media.operations import Operation
from signal_manager.media.recorded_calls import RecordedCalls
from signal_manager.observe.metrics import Metrics

__all__ = ["NegotiationRunner"]


class NegotiationRunner:
    """Performs the effects of one negotiation.

    Args:
        negotiation: decides.
        calls: make the calls to the SFU.
        closer: closes the mids of sessions that were given up.
        metrics: counts these sessions.
        on_replaced: called from the event loop soon after a session was lost.
    """

    def __init__(
        self,
        negotiation: Negotiation,
        calls: RecordedCalls,
        *,
        closer: Closer,
        metrics: Metrics,
        on_replaced: Callable[[ReplaceSession], None] | None = None,
    ) -> None:
        self._negotiation = negotiation
        self._calls = calls
        self._closer = closer
        self._metrics = metrics
        self._on_replaced = on_replaced
        self._numbers = itertools.count(1)
        self._futures: dict[int, asyncio.Future[Any]] = {}
        # The reply to one request may start the call of another. Its log lines and spans belong to its own request.
        self._contexts: dict[int, contextvars.Context] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> int:
        """The number of operations that wait for the SFU or in the queue."""
        return len(self._futures)

    async def idle(self) -> None:
        """Wait until no call to the SFU is in progress."""
        await asyncio.gather(*self._tasks)

    async def request(self, operation: Operation) -> Any:
        """Submit an operation and return its result; an operation whose caller is cancelled is withdrawn."""
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        future = self._futures[number] = loop.create_future()
        self._contexts[number] = contextvars.copy_context()
        self.perform(self._negotiation.submit(number, operation, loop.time()))
        try:
            return await future
        except asyncio.CancelledError:
            self.perform(self._negotiation.withdraw(number, loop.time()))
            raise
        finally:
            del self._futures[number]
            del self._contexts[number]

    def perform(self, effects: list[Effect]) -> None:
        """Do what the negotiation asks for."""
        for effect in effects:
            match effect:
                case CallSfu():
                    task = asyncio.create_task(
                        self._carry_out(effect),
                        name=f"media call {effect.session_id}",
                        context=self._contexts.get(effect.request),  # None after the caller has gone
                    )
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
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
                    if unrecorded := self._calls.take_unrecorded(session_id):
                        self._closer.close(session_id, unrecorded)
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
        self.perform(self._negotiation.tick(asyncio.get_running_loop().time()))

    async def _carry_out(self, call: CallSfu) -> None:
        outcome = await self._calls.make(call)
        now = asyncio.get_running_loop().time()
        if outcome.error is None:
            effects = self._negotiation.replied(call.call, outcome.result, now)
        else:
            effects = self._negotiation.failed(call.call, outcome.error, now, mids=outcome.mids)
        self.perform(effects)
