"""What a session that outlives its connections counts, keeps, and may go on from."""

from __future__ import annotations

import pytest

from signal_manager.errors import MalformedMessageError
from signal_manager.model import ClientId, SessionId
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.journal import MESSAGE_OVERHEAD, Budget, Journal
from signal_manager.protocol.messages import PayloadType, Resume, Shape
from signal_manager.protocol.resume import (
    PHASES,
    SESSION_OVERHEAD,
    ClientSession,
    Outcome,
    SessionInput,
    SessionPhase,
    WireFormat,
)

A = ClientId("a")
JSON = WireFormat(Framing.V2, PayloadType.JSON, Shape.PLAIN)
ROOM_FOR_TWO = 2 * (MESSAGE_OVERHEAD + 1)


def stay(journal: Journal | None = None, *, token: str = "secret") -> ClientSession:
    return ClientSession(
        session_id=SessionId("s"),
        client_id=A,
        instance_id="i",
        token=token,
        wire_format=JSON,
        window=30.0,
        journal=journal or Journal(limit=1000),
    )


def offer(received: int = 0, *, token: str = "secret") -> Resume:
    return Resume(session_id="s", resume_token=token, received=received)


def test_a_client_goes_on_from_what_it_has() -> None:
    session = stay()
    for data in (b"1", b"2", b"3"):
        session.journal.keep(data)
    session.drop(now=100.0)
    assert session.queue(b"4")

    assert session.judge(offer(2), A, JSON) is Outcome.RESUMED
    assert session.resume(2) == (b"3", b"4")
    assert session.phase is SessionPhase.CONNECTED


def test_a_client_goes_on_before_its_old_connection_is_known_to_be_lost() -> None:
    session = stay()
    session.journal.keep(b"1")

    assert session.judge(offer(0), A, JSON) is Outcome.RESUMED
    assert session.resume(0) == (b"1",)


@pytest.mark.parametrize("token", ["", "secre", "secret2", "\ud800"])
def test_only_the_right_token_resumes(token: str) -> None:
    assert stay().judge(offer(token=token), A, JSON) is Outcome.FORBIDDEN


def test_another_client_does_not_resume_even_with_the_token() -> None:
    assert stay().judge(offer(), ClientId("b"), JSON) is Outcome.FORBIDDEN


def test_what_was_kept_in_one_encoding_is_of_no_use_in_another() -> None:
    assert stay().judge(offer(), A, WireFormat(Framing.V1, PayloadType.JSON, Shape.PLAIN)) is Outcome.DIFFERENT


@pytest.mark.parametrize("received", [1, 4])
def test_counts_that_cannot_be_are_not_resumed(received: int) -> None:
    """The client has confirmed two of three already."""
    session = stay()
    for data in (b"1", b"2", b"3"):
        session.journal.keep(data)
    session.journal.confirm(2)

    assert session.judge(offer(received), A, JSON) is Outcome.INCOMPLETE


def test_a_session_may_have_to_end_before_its_window_is_over() -> None:
    session = stay()
    session.drop(now=100.0, latest=110.0)

    assert not session.has_expired(109.9)
    assert session.has_expired(110.0)


def test_a_session_never_waits_longer_than_its_window() -> None:
    session = stay()
    session.drop(now=100.0, latest=1000.0)

    assert session.has_expired(130.0)


def test_a_session_waits_for_its_window_and_no_longer() -> None:
    session = stay()
    assert not session.has_expired(1e9)
    session.drop(now=100.0)

    assert not session.has_expired(129.9)
    assert session.has_expired(130.0)

    assert session.judge(offer(), A, JSON) is Outcome.UNKNOWN


def test_a_session_that_overflowed_ends_with_its_connection() -> None:
    session = stay(Journal(limit=0))
    session.journal.keep(b"1")

    assert not session.drop(now=100.0)

    assert session.phase is SessionPhase.ENDED


def test_one_message_too_many_for_an_absent_client_ends_its_session() -> None:
    session = stay(Journal(limit=ROOM_FOR_TWO))
    session.drop(now=100.0)

    assert [session.queue(data) for data in (b"1", b"2", b"3")] == [True, True, False]

    assert session.phase is SessionPhase.ENDED


def test_an_absent_client_whose_messages_gave_way_to_others_loses_its_session() -> None:
    session = stay()
    session.journal.keep(b"1")
    session.drop(now=100.0)
    assert not session.has_overflowed()

    session.journal.give_way()

    assert session.has_overflowed()
    assert session.phase is SessionPhase.ENDED
    session.journal.keep(b"2")
    assert (session.journal.sent, session.journal.weight) == (2, 0)


def test_an_end_is_final_and_frees_what_was_kept() -> None:
    session = stay()
    session.journal.keep(b"1")

    session.end()
    session.end()

    assert (session.phase, session.journal.weight) == (SessionPhase.ENDED, 0)


def test_a_saved_session_goes_on_elsewhere_where_it_was() -> None:
    session, budget = stay(), Budget(10_000)
    session.journal.take(5)
    for data in (b"1", b"2", b"3"):
        session.journal.keep(data)
    session.journal.confirm(1)
    session.is_registered = True

    loaded = ClientSession.load(session.save(), window=30.0, limit=1000, budget=budget, now=5.0)

    assert (session.phase, loaded.phase, loaded.expires_at) == (SessionPhase.ENDED, SessionPhase.AWAY, 35.0)
    assert loaded.judge(offer(2), A, JSON) is Outcome.RESUMED
    assert (loaded.journal.received, loaded.journal.sent) == (1, 3)
    assert budget.used == SESSION_OVERHEAD + loaded.journal.weight
    assert 0 < loaded.journal.weight <= ROOM_FOR_TWO
    assert loaded.resume(2) == (b"3",)
    assert (loaded.session_id, loaded.instance_id, loaded.is_registered) == ("s", "i", True)


@pytest.mark.parametrize("damaged", [b"", b"nonsense", b"\x80"])
def test_what_is_not_a_saved_session_is_refused(damaged: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="not a saved session"):
        ClientSession.load(damaged, window=30.0, limit=1000, budget=Budget(1000), now=0.0)


def test_a_session_that_another_version_saved_is_refused() -> None:
    data = stay().save().replace(b"\xa7version\x01", b"\xa7version\x02")

    with pytest.raises(MalformedMessageError, match="version 2, expected 1"):
        ClientSession.load(data, window=30.0, limit=1000, budget=Budget(1000), now=0.0)


def test_the_table_says_nothing_of_what_cannot_happen() -> None:
    """An end is final, and nothing is queued or expires while there is a connection."""
    impossible = {(SessionPhase.ENDED, turn) for turn in SessionInput}
    impossible |= {(SessionPhase.CONNECTED, turn) for turn in (SessionInput.OVERFLOWED, SessionInput.EXPIRED)}
    impossible |= {(SessionPhase.AWAY, SessionInput.DROPPED)}

    assert {(phase, turn) for phase in SessionPhase for turn in SessionInput} - set(PHASES) == impossible
