"""Sessions of all nodes: each is found once, on one page, and a node that talks nonsense or not at all harms nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from signal_manager.admin.cluster import ClusterSessions
from signal_manager.model import ClientId, NodeId, SessionId
from tests.admin.fakes import FakeLiveSessions, FakeSession
from tests.rooms.harness import RoomHarness, running


class Nodes:
    """Two nodes, of which an operator asks the first one."""

    def __init__(self, harness: RoomHarness) -> None:
        self.presences = [FakeLiveSessions(), FakeLiveSessions()]
        self.far = self._cluster(harness, 1)
        self.near = self._cluster(harness, 0)
        self.extra: list[bytes] = []

    def _cluster(self, harness: RoomHarness, index: int) -> ClusterSessions:
        return ClusterSessions(
            live_sessions=self.presences[index],
            rooms=harness.rooms,
            node_id=NodeId(f"node-{index}"),
            others=self._ask,
        )

    async def _ask(self, question: bytes) -> list[bytes]:
        return [self.far.answer(question), *self.extra]

    def add(self, node: int, *names: str) -> list[FakeSession]:
        """Let clients be connected to a node."""
        sessions = [FakeSession(ClientId(name), SessionId(f"session-of-{name}-{node}")) for name in names]
        self.presences[node].connected += sessions
        return sessions


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    async with running(RoomHarness(has_media=False)) as harness:
        yield Nodes(harness)


async def test_sessions_of_all_nodes_are_on_exactly_one_page_in_their_order(nodes: Nodes) -> None:
    nodes.add(0, "a", "c", "e")
    nodes.add(1, "b", "c", "d")
    found: list[tuple[str, str]] = []
    after: str | None = ""

    while after is not None:
        page = await nodes.near.sessions(client_id=None, contains="", after=after, limit=2)
        assert len(page.items) <= 2
        found += [(each.client_id, each.node_id) for each in page.items]
        after = page.next

    assert found == [
        ("a", "node-0"),
        ("b", "node-1"),
        ("c", "node-0"),
        ("c", "node-1"),
        ("d", "node-1"),
        ("e", "node-0"),
    ]


async def test_sessions_are_found_by_client_part_of_its_name_and_id(nodes: Nodes) -> None:
    nodes.add(0, "alice", "bob")
    nodes.add(1, "alice", "malice")

    assert [each.node_id for each in await nodes.near.sessions_of("alice")] == ["node-0", "node-1"]
    page = await nodes.near.sessions(client_id=None, contains="lic", after="", limit=10)
    assert [each.client_id for each in page.items] == ["alice", "alice", "malice"]
    one = await nodes.near.session("session-of-malice-1")
    assert one is not None
    assert (one.client_id, one.node_id) == ("malice", "node-1")
    assert await nodes.near.session("no such session") is None


async def test_a_session_says_its_room(nodes: Nodes) -> None:
    harness_rooms = nodes.near._rooms
    nodes.add(0, "alice")

    page = await nodes.near.sessions(client_id=None, contains="", after="", limit=1)

    assert page.items[0].room_id == harness_rooms.room_of(SessionId("session-of-alice-0")) is None


async def test_sessions_end_wherever_they_are(nodes: Nodes) -> None:
    here, there = nodes.add(0, "alice")[0], nodes.add(1, "alice", "bob")

    assert await nodes.near.end(client_id="alice") == 2
    assert await nodes.near.end(session_id="session-of-bob-1") == 1
    assert await nodes.near.end(session_id="no such session") == 0

    assert [each.is_evicted for each in (here, *there)] == [True, True, True]


async def test_connected_clients_are_complete_up_to_where_the_answer_says(nodes: Nodes) -> None:
    nodes.add(0, "a", "b", "c", "d")
    nodes.add(1, "b", "z")

    part = await nodes.near.connected(after="", limit=2)
    rest = await nodes.near.connected(after=part.until or "", limit=10)

    assert (part.clients, part.until) == (frozenset({"a", "b"}), "b")
    assert (rest.clients, rest.until) == (frozenset({"c", "d", "z"}), None)


@pytest.mark.parametrize("question", [b"", b"\xc1", b"garbage", b"\x81\xa5about\xa7unknown", b"\x91" * 2000])
async def test_a_question_that_cannot_be_read_is_answered_with_nothing(nodes: Nodes, question: bytes) -> None:
    alice = nodes.add(1, "alice")[0]

    nodes.extra = [nodes.far.answer(question)]
    page = await nodes.near.sessions(client_id=None, contains="", after="", limit=10)

    assert [each.client_id for each in page.items] == ["alice"]
    assert not alice.is_evicted
