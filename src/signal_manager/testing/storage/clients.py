"""The contract of stored clients: create, put, update, change, delete, list, and tokens never in clear."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from signal_manager.errors import ConflictError, InvalidRequestError, NotFoundError
from signal_manager.model import ClientId, ClientRecord, NodeId, RoomId, SessionId, Track, hash_token
from signal_manager.storage.base import Storage
from signal_manager.testing.storage.fixtures import NOW, StorageFixtures, client

A = ClientId("a")


class ClientsContract(StorageFixtures):
    """Clients.

    Large because it is a list: one method for each promise.
    """

    async def test_a_created_client_is_returned_with_every_field(self, storage: Storage) -> None:
        record = client(
            "a",
            auth_token=hash_token("t"),
            room_id=RoomId("r"),
            role="sender",
            session_id=SessionId("s"),
            capabilities=("audio", "video"),
            metadata={"name": "A", "n": [1, 2.5, None, True]},
            tracks=(Track(mid="0", track_name="camera", kind="video"),),
            status="online",
            registered_at=NOW,
            last_seen_at=NOW + 1,
            expires_at=NOW + 2.25,
            node_id=NodeId("n"),
        )

        await storage.create_client(record)

        assert await storage.get_client(A) == record

    async def test_creating_a_client_twice_conflicts_and_keeps_the_first(self, storage: Storage) -> None:
        await storage.create_client(client("a", role="sender"))

        with pytest.raises(ConflictError):
            await storage.create_client(client("a", role="receiver"))

        stored = await storage.get_client(A)
        assert stored is not None
        assert stored.role == "sender"

    async def test_of_clients_created_at_the_same_time_one_wins(self, storage: Storage, other: Storage) -> None:
        outcomes = await asyncio.gather(
            storage.create_client(client("a", role="1")),
            other.create_client(client("a", role="2")),
            return_exceptions=True,
        )

        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConflictError", "NoneType"]

    async def test_a_client_that_is_not_there_is_none(self, storage: Storage) -> None:
        assert await storage.get_client(A) is None

    async def test_put_replaces_the_whole_client(self, storage: Storage) -> None:
        await storage.put_client(client("a", role="sender", metadata={"x": 1, "y": {"z": 2}}))
        await storage.put_client(client("a", metadata={"y": {}}))

        assert await storage.get_client(A) == client("a", metadata={"y": {}})

    async def test_an_update_replaces_the_named_fields_alone(self, storage: Storage) -> None:
        await storage.put_client(client("a", role="sender", status="online", metadata={"x": 1}))

        updated = await storage.update_client(A, status="offline", metadata={"y": 2})

        assert updated == client("a", role="sender", status="offline", metadata={"y": 2})
        assert await storage.get_client(A) == updated

    async def test_an_update_can_empty_a_field(self, storage: Storage) -> None:
        await storage.put_client(client("a", room_id=RoomId("r"), capabilities=("x",), metadata={"x": 1}))

        await storage.update_client(A, room_id=None, capabilities=(), metadata={})

        assert await storage.get_client(A) == client("a")

    async def test_an_update_of_a_missing_client_is_not_found(self, storage: Storage) -> None:
        with pytest.raises(NotFoundError):
            await storage.update_client(A, status="online")

        assert await storage.get_client(A) is None

    async def test_updates_of_different_fields_at_the_same_time_are_all_kept(
        self, storage: Storage, other: Storage
    ) -> None:
        await storage.put_client(client("a"))

        await asyncio.gather(
            storage.update_client(A, status="online"),
            other.update_client(A, role="sender"),
            storage.update_client(A, last_seen_at=NOW),
        )

        assert await storage.get_client(A) == client("a", status="online", role="sender", last_seen_at=NOW)

    async def test_a_change_can_create_update_and_remove(self, storage: Storage) -> None:
        first, second = client("a", role="1"), client("a", role="2")
        seen: list[ClientRecord | None] = []

        for wanted in (first, second, None):

            def change(present: ClientRecord | None, wanted: ClientRecord | None = wanted) -> ClientRecord | None:
                seen.append(present)
                return wanted

            assert await storage.change_client(A, change) == wanted
            assert await storage.get_client(A) == wanted

        assert seen == [None, first, second]

    async def test_an_error_in_a_change_passes_through_and_nothing_is_written(self, storage: Storage) -> None:
        await storage.put_client(client("a", role="sender"))

        def refuse(_present: ClientRecord | None) -> ClientRecord:
            raise LookupError("not this one")

        with pytest.raises(LookupError, match="not this one"):
            await storage.change_client(A, refuse)

        assert await storage.get_client(A) == client("a", role="sender")

    async def test_a_change_may_not_rename(self, storage: Storage) -> None:
        with pytest.raises(ValueError, match="rename"):
            await storage.change_client(A, lambda _present: client("b"))

        assert await storage.get_client(ClientId("b")) is None

    async def test_changes_at_the_same_time_all_apply(self, storage: Storage, other: Storage) -> None:
        await storage.put_client(client("a", metadata={"n": 0}))

        def count(present: ClientRecord | None) -> ClientRecord:
            assert present is not None
            return msgspec.structs.replace(present, metadata={"n": present.metadata["n"] + 1})

        handles = (storage, other)
        await asyncio.gather(*(handles[n % 2].change_client(A, count) for n in range(self.writers)))

        assert await storage.get_client(A) == client("a", metadata={"n": self.writers})

    async def test_a_deleted_client_is_gone_and_deleting_it_again_is_no_error(self, storage: Storage) -> None:
        await storage.put_client(client("a"))

        await storage.delete_client(A)
        await storage.delete_client(A)

        assert await storage.get_client(A) is None
        await storage.create_client(client("a"))

    async def test_a_token_in_clear_is_hashed_on_every_way_in(self, storage: Storage) -> None:
        clear = client("a", auth_token="secret")

        async def stored_token() -> str:
            record = await storage.get_client(A)
            assert record is not None
            return record.auth_token

        await storage.create_client(clear)
        assert await stored_token() == hash_token("secret")
        await storage.put_client(msgspec.structs.replace(clear, auth_token="second"))
        assert await stored_token() == hash_token("second")
        await storage.update_client(A, auth_token="third")
        assert await stored_token() == hash_token("third")
        changed = await storage.change_client(A, lambda _present: clear)
        assert changed is not None
        assert changed.auth_token == await stored_token() == hash_token("secret")

    async def test_a_record_provisioned_in_clear_is_read_and_hashed_with_its_first_change(
        self, storage: Storage
    ) -> None:
        await self.plant(storage, "clients", "a", {"client_id": "a", "auth_token": "secret"})

        provisioned = await storage.get_client(A)
        updated = await storage.update_client(A, last_seen_at=NOW)

        assert provisioned == client("a", auth_token="secret")
        assert updated == await storage.get_client(A) == client("a", auth_token=hash_token("secret"), last_seen_at=NOW)

    async def test_an_empty_token_stays_empty(self, storage: Storage) -> None:
        await storage.put_client(client("a", auth_token=""))

        assert await storage.get_client(A) == client("a", auth_token="")

    async def test_a_list_of_nothing_is_one_empty_page(self, storage: Storage) -> None:
        assert await storage.list_clients() == ((), None)

    async def test_pages_hold_every_client_once_in_order_of_id(self, storage: Storage) -> None:
        names = sorted([f"c{n}" for n in range(23)] + ["Z", "~tilde", "a@b.c", "a+b=c", "9"])
        await asyncio.gather(*(storage.put_client(client(name)) for name in names))

        listed: list[str] = []
        after: str | None = None
        while True:
            page = await storage.list_clients(after=after, limit=7)
            assert len(page.items) <= 7
            listed += [record.client_id for record in page.items]
            if page.next is None:
                break
            after = page.next

        assert listed == names

    async def test_a_page_that_ends_the_list_exactly_is_the_last(self, storage: Storage) -> None:
        for name in "abcd":
            await storage.put_client(client(name))

        first = await storage.list_clients(limit=2)
        second = await storage.list_clients(limit=2, after=first.next)

        assert first.next is not None
        assert [record.client_id for record in second.items] == ["c", "d"]
        assert second.next is None

    async def test_a_client_that_stays_is_listed_once_while_others_come_and_go(self, storage: Storage) -> None:
        for name in "bdf":
            await storage.put_client(client(name))

        first = await storage.list_clients(limit=1)
        await storage.delete_client(ClientId("b"))
        await storage.put_client(client("a"))
        await storage.put_client(client("e"))
        second = await storage.list_clients(after=first.next)

        assert [record.client_id for record in (*first.items, *second.items)] == ["b", "d", "e", "f"]

    async def test_clients_are_found_by_their_node(self, storage: Storage) -> None:
        for name, node in (("a", "1"), ("b", "2"), ("c", "1"), ("d", None), ("e", "1")):
            await storage.put_client(client(name, node_id=node))

        first = await storage.list_clients(node_id=NodeId("1"), limit=2)
        second = await storage.list_clients(node_id=NodeId("1"), limit=2, after=first.next)

        assert [record.client_id for record in (*first.items, *second.items)] == ["a", "c", "e"]
        assert second.next is None

    @pytest.mark.parametrize("limit", [0, -1, 1001])
    async def test_a_limit_out_of_range_is_refused(self, storage: Storage, limit: int) -> None:
        with pytest.raises(InvalidRequestError, match="limit"):
            await storage.list_clients(limit=limit)

    async def test_a_cursor_that_no_page_gave_is_refused(self, storage: Storage) -> None:
        with pytest.raises(InvalidRequestError):
            await storage.list_clients(after="a/b")
