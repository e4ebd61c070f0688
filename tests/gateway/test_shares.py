"""What one sender may leave for clients that are away: never so much that nothing is left for others."""

from __future__ import annotations

import pytest

from signal_manager.errors import RateLimitedError, TooLargeError
from signal_manager.gateway.shares import SenderShares
from signal_manager.model import ClientId
from signal_manager.protocol.journal import MESSAGE_OVERHEAD, Journal

BUFFER = 1000  # 750 of it for one sender
TARGET = ClientId("b")


def shares(total: int = 1_000_000) -> SenderShares:
    return SenderShares(buffer_bytes=BUFFER, total_bytes=total)


def check(shares: SenderShares, weight: int, *, left_there: int = 0, kept: int = 0) -> None:
    """Ask for "a" to leave `weight` bytes for a client whose buffer holds `kept` bytes already."""
    journal = Journal(limit=BUFFER)
    if kept:
        journal.keep(bytes(kept - MESSAGE_OVERHEAD))
    shares.check("a", weight, target=TARGET, left_there=left_there, journal=journal)


def test_a_message_may_take_the_whole_share_and_no_byte_more() -> None:
    check(shares(), 750)
    with pytest.raises(TooLargeError, match=rf"687 bytes, expected at most {750 - MESSAGE_OVERHEAD} since client b"):
        check(shares(), 751)


def test_what_the_sender_has_left_for_the_client_counts() -> None:
    check(shares(), 350, left_there=400)
    with pytest.raises(RateLimitedError, match="client b is away"):
        check(shares(), 351, left_there=400)


def test_the_buffer_of_the_client_is_a_bound_for_all_senders_together() -> None:
    check(shares(), 300, kept=700)
    with pytest.raises(RateLimitedError):
        check(shares(), 301, kept=700)


def test_one_sender_takes_at_most_a_sixteenth_of_all_buffers() -> None:
    small = shares(total=16 * 500)
    small.add("a", 300)

    check(small, 200)
    with pytest.raises(RateLimitedError):
        check(small, 201)


def test_a_client_that_is_back_frees_the_shares_of_its_senders_alone() -> None:
    small = shares(total=16 * 500)
    for_one, for_another = {"a": 200}, {"a": 300}
    small.add("a", 200)
    small.add("a", 300)

    small.take_back(for_one)
    small.take_back(for_one)  # nothing is counted twice

    assert for_one == {}
    check(small, 200)
    with pytest.raises(RateLimitedError):
        check(small, 201)
    small.take_back(for_another)
    check(small, 500)
