"""Several nodes as one service: three in this process, with one SQLite file and a real nats-server between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import permutations, product
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiortc import AudioStreamTrack

from signal_manager.bus.nats.bus import NatsBus
from signal_manager.client import Room, RoomHappening, SignalClient, TrackMuted, TrackUnmuted
from signal_manager.sfu import LocalSfu
from tests.integration.conftest import Service, ServiceWith
from tests.integration.v1_client import DIALECTS, SIGNAL_TYPES, Client, connect
from tests.nats_server import NatsServer, free_port
from tests.waiting import until
from tests.web import plain_http

LIMIT = 20.0
NAMES = ("ann", "ben", "cat")
GUESTS = [f"guest-{number}" for number in range(60)]
KEYS = [f"{name}:t" for name in (*NAMES, "dan", *GUESTS)]
V2 = "signal-manager.v2"


@pytest.fixture
async def nodes(nats: NatsServer, service_with: ServiceWith, admin_port: int, tmp_path: Path) -> list[Service]:
    """Return three nodes."""
    return [
        await service_with(
            **{
                "metrics.enabled": number == 0,
                "metrics.port": admin_port,
                "bus.backend": "nats",
                "bus.nats_url": nats.url,
                "bus.node_id": f"node-{number}",
                "storage.backend": "sqlite",
                "storage.sqlite_path": str(tmp_path / "shared.db"),
                "auth.api_keys": KEYS,
                "security.max_messages_per_minute": 1_000_000,
            }
        )
        for number in range(3)
    ]


@asynccontextmanager
async def at(
    service: Service, name: str, subprotocol: str | None = V2, max_queue: int | None = 16, **fields: Any
) -> AsyncIterator[Client]:
    """Connect a client to a node."""
    async with connect(service.url, subprotocol, max_queue=max_queue) as client:
        await log_in(client, name, **fields)
        yield client


async def log_in(client: Client, name: str, **fields: Any) -> dict[str, Any]:
    await client.send("CONNECT", {"client_id": name, "auth_token": "t", **fields})
    return (await client.expect("CONNECT_ACK")).fields


@asynccontextmanager
async def one_at_each(nodes: list[Service]) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(at(node, name)) for node, name in zip(nodes, NAMES, strict=True)]


async def ask(client: Client, message_type: str, **fields: Any) -> dict[str, Any]:
    """Send a request and return its ACK's fields, leaving out what comes before."""
    request = await client.send(message_type, fields)
    while (reply := await client.receive()).id != request:
        pass
    assert reply.type == f"{message_type}_ACK", reply
    return reply.fields


async def events_until(client: Client, event: str, **matching: Any) -> list[dict[str, Any]]:
    """Return the room events that come, up to the one that is looked for."""
    events = []
    while True:
        events.append((await client.expect("ROOM_EVENT")).fields)
        if events[-1]["event"] == event and matching.items() <= events[-1].items():
            return events


async def until_away(service: Service) -> None:
    await until(lambda: any(service.server._registry.session_store.away()), limit=LIMIT)


async def until_nodes_know_each_other(nodes: list[Service]) -> None:
    buses = [node.server._registry.bus for node in nodes]
    await until(lambda: all(not isinstance(bus, NatsBus) or len(bus._peers) == 2 for bus in buses), limit=LIMIT)


# -- signals -------------------------------------------------------------------------------------------------------


async def test_every_pair_of_clients_exchanges_all_signal_types(nodes: list[Service]) -> None:
    async with one_at_each(nodes) as clients:
        by_name = dict(zip(NAMES, clients, strict=True))
        for sender, target in permutations(NAMES, 2):
            for kind in SIGNAL_TYPES:
                fields = {"target_client_id": target, "signal_data": {"n": [1, kind]}, "ack": True}
                sent = await by_name[sender].send(kind, fields)

                received = await by_name[target].expect(kind)
                told = await by_name[sender].expect("SIGNAL_ACK")
                assert (received.id, told.id, told.fields["status"]) == (sent, sent, "delivered")
                assert received.fields["sender_client_id"] == sender
                assert received.fields["signal_data"] == {"n": [1, kind]}


async def test_every_encoding_reaches_every_other(nodes: list[Service]) -> None:
    for dialect, other in product(DIALECTS, DIALECTS):
        async with connect(nodes[0].url, dialect=dialect) as ann, connect(nodes[1].url, dialect=other) as ben:
            await ann.log_in(("ann", "t"))
            await ben.log_in(("ben", "t"))
            await ann.signal("SIGNAL_OFFER", "ben", "v=0 ü:1")

            received = await ben.expect("SIGNAL_OFFER")
            assert other.read_signal(received) == ("ann", "v=0 ü:1"), (dialect, other)


async def test_nobody_is_there_and_that_is_said_at_once(nodes: list[Service]) -> None:
    async with at(nodes[0], "ann") as ann:
        sent = await ann.send("SIGNAL_OFFER", {"target_client_id": "nobody", "signal_data": 1, "ack": True})

        error = await ann.expect_error(404, id=sent)
        assert error.fields["details"] == {"target_client_id": "nobody"}


async def test_targets_that_are_no_names_are_refused_and_reach_nobody(nodes: list[Service]) -> None:
    async with at(nodes[0], "ann") as ann, at(nodes[1], "ben") as ben:
        for target in ("", "ü", "a b", "*", ">", "a.>", "x\r\nPUB y 0\r\n", "x" * 300):
            await ann.send("SIGNAL_OFFER", {"target_client_id": target, "signal_data": 1})
            await ann.expect_error(400)

        await ann.send("SIGNAL_OFFER", {"target_client_id": "ben", "signal_data": 2})
        assert (await ben.expect("SIGNAL_OFFER")).fields["signal_data"] == 2


async def test_signals_to_another_node_arrive_in_order(nodes: list[Service]) -> None:
    async with at(nodes[0], "ann") as ann, at(nodes[1], "ben") as ben:
        for number in range(300):
            kind = "JSON" if number % 7 else "CBOR"
            fields: dict[str, Any] = {"target_client_id": "ben", "signal_data": number}
            if kind == "CBOR":
                fields["ack"] = False
            await ann.send("SIGNAL_OFFER", fields)

        assert [(await ben.expect("SIGNAL_OFFER")).fields["signal_data"] for _ in range(300)] == list(range(300))


# -- presence ------------------------------------------------------------------------------------------------------


async def test_signals_to_another_node_are_counted(nodes: list[Service], admin: httpx.AsyncClient) -> None:
    async with one_at_each(nodes) as (here, there, _):
        for number in range(7):
            await here.send("SIGNAL_OFFER", {"target_client_id": NAMES[1], "signal_data": number})
            await there.expect("SIGNAL_OFFER")

        numbers = (await admin.get("/metrics")).text.splitlines()

        assert 'signal_manager_messages_received_total{type="SIGNAL_OFFER"} 7.0' in numbers
        assert "signal_manager_signals_relayed_total 7.0" in numbers


async def test_the_newest_connection_wins_over_nodes(nodes: list[Service]) -> None:
    async with at(nodes[0], "ann") as old, at(nodes[1], "ann") as new, at(nodes[2], "ben") as ben:
        await old.expect_close(4409)

        await ben.send("SIGNAL_OFFER", {"target_client_id": "ann", "signal_data": 1})
        assert (await new.expect("SIGNAL_OFFER")).fields["signal_data"] == 1


async def test_a_reconnect_of_the_same_instance_is_no_duplicate(nodes: list[Service]) -> None:
    async with at(nodes[0], "ann", instance_id="i") as old, at(nodes[1], "ann", instance_id="i"):
        await old.expect_close(4408)


@pytest.mark.parametrize("is_half_open", [False, True])
async def test_a_session_goes_on_at_another_node(nodes: list[Service], is_half_open: bool) -> None:
    async with at(nodes[2], "ben") as ben, connect(nodes[0].url, V2) as old:
        ack = await log_in(old, "ann", resumable=True)
        if not is_half_open:
            old.websocket.transport.abort()
            await until_away(nodes[0])
            for number in range(3):
                fields = {"target_client_id": "ann", "signal_data": number, "ack": True}
                await ben.send("SIGNAL_OFFER", fields)
                assert (await ben.expect("SIGNAL_ACK")).fields["status"] == "queued"

        async with connect(nodes[1].url, V2) as new:
            wish = {"session_id": ack["session_id"], "resume_token": ack["resume_token"], "received": 0}
            again = await log_in(new, "ann", resumable=True, resume=wish)

            assert (again["resumed"], again["session_id"]) == (True, ack["session_id"])
            queued = 0 if is_half_open else 3
            await ben.send("SIGNAL_OFFER", {"target_client_id": "ann", "signal_data": queued})
            heard = [(await new.expect("SIGNAL_OFFER")).fields["signal_data"] for _ in range(queued + 1)]
            assert heard == list(range(queued + 1))


async def test_a_wrong_token_resumes_nothing_at_another_node(nodes: list[Service]) -> None:
    async with connect(nodes[0].url, V2) as old:
        ack = await log_in(old, "ann", resumable=True)
        async with connect(nodes[1].url, V2) as new:
            wish = {"session_id": ack["session_id"], "resume_token": "wrong", "received": 0}
            again = await log_in(new, "ann", resumable=True, resume=wish)

            assert not again.get("resumed")
            await old.expect_close(4409)


async def test_a_session_of_a_node_that_was_drained_goes_on_at_another(nodes: list[Service]) -> None:
    async with at(nodes[2], "ben"), connect(nodes[0].url, V2) as old:
        ack = await log_in(old, "ann", resumable=True)
        await nodes[0].server.stop()

        async with connect(nodes[1].url, V2) as new:
            wish = {"session_id": ack["session_id"], "resume_token": ack["resume_token"], "received": 1}
            again = await log_in(new, "ann", resumable=True, resume=wish)
            assert again["resumed"]


# -- rooms ---------------------------------------------------------------------------------------------------------


async def test_members_on_three_nodes_see_identical_ordered_events(nodes: list[Service]) -> None:
    async with one_at_each(nodes) as (ann, ben, cat), at(nodes[0], "dan") as dan:
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        start = (await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r"))["sequence"]
        await ask(cat, "WEBRTC_ROOM_JOIN", role="receiver", room_id="r")
        for _ in range(5):
            await ask(dan, "WEBRTC_ROOM_JOIN", role="receiver", room_id="r")
            await ask(dan, "WEBRTC_ROOM_LEAVE", room_id="r", reason="done")
        await ask(cat, "WEBRTC_ROOM_LEAVE", room_id="r", reason="last")

        seen = [await events_until(member, "participant_left", reason="last") for member in (ann, ben)]
        assert seen[0][1:] == seen[1]  # ann was there before ben
        assert [event["sequence"] for event in seen[1]] == list(range(start + 1, start + 13))


async def test_many_who_come_at_once_on_all_nodes_are_told_of_in_one_order(nodes: list[Service]) -> None:
    async with one_at_each(nodes) as (ann, ben, cat):
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")

        async def come_and_go(client: Client) -> None:
            for _ in range(5):
                await ask(client, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
                await ask(client, "WEBRTC_ROOM_LEAVE", room_id="r")

        await asyncio.gather(come_and_go(ben), come_and_go(cat))

        told = [(await ann.expect("ROOM_EVENT")).fields["sequence"] for _ in range(20)]
        assert told == list(range(2, 22))


async def test_of_sixty_who_would_make_a_room_at_once_on_all_nodes_one_does_and_nothing_is_an_error(
    nodes: list[Service],
) -> None:
    await until_nodes_know_each_other(nodes)
    async with AsyncExitStack() as stack:
        guests = [
            await stack.enter_async_context(at(nodes[number % len(nodes)], name, max_queue=None))
            for number, name in enumerate(GUESTS)
        ]
        wanted = {"room_id": "party", "role": "receiver", "create_if_missing": True}
        acks = await asyncio.gather(*(ask(guest, "WEBRTC_ROOM_JOIN", **wanted) for guest in guests))

        assert [ack.get("created", False) for ack in acks].count(True) == 1
        assert sorted(ack["sequence"] for ack in acks) == list(range(1, 61))
        # The news of the last members may still be on its way to the first one's node.
        async with asyncio.timeout(30):
            while (state := await ask(guests[0], "ROOM_STATE", room_id="party"))["sequence"] < len(GUESTS):
                pass
        assert {member["client_id"] for member in state["participants"]} == set(GUESTS)
        errors = [node.server._registry.metrics.errors_sent.total() for node in nodes]
        assert errors == [0, 0, 0]


async def test_a_message_to_a_room_reaches_members_on_all_nodes(nodes: list[Service]) -> None:
    async with one_at_each(nodes) as (ann, ben, cat):
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
        await ask(cat, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")

        await cat.send("SIGNAL_MESSAGE", {"room_id": "r", "signal_data": "hello", "ack": True})

        assert (await cat.expect("SIGNAL_ACK")).fields["status"] == "delivered"
        await events_until(ann, "participant_joined", sequence=3)
        await events_until(ben, "participant_joined")
        for member in (ann, ben):
            assert (await member.expect("SIGNAL_MESSAGE")).fields["signal_data"] == "hello"


async def test_a_member_of_another_node_is_taken_out_and_told(nodes: list[Service]) -> None:
    async with one_at_each(nodes) as (ann, ben, _):
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")

        await nodes[2].server._registry.dispatcher.rooms.evict("r", "ben")  # type: ignore[arg-type]  # plain names

        events = [await events_until(member, "participant_left", reason="removed") for member in (ann, ben)]
        assert [each[-1]["participant"]["client_id"] for each in events] == ["ben", "ben"]
        await ben.send("ROOM_STATE", {"room_id": "r"})
        await ben.expect_error(404)
        await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")


async def test_members_hear_that_one_of_another_node_is_away_and_back(nodes: list[Service]) -> None:
    async with one_at_each(nodes) as (ann, ben, cat):
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        async with connect(nodes[0].url, V2) as dan:
            session = await log_in(dan, "dan", resumable=True)
            await ask(dan, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
            await ask(ben, "WEBRTC_ROOM_JOIN", role="receiver", room_id="r")
            await events_until(dan, "participant_joined")
            dan.websocket.transport.abort()
            away = (await events_until(ben, "participant_away"))[-1]
            welcome = await ask(cat, "WEBRTC_ROOM_JOIN", role="receiver", room_id="r")

        assert [each["client_id"] for each in welcome["participants"] if each.get("away")] == ["dan"]
        async with connect(nodes[0].url, V2) as dan:
            offer = {"session_id": session["session_id"], "resume_token": session["resume_token"], "received": 2}
            assert (await log_in(dan, "dan", resumable=True, resume=offer))["resumed"]
            back = [(await events_until(client, "participant_back"))[-1] for client in (ann, ben, cat)]

        assert (away["participant"]["client_id"], away["participant"]["away"]) == ("dan", True)
        assert back == [back[0]] * 3
        assert "away" not in back[0]["participant"]


async def test_members_of_a_node_that_is_not_heard_of_are_away_until_it_says_otherwise(
    nodes: list[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal_manager.bus.nats.peers._HELLO", 0.3)
    async with one_at_each(nodes) as (ann, ben, cat):
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
        await ask(cat, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
        await until_nodes_know_each_other(nodes)
        bus = nodes[2].server._registry.bus
        assert isinstance(bus, NatsBus)
        assert bus._sweeper is not None
        bus._sweeper.cancel()  # it says no more that it is there, and hears what others say of it

        for client in (ann, ben):
            seen: list[str] = []
            while seen[-1:] != ["participant_back"]:
                event = (await client.expect("ROOM_EVENT")).fields
                # On a busy machine, at these times, the others may be away for a moment too.
                if event["participant"]["client_id"] == "cat":
                    seen.append(event["event"])
            assert seen[-2:] == ["participant_away", "participant_back"]


async def test_a_node_that_stood_still_itself_misses_nobody(
    nodes: list[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    await until_nodes_know_each_other(nodes)
    bus = nodes[0].server._registry.bus
    assert isinstance(bus, NatsBus)
    missed: list[str] = []
    monkeypatch.setattr(bus._peers, "on_gone", missed.append)
    await until(lambda: bus._peers._ticked_at is not None)
    assert bus._peers._ticked_at is not None

    # As after ten seconds in which this process had no turn, and has not read yet what the others have said.
    bus._peers._ticked_at -= 10
    bus._peers._heard = {peer: at - 10 for peer, at in bus._peers._heard.items()}
    bus._sweep()

    assert (len(bus._peers), missed) == (2, [])


async def test_metadata_that_changes_is_told_on_all_nodes(nodes: list[Service]) -> None:
    await until_nodes_know_each_other(nodes)
    async with one_at_each(nodes) as clients:
        for client in clients:
            await ask(client, "WEBRTC_ROOM_JOIN", room_id="r", role="receiver", create_if_missing=True)
        changed = await ask(clients[1], "METADATA_UPDATE", room_id="r", metadata={"hand": True})
        assert changed["sequence"] == 4
        for client in (clients[0], clients[2]):
            told = (await events_until(client, "metadata_changed", sequence=4))[-1]
            assert (told["participant"]["client_id"], told["participant"]["metadata"]) == ("ben", {"hand": True})

        await nodes[2].server._registry.dispatcher.rooms.describe("r", "ann", {"by": "operator"})  # type: ignore[arg-type]  # plain names
        for client in clients[:2]:
            told = (await events_until(client, "metadata_changed", sequence=5))[-1]
            assert told["participant"]["metadata"] == {"by": "operator"}
        state = await ask(clients[1], "ROOM_STATE", room_id="r")
        assert [each["metadata"] for each in state["participants"]] == [{"by": "operator"}, {"hand": True}, {}]


async def test_mute_is_heard_on_the_other_node_and_found_by_those_who_come_later(
    nats: NatsServer, service_with: ServiceWith, tmp_path: Path
) -> None:
    async with LocalSfu(http_port=0) as sfu, AsyncExitStack() as stack:
        two = [
            await service_with(
                **{
                    "bus.backend": "nats",
                    "bus.nats_url": nats.url,
                    "bus.node_id": f"node-{number}",
                    "storage.backend": "sqlite",
                    "storage.sqlite_path": str(tmp_path / "shared.db"),
                    "auth.api_keys": KEYS,
                    "media.backend": "cloudflare",
                    "cloudflare.app_id": sfu.app_id,
                    "cloudflare.app_secret": sfu.app_secret,
                    "cloudflare.base_url": sfu.base_url,
                    "cloudflare.stun_url": "",
                }
            )
            for number in range(2)
        ]

        async def join(node: Service, name: str) -> Room:
            client = await stack.enter_async_context(SignalClient(node.url, name, "t"))
            return await client.join("r", create=True)

        def state(room: Room) -> dict[str, bool]:
            ann = room.participants.get("ann")
            return {} if ann is None else {name: track.muted for name, track in ann.tracks.items()}

        ann, ben = await join(two[0], "ann"), await join(two[1], "ben")
        (voice,) = await ann.publish(AudioStreamTrack())
        await ann.publish(AudioStreamTrack(), name="desk", muted=True)
        await until(lambda: state(ben) == {"audio": False, "desk-audio": True}, limit=30)
        heard: list[RoomHappening] = []
        for name in ("track_muted", "track_unmuted"):
            ben.on(name, heard.append)

        voice.mute()
        await until(lambda: state(ben) == {"audio": True, "desk-audio": True}, limit=30)
        late = [await join(node, name) for node, name in zip(two, ("cat", "dan"), strict=True)]
        assert [state(room) for room in late] == [{"audio": True, "desk-audio": True}] * 2

        voice.unmute()
        rooms = (ben, *late)
        await until(lambda: all(state(room) == {"audio": False, "desk-audio": True} for room in rooms), limit=30)
        member = ben.participants["ann"]
        await until(lambda: len(heard) == 2, limit=30)
        assert heard == [TrackMuted(member, "audio"), TrackUnmuted(member, "audio")]


async def test_a_room_is_closed_on_all_nodes(nodes: list[Service]) -> None:
    async with one_at_each(nodes) as (ann, ben, _):
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")

        await nodes[2].server._registry.dispatcher.rooms.close("r", "over")  # type: ignore[arg-type]  # plain names

        for member in (ann, ben):
            assert (await events_until(member, "room_closed"))[-1]["reason"] == "over"
            await member.send("ROOM_STATE", {"room_id": "r"})
            await member.expect_error(404)


# -- operators -----------------------------------------------------------------------------------------------------


async def test_an_operator_sees_and_ends_sessions_on_all_nodes(nodes: list[Service], admin: httpx.AsyncClient) -> None:
    async with one_at_each(nodes) as (ann, ben, cat):
        await until_nodes_know_each_other(nodes)
        sessions = (await admin.get("/api/v1/sessions")).json()["items"]
        assert [(each["client_id"], each["node_id"]) for each in sessions] == [
            (name, f"node-{number}") for number, name in enumerate(NAMES)
        ]
        clients = (await admin.get("/api/v1/clients", params={"limit": 2})).json()
        assert [each["client_id"] for each in clients["items"]] == ["ann", "ben"]
        rest = (await admin.get("/api/v1/clients", params={"limit": 2, "after": clients["next"]})).json()
        assert [(each["client_id"], each["is_connected"]) for each in rest["items"]] == [("cat", True)]

        told = await admin.post("/api/v1/clients/ben/messages", json={"data": "hello"})
        assert told.json() == {"delivered": 1, "undelivered": 0}
        assert (await ben.expect("SIGNAL_MESSAGE")).fields["signal_data"] == "hello"
        assert (await admin.post("/api/v1/clients/* >/messages", json={"data": 1})).status_code == 404

        assert (await admin.post("/api/v1/clients/ben/disconnect", json={})).json() == {"ended": 1}
        await ben.expect_close(4403)
        assert (await admin.post(f"/api/v1/sessions/{sessions[2]['session_id']}/disconnect", json={})).json() == {
            "ended": 1
        }
        await cat.expect_close(4403)
        await ann.check_alive()


@pytest.fixture
async def admin(nodes: list[Service], admin_port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with plain_http(base_url=f"http://127.0.0.1:{admin_port}", timeout=LIMIT) as http:
        yield http


@pytest.fixture
def admin_port() -> int:
    return free_port()


# -- NATS away -----------------------------------------------------------------------------------------------------


async def test_without_nats_each_node_serves_its_own_and_all_heals_by_itself(
    nodes: list[Service], nats: NatsServer, admin: httpx.AsyncClient
) -> None:
    async with one_at_each(nodes) as (ann, ben, _), at(nodes[0], "dan") as dan:
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
        await events_until(ann, "participant_joined")
        await nats.kill()
        await until(lambda: not any(node.server._registry.bus.is_connected for node in nodes), limit=LIMIT)

        ready = await admin.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        sent = await ann.send("SIGNAL_OFFER", {"target_client_id": "ben", "signal_data": "lost"})
        assert (await ann.expect_error(503, id=sent)).fields["retryable"]
        await ann.send("SIGNAL_OFFER", {"target_client_id": "dan", "signal_data": "near"})
        assert (await dan.expect("SIGNAL_OFFER")).fields["signal_data"] == "near"
        await ask(dan, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
        await events_until(ann, "participant_joined")

        await nats.start()
        assert (await events_until(ben, "participant_joined"))[-1]["participant"]["client_id"] == "dan"
        await until(lambda: all(node.server._registry.bus.is_connected for node in nodes), limit=LIMIT)
        await ann.send("SIGNAL_OFFER", {"target_client_id": "ben", "signal_data": "again"})
        assert (await ben.expect("SIGNAL_OFFER")).fields["signal_data"] == "again"


async def test_of_two_presences_the_older_is_closed_when_nodes_meet_again(
    nodes: list[Service], nats: NatsServer
) -> None:
    async with at(nodes[0], "ann") as old:
        await nats.kill()
        await until(lambda: not any(node.server._registry.bus.is_connected for node in nodes), limit=LIMIT)
        async with at(nodes[1], "ann") as new:
            await nats.start()

            await old.expect_close(4409)
            await new.check_alive()
