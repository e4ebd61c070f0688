"""How memberships begin and end: every clean-up path, races, failures of storage, and the order of events."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from signal_manager.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    SignalManagerError,
    UnavailableError,
)
from signal_manager.media import errors as media_errors
from signal_manager.model import ClientId, NodeId, Participant, Room, RoomId
from signal_manager.protocol.messages import RoomState
from signal_manager.rooms import absence, background, service
from signal_manager.rooms.room_log import difference, write_change
from tests.rooms.harness import ROOM, SOON, Client, RoomHarness
from tests.waiting import until


async def in_one_room(harness: RoomHarness, *names: str) -> list[Client]:
    clients = [harness.client(name) for name in names]
    await clients[0].create()
    for client in clients[1:]:
        await client.join()
    await harness.settled()
    return clients


# -- going ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["leave", "part", "lose"])
async def test_every_way_to_go_ends_in_the_same_clean_up(harness: RoomHarness, way: str) -> None:
    await harness.register("alice")
    alice, bob = await in_one_room(harness, "alice", "bob")
    await bob.pull("alice")
    await bob.answer()
    match way:
        case "leave":
            await alice.leave(reason="battery is empty")
        case "part":
            await harness.rooms.leave_room(alice.caller)
        case _:
            alice.lose_connection()
    await harness.until(lambda: bob.told("participant_left", of="alice"))
    await harness.settled()

    told = bob.events[-1]
    assert told.reason == {"leave": "battery is empty", "part": "left", "lose": "connection lost"}[way]
    assert told.participant is not None
    assert told.participant.tracks is not None
    assert [track.track_name for track in told.participant.tracks] == ["camera"]
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-2"}
    assert {session for session, _ in await harness.ledger()} == {"session-2"}
    record = await harness.record("alice")
    assert (record.room_id, record.role, record.tracks) == (None, None, ())
    with pytest.raises(NotFoundError):
        await harness.rooms.members.state(alice.caller, RoomState(room_id=ROOM))


async def test_an_empty_room_is_closed(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    await alice.leave()
    assert (await harness.room()).is_active

    bob.lose_connection()
    await harness.settled()

    room = await harness.room()
    assert (room.is_active, room.close_reason, room.closed_at, room.participants) == (False, "empty", 1000.0, ())
    assert room.expires_at == 4600.0


async def test_whoever_leaves_while_it_negotiates_is_refused_what_it_waits_for(harness: RoomHarness) -> None:
    alice, _ = await in_one_room(harness, "alice", "bob")
    harness.sfu.gate.clear()
    publishing = asyncio.create_task(alice.publish("1"))
    await harness.until(lambda: harness.sfu.calls[-1] == "publish")

    alice.lose_connection()
    harness.sfu.gate.set()

    with pytest.raises(ConflictError):
        await publishing
    await harness.settled()


async def test_a_service_that_stops_does_not_wait_for_what_a_lost_call_may_yet_bring(
    harness: RoomHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STOP_TIMEOUT", 1000.0)
    harness.rooms._settings = msgspec.structs.replace(harness.rooms._settings, stop_timeout=1000.0)
    alice, _ = await in_one_room(harness, "alice", "bob")
    harness.sfu.gate.clear()
    publishing = asyncio.create_task(alice.publish("1"))
    await harness.until(lambda: harness.sfu.calls[-1] == "publish")

    stopping = asyncio.create_task(harness.rooms.__aexit__(None, None, None))
    with pytest.raises(ConflictError):
        await publishing
    harness.sfu.gate.set()

    async with asyncio.timeout(SOON):
        await stopping
    assert {session for session, _ in await harness.ledger()} == {"session-1"}
    page = await harness.storage.list_media()
    await harness.storage.confirm_media([entry.entry_id for entry in page.items])


@pytest.mark.parametrize("how", ["leave", "unregister"])
async def test_whoever_leaves_while_it_comes_in_does_not_come_in(harness: RoomHarness, how: str) -> None:
    """What a client says last holds: it was told 404 before, and then it was let in."""
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await harness.settled()
    harness.sfu.gate.clear()
    joining = asyncio.create_task(bob.join())
    await harness.until(lambda: harness.sfu.calls[-1] == "open_session")

    async def leave() -> None:
        await (bob.leave() if how == "leave" else harness.rooms.leave_room(bob.caller))

    leaving = asyncio.create_task(leave())
    await asyncio.sleep(0)
    harness.sfu.gate.set()

    with pytest.raises(SignalManagerError):
        await joining
    await leaving
    await harness.settled()
    assert not alice.told("participant_joined")
    assert harness.rooms._memberships.rooms.room_of(bob.caller.session_id) is None


async def test_whoever_goes_while_it_comes_in_does_not_come_in(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await harness.settled()
    harness.sfu.gate.clear()
    joining = asyncio.create_task(bob.join())
    await harness.until(lambda: harness.sfu.calls[-1] == "open_session")

    bob.lose_connection()
    harness.sfu.gate.set()

    with pytest.raises(SignalManagerError):
        await joining
    await harness.settled()
    assert not alice.told("participant_joined")
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-1"}


async def test_whoever_goes_while_its_coming_is_written_down_leaves_again(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await harness.settled()
    joining = asyncio.create_task(bob.join())
    await harness.until(lambda: harness.sfu.calls.count("publish") == 2)
    while not joining.done():
        bob.lose_connection()
        await asyncio.sleep(0)

    await asyncio.gather(joining, return_exceptions=True)
    await harness.settled()

    assert [participant.client_id for participant in (await harness.room()).participants] == ["alice"]
    assert alice.told("participant_joined", of="bob") is alice.told("participant_left", of="bob")


async def test_a_request_that_outlived_its_connection_is_cleaned_up_after(bare_harness: RoomHarness) -> None:
    alice = bare_harness.client("alice")
    alice.lose_connection()
    await alice.create()

    alice.lose_connection()
    await bare_harness.settled()

    assert not (await bare_harness.room()).is_active


async def test_a_cancelled_request_lets_nobody_in(harness: RoomHarness) -> None:
    harness.sfu.gate.clear()
    creating = asyncio.create_task(harness.client("alice").create())
    await harness.until(lambda: harness.sfu.calls == ["ice_servers", "open_session"])

    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    harness.sfu.gate.set()
    await harness.settled()

    assert await harness.storage.get_room(ROOM) is None
    await harness.client("alice").create()


# -- coming back -----------------------------------------------------------------------------------------------------


async def test_a_client_who_is_back_at_once_waits_for_its_former_self_to_go(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    alice.lose_connection()
    again = harness.client("alice", session="the next")

    ack = await again.join()

    assert [member.client_id for member in ack.participants] == ["bob", "alice"]
    await harness.settled()
    assert [event for _, event in bob.news][-3:] == ["participant_left", "participant_joined", "tracks_published"]


async def test_a_membership_that_nobody_knows_of_gives_way(harness: RoomHarness) -> None:
    """As after a crash whose lease has not run out yet."""
    bob = harness.client("bob")
    await bob.create()
    await harness.settled()
    ghost = Participant(client_id=harness.client("alice").name, role="sender", node_id=NodeId("dead"), generation=7)
    before = await harness.room()
    hear(harness, before, await harness.storage.change_room(ROOM, lambda room: with_ghost(room, ghost)))

    ack = await harness.client("alice").join()

    assert [member.client_id for member in ack.participants] == ["bob", "alice"]
    assert bob.told("participant_left", of="alice")


def hear(harness: RoomHarness, before: Room, after: Room) -> None:
    """Let a harness hear what another node has done."""
    for change in difference(before, after):
        harness.rooms._memberships.hear(ROOM, write_change(change))


def with_ghost(room: Room, ghost: Participant) -> Room:
    return msgspec.structs.replace(room, participants=(*room.participants, ghost))


# -- races -----------------------------------------------------------------------------------------------------------


async def test_of_fifty_who_join_at_once_as_many_get_in_as_may(harness: RoomHarness) -> None:
    alice = harness.client("alice")
    await alice.create(max_participants=10)
    others = [harness.client(f"client-{number}") for number in range(50)]

    outcomes = await asyncio.gather(*(other.join() for other in others), return_exceptions=True)

    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 41
    assert len((await harness.room()).participants) == 10
    await harness.settled()
    assert len(harness.sfu.open_tracks) == 10


async def test_fifty_who_come_and_go_at_once_are_seen_by_all_in_one_order(bare_harness: RoomHarness) -> None:
    watcher = bare_harness.client("watcher")
    created = await watcher.create()
    others = [bare_harness.client(f"client-{number}") for number in range(50)]

    async def come_and_go(client: Client, times: int) -> None:
        for _ in range(times):
            ack = await client.join(role="receiver")
            assert [event.sequence for event in client.events] == []
            await asyncio.sleep(0)
            await client.leave()
            sequences = [event.sequence for event in client.events]
            assert sequences == list(range(ack.sequence + 1, ack.sequence + 1 + len(sequences)))

    await asyncio.gather(*(come_and_go(other, number % 3 + 1) for number, other in enumerate(others)))

    sequences = [event.sequence for event in watcher.events]
    assert sequences == list(range(created.sequence + 1, (await bare_harness.room()).sequence + 1))
    assert len(sequences) == 2 * sum(number % 3 + 1 for number in range(50))


async def test_the_ack_is_sent_before_any_later_event(bare_harness: RoomHarness) -> None:
    """A client that awaits its join goes on before later changes of the room are announced."""
    alice, bob, carol = (bare_harness.client(name) for name in ("alice", "bob", "carol"))
    await alice.create()
    told_by_then = []

    async def come(client: Client) -> None:
        await client.join(role="receiver")
        told_by_then.append(len(client.events))

    await asyncio.gather(come(bob), come(carol))

    assert told_by_then == [0, 0]
    assert bob.news == [(3, "participant_joined")]
    assert alice.news == [(2, "participant_joined"), (3, "participant_joined")]


async def test_members_who_cannot_be_told_keep_nobody_else_from_it(harness: RoomHarness) -> None:
    _, _, carol = await in_one_room(harness, "alice", "bob", "carol")
    harness.bus.tagged.add(harness.client("alice").name)
    harness.bus.offline.add(harness.client("bob").name)

    await harness.client("dave").join()

    assert carol.told("participant_joined", of="dave")


# -- storage fails ---------------------------------------------------------------------------------------------------


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_PAUSES", (0.001,))


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made all the same"])
@pytest.mark.usefixtures("_impatient")
async def test_a_store_that_fails_while_somebody_comes_in_leaves_nobody_half_in(
    harness: RoomHarness, is_made: bool
) -> None:
    [alice] = await in_one_room(harness, "alice")
    harness.flaky.append((UnavailableError("disk"), is_made))

    with pytest.raises(UnavailableError):
        await harness.client("bob").join()

    await harness.settled()
    assert [participant.client_id for participant in (await harness.room()).participants] == ["alice"]
    await harness.client("carol").join()
    assert alice.told("participant_joined", of="carol")


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made all the same"])
@pytest.mark.usefixtures("_impatient")
async def test_a_store_that_fails_while_somebody_leaves_is_asked_again(harness: RoomHarness, is_made: bool) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.flaky.append((UnavailableError("disk"), is_made))

    await alice.leave()

    assert [event.event for event in bob.events].count("participant_left") == 1
    sequences = [event.sequence for event in bob.events]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made all the same"])
@pytest.mark.usefixtures("_impatient")
async def test_a_store_that_fails_while_tracks_are_announced_is_asked_again(
    harness: RoomHarness, is_made: bool
) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.flaky.append((UnavailableError("disk"), is_made))

    await alice.publish("1", names=["screen"])
    await harness.settled()
    harness.flaky.append((UnavailableError("disk"), is_made))
    await alice.close("1")

    told = [event for event in bob.events if event.tracks and event.tracks[0].track_name == "screen"]
    assert [event.event for event in told] == ["tracks_published", "tracks_unpublished"]
    assert [track.track_name for track in (await harness.room()).participants[0].tracks] == ["camera"]


@pytest.mark.usefixtures("_impatient")
async def test_leaving_does_not_wait_forever_for_a_store(harness: RoomHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PATIENCE", 0.01)
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.flaky.extend([(UnavailableError("disk"), False)] * 100_000)

    with pytest.raises(UnavailableError, match="it will be when it can"):
        await alice.leave()
    harness.flaky.clear()

    await harness.until(lambda: bob.told("participant_left", of="alice"))


async def test_work_that_fails_for_good_is_given_up(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.flaky.append((SignalManagerError("the record cannot be read"), False))

    alice.lose_connection()
    await harness.settled()
    await bob.leave()

    assert harness.sfu.open_tracks == set()
    await harness.rooms.clean_up_after(NodeId("node-1"))
    assert not (await harness.room()).is_active


# -- duties ----------------------------------------------------------------------------------------------------------


async def test_a_node_that_has_died_is_cleaned_up_after(harness: RoomHarness) -> None:
    await in_one_room(harness, "bob")
    dead = RoomHarness(storage=harness.storage, node_id=NodeId("dead"), sfu=harness.sfu)
    dead.bus.announced = harness.rooms._memberships.hear
    await dead.rooms.__aenter__()
    await dead.client("ghost").join()
    await dead.settled()  # and then it is gone without another word

    await harness.rooms.clean_up_after(NodeId("dead"))
    await harness.rooms.close_due_media(harness.now)
    await harness.settled()

    assert [participant.client_id for participant in (await harness.room()).participants] == ["bob"]
    assert harness.client("bob").told("participant_left", of="ghost")
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-1"}


async def test_media_that_is_due_is_closed(harness: RoomHarness) -> None:
    alice, _ = await in_one_room(harness, "alice", "bob")
    entries = await harness.storage.list_media()
    mine = [entry.entry_id for entry in entries.items if entry.session_id == "session-1"]
    await harness.storage.schedule_media(mine, at=harness.now)

    assert await harness.rooms.close_due_media(harness.now) == len(mine) == 2

    await harness.settled()
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-2"}
    assert {session for session, _ in await harness.ledger()} == {"session-2"}
    await alice.leave()


async def test_what_closing_did_not_confirm_is_due_later(harness: RoomHarness) -> None:
    alice, _ = await in_one_room(harness, "alice", "bob")
    harness.sfu.gate.clear()

    await alice.leave()

    due = [entry.next_attempt_at for entry in (await harness.storage.list_media(session_id=None)).items]
    assert sorted(due, key=str) == [1060.0, 1060.0, None, None]


async def test_members_of_a_room_that_expires_are_told_and_taken_out(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    await harness.storage.change_room(ROOM, lambda room: msgspec.structs.replace(room, expires_at=harness.now))

    expired = await harness.rooms.expire(harness.now + 1)

    assert [room.room_id for room in expired.closed_rooms] == [ROOM]
    await harness.settled()
    for client in (alice, bob):
        assert (client.events[-1].event, client.events[-1].reason) == ("room_closed", "expired")
        with pytest.raises(NotFoundError):
            await client.leave()
    assert harness.sfu.open_tracks == set()
    await alice.create("room-2")


async def test_an_operator_takes_a_member_out_who_is_told_like_the_others(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    await harness.rooms.evict(ROOM, alice.name)
    await harness.settled()

    for client in (alice, bob):
        assert client.told("participant_left", of="alice")
        assert client.events[-1].reason == "removed"
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-2"}
    await alice.join()
    assert [each.client_id for each in (await harness.room()).participants] == ["bob", "alice"]


async def test_an_operator_takes_out_what_no_process_knows_of(harness: RoomHarness) -> None:
    ghost = Participant(client_id=ClientId("ghost"), role="sender", node_id=NodeId("gone"))
    await harness.storage.create_room(Room(room_id=ROOM, is_active=True, participants=(ghost,)))
    bob = harness.client("bob")
    await bob.join()

    await harness.rooms.evict(ROOM, ClientId("ghost"))

    assert bob.told("participant_left", of="ghost")
    assert [each.client_id for each in (await harness.room()).participants] == ["bob"]


async def test_a_change_that_was_never_announced_is_made_up_for(harness: RoomHarness) -> None:
    ghost = Participant(client_id=ClientId("ghost"), role="sender", node_id=NodeId("gone"))
    (bob,) = await in_one_room(harness, "bob")
    await harness.storage.change_room(ROOM, lambda room: with_ghost(room, ghost))

    await harness.client("carol").join()
    await harness.settled()

    assert bob.told("participant_joined", of="ghost")
    assert bob.told("participant_joined", of="carol")
    assert [sequence for sequence, _ in bob.news] == sorted({sequence for sequence, _ in bob.news})


async def test_others_hear_that_a_member_is_away_and_back_and_late_joiners_see_it(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    harness.rooms.set_away(alice.caller.session_id, is_away=True)
    await harness.settled()
    ack = await harness.client("carol").join()
    harness.rooms.set_away(alice.caller.session_id, is_away=False)
    await harness.settled()

    assert [each.client_id for each in ack.participants if each.away] == ["alice"]
    told = [event for event in bob.events if event.event in {"participant_away", "participant_back"}]
    assert [(event.participant.away, event.participant.client_id) for event in told if event.participant] == [
        (True, "alice"),
        (False, "alice"),
    ]
    assert [sequence for sequence, _ in bob.news] == sorted({sequence for sequence, _ in bob.news})
    assert not any(each.away for each in (await harness.room()).participants)


async def test_a_member_that_flaps_does_not_flood_its_room_and_the_last_state_wins(
    harness: RoomHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absence, "PAUSE", 0.02)
    alice, bob = await in_one_room(harness, "alice", "bob")

    for _ in range(50):
        harness.rooms.set_away(alice.caller.session_id, is_away=True)
        await harness.settled()
        harness.rooms.set_away(alice.caller.session_id, is_away=False)
        await harness.settled()
    harness.rooms.set_away(alice.caller.session_id, is_away=True)
    await until(lambda: bob.events[-1].event == "participant_away")
    await harness.settled()

    told = [event for _, event in bob.news if event in {"participant_away", "participant_back"}]
    assert told == ["participant_away", "participant_back"] * (len(told) // 2) + ["participant_away"] * (len(told) % 2)
    assert len(told) < 50
    assert [each.away for each in (await harness.room()).participants if each.client_id == "alice"] == [True]


async def test_who_is_away_before_it_has_come_in_comes_in_away(harness: RoomHarness) -> None:
    (bob,) = await in_one_room(harness, "bob")
    alice = harness.client("alice")
    joining = asyncio.ensure_future(alice.join())
    await asyncio.sleep(0)

    harness.rooms.set_away(alice.caller.session_id, is_away=True)
    await joining
    await harness.settled()

    assert bob.told("participant_away", of="alice")


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made all the same"])
@pytest.mark.usefixtures("_impatient")
async def test_a_store_that_fails_while_somebody_is_away_is_asked_again(harness: RoomHarness, is_made: bool) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.flaky.append((UnavailableError("disk"), is_made))

    harness.rooms.set_away(alice.caller.session_id, is_away=True)
    await harness.settled()

    assert bob.told("participant_away", of="alice")


async def test_nobody_hears_of_the_absence_of_who_has_left(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    await alice.leave()

    harness.rooms.set_away(alice.caller.session_id, is_away=True)
    await harness.settled()

    assert not bob.told("participant_away")


async def test_an_operator_closes_a_room_with_its_members_in_it(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    await harness.rooms.close(ROOM, "the meeting is over")
    await harness.settled()

    for client in (alice, bob):
        assert (client.events[-1].event, client.events[-1].reason) == ("room_closed", "the meeting is over")
    room = await harness.room()
    assert (room.is_active, room.close_reason, room.closed_at) == (False, "the meeting is over", harness.now)
    assert harness.sfu.open_tracks == set()
    with pytest.raises(InvalidRequestError, match="is closed"):
        await harness.rooms.close(ROOM, "again")


async def test_what_is_not_there_cannot_be_taken_out_or_closed(harness: RoomHarness) -> None:
    await in_one_room(harness, "alice")

    for room_id, client_id in ((RoomId("nowhere"), "alice"), (ROOM, "bob")):
        with pytest.raises(NotFoundError):
            await harness.rooms.evict(room_id, ClientId(client_id))
    with pytest.raises(NotFoundError):
        await harness.rooms.close(RoomId("nowhere"), "why not")


async def test_rooms_and_participants_of_this_process_are_counted(harness: RoomHarness) -> None:
    await in_one_room(harness, "alice", "bob")
    await harness.client("carol").create("room-2")

    assert (harness.metrics.rooms.value(), harness.metrics.participants.value()) == (2, 3)


async def test_a_service_that_stops_gives_up_in_time_what_cannot_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal_manager.rooms.service.STOP_TIMEOUT", 0.05)
    harness = RoomHarness()
    async with harness.rooms:
        await harness.client("alice").create()
        await harness.settled()
        for _ in range(1000):
            harness.sfu.fail("close_tracks", media_errors.UnreachableError("no route"))

    assert not (await harness.room()).is_active
    assert await harness.ledger() == {("session-1", None), ("session-1", "0")}
