"""What a call creates stands in the ledger before anyone learns of it, and no error is lost."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from signal_manager.errors import UnavailableError
from signal_manager.media import operations as ops
from signal_manager.media.base import WHOLE_SESSION, LocalTrack, MediaSessionId
from signal_manager.media.errors import NoAnswerError, SessionReplacedError
from signal_manager.media.negotiation import CallSfu
from signal_manager.media.recorded_calls import RecordedCalls
from tests.media.book_sfu import BookSfu

PUBLISH = ops.Publish("offer", (LocalTrack(mid="0", track_name="face"),))


class Ledger:
    """Keeps what it is told, unless it fails."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.fails = False

    async def caused(self, session_id: MediaSessionId, *mids: str) -> None:
        self._note("caused", *mids)

    async def closed(self, session_id: MediaSessionId, *mids: str) -> None:
        self._note("closed", *mids)

    def _note(self, *told: str) -> None:
        if self.fails:
            raise UnavailableError("storage is away")
        self.told.append(told)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def calls(ledger: Ledger) -> RecordedCalls:
    return RecordedCalls(BookSfu(), ledger)


def call(operation: ops.Operation, session_id: MediaSessionId | None) -> CallSfu:
    return CallSfu(1, 1, 1, session_id, operation)


async def opened(calls: RecordedCalls) -> MediaSessionId:
    outcome = await calls.make(call(ops.Open(None), None))
    assert outcome.error is None
    return MediaSessionId(str(outcome.result))


async def test_a_session_and_its_mids_are_recorded(calls: RecordedCalls, ledger: Ledger) -> None:
    session_id = await opened(calls)

    outcome = await calls.make(call(PUBLISH, session_id))
    await calls.make(call(ops.CloseTracks(("0",), None), session_id))

    assert ops.caused_mids(outcome.result) == ("0",)
    assert ledger.told == [("caused", WHOLE_SESSION), ("caused", "0"), ("closed", "0")]


async def test_what_cannot_be_recorded_is_named_and_is_an_error(calls: RecordedCalls, ledger: Ledger) -> None:
    session_id = await opened(calls)
    ledger.fails = True

    outcome = await calls.make(call(PUBLISH, session_id))

    assert isinstance(outcome.error, SessionReplacedError)
    assert outcome.mids == ("0",)


async def test_what_is_closed_and_stands_as_open_is_kept_until_it_is_taken(
    calls: RecordedCalls, ledger: Ledger
) -> None:
    session_id = await opened(calls)
    await calls.make(call(PUBLISH, session_id))
    ledger.fails = True

    outcome = await calls.make(call(ops.CloseTracks(("0",), None), session_id))

    assert outcome.error is None
    assert calls.take_unrecorded(session_id) == ["0"]
    assert calls.take_unrecorded(session_id) == []


async def test_a_backend_that_breaks_its_promise_is_logged_and_is_no_answer(ledger: Ledger) -> None:
    class Broken(BookSfu):
        async def publish(self, *_: Any) -> Any:
            raise ValueError("a fault")

    with capture_logs() as lines:
        outcome = await RecordedCalls(Broken(), ledger).make(call(PUBLISH, MediaSessionId("s")))

    assert isinstance(outcome.error, NoAnswerError)
    assert [line["event"] for line in lines] == ["media_call_failed"]
