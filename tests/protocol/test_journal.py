"""What a journal counts and keeps, and when it drops what it kept."""

from __future__ import annotations

import pytest

from signal_manager.errors import InvalidRequestError
from signal_manager.protocol.journal import CONFIRM_WEIGHT, MESSAGE_OVERHEAD, Budget, Journal
from signal_manager.protocol.websocket import frame_head

ROOM_FOR_TWO = 2 * (MESSAGE_OVERHEAD + 1)


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


def test_there_is_room_for_what_fits() -> None:
    journal = Journal(limit=ROOM_FOR_TWO)
    journal.keep(b"1")

    assert journal.has_room(1)
    assert not journal.has_room(2)
