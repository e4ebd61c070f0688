"""Whole nodes over a bus that was written from `bus/base.py` alone, loaded by its name as a package from outside is.

The scenarios are those of `test_nodes.py`, which runs them over NATS.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import httpx
import pytest
from pydantic import Field

from signal_manager import adapters
from signal_manager.bus.base import S
from signal_manager.model import NodeId
from signal_manager.observe.metrics import Metrics
from tests.bus.queue_bus import Broker, QueueBus
from tests.integration import test_nodes as over_nats
from tests.integration.conftest import Service, ServiceWith
from tests.integration.test_nodes import KEYS, LIMIT, ask, at, events_until, one_at_each
from tests.nats_server import free_port
from tests.waiting import until
from tests.web import plain_http

pytestmark = pytest.mark.long


class InstalledBus(QueueBus[S]):
    """The queue bus, as a package would ship it."""

    brokers: ClassVar[defaultdict[str, Broker]] = defaultdict(Broker)

    class Options(adapters.Options):
        broker: str = Field(description="The broker that the nodes share.")
        has_forwarder: bool = True

    def __init__(self, *, node_id: NodeId, metrics: Metrics, options: InstalledBus.Options) -> None:
        super().__init__(self.brokers[options.broker], node_id=node_id, has_forwarder=options.has_forwarder)


@pytest.fixture
def broker() -> str:
    return uuid4().hex


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = EntryPoint("queues", f"{__name__}:InstalledBus", "signal_manager.bus")
    monkeypatch.setattr(adapters, "entry_points", lambda group: EntryPoints([installed]))


@pytest.fixture
async def nodes(
    request: pytest.FixtureRequest, broker: str, service_with: ServiceWith, admin_port: int, tmp_path: Path
) -> list[Service]:
    """Return three nodes, whose bus has a forwarder unless a test says otherwise."""
    has_forwarder = getattr(request, "param", True)
    return [
        await service_with(
            **{
                "metrics.enabled": number == 0,
                "metrics.port": admin_port,
                "bus.backend": "queues",
                "bus.options": {"broker": broker, "has_forwarder": has_forwarder},
                "bus.node_id": f"node-{number}",
                "storage.backend": "sqlite",
                "storage.sqlite_path": str(tmp_path / "shared.db"),
                "auth.api_keys": KEYS,
                "security.max_messages_per_minute": 1_000_000,
            }
        )
        for number in range(3)
    ]


@pytest.fixture
def admin_port() -> int:
    return free_port()


@pytest.fixture
async def admin(nodes: list[Service], admin_port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with plain_http(base_url=f"http://127.0.0.1:{admin_port}", timeout=LIMIT) as http:
        yield http


with_and_without_forwarder = pytest.mark.parametrize("nodes", [True, False], indirect=True)

# -- relaying ------------------------------------------------------------------------------------------------------


@with_and_without_forwarder
async def test_every_pair_of_clients_exchanges_all_signal_types(nodes: list[Service]) -> None:
    await over_nats.test_every_pair_of_clients_exchanges_all_signal_types(nodes)


@with_and_without_forwarder
async def test_signals_to_another_node_arrive_in_order(nodes: list[Service]) -> None:
    await over_nats.test_signals_to_another_node_arrive_in_order(nodes)


@with_and_without_forwarder
async def test_targets_that_are_no_names_are_refused_and_reach_nobody(nodes: list[Service]) -> None:
    await over_nats.test_targets_that_are_no_names_are_refused_and_reach_nobody(nodes)


test_nobody_is_there_and_that_is_said_at_once = over_nats.test_nobody_is_there_and_that_is_said_at_once

# -- one client, two nodes -----------------------------------------------------------------------------------------

test_the_newest_connection_wins_over_nodes = over_nats.test_the_newest_connection_wins_over_nodes
test_a_reconnect_of_the_same_instance_is_no_duplicate = over_nats.test_a_reconnect_of_the_same_instance_is_no_duplicate
test_a_session_goes_on_at_another_node = over_nats.test_a_session_goes_on_at_another_node
test_a_wrong_token_resumes_nothing_at_another_node = over_nats.test_a_wrong_token_resumes_nothing_at_another_node
test_a_session_of_a_drained_node_goes_on = over_nats.test_a_session_of_a_node_that_was_drained_goes_on_at_another

# -- rooms ---------------------------------------------------------------------------------------------------------

test_members_on_three_nodes_see_identical_events = over_nats.test_members_on_three_nodes_see_identical_ordered_events
test_many_who_come_at_once_are_told_of_in_one_order = (
    over_nats.test_many_who_come_at_once_on_all_nodes_are_told_of_in_one_order
)
test_a_message_to_a_room_reaches_members_on_all_nodes = over_nats.test_a_message_to_a_room_reaches_members_on_all_nodes
test_a_member_of_another_node_is_taken_out_and_told = over_nats.test_a_member_of_another_node_is_taken_out_and_told
test_members_hear_that_one_is_away_and_back = over_nats.test_members_hear_that_one_of_another_node_is_away_and_back
test_metadata_that_changes_is_told_on_all_nodes = over_nats.test_metadata_that_changes_is_told_on_all_nodes
test_a_room_is_closed_on_all_nodes = over_nats.test_a_room_is_closed_on_all_nodes
test_an_operator_sees_and_ends_sessions_on_all_nodes = over_nats.test_an_operator_sees_and_ends_sessions_on_all_nodes


async def test_members_of_a_node_that_falls_silent_are_away(nodes: list[Service], broker: str) -> None:
    async with one_at_each(nodes) as (ann, ben, cat):
        for client in (ann, ben, cat):
            await ask(client, "WEBRTC_ROOM_JOIN", role="sender", room_id="r", create_if_missing=True)

        InstalledBus.brokers[broker].nodes[NodeId("node-0")].miss(NodeId("node-2"))

        for client in (ann, ben):
            assert (await events_until(client, "participant_away"))[-1]["participant"]["client_id"] == "cat"
            await events_until(client, "participant_back")  # node-2 goes on, and says so


# -- the broker ----------------------------------------------------------------------------------------------------


async def test_cut_off_nodes_serve_their_own_and_find_each_other_again(
    nodes: list[Service], broker: str, admin: httpx.AsyncClient
) -> None:
    async with one_at_each(nodes) as (ann, ben, _), at(nodes[0], "dan") as dan:
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
        await events_until(ann, "participant_joined")
        InstalledBus.brokers[broker].cut()

        ready = await admin.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        sent = await ann.send("SIGNAL_OFFER", {"target_client_id": "ben", "signal_data": "lost"})
        assert (await ann.expect_error(503, id=sent)).fields["retryable"]
        await ann.send("SIGNAL_OFFER", {"target_client_id": "dan", "signal_data": "near"})
        assert (await dan.expect("SIGNAL_OFFER")).fields["signal_data"] == "near"
        await ask(dan, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
        await events_until(ann, "participant_joined")

        InstalledBus.brokers[broker].heal()
        assert (await events_until(ben, "participant_joined"))[-1]["participant"]["client_id"] == "dan"
        await ann.send("SIGNAL_OFFER", {"target_client_id": "ben", "signal_data": "again"})
        assert (await ben.expect("SIGNAL_OFFER")).fields["signal_data"] == "again"


async def test_nothing_is_left_at_the_broker_when_all_clients_have_gone(nodes: list[Service], broker: str) -> None:
    async with one_at_each(nodes) as (ann, *_):
        await ann.send("SIGNAL_OFFER", {"target_client_id": "ben", "signal_data": 1, "ack": True})
        await ann.expect("SIGNAL_ACK")

    shared = InstalledBus.brokers[broker]
    await until(lambda: not (shared.homes or shared.claims or shared.queues))
