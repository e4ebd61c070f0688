"""What a session that outlives its connections counts, keeps, and may go on from."""

from __future__ import annotations

import pytest

from signal_manager.errors import InvalidRequestError, MalformedMessageError
from signal_manager.model import ClientId, SessionId
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.messages import PayloadType, Resume, Shape
from signal_manager.protocol.resume import (
    CONFIRM_WEIGHT,
    MESSAGE_OVERHEAD,
    PHASES,
    SESSION_OVERHEAD,
    Budget,
    ClientSession,
    Journal,
    Outcome,
    SessionInput,
    SessionPhase,
    WireFormat,
)
from signal_manager.protocol.websocket import frame_head

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


def test_what_is_confirmed_is_not_kept() -> None:
    journal = Journal(limit=1000)
    for data in (b"1", b"2", b"3"):
        journal.keep(data)

    journal.confirm(2)

    assert journal.unconfirmed == (b"3",)
    assert (journal.sent, journal.weight) == (3, 1 + MESSAGE_OVERHEAD)


def run_of(*messages: bytes) -> tuple[bytes, int]:
    return b"".join(frame_head(0x82, len(data)) + data for data in messages), len(messages)


def test_messages_sent_in_one_go_are_kept_as_one_until_the_last_is_confirmed() -> None:
    journal = Journal(limit=1000)
    journal.keep(b"1")
    journal.keep(*run_of(b"2", b"3", b"4"))
    journal.keep(b"5")
    whole = journal.weight

    journal.confirm(3)

    assert (journal.unconfirmed, journal.sent) == ((b"4", b"5"), 5)
    assert journal.weight == whole - 1 - MESSAGE_OVERHEAD
    assert not journal.can_continue_from(2)
    assert journal.can_continue_from(3)
    journal.confirm(4)
    assert (journal.unconfirmed, journal.weight) == ((b"5",), 1 + MESSAGE_OVERHEAD)
    journal.confirm(5)
    assert (journal.unconfirmed, journal.weight) == ((), 0)


def test_a_run_that_is_too_much_is_given_up_whole() -> None:
    journal = Journal(limit=ROOM_FOR_TWO)
    journal.keep(b"1")

    journal.keep(*run_of(bytes(40), bytes(40)))

    assert (journal.is_complete, journal.unconfirmed, journal.sent, journal.weight) == (False, (), 3, 0)


def test_a_stale_confirmation_changes_nothing() -> None:
    journal = Journal(limit=1000)
    for data in (b"1", b"2"):
        journal.keep(data)
    journal.confirm(2)

    journal.confirm(1)

    assert (journal.unconfirmed, journal.weight) == ((), 0)


def test_nobody_has_received_what_was_not_sent() -> None:
    journal = Journal(limit=1000)
    journal.keep(b"1")

    with pytest.raises(InvalidRequestError, match="received is 2, expected at most the 1"):
        journal.confirm(2)

    assert journal.unconfirmed == (b"1",)


def test_a_journal_that_overflows_drops_the_oldest_and_is_whole_again_once_those_are_confirmed() -> None:
    journal = Journal(limit=ROOM_FOR_TWO)
    for data in (b"1", b"2", b"3", b"4"):
        journal.keep(data)

    assert (journal.is_complete, journal.unconfirmed, journal.sent) == (False, (b"3", b"4"), 4)
    assert [journal.can_continue_from(received) for received in range(6)] == [False, False, True, True, True, False]
    journal.confirm(1)
    assert not journal.is_complete
    journal.confirm(2)
    assert (journal.is_complete, journal.unconfirmed) == (True, (b"3", b"4"))


def test_one_message_that_is_too_long_costs_nothing_once_it_is_confirmed() -> None:
    journal = Journal(limit=ROOM_FOR_TWO)
    journal.keep(bytes(ROOM_FOR_TWO))
    assert not journal.is_complete

    journal.confirm(1)
    journal.keep(b"2")

    assert (journal.is_complete, journal.unconfirmed) == (True, (b"2",))
    assert journal.can_continue_from(1)


def test_a_run_that_was_confirmed_in_part_is_dropped_as_a_whole() -> None:
    journal = Journal(limit=2 * ROOM_FOR_TWO)
    journal.keep(*run_of(b"1", b"2", b"3"))
    journal.confirm(1)

    journal.keep(bytes(ROOM_FOR_TWO))

    assert (journal.is_complete, len(journal.unconfirmed)) == (False, 1)
    assert not journal.can_continue_from(2)
    assert journal.can_continue_from(3)


def test_journals_share_a_budget_and_return_what_they_free() -> None:
    budget = Budget(ROOM_FOR_TWO)
    first, second = Journal(limit=1000, budget=budget), Journal(limit=1000, budget=budget)
    first.keep(b"1")
    second.keep(b"2")

    assert budget.used == ROOM_FOR_TWO
    first.confirm(1)
    second.give_up()
    second.give_up()
    assert budget.used == 0


def test_when_the_budget_is_used_up_those_who_keep_most_give_way() -> None:
    budget = Budget(2000)
    small, large, larger = (Journal(limit=10_000, budget=budget, overhead=10) for _ in range(3))
    small.keep(bytes(100))
    large.keep(bytes(600))
    larger.keep(bytes(700))

    small.keep(bytes(400))

    assert (small.is_complete, large.is_complete, larger.is_complete) == (True, True, False)
    assert budget.used == 3 * 10 + small.weight + large.weight


def test_a_message_larger_than_the_budget_gives_way_itself() -> None:
    journal = Journal(limit=1000, budget=Budget(100), overhead=60)

    journal.keep(b"1")

    assert (journal.is_complete, journal.weight) == (False, 0)


def test_sessions_count_themselves_and_cannot_give_that_up() -> None:
    budget = Budget(100)
    journals = [Journal(limit=1000, budget=budget, overhead=60) for _ in range(2)]

    assert budget.used == 120
    journals[0].keep(b"1")
    assert not journals[0].is_complete
    for journal in journals:
        journal.give_up()
    assert budget.used == 0


def test_it_is_time_to_confirm_after_so_much_and_again_after_as_much() -> None:
    journal = Journal(limit=1000)
    half = CONFIRM_WEIGHT // 2 - MESSAGE_OVERHEAD

    assert [journal.take(half), journal.take(half)] == [False, True]
    assert journal.tell() == 2
    assert [journal.take(half), journal.take(half)] == [False, True]


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


def test_there_is_room_for_what_fits() -> None:
    journal = Journal(limit=ROOM_FOR_TWO)
    journal.keep(b"1")

    assert journal.has_room(1)
    assert not journal.has_room(2)


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
