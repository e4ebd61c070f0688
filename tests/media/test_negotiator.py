"""The negotiation carried out: calls, ledger, closings and deadlines on a running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from signal_manager.errors import InvalidRequestError, UnavailableError
from signal_manager.media import errors
from signal_manager.media.base import (
    WHOLE_SESSION,
    ChannelUpdate,
    DataChannel,
    ItemError,
    LocalTrack,
    MediaSessionId,
    RemoteTrack,
    TrackUpdate,
)
from signal_manager.media.closing import Closer
from signal_manager.media.negotiation import Limits, LossReason, ReplaceSession
from signal_manager.media.negotiator import Negotiator
from signal_manager.observe.metrics import Metrics
from tests.media.book_sfu import BookSfu, ListLedger, within

CAMERA = RemoteTrack(session_id=MediaSessionId("publisher"), track_name="camera")
FACE = LocalTrack(mid="0", track_name="face")


class Member:
    """A negotiator with all it needs, and what its owner was told."""

    def __init__(self, sfu: BookSfu, closer: Closer, ledger: ListLedger, limits: Limits) -> None:
        self.metrics = Metrics()
        self.replaced: asyncio.Queue[ReplaceSession] = asyncio.Queue()
        self.negotiator = Negotiator(
            sfu,
            ledger=ledger,
            closer=closer,
            metrics=self.metrics,
            on_replaced=self.replaced.put_nowait,
            limits=limits,
        )


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def sfu() -> BookSfu:
    return BookSfu()


@pytest.fixture
def ledger() -> ListLedger:
    return ListLedger()


@pytest.fixture
async def closer(sfu: BookSfu, ledger: ListLedger) -> AsyncIterator[Closer]:
    async with Closer(sfu, ledger=ledger, metrics=Metrics()) as closer:
        yield closer


@pytest.fixture
async def member(sfu: BookSfu, closer: Closer, ledger: ListLedger, limits: Limits) -> AsyncIterator[Member]:
    member = Member(sfu, closer, ledger, limits)
    async with within(10):
        yield member
    member.negotiator.close()


async def test_everything_goes_to_the_backend_in_turn(member: Member, sfu: BookSfu) -> None:
    negotiator = member.negotiator
    await negotiator.open(correlation_id="label")
    update = ChannelUpdate(session_id=CAMERA.session_id, data_channel_name="chat", can_reply=True)

    async def pull_and_answer() -> None:
        await negotiator.pull([CAMERA])
        await negotiator.answer("answer")

    async def establish_and_answer() -> None:
        await negotiator.establish_channels()
        await negotiator.answer("answer")

    await asyncio.gather(
        negotiator.publish("offer", [FACE]),
        pull_and_answer(),
        negotiator.update_tracks([TrackUpdate(mid="1")]),
        establish_and_answer(),
        negotiator.open_channels([DataChannel(location="local", data_channel_name="chat")]),
        negotiator.update_channels([update]),
        negotiator.close_channels([1]),
        negotiator.close_tracks(["1"]),
    )

    assert sfu.calls == [
        "open_session",
        "publish",
        "pull",
        "answer",
        "update_tracks",
        "establish_channels",
        "answer",
        "open_channels",
        "update_channels",
        "close_channels",
        "close_tracks",
    ]


async def test_what_is_caused_is_in_the_ledger_before_it_is_announced(member: Member, ledger: ListLedger) -> None:
    session = await member.negotiator.open()

    assert ledger.entries == {(session, WHOLE_SESSION)}

    pulled = await member.negotiator.pull([CAMERA])

    assert ledger.entries == {(session, WHOLE_SESSION), (session, pulled.tracks[0].mid)}


async def test_what_was_closed_leaves_the_ledger(member: Member, ledger: ListLedger) -> None:
    session = await member.negotiator.open()
    await member.negotiator.publish("offer", [FACE])
    await member.negotiator.close_tracks(["0"])

    assert ledger.entries == {(session, WHOLE_SESSION)}


async def test_leaving_closes_everything(member: Member, sfu: BookSfu, closer: Closer, ledger: ListLedger) -> None:
    session = await member.negotiator.open()
    await member.negotiator.publish("offer", [FACE])
    await member.negotiator.pull([CAMERA, CAMERA])
    member.negotiator.close()
    await member.negotiator.closed()
    await closer.drained()

    assert sfu.sessions[session].mids == set()
    assert ledger.entries == set()
    assert member.replaced.empty()
    with pytest.raises(errors.SessionReplacedError):
        await member.negotiator.open()


async def test_leaving_during_a_call_closes_what_it_brings(
    member: Member, sfu: BookSfu, closer: Closer, ledger: ListLedger
) -> None:
    session = await member.negotiator.open()
    sfu.asked.clear()
    pull = asyncio.create_task(member.negotiator.pull([CAMERA]))
    await sfu.asked.wait()
    member.negotiator.close()
    with pytest.raises(errors.SessionReplacedError):
        await pull
    await member.negotiator.closed()
    await sfu.sessions[session].emptied.wait()

    # The session itself stays in the ledger until it has settled.
    assert {mid for _, mid in ledger.entries} <= {"1", WHOLE_SESSION}
    assert (session, WHOLE_SESSION) in ledger.entries


async def test_a_refusal_reaches_its_caller_alone(member: Member, sfu: BookSfu) -> None:
    await member.negotiator.open()
    sfu.failures = [errors.InvalidSessionDescriptionError("no SDP")]

    with pytest.raises(errors.InvalidSessionDescriptionError):
        await member.negotiator.publish("garbage", [FACE])
    with pytest.raises(InvalidRequestError):
        await member.negotiator.answer("answer")

    assert (await member.negotiator.publish("offer", [FACE])).answer_sdp == "answer"


class TestWithShortLimits:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(answer=0.02, pauses=(0.001,), patience=0.1)

    async def test_a_missed_answer_replaces_the_session(
        self, member: Member, sfu: BookSfu, closer: Closer, ledger: ListLedger
    ) -> None:
        first = await member.negotiator.open()
        await member.negotiator.pull([CAMERA])

        assert member.negotiator.is_awaiting_answer

        told = await member.replaced.get()
        await closer.drained()

        assert (told.session_id, told.reason) == (first, LossReason.ANSWER_MISSED)
        assert member.metrics.media_sessions_replaced.labelled("answer_missed").value == 1
        assert member.negotiator.session_id is None
        assert sfu.sessions[first].mids == set()
        assert ledger.entries == set()
        with pytest.raises(errors.AnswerTooLateError):
            await member.negotiator.answer("answer")
        assert await member.negotiator.open() != first

    async def test_a_pull_that_is_too_early_succeeds_a_little_later(self, member: Member, sfu: BookSfu) -> None:
        await member.negotiator.open()
        sfu.failing_items = [ItemError(error_code="not_found_track_error", message="not sending")] * 3

        pulled = await member.negotiator.pull([CAMERA])

        assert pulled.tracks[0].error is None
        assert sfu.calls.count("pull") == 4


async def test_a_lost_reply_replaces_the_session_at_once(member: Member, sfu: BookSfu) -> None:
    session = await member.negotiator.open()
    sfu.failures = [errors.NoAnswerError("cut")]
    publish = asyncio.create_task(member.negotiator.publish("offer", [FACE]))
    waiting = asyncio.create_task(member.negotiator.pull([CAMERA]))

    with pytest.raises(errors.NoAnswerError):
        await publish
    with pytest.raises(errors.SessionReplacedError):
        await waiting
    assert (await member.replaced.get()).reason is LossReason.CALL_LOST
    await sfu.sessions[session].emptied.wait()


async def test_a_backend_that_breaks_its_promises_costs_only_this_session(member: Member, sfu: BookSfu) -> None:
    await member.negotiator.open()
    sfu.failures = [ZeroDivisionError("a bug")]

    with pytest.raises(errors.NoAnswerError):
        await member.negotiator.publish("offer", [FACE])

    assert await member.negotiator.open()


async def test_what_cannot_be_recorded_is_undone(member: Member, sfu: BookSfu, ledger: ListLedger) -> None:
    session = await member.negotiator.open()
    ledger.failures = [UnavailableError("the disk is full")]

    with pytest.raises(errors.SessionReplacedError):
        await member.negotiator.pull([CAMERA])
    assert (await member.replaced.get()).session_id == session
    await sfu.sessions[session].emptied.wait()


async def test_a_closing_that_cannot_be_recorded_is_repeated_only_at_the_end(
    member: Member, closer: Closer, ledger: ListLedger
) -> None:
    session = await member.negotiator.open()
    await member.negotiator.publish("offer", [FACE])
    ledger.failures = [UnavailableError("the disk is full")]
    await member.negotiator.close_tracks(["0"])

    assert (session, "0") in ledger.entries

    member.negotiator.close()
    await closer.drained()

    assert ledger.entries == set()


async def test_a_cancelled_request_that_waits_is_never_sent(member: Member, sfu: BookSfu) -> None:
    await member.negotiator.open()
    publish = asyncio.create_task(member.negotiator.publish("offer", [FACE]))
    pull = asyncio.create_task(member.negotiator.pull([CAMERA]))
    await asyncio.sleep(0)
    pull.cancel()
    await asyncio.gather(publish, pull, return_exceptions=True)
    await member.negotiator.update_tracks([])

    assert sfu.calls == ["open_session", "publish", "update_tracks"]


async def test_abandoning_makes_room_for_another_session(member: Member) -> None:
    first = await member.negotiator.open()
    member.negotiator.abandon()
    second = await member.negotiator.open()

    assert first != second
    assert (await member.replaced.get()).reason is LossReason.ABANDONED


async def test_an_owner_need_not_listen(sfu: BookSfu, closer: Closer, ledger: ListLedger) -> None:
    negotiator = Negotiator(sfu, ledger=ledger, closer=closer, metrics=Metrics())
    await negotiator.open()
    negotiator.abandon()

    assert negotiator.session_id is None
