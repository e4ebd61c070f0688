"""Requests become futures, decisions become calls, and deadlines become timers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from signal_manager.media import operations as ops
from signal_manager.media.base import LocalTrack, MediaSessionId, Published
from signal_manager.media.closing import Closer
from signal_manager.media.errors import AnswerTooLateError, SessionReplacedError
from signal_manager.media.negotiation import Limits, LossReason, Negotiation, ReplaceSession
from signal_manager.media.negotiation_runner import NegotiationRunner
from signal_manager.media.recorded_calls import RecordedCalls
from signal_manager.observe.metrics import Metrics
from tests.media.book_sfu import BookSfu, ListLedger, within

PUBLISH = ops.Publish("offer", (LocalTrack(mid="0", track_name="face"),))


class Run:
    """A runner over an SFU that keeps books."""

    def __init__(self, sfu: BookSfu, closer: Closer, *, limits: Limits | None = None) -> None:
        self.negotiation = Negotiation(limits=limits)
        self.replaced: asyncio.Queue[ReplaceSession] = asyncio.Queue()
        self.metrics = Metrics()
        self.runner = NegotiationRunner(
            self.negotiation,
            RecordedCalls(sfu, ListLedger()),
            closer=closer,
            metrics=self.metrics,
            on_replaced=self.replaced.put_nowait,
        )


@pytest.fixture
def sfu() -> BookSfu:
    return BookSfu()


@pytest.fixture
async def closer(sfu: BookSfu) -> AsyncIterator[Closer]:
    async with within(30), Closer(sfu, ledger=ListLedger(), metrics=Metrics()) as closer:
        yield closer


async def test_requests_are_answered_in_turn_and_then_nothing_is_pending(sfu: BookSfu, closer: Closer) -> None:
    run = Run(sfu, closer)

    opened, published = await asyncio.gather(run.runner.request(ops.Open(None)), run.runner.request(PUBLISH))
    await run.runner.idle()

    assert opened == run.negotiation.session_id
    assert isinstance(published, Published)
    assert (sfu.calls, run.runner.pending) == (["open_session", "publish"], 0)


async def test_a_refusal_is_the_callers_error(sfu: BookSfu, closer: Closer) -> None:
    with pytest.raises(SessionReplacedError, match="there is no media session"):
        await Run(sfu, closer).runner.request(PUBLISH)


async def test_a_request_whose_caller_is_cancelled_is_withdrawn(sfu: BookSfu, closer: Closer) -> None:
    run = Run(sfu, closer)
    opening = asyncio.create_task(run.runner.request(ops.Open(None)))
    waiting = asyncio.create_task(run.runner.request(PUBLISH))
    await asyncio.sleep(0)

    waiting.cancel()
    await opening
    await run.runner.idle()

    assert sfu.calls == ["open_session"]


async def test_an_offer_that_is_not_answered_in_time_costs_the_session(sfu: BookSfu, closer: Closer) -> None:
    run = Run(sfu, closer, limits=Limits(answer=0.01))
    session_id: MediaSessionId = await run.runner.request(ops.Open(None))
    await run.runner.request(ops.EstablishChannels(None))

    lost = await run.replaced.get()

    assert (lost.session_id, lost.reason) == (session_id, LossReason.ANSWER_MISSED)
    assert run.metrics.media_sessions_replaced.labelled("answer_missed").value == 1
    with pytest.raises(AnswerTooLateError):
        await run.runner.request(ops.Answer("answer"))
