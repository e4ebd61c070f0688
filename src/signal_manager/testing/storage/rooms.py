"""The contract of stored rooms: one primitive changes them, atomically, and their sequence counts the changes."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from signal_manager.errors import ConflictError, NotFoundError
from signal_manager.model import NodeId, Room, RoomId, Track
from signal_manager.storage.base import RoomChange, Storage
from signal_manager.testing.storage.fixtures import NOW, StorageFixtures, client, member, room

R = RoomId("r")


def joining(client_id: str) -> RoomChange:
    """Return the change that adds a member, or refuses when the room is full."""

    def join(present: Room) -> Room:
        if present.max_participants is not None and len(present.participants) >= present.max_participants:
            raise ConflictError("the room is full")
        return msgspec.structs.replace(present, participants=(*present.participants, member(client_id)))

    return join


def renaming(name: str) -> RoomChange:
    """Return the change that sets the room's metadata."""
    return lambda present: msgspec.structs.replace(present, metadata={"name": name})


class RoomsContract(StorageFixtures):
    """Rooms."""

    async def test_a_created_room_is_returned_with_every_field_and_sequence_one(self, storage: Storage) -> None:
        wanted = room(
            "r",
            app_id="app",
            sender_client_id="a",
            receiver_client_id="b",
            session_id="s",
            metadata={"created_at": NOW},
            participants=(
                member(
                    "a",
                    session_id="s",
                    metadata={"n": 1},
                    tracks=(Track(mid="0", track_name="camera", kind="video"), Track(mid="1", track_name="mic")),
                    node_id="n",
                    generation=3,
                    joined_at=NOW,
                ),
            ),
            max_participants=5,
            updated_at=NOW,
            expires_at=NOW + 0.5,
            closed_at=NOW,
            close_reason="because",
        )

        created = await storage.create_room(wanted)

        assert created == msgspec.structs.replace(wanted, sequence=1)
        assert await storage.get_room(R) == created

    async def test_creating_an_active_room_twice_conflicts_and_keeps_the_first(self, storage: Storage) -> None:
        first = await storage.create_room(room("r", app_id="first"))

        with pytest.raises(ConflictError):
            await storage.create_room(room("r", app_id="second"))

        assert await storage.get_room(R) == first

    async def test_of_rooms_created_at_the_same_time_one_wins(self, storage: Storage, other: Storage) -> None:
        outcomes = await asyncio.gather(
            storage.create_room(room("r", app_id="1")),
            other.create_room(room("r", app_id="2")),
            return_exceptions=True,
        )

        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConflictError", "Room"]
        assert await storage.get_room(R) in outcomes

    async def test_a_closed_room_is_replaced_and_its_sequence_goes_on(self, storage: Storage) -> None:
        await storage.create_room(room("r", app_id="old"))
        await storage.change_room(R, lambda present: msgspec.structs.replace(present, is_active=False))

        created = await storage.create_room(room("r", app_id="new"))

        assert created == await storage.get_room(R) == room("r", app_id="new", sequence=3)

    async def test_a_room_that_is_not_there_is_none_and_cannot_change(self, storage: Storage) -> None:
        assert await storage.get_room(R) is None
        with pytest.raises(NotFoundError):
            await storage.change_room(R, renaming("x"))
        assert await storage.get_room(R) is None

    async def test_a_change_raises_the_sequence_by_exactly_one(self, storage: Storage) -> None:
        await storage.create_room(room("r"))

        first = await storage.change_room(R, joining("a"))
        second = await storage.change_room(R, joining("b"))

        assert first == room("r", participants=(member("a"),), sequence=2)
        assert second == room("r", participants=(member("a"), member("b")), sequence=3)
        assert await storage.get_room(R) == second

    async def test_a_change_cannot_set_the_sequence(self, storage: Storage) -> None:
        await storage.create_room(room("r"))

        changed = await storage.change_room(
            R, lambda present: msgspec.structs.replace(present, sequence=99, app_id="app")
        )

        assert changed.sequence == 2

    @pytest.mark.parametrize(
        "change",
        [lambda present: present, lambda _present: None, msgspec.structs.replace],
        ids=["the same room", "None", "an equal room"],
    )
    async def test_no_change_leaves_the_sequence(self, storage: Storage, change: RoomChange) -> None:
        created = await storage.create_room(room("r", metadata={"x": [1]}))

        assert await storage.change_room(R, change) == created
        assert await storage.get_room(R) == created

    async def test_an_error_in_a_change_passes_through_and_leaves_the_room_unharmed(self, storage: Storage) -> None:
        created = await storage.create_room(room("r"))

        def refuse(_present: Room) -> Room:
            raise KeyError("not today")

        with pytest.raises(KeyError, match="not today"):
            await storage.change_room(R, refuse)

        assert await storage.get_room(R) == created
        assert (await storage.change_room(R, joining("a"))).sequence == 2

    async def test_one_failing_change_does_not_disturb_others_at_the_same_time(self, storage: Storage) -> None:
        for name in ("r", "r2"):
            await storage.create_room(room(name))

        def refuse(_present: Room) -> Room:
            raise KeyError("not today")

        outcomes = await asyncio.gather(
            storage.change_room(R, refuse),
            storage.change_room(RoomId("r2"), joining("a")),
            storage.put_client(client("c")),
            return_exceptions=True,
        )

        assert isinstance(outcomes[0], KeyError)
        assert (
            outcomes[1] == await storage.get_room(RoomId("r2")) == room("r2", participants=(member("a"),), sequence=2)
        )

    async def test_of_joins_at_the_same_time_as_many_succeed_as_there_are_places(
        self, storage: Storage, other: Storage
    ) -> None:
        places = self.writers // 3 + 1
        await storage.create_room(room("r", max_participants=places))
        handles = (storage, other)

        outcomes = await asyncio.gather(
            *(handles[n % 2].change_room(R, joining(f"c{n}")) for n in range(self.writers)), return_exceptions=True
        )

        joined = [outcome for outcome in outcomes if isinstance(outcome, Room)]
        stored = await storage.get_room(R)
        assert stored is not None
        assert len(joined) == len(stored.participants) == places
        assert sorted(each.sequence for each in joined) == list(range(2, places + 2))
        assert stored.sequence == places + 1
        assert all(isinstance(outcome, Room | ConflictError) for outcome in outcomes)

    async def test_interleaved_updates_of_two_writers_are_none_lost(self, storage: Storage, other: Storage) -> None:
        await storage.create_room(room("r"))
        rounds = max(self.writers // 2, 3)

        async def writes(handle: Storage, name: str) -> None:
            for n in range(rounds):
                await handle.change_room(R, joining(f"{name}{n}"))

        await asyncio.gather(writes(storage, "a"), writes(other, "b"))

        stored = await storage.get_room(R)
        assert stored is not None
        names = [member.client_id for member in stored.participants]
        assert [name for name in names if name.startswith("a")] == [f"a{n}" for n in range(rounds)]
        assert [name for name in names if name.startswith("b")] == [f"b{n}" for n in range(rounds)]
        assert stored.sequence == 2 * rounds + 1

    async def test_a_closed_room_can_be_changed(self, storage: Storage) -> None:
        await storage.put_room(room("r", is_active=False, sequence=8))

        assert (await storage.change_room(R, renaming("late"))).sequence == 9

    async def test_put_keeps_the_sequence_it_is_given(self, storage: Storage) -> None:
        await storage.create_room(room("r"))

        await storage.put_room(room("r", sequence=41))

        assert await storage.get_room(R) == room("r", sequence=41)

    async def test_a_deleted_room_is_gone_and_deleting_it_again_is_no_error(self, storage: Storage) -> None:
        await storage.create_room(room("r"))

        await storage.delete_room(R)
        await storage.delete_room(R)

        assert await storage.get_room(R) is None

    async def test_rooms_are_listed_by_state_and_page(self, storage: Storage) -> None:
        for n in range(9):
            await storage.put_room(room(f"r{n}", is_active=n % 3 != 0))

        everything = await storage.list_rooms()
        active = await storage.list_rooms(is_active=True, limit=4)
        rest = await storage.list_rooms(is_active=True, limit=4, after=active.next)
        closed = await storage.list_rooms(is_active=False)

        assert [each.room_id for each in everything.items] == [f"r{n}" for n in range(9)]
        assert [each.room_id for each in (*active.items, *rest.items)] == ["r1", "r2", "r4", "r5", "r7", "r8"]
        assert [each.room_id for each in closed.items] == ["r0", "r3", "r6"]
        assert rest.next is None

    async def test_active_rooms_are_found_by_a_member_s_node(self, storage: Storage) -> None:
        here, there = member("a", node_id=NodeId("here")), member("b", node_id=NodeId("there"))
        await storage.create_room(room("r1", participants=(here, there, here)))
        await storage.create_room(room("r2", participants=(there,)))
        await storage.create_room(room("r3", participants=(here,)))
        await storage.create_room(room("r4"))
        await storage.put_room(room("r5", participants=(here,), is_active=False))
        await storage.change_room(RoomId("r3"), lambda present: msgspec.structs.replace(present, participants=()))

        found = await storage.list_rooms(node_id=NodeId("here"))
        pages = [await storage.list_rooms(node_id=NodeId("there"), limit=1)]
        pages.append(await storage.list_rooms(node_id=NodeId("there"), limit=1, after=pages[0].next))
        closed = await storage.list_rooms(node_id=NodeId("here"), is_active=False)

        assert [each.room_id for each in found.items] == ["r1"]
        assert [each.room_id for page in pages for each in page.items] == ["r1", "r2"]
        assert closed.items == ()
