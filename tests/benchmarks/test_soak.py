"""The soak accounts for every message, and tells what was lost from what could not arrive."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.processes import free_port
from benchmarks.servers import service
from benchmarks.soak import Watched, measure, missed
from benchmarks.soak_load import TOKEN, Account, Talker, client_id

pytestmark = pytest.mark.long


class FakeTalker:
    """The part of a talker that the account reads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gaps: list[tuple[float, float]] = []


def two() -> tuple[Account, Any, Any]:
    return Account(), cast("Talker", FakeTalker("alice")), cast("Talker", FakeTalker("bob"))


def test_what_arrives_once_and_in_order_is_not_counted_as_anything_else() -> None:
    account, alice, bob = two()
    for _ in range(3):
        account.arrived(account.sent(alice, bob), "alice", bob)

    assert account.close() == {
        "sent": 3, "arrived": 3, "duplicates": 0, "out_of_order": 0, "told": 0, "gone_with_a_session": 0, "lost": 0,
    }  # fmt: skip


def test_what_never_arrives_is_lost() -> None:
    account, alice, bob = two()
    account.sent(alice, bob)

    assert account.close()["lost"] == 1


def test_what_comes_twice_or_late_is_counted() -> None:
    account, alice, bob = two()
    first, second = account.sent(alice, bob), account.sent(alice, bob)
    for number in (second, first, first):
        account.arrived(number, "alice", bob)

    counts = account.close()
    assert (counts["duplicates"], counts["out_of_order"], counts["lost"]) == (1, 1, 0)


def test_a_refusal_is_about_the_oldest_message_to_that_client() -> None:
    account, alice, bob = two()
    account.sent(alice, bob)
    second = account.sent(alice, bob)

    account.refused(alice, "bob")
    account.arrived(second, "alice", bob)

    assert (account.close()["told"], account.close()["lost"]) == (1, 0)


@pytest.mark.parametrize("loser", ["alice", "bob"])
def test_a_session_that_ends_excuses_what_was_on_its_way(loser: str) -> None:
    account, alice, bob = two()
    number = account.sent(alice, bob)
    at = account.on_their_way[number].sent_at
    (alice if loser == "alice" else bob).gaps.append((at + 1, at + 2))

    assert (account.close()["gone_with_a_session"], account.close()["lost"]) == (1, 0)


def test_a_session_that_ended_before_or_went_on_excuses_nothing() -> None:
    account, alice, bob = two()
    account.sent(alice, bob)
    account.arrived(account.sent(alice, bob), "alice", bob)
    (overtaken,) = account.on_their_way.values()
    assert overtaken.overtaken_at is not None

    bob.gaps += [
        (overtaken.sent_at - 2, overtaken.sent_at - 1),
        (overtaken.overtaken_at + 1, overtaken.overtaken_at + 2),
    ]

    assert (account.close()["gone_with_a_session"], account.close()["lost"]) == (0, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_short_soak_watches_the_service_and_loses_nothing(tmp_path: Path) -> None:
    metrics_port, log = free_port(), tmp_path / "service.log"
    said: list[str] = []
    tokens = {client_id(number): TOKEN for number in range(8)}

    with service(tokens, metrics_port=metrics_port, log=log) as server:
        soak = measure(
            Watched(server, metrics_port, log),
            8,
            seconds=1.0,
            drops=0.5,
            pause=0.05,
            room_pause=0.2,
            report=said.append,
        )

    assert soak.sent > 8
    assert soak.arrived + soak.told + soak.gone_with_a_session == soak.sent
    assert soak.drops > 0
    assert soak.counts["rooms_entered"] > 0
    assert soak.rss_end_bytes > 0
    assert not [phrase for phrase in missed(soak) if "memory" not in phrase and "lag" not in phrase]
    assert len(said) == 3
