"""Which of two nodes keeps a client, and how long a claim lasts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from signal_manager.bus.nats.claims import Claims
from signal_manager.bus.nats.questions import Claim, Compare, Newer


class Here:
    """The clients of the node "m" at 100 s, and its claims."""

    def __init__(self, *, taken_over: bool = False) -> None:
        self.subscribers: dict[str, Any] = {}
        self.claims = Claims(
            "m", self.subscribers, clock=lambda: 100.0, is_taken_over=lambda client_id, instance_id, at: taken_over
        )

    def attach(self, instance_id: str = "i", taken_up_at: int = 50_000) -> list[str]:
        self.subscribers["a"] = SimpleNamespace(instance_id=instance_id, taken_up_at=taken_up_at)
        return self.claims.attached("a")


def test_a_client_that_was_claimed_is_settled_once_it_is_here() -> None:
    here = Here()

    here.attach()
    assert not here.claims.is_settled("a")
    here.claims.begin("a", "i", 0)
    here.attach()

    assert here.claims.is_settled("a")
    assert here.claims.coming == {}


def test_a_claim_for_two_connections_ends_with_the_second() -> None:
    claims = Here().claims
    claims.begin("a", "i", 0)
    coming = claims.begin("a", "j", 0)

    assert claims.end("a") is None
    assert claims.end("a") is coming
    assert claims.end("a") is None


def test_those_who_asked_for_a_coming_client_are_answered_when_it_is_here() -> None:
    here = Here()
    here.claims.begin("a", "i", 0).questions.append("asker")

    assert here.attach() == ["asker"]
    assert here.attach() == []


def test_a_client_is_gone_with_its_last_connection() -> None:
    here = Here()
    here.attach()

    assert not here.claims.detached("a")
    del here.subscribers["a"]
    assert here.claims.detached("a")
    assert here.claims.since("a") is None
    assert not here.claims.detached("a")


@pytest.mark.parametrize(
    ("since", "node_id", "instance_id", "taken_up_at", "stays"),
    [
        (99.0, "z", "i", 50_000, True),
        (101.0, "a", "i", 50_000, False),
        (100.0, "a", "i", 50_000, True),
        (100.0, "z", "i", 50_000, False),
        (101.0, "z", "j", 40_000, True),
        (99.0, "a", "j", 60_000, False),
        (99.0, "z", "i", 60_000, True),  # one device: the later connection wins
        (99.0, "z", "j", None, False),  # an older version tells only since when: 99 s
    ],
)
def test_after_a_cut_the_later_device_and_connection_win(
    since: float, node_id: str, instance_id: str, taken_up_at: int | None, stays: bool
) -> None:
    here = Here()
    here.attach()

    newer = here.claims.newer("a", Compare(node_id, instance_id, since, taken_up_at))

    assert newer == (Newer("i") if stays else None)


@pytest.mark.parametrize(
    ("yields", "taken_over", "stays"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_only_a_claim_that_yields_leaves_a_client_with_its_later_device(
    yields: bool, taken_over: bool, stays: bool
) -> None:
    here = Here(taken_over=taken_over)
    here.attach()

    newer = here.claims.newer("a", Claim("z", "j", 101.0, yields=yields, taken_up_at=0))

    assert newer == (Newer("i") if stays else None)


def test_of_two_claims_at_one_time_one_wins() -> None:
    here = Here()
    here.claims.begin("a", "i", 50_000)

    assert here.claims.newer("a", Claim("a", "i", 100.0, taken_up_at=50_000)) == Newer("i")
    assert here.claims.newer("a", Claim("z", "i", 100.0, taken_up_at=50_000)) is None
