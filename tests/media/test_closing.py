"""Closing is tried until it is confirmed, within bounds, and the ledger hears of it last."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from signal_manager.errors import UnavailableError
from signal_manager.media import errors
from signal_manager.media.base import WHOLE_SESSION, ChannelState, ItemError, MediaSessionId, SessionState, TrackState
from signal_manager.media.closing import LONGEST_PAUSE, SETTLING_TIME, Closer, Closings
from signal_manager.observe.metrics import Metrics
from tests.media.book_sfu import BookSfu, ListLedger, within

SESSION = MediaSessionId("session-1")
OTHER = MediaSessionId("session-2")


def closings(*, parallel: int = 8, capacity: int = 100) -> Closings:
    return Closings(parallel=parallel, capacity=capacity, jitter=lambda: 0.0)


# The plan


def test_what_is_added_is_due_at_once_and_done_when_confirmed() -> None:
    plan = closings()
    plan.add(SESSION, ["0", "1"], 10.0)

    (closing,) = plan.due(10.0)

    assert (closing.session_id, closing.mids, closing.sweep) == (SESSION, frozenset("01"), False)

    plan.confirmed(closing, 11.0)

    assert (len(plan), plan.next_deadline()) == (0, None)


def test_failures_are_tried_again_after_growing_pauses() -> None:
    plan = closings()
    plan.add(SESSION, ["0"], 0.0)
    now, pauses = 0.0, []
    for _ in range(10):
        (closing,) = plan.due(now)
        plan.failed(closing, now)
        deadline = plan.next_deadline()
        assert deadline is not None
        assert plan.due(deadline - 0.01) == []
        pauses.append(deadline - now)
        now = deadline

    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_jitter_shortens_a_pause_by_up_to_half() -> None:
    plan = Closings(jitter=lambda: 1.0)
    plan.add(SESSION, ["0"], 0.0)
    (closing,) = plan.due(0.0)
    plan.failed(closing, 0.0)

    assert plan.next_deadline() == 0.25


def test_a_session_is_tried_once_at_a_time_and_few_at_once() -> None:
    plan = closings(parallel=2)
    for number in range(3):
        plan.add(MediaSessionId(str(number)), ["0"], 0.0)
    first, _ = plan.due(0.0)

    assert plan.due(0.0) == []
    assert plan.next_deadline() is None

    plan.confirmed(first, 0.0)

    assert [closing.session_id for closing in plan.due(0.0)] == ["2"]


def test_what_is_added_during_an_attempt_is_not_confirmed_by_it() -> None:
    plan = closings()
    plan.add(SESSION, ["0"], 0.0)
    (closing,) = plan.due(0.0)
    plan.add(SESSION, ["0", "1"], 1.0)
    plan.confirmed(closing, 2.0)

    (again,) = plan.due(2.0)

    assert again.mids == {"0", "1"}


def test_an_unsettled_session_is_looked_at_again_before_it_is_done() -> None:
    plan = closings()
    plan.add(SESSION, ["0"], 0.0, sweep=True, is_unsettled=True)
    (closing,) = plan.due(0.0)
    plan.confirmed(closing, 1.0)

    assert plan.next_deadline() == SETTLING_TIME

    (closing,) = plan.due(SETTLING_TIME)
    plan.confirmed(closing, SETTLING_TIME + 1)

    assert (closing.mids, len(plan)) == (frozenset(), 0)


def test_everything_is_attended_to_while_it_only_settles() -> None:
    plan = closings()
    plan.add(SESSION, ["0"], 0.0, sweep=True, is_unsettled=True)
    before = plan.is_attended
    (closing,) = plan.due(0.0)
    plan.confirmed(closing, 1.0)

    assert (before, plan.is_attended) == (False, True)

    plan.add(SESSION, ["1"], 2.0)

    assert not plan.is_attended


def test_a_gone_session_needs_no_settling() -> None:
    plan = closings()
    plan.add(SESSION, [], 0.0, sweep=True, is_unsettled=True)
    (closing,) = plan.due(0.0)
    plan.confirmed(closing, 1.0, is_gone=True)

    assert len(plan) == 0


def test_no_more_is_remembered_than_there_is_room_for() -> None:
    plan = closings(capacity=1)

    assert plan.add(SESSION, ["0"], 0.0)
    assert not plan.add(OTHER, ["0"], 0.0)
    assert plan.add(SESSION, ["1"], 0.0)


# Carried out


@asynccontextmanager
async def closing_at(sfu: BookSfu, ledger: ListLedger, plan: Closings | None = None) -> AsyncIterator[Closer]:
    closer = Closer(sfu, ledger=ledger, metrics=Metrics(), closings=plan)
    async with closer:
        yield closer


@pytest.fixture
def sfu() -> BookSfu:
    return BookSfu()


@pytest.fixture
def ledger() -> ListLedger:
    return ListLedger()


async def test_closed_mids_leave_the_ledger(sfu: BookSfu, ledger: ListLedger) -> None:
    session = await sfu.open_session()
    sfu.sessions[session].mids = {"0", "1"}
    ledger.entries = {(session, "0"), (session, "1"), (session, WHOLE_SESSION)}

    async with closing_at(sfu, ledger) as closer, within(5):
        closer.close(session, ["0", "1", "already gone"])
        await closer.drained()

    assert sfu.sessions[session].mids == set()
    assert ledger.entries == {(session, WHOLE_SESSION)}


async def test_a_sweep_closes_what_nobody_knew_of(sfu: BookSfu, ledger: ListLedger) -> None:
    session = await sfu.open_session()
    sfu.sessions[session].mids = {str(mid) for mid in range(70)}
    sfu.sessions[session].channels = {1, 2}
    ledger.entries = {(session, WHOLE_SESSION)}

    async with closing_at(sfu, ledger) as closer, within(5):
        closer.sweep(session)
        await closer.drained()

    assert (sfu.sessions[session].mids, sfu.sessions[session].channels) == (set(), set())
    assert ledger.entries == set()


async def test_a_session_that_is_gone_is_confirmed_whole(sfu: BookSfu, ledger: ListLedger) -> None:
    ledger.entries = {(SESSION, "0"), (SESSION, WHOLE_SESSION)}

    async with closing_at(sfu, ledger) as closer, within(5):
        closer.close(SESSION, ["0"])
        closer.sweep(SESSION, is_unsettled=True)
        await closer.drained()

    assert ledger.entries == set()


async def test_failures_of_every_kind_are_tried_again(sfu: BookSfu, ledger: ListLedger) -> None:
    session = await sfu.open_session()
    sfu.sessions[session].mids = {"0"}
    ledger.entries = {(session, "0")}
    sfu.failures = [errors.InternalFaultError("500"), RuntimeError("a bug"), errors.SessionNotReadyError("425")]
    sfu.failing_items = [ItemError(error_code="backend_error", message="no")]
    ledger.failures = [UnavailableError("the disk is full")]

    async with closing_at(sfu, ledger, Closings(first_pause=0.001)) as closer, within(5):
        closer.close(session, ["0"])
        await closer.drained()

    assert ledger.entries == set()
    assert (sfu.failures, sfu.failing_items, ledger.failures) == ([], [], [])


async def test_what_is_not_confirmed_stays_in_the_ledger(sfu: BookSfu, ledger: ListLedger) -> None:
    session = await sfu.open_session()
    ledger.entries = {(session, "0")}
    sfu.silent = True

    async with closing_at(sfu, ledger) as closer, within(5):
        closer.close(session, ["0"])
        await sfu.asked.wait()

    assert ledger.entries == {(session, "0")}


async def test_what_there_is_no_room_for_is_left_to_the_ledger(sfu: BookSfu, ledger: ListLedger) -> None:
    metrics = Metrics()
    async with Closer(sfu, ledger=ledger, metrics=metrics, closings=Closings(capacity=0)) as closer:
        assert not closer.close(SESSION, ["0"])

    assert metrics.media_closings.labelled("dropped").value == 1


async def test_a_sweep_closes_what_is_inactive_too_but_not_the_sfus_own_channel(
    sfu: BookSfu, ledger: ListLedger
) -> None:
    session = await sfu.open_session()
    sfu.state = SessionState(
        tracks=(TrackState(mid="0", track_name="muted"), TrackState(mid="", track_name="none", is_active=True)),
        channels=(ChannelState(data_channel_name="server-events", id=0, status="active"),),
    )

    async with closing_at(sfu, ledger) as closer, within(5):
        closer.sweep(session)
        await closer.drained()

    assert sfu.calls == ["open_session", "session_state", "close_tracks"]
