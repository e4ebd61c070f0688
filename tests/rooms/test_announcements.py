"""Members hear of every change once and in its order."""

from __future__ import annotations

import asyncio

from signal_manager.model import ClientId, MemberRecord, NodeId
from tests.rooms.harness import ROOM, Client, RoomHarness, in_one_room, with_ghost


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


async def test_a_change_that_was_never_announced_is_made_up_for(harness: RoomHarness) -> None:
    ghost = MemberRecord(client_id=ClientId("ghost"), role="sender", node_id=NodeId("gone"))
    (bob,) = await in_one_room(harness, "bob")
    await harness.storage.change_room(ROOM, lambda room: with_ghost(room, ghost))

    await harness.client("carol").join()
    await harness.settled()

    assert bob.told("participant_joined", of="ghost")
    assert bob.told("participant_joined", of="carol")
    assert [sequence for sequence, _ in bob.news] == sorted({sequence for sequence, _ in bob.news})
