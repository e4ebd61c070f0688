"""Rates, counts and addresses, with a clock that the tests move."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from signal_manager.errors import RateLimitedError
from signal_manager.gateway.limits import (
    FRAMES_PER_MESSAGE,
    Allowance,
    Buckets,
    ClientAddress,
    Holdings,
    Limits,
    Origins,
    Sample,
    Tally,
    TrustedProxies,
    Usage,
    address_of,
)
from signal_manager.gateway.rates import TokenBucket

NOW = 1000.0
HOME = address_of("203.0.113.7")
ELSEWHERE = address_of("203.0.113.8")
SITE = address_of("2001:db8::1")
LOOPBACK = address_of("127.0.0.1")


# -- token buckets ---------------------------------------------------------------------------------------------------


def taken(bucket: TokenBucket, now: float) -> int:
    """Take all there is."""
    count = 0
    while not bucket.take(now):
        count += 1
    return count


def test_the_bucket_that_rested_longest_is_forgotten_first() -> None:
    buckets = Buckets(1, capacity=2)
    for key in ("a", "b"):
        buckets.of(key, NOW).take(NOW)
    buckets.of("a", NOW)

    buckets.of("c", NOW)

    assert len(buckets) == 2
    assert buckets.wait("a", NOW) > 0
    assert buckets.wait("b", NOW) == 0


# -- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("203.0.113.7", "::ffff:203.0.113.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ("fe80::1%eth0", "fe80::2%eth1"),
    ],
)
def test_what_one_machine_can_use_counts_together(one: str, other: str) -> None:
    assert address_of(one).networks == address_of(other).networks


@pytest.mark.parametrize(
    ("one", "other"), [("203.0.113.7", "203.0.113.8"), ("2001:db8:1:2::1", "2001:db8:1:3::1"), ("1.2.3.4", "102:304::")]
)
def test_what_two_machines_use_does_not(one: str, other: str) -> None:
    assert address_of(one).networks != address_of(other).networks


@pytest.mark.parametrize("text", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_not_counted(text: str) -> None:
    assert address_of(text).networks == ()


def test_what_is_no_address_is_not_echoed() -> None:
    assert address_of("\x1b[31mevil") == ClientAddress("unknown", (b"",))


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        pytest.param([], "10.0.0.1", id="no header"),
        pytest.param(["203.0.113.7"], "203.0.113.7", id="one proxy"),
        pytest.param(["1.1.1.1, 203.0.113.7"], "203.0.113.7", id="the client wrote one too"),
        pytest.param(["1.1.1.1", "203.0.113.7"], "203.0.113.7", id="in a header of its own"),
        pytest.param(["203.0.113.7, 10.1.1.1,10.0.0.9"], "203.0.113.7", id="three proxies"),
        pytest.param(["10.1.1.1, 10.2.2.2"], "10.1.1.1", id="nobody but proxies"),
        pytest.param(["203.0.113.7:51234"], "203.0.113.7", id="with a port"),
        pytest.param(["[2001:db8::1]:443"], "2001:db8::1", id="IPv6 with a port"),
        pytest.param(["2001:db8::1"], "2001:db8::1", id="IPv6"),
        pytest.param(["203.0.113.7, unknown"], "10.0.0.1", id="garbage is where belief ends"),
        pytest.param(["203.0.113.7, , 10.0.0.9"], "10.0.0.9", id="an empty entry too"),
        pytest.param([", ".join(["203.0.113.7"] + ["10.0.0.9"] * 100_000)], "10.0.0.9", id="endless"),
    ],
)
def test_behind_trusted_proxies_the_client_is_the_rightmost_address_that_is_not_one(
    forwarded_for: list[str], client: str
) -> None:
    proxies = TrustedProxies(["10.0.0.0/8"])

    assert proxies.client("10.0.0.1", forwarded_for).text == client


def test_nobody_else_is_believed() -> None:
    proxies = TrustedProxies(["10.0.0.0/8"])

    assert proxies.client("203.0.113.7", ["198.51.100.1"]).text == "203.0.113.7"
    assert TrustedProxies([]).client("10.0.0.1", ["198.51.100.1"]).text == "10.0.0.1"


def test_a_proxy_on_a_dual_stack_socket_is_known() -> None:
    assert TrustedProxies(["10.0.0.1"]).client("::ffff:10.0.0.1", ["203.0.113.7"]).text == "203.0.113.7"


# -- origins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origins", [[], ["https://app.example"], ["HTTPS://App.Example/"]])
def test_listed_origins_and_programs_may_connect(origins: list[str]) -> None:
    assert Origins(["https://app.example/"]).allow(origins)


@pytest.mark.parametrize(
    "origins",
    [
        ["https://evil.example"],
        ["null"],
        [""],
        ["https://app.example.evil.example"],
        ["http://app.example"],
        ["https://app.example:8443"],
        ["https://app.example", "https://evil.example"],
    ],
)
def test_other_origins_may_not(origins: list[str]) -> None:
    assert not Origins(["https://app.example"]).allow(origins)
    assert Origins(["*"]).allow(origins)


# -- what is used up -------------------------------------------------------------------------------------------------


def test_a_tally_forgets_who_is_gone() -> None:
    tally = Tally()
    for address in (HOME, HOME, SITE, LOOPBACK):
        tally.enter(address)
    assert not tally.has_room(HOME, 2)
    assert tally.has_room(ELSEWHERE, 1)

    tally.leave(HOME)
    assert tally.has_room(HOME, 2)
    for address in (HOME, SITE, LOOPBACK):
        tally.leave(address)

    assert len(tally) == 0


def test_wider_networks_of_ipv6_may_have_more_but_not_without_end() -> None:
    tally = Tally()

    def entered(addresses: Iterable[str]) -> int:
        count = 0
        for address in map(address_of, addresses):
            if tally.has_room(address, 10):
                tally.enter(address)
                count += 1
        return count

    assert entered(f"2001:db8:1:0::{number:x}" for number in range(100)) == 10, "a /64"
    assert entered(f"2001:db8:1:{number:x}::1" for number in range(256)) == 30, "with it, its /56"
    assert entered(f"2001:db8:1:{number:x}00::1" for number in range(1, 256)) == 120, "with these, its /48"
    assert entered(["2001:db8:2::1"]) == 1


def test_connections_are_limited_by_address_and_clients_in_all() -> None:
    usage = Usage(Limits(max_connections=2, max_connections_per_address=2))

    assert [usage.enter(HOME) for _ in range(3)] == [None, None, "too many connections from this address"]
    assert [usage.take_seat() for _ in range(3)] == [True, True, False]
    assert usage.enter(ELSEWHERE) == "the service is full"
    usage.leave(HOME, has_seat=False)
    assert usage.is_full
    usage.leave(HOME, has_seat=True)
    assert usage.enter(ELSEWHERE) is None


def test_loopback_is_not_limited_by_address() -> None:
    usage = Usage(Limits(max_connections_per_address=1, connects_per_minute=1))

    assert [usage.enter(LOOPBACK) for _ in range(4)] == [None] * 4
    for _ in range(4):
        usage.check_authentication(LOOPBACK, NOW)


def test_right_attempts_are_counted_too() -> None:
    usage = Usage(Limits(connects_per_minute=60))
    for _ in range(60):
        usage.check_authentication(HOME, NOW)

    with pytest.raises(RateLimitedError) as refusal:
        usage.check_authentication(HOME, NOW)

    assert refusal.value.details == {"retry_after": 1.0}
    usage.check_authentication(ELSEWHERE, NOW)
    usage.check_authentication(HOME, NOW + 1.001)


def test_guesses_from_many_networks_of_a_site_count_together() -> None:
    usage = Usage(Limits(failed_auth_per_minute=3))
    guesses = 0
    for number in range(256):
        address = address_of(f"2001:db8:1:{number:x}::1")
        if not usage.authentication_wait(address, NOW):
            usage.authentication_failed(address, NOW)
            guesses += 1

    assert guesses == 12


def test_failed_authentications_are_throttled_by_address() -> None:
    usage = Usage(Limits(failed_auth_per_minute=3))
    for _ in range(3):
        usage.check_authentication(HOME, NOW)
        usage.authentication_failed(HOME, NOW)

    with pytest.raises(RateLimitedError) as refusal:
        usage.check_authentication(HOME, NOW)

    assert refusal.value.details == {"retry_after": 20.0}
    usage.check_authentication(ELSEWHERE, NOW)
    usage.check_authentication(HOME, NOW + 20.001)


def test_failures_on_loopback_are_not_counted() -> None:
    usage = Usage(Limits(failed_auth_per_minute=1))
    for _ in range(5):
        usage.authentication_failed(address_of("::1"), NOW)

    usage.check_authentication(address_of("::1"), NOW)


def test_lines_about_strangers_are_written_up_to_a_number_and_counted_beyond_it() -> None:
    sample = Sample(lines=3, interval=10.0)

    assert [sample.takes("opened", NOW + number) for number in range(5)] == [True] * 3 + [False] * 2
    assert not sample.takes("closed", NOW + 9.9)
    assert sample.left_out(NOW + 9.9) == {}
    assert sample.left_out(NOW + 10.0) == {"opened": 2, "closed": 1}
    assert sample.left_out(NOW + 20.0) == {}
    assert sample.takes("opened", NOW + 20.0)


def test_a_new_connection_is_no_new_allowance() -> None:
    usage = Usage(Limits(messages_per_minute=5))
    taken(Allowance(usage, now=NOW).of_client("alice", NOW), NOW)

    assert Allowance(usage, now=NOW).of_client("alice", NOW).take(NOW) > 0
    assert Allowance(usage, now=NOW).of_client("bob", NOW).take(NOW) == 0


def test_a_refusal_says_how_long_to_wait() -> None:
    allowance = Allowance(Usage(Limits(messages_per_minute=7)), now=NOW)
    assert allowance.refuse(NOW) is None
    taken(allowance.messages, NOW)

    refusal = allowance.refuse(NOW)

    assert refusal is not None
    assert refusal.message == "more than 7 messages in a minute"
    assert refusal.details == {"retry_after": 8.572}


def test_patience_ends_when_as_many_were_refused_as_are_allowed() -> None:
    allowance = Allowance(Usage(Limits(messages_per_minute=10)), now=NOW)

    assert [allowance.is_insistent(NOW) for _ in range(11)] == [False] * 10 + [True]


def test_frames_that_are_no_messages_have_a_rate_of_their_own() -> None:
    allowance = Allowance(Usage(Limits(messages_per_minute=2)), now=NOW)
    frames = 2 * FRAMES_PER_MESSAGE

    assert [allowance.has_too_many_frames(NOW) for _ in range(frames + 1)] == [False] * frames + [True]


def test_without_a_rate_nobody_meets_it() -> None:
    usage = Usage(Limits(messages_per_minute=None))
    bucket = Allowance(usage, now=NOW).of_client("alice", NOW)

    assert not any(bucket.take(NOW) for _ in range(10_000))


def test_one_message_of_the_largest_size_may_always_come() -> None:
    usage = Usage(Limits(bytes_per_minute=100, largest_message=5000))

    assert usage.volume(0.0).left == 5000


def test_who_holds_most_gives_way_when_all_hold_too_much() -> None:
    holdings: Holdings[str] = Holdings(1000)

    assert holdings.hold("a", 300) is None
    assert holdings.hold("b", 500) is None
    assert holdings.hold("a", 400) is None
    assert holdings.hold("c", 200) == "b"
    assert holdings.used == 600
    assert holdings.hold("a", 0) is None
    assert holdings.hold("a", 0) is None
    assert holdings.used == 200
