"""The contract of what a record may hold: awkward ids and values, and documents that were edited by hand."""

from __future__ import annotations

from typing import Any

import pytest

from signal_manager.errors import InvalidRequestError, SignalManagerError
from signal_manager.model import ClientId, ClientRecord, RoomId
from signal_manager.storage.base import Storage
from signal_manager.testing.storage.fixtures import NOW, StorageFixtures, client, member, room

A = ClientId("a")

BAD_NAMES = ["", ".", "..", "a/b", "__x__", "a b", "ü", "a\n", "x" * 129, "a\x00"]

DAMAGED: list[dict[str, Any]] = [
    {"client_id": "b"},
    {"client_id": "b", "auth_token": 5},
    {"client_id": "b", "auth_token": "", "capabilities": "audio"},
    {"client_id": "b", "auth_token": "", "metadata": [1]},
    {"client_id": "another", "auth_token": ""},
    {},
]


class RecordsContract(StorageFixtures):
    """Records."""

    @pytest.mark.parametrize(
        "metadata",
        [
            {"greeting": "Grüße, 世界 🎥 \u0000 \u2028 \U0010ffff"},
            {"ключ": {"値": "x"}, "with.dot": 1, "with`tick": 2, "with space": 3, "": "empty", "__name__": "reserved"},
            {"matrix": [[1, 2], [[3]], []], "deep": [{"a": [{"b": [1]}]}]},
            {
                "big": 2**63,
                "small": -(2**63),
                "huge": 2**70,
                "float": 0.1,
                "whole": 3.0,
                "yes": True,
                "none": None,
                "zero": 0,
            },
            {"level": {"1": {"2": {"3": {"4": {"5": {"6": {"7": {"8": {"9": {"10": {"11": "deep"}}}}}}}}}}}},
            {"long": "x" * 100_000},
            {f"key {n}": {"n": n} for n in range(3000)},
            {"created_at": "2024-05-01T12:00:00Z", "looks like": "[[1]]"},
            {},
        ],
        ids=["unicode", "keys", "arrays", "numbers", "depth", "100 KB", "many keys", "date text", "nothing"],
    )
    async def test_metadata_comes_back_as_it_was(self, storage: Storage, metadata: dict[str, Any]) -> None:
        stored_room = room("r", metadata=metadata, participants=(member("a", metadata=metadata),), sequence=1)

        await storage.put_client(client("a", metadata=metadata))
        await storage.create_room(stored_room)

        assert await storage.get_client(A) == client("a", metadata=metadata)
        assert await storage.get_room(RoomId("r")) == stored_room

    async def test_metadata_nested_too_deeply_to_be_read_again_is_refused(self, storage: Storage) -> None:
        deep: Any = "bottom"
        for _ in range(1_000_000):
            deep = [deep]

        with pytest.raises(InvalidRequestError, match="cannot be stored"):
            await storage.put_client(client("a", metadata={"deep": deep}))

        assert await storage.get_client(A) is None

    @pytest.mark.parametrize("value", [object(), 1 + 2j, "\ud800"], ids=["object", "complex", "surrogate"])
    async def test_a_value_that_json_cannot_hold_is_refused(self, storage: Storage, value: object) -> None:
        with pytest.raises(InvalidRequestError, match="cannot be stored"):
            await storage.put_client(client("a", metadata={"x": value}))
        with pytest.raises(InvalidRequestError, match="cannot be stored"):
            await storage.change_client(A, lambda _present: client("a", metadata={"x": value}))

        assert await storage.get_client(A) is None

    async def test_a_record_is_not_changed_through_a_reference_to_it(self, storage: Storage) -> None:
        record = client("a", metadata={"x": 1})
        await storage.put_client(record)

        record.metadata["x"] = 2
        read = await storage.get_client(A)
        assert read is not None
        read.metadata["x"] = 3

        assert await storage.get_client(A) == client("a", metadata={"x": 1})

    @pytest.mark.parametrize("name", BAD_NAMES)
    async def test_an_id_that_breaks_the_rule_is_refused_and_never_found(self, storage: Storage, name: str) -> None:
        with pytest.raises(InvalidRequestError):
            await storage.create_client(client(name))
        with pytest.raises(InvalidRequestError):
            await storage.put_room(room(name))
        with pytest.raises(InvalidRequestError):
            await storage.change_room(RoomId(name), lambda present: present)
        with pytest.raises(InvalidRequestError):
            await storage.delete_client(ClientId(name))

        assert await storage.get_client(ClientId(name)) is None
        assert await storage.get_room(RoomId(name)) is None

    @pytest.mark.parametrize("name", ["x" * 128, "a.b_c~d@e+f=g-h", "0", "_", "..a"])
    async def test_every_id_that_the_rule_allows_is_stored(self, storage: Storage, name: str) -> None:
        await storage.put_client(client(name))
        await storage.create_room(room(name))

        assert await storage.get_client(ClientId(name)) == client(name)
        assert [stored.room_id for stored in (await storage.list_rooms()).items] == [name]

    async def test_what_one_handle_wrote_another_sees(self, storage: Storage, other: Storage) -> None:
        await storage.put_client(client("a", role="sender"))
        assert await other.get_client(A) == client("a", role="sender")

        await other.update_client(A, role="receiver")
        assert await storage.get_client(A) == client("a", role="receiver")

        await storage.delete_client(A)
        assert await other.get_client(A) is None

    @pytest.mark.parametrize("document", DAMAGED)
    async def test_a_damaged_client_is_skipped_in_lists(self, storage: Storage, document: dict[str, Any]) -> None:
        await storage.put_client(client("a"))
        await self.plant(storage, "clients", "b", document)
        await storage.put_client(client("c"))

        assert [record.client_id for record in (await storage.list_clients()).items] == ["a", "c"]

    async def test_a_damaged_client_asked_for_by_id_is_an_error_that_names_it(self, storage: Storage) -> None:
        await self.plant(storage, "clients", "b", DAMAGED[1])

        with pytest.raises(SignalManagerError, match="b in clients is damaged") as failed:
            await storage.get_client(ClientId("b"))
        assert failed.value.code == 500
        with pytest.raises(SignalManagerError, match="damaged"):
            await storage.update_client(ClientId("b"), status="online")

    async def test_writing_a_damaged_record_repairs_it_and_deleting_removes_it(self, storage: Storage) -> None:
        for name in "bc":
            await self.plant(storage, "clients", name, {"client_id": name})

        await storage.put_client(client("b"))
        await storage.delete_client(ClientId("c"))

        assert (await storage.list_clients()).items == (client("b"),)
        assert await storage.get_client(ClientId("c")) is None

    @pytest.mark.parametrize(
        "document",
        [
            {"room_id": "b"},
            {"room_id": "b", "is_active": "yes"},
            {"room_id": "b", "is_active": True, "sequence": -1},
            {"room_id": "b", "is_active": True, "participants": [{"client_id": "a"}]},
            {"room_id": "b", "is_active": True, "participants": [{"client_id": "a", "role": "listener"}]},
        ],
    )
    async def test_a_damaged_room_is_skipped_and_cannot_be_changed(
        self, storage: Storage, document: dict[str, Any]
    ) -> None:
        await storage.create_room(room("a"))
        await self.plant(storage, "rooms", "b", document)

        assert [stored.room_id for stored in (await storage.list_rooms()).items] == ["a"]
        with pytest.raises(SignalManagerError, match="damaged"):
            await storage.change_room(RoomId("b"), lambda present: present)

    async def test_damaged_pages_do_not_end_a_list(self, storage: Storage) -> None:
        for n in range(4):
            await self.plant(storage, "clients", f"a{n}", {"client_id": f"a{n}"})
        await storage.put_client(client("b"))

        found: list[ClientRecord] = []
        page = await storage.list_clients(limit=2)
        found += page.items
        while page.next is not None:
            page = await storage.list_clients(limit=2, after=page.next)
            found += page.items

        assert found == [client("b")]

    async def test_fields_that_we_do_not_know_are_no_damage(self, storage: Storage) -> None:
        await self.plant(storage, "clients", "a", {"client_id": "a", "auth_token": "", "added_by": "an operator"})

        assert await storage.get_client(A) == client("a")

    async def test_a_room_with_no_field_of_ours_is_a_room(self, storage: Storage) -> None:
        await self.plant(
            storage,
            "rooms",
            "r",
            {
                "room_id": "r",
                "app_id": "app",
                "sender_client_id": "a",
                "receiver_client_id": None,
                "session_id": "s",
                "metadata": {"created_at": NOW},
                "is_active": True,
            },
        )

        changed = await storage.change_room(RoomId("r"), lambda present: room("r", participants=(member("b"),)))

        assert changed == room("r", participants=(member("b"),), sequence=1)
