"""Which connections there are, and who gives way when there are too many."""

from __future__ import annotations

import pytest

from signal_manager.gateway.limits import ClientAddress, Limits
from signal_manager.gateway.occupancy import Occupancy
from tests.gateway.fakes import FakeConnection


def strangers(count: int) -> list[FakeConnection]:
    return [FakeConnection(f"c{n}", source=ClientAddress(f"192.0.2.{n}", (bytes((n,)),))) for n in range(count)]


@pytest.fixture
async def occupancy() -> Occupancy:
    return Occupancy(Limits(max_connections=2, max_strangers=3, max_connections_per_address=2))


async def test_the_oldest_stranger_gives_way_to_a_new_one(occupancy: Occupancy) -> None:
    first, *others = connections = strangers(4)

    for each in connections:
        assert occupancy.enter(each) is None

    assert first.did == ["give way"]
    assert [each.did for each in others] == [[], [], []]


async def test_a_stranger_that_has_sent_connect_stays_before_silent_ones(occupancy: Occupancy) -> None:
    first, second, third, fourth = strangers(4)
    for each in (first, second, third):
        occupancy.enter(each)

    occupancy.introduced(first)
    occupancy.introduced(fourth)  # one that has not entered is none of ours
    occupancy.enter(fourth)

    assert (first.did, second.did) == ([], ["give way"])
    assert list(occupancy.strangers) == [third, first, fourth]


async def test_an_authenticated_client_is_no_stranger_and_gives_way_to_nobody(occupancy: Occupancy) -> None:
    first, *others = strangers(5)
    occupancy.enter(first)

    assert occupancy.take_seat(first)
    for each in others:
        occupancy.enter(each)

    assert first.did == []


async def test_seats_are_bounded_and_free_again_after_their_clients(occupancy: Occupancy) -> None:
    first, second, third, fourth = strangers(4)
    for each in (first, second, third):
        occupancy.enter(each)
    seats = [occupancy.take_seat(each) for each in (first, second, third)]
    full = occupancy.enter(fourth)
    occupancy.leave(fourth)  # one without a seat frees none
    still = occupancy.take_seat(third)
    occupancy.leave(first)

    assert (seats, full, still) == ([True, True, False], "the service is full", False)
    assert occupancy.take_seat(third)


async def test_a_connection_that_ended_before_its_answer_takes_no_seat(occupancy: Occupancy) -> None:
    gone, *others = strangers(3)
    occupancy.enter(gone)
    occupancy.leave(gone)

    assert occupancy.take_seat(gone)
    for each in others:
        occupancy.enter(each)
    assert [occupancy.take_seat(each) for each in others] == [True, True]


async def test_one_address_has_a_bounded_number_of_connections(occupancy: Occupancy) -> None:
    connections = [FakeConnection(f"c{n}") for n in range(3)]

    refusals = [occupancy.enter(each) for each in connections]
    occupancy.leave(connections[0])
    occupancy.leave(connections[2])

    assert refusals == [None, None, "too many connections from this address"]
    assert occupancy.enter(FakeConnection("d")) is None


async def test_a_drain_learns_when_the_last_connection_has_ended(occupancy: Occupancy) -> None:
    first, second = strangers(2)
    occupancy.enter(first)
    occupancy.enter(second)

    occupancy.leave(first)
    with_one = occupancy.is_empty.is_set()
    occupancy.leave(second)

    assert (with_one, occupancy.is_empty.is_set()) == (False, True)
    assert (occupancy.connections, occupancy.strangers) == (set(), {})


async def test_the_largest_holder_of_incomplete_messages_gives_up() -> None:
    class Holder:
        gave_up = 0

        def give_up(self) -> None:
            self.gave_up += 1

    occupancy, small, large = Occupancy(Limits(half_read_bytes=1000)), Holder(), Holder()

    occupancy.count_incomplete(large, 700)
    occupancy.count_incomplete(small, 300)
    within = (small.gave_up, large.gave_up)
    occupancy.count_incomplete(small, 301)

    assert within == (0, 0)
    assert (small.gave_up, large.gave_up) == (0, 1)
