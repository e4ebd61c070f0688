"""Which nodes there are: hello, silence, a process that stood still, and a reunion."""

from __future__ import annotations

from typing import Any

from signal_manager.bus.nats.peers import SWEEP, Peers
from signal_manager.bus.nats.questions import Away, Hello, Query, Response
from signal_manager.bus.nats.subjects import Subjects
from tests.bus.nats.link_double import KeptLink, arrival

SUBJECTS = Subjects("p", "here")


class Seen:
    """A node's view of its peers, with the calls that it makes."""

    def __init__(self) -> None:
        self.link = KeptLink()
        link: Any = self.link
        self.peers = Peers(link, SUBJECTS)
        self.gone: list[str] = []
        self.reunited: list[str | None] = []
        self.peers.on_gone = self.gone.append
        self.peers.on_reunion = self.reunited.append

    def tick_until(self, start: float, end: float) -> None:
        now = start
        while now < end:
            self.peers.tick(now)
            now += SWEEP


async def test_a_new_node_is_greeted_and_a_known_one_is_not() -> None:
    seen = Seen()

    seen.peers.take(arrival(Hello("there", is_new=True)))
    seen.peers.take(arrival(Hello("there")))

    assert seen.peers.names == {"there"}
    assert seen.link.published == [("p.all", Hello("here"))]


async def test_a_node_that_says_nothing_for_long_is_gone() -> None:
    seen = Seen()
    seen.peers._heard["there"] = 100.0

    seen.tick_until(100.0, 106.0)
    assert seen.gone == []
    seen.tick_until(106.0, 107.0)

    assert (seen.gone, len(seen.peers)) == (["there"], 0)


async def test_while_the_link_is_down_no_node_is_gone() -> None:
    seen = Seen()
    seen.peers._heard["there"] = 100.0
    seen.link.is_up = False

    seen.tick_until(100.0, 120.0)

    assert seen.gone == []


async def test_a_process_that_stood_still_misses_nobody() -> None:
    seen = Seen()
    seen.peers._heard["there"] = 100.0
    seen.peers.tick(100.0)

    seen.peers.tick(150.0)

    assert seen.gone == []


async def test_a_question_to_all_is_answered_in_this_nodes_name_if_it_can_be() -> None:
    seen = Seen()
    seen.peers.on_question = lambda question: question + b"!"

    seen.peers.take(arrival(Query(b"who"), reply="asker"))
    seen.peers.take(arrival(Query(b"who"), reply=""))

    assert seen.link.published == [("asker", Response("here", b"who!"))]


async def test_a_reunion_is_announced_and_told_here() -> None:
    seen = Seen()
    seen.peers._heard["there"] = 1.0

    seen.peers.reunite(100.0)
    seen.peers.tick(100.0)
    seen.peers.take(arrival(Away("there")))

    assert [notice for _, notice in seen.link.published][:2] == [Away("here"), Hello("here", is_new=True)]
    assert (seen.reunited, seen.gone) == ([None, "there"], [])
