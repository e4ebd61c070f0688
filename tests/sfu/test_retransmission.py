"""The packets that are kept, the requests to the publisher, and the cost that one receiver may cause."""

from __future__ import annotations

import random

import pytest

from signal_manager.sfu.retransmission import Allowance, MissingPackets, PacketCache

HEADER = bytes(12)


# The cache


def test_a_packet_is_kept_until_it_is_too_old() -> None:
    cache = PacketCache(max_bytes=1000, max_age=1.0)
    cache.put(7, HEADER, b"seven", 10.0)
    cache.put(8, HEADER, b"eight", 10.5)

    cache.expire(11.0)
    assert (cache.get(7), len(cache), cache.size) == ((HEADER, b"seven", 10.0), 2, 10)

    cache.expire(11.2)
    assert (cache.get(7), cache.get(8), cache.size) == (None, (HEADER, b"eight", 10.5), 5)

    cache.clear()
    assert (8 in cache, len(cache), cache.size) == (False, 0, 0)
    cache.expire(99.0)


def test_a_new_packet_pushes_out_the_oldest_and_never_itself_alone() -> None:
    cache = PacketCache(max_bytes=10, max_age=1.0)
    for sequence in range(4):
        cache.put(sequence, HEADER, b"12345", 10.0)
    assert [sequence in cache for sequence in range(4)] == [False, False, True, True]

    cache.put(9, HEADER, bytes(11), 10.0)  # larger than the cache
    assert (len(cache), cache.size) == (0, 0)


def test_a_late_packet_is_as_if_forwarded_after_every_request() -> None:
    """Receivers noticed the gap before it came, so that their requests for it are answered."""
    cache = PacketCache(max_bytes=1000, max_age=1.0)
    cache.put(7, HEADER, b"seven", 10.0, is_late=True)

    assert cache.get(7) == (HEADER, b"seven", float("inf"))
    cache.expire(12.0)
    assert 7 not in cache


def test_a_number_that_comes_twice_is_kept_once() -> None:
    cache = PacketCache(max_bytes=1000, max_age=1.0)
    cache.put(7, HEADER, b"first", 10.0)
    cache.put(7, HEADER, b"again", 10.9)

    assert (cache.get(7), len(cache), cache.size) == ((HEADER, b"first", 10.0), 1, 5)
    cache.expire(11.5)
    assert (len(cache), cache.size) == (0, 0)


def test_no_order_of_packets_makes_it_lose_count() -> None:
    numbers = random.Random(1)
    cache = PacketCache(max_bytes=500, max_age=0.5)
    now = 0.0
    for _ in range(5000):
        now += numbers.random() / 50
        cache.put(numbers.randrange(40), HEADER, bytes(numbers.randrange(60)), now, is_late=numbers.random() < 0.1)
        kept = [packet for sequence in range(40) if (packet := cache.get(sequence)) is not None]
        assert cache.size == sum(len(body) for _, body, _ in kept) <= 500
        assert len(cache) == len(kept)


# Missing packets


def test_a_packet_is_asked_for_at_once_again_and_then_given_up() -> None:
    missing = MissingPackets(interval=0.1, max_requests=3)

    assert missing.skipped(10, 2, 1.0) == [10, 11]
    assert missing.ask_again(1.05) == []
    missing.came(10)
    assert [missing.ask_again(now) for now in (1.11, 1.22, 1.33)] == [[11], [11], []]
    assert (len(missing), missing.due) == (0, float("inf"))


def test_it_tells_when_to_ask_again() -> None:
    missing = MissingPackets(interval=0.1, max_requests=3)
    missing.skipped(10, 1, 1.0)
    missing.skipped(20, 1, 1.04)
    assert missing.due == pytest.approx(1.1)

    missing.ask_again(1.1)
    assert missing.due == pytest.approx(1.14)


def test_numbers_wrap_around() -> None:
    assert MissingPackets(interval=0.1, max_requests=3).skipped(0xFFFF, 3, 1.0) == [0xFFFF, 0, 1]


@pytest.mark.parametrize(("gaps", "asked", "left"), [((256,), 256, 256), ((257,), 0, 0), ((200, 100), 300, 100)])
def test_a_stream_that_jumps_is_not_asked_for_everything(gaps: tuple[int, ...], asked: int, left: int) -> None:
    missing = MissingPackets(interval=0.1, max_requests=3)

    requests = [missing.skipped(1000 * number, count, 1.0) for number, count in enumerate(gaps)]

    assert (sum(map(len, requests)), len(missing)) == (asked, left)


# The allowance


def test_an_allowance_is_a_burst_and_then_a_rate() -> None:
    allowance = Allowance(rate=10.0, burst=100.0)

    assert allowance.take(100, 1.0)
    assert not allowance.take(1, 1.0)
    assert [allowance.take(10, 2.0), allowance.take(1, 2.0)] == [True, False]
    assert [allowance.take(101, 99.0), allowance.take(100, 99.0)] == [False, True]


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    allowance = Allowance(rate=10.0, burst=100.0)
    allowance.take(100, 5.0)

    assert not allowance.take(1, 1.0)
