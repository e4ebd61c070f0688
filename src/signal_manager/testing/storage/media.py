"""The contract of the ledger: one caller at a time closes each entry, until that is confirmed."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.errors import InvalidRequestError
from signal_manager.model import EntryId, NodeId, SessionId
from signal_manager.storage.base import MAX_PAGE, Storage
from signal_manager.testing.storage.fixtures import NOW, StorageFixtures, entry

E = EntryId("e")


class MediaContract(StorageFixtures):
    """The ledger of media to close."""

    async def test_added_entries_are_listed_with_every_field(self, storage: Storage) -> None:
        full = entry("a", session_id="s1", mid="3", room_id="r", client_id="c", node_id="n", attempts=2)
        whole = entry("b", session_id="s2", mid=None, next_attempt_at=NOW + 0.25)

        await storage.add_media(full, whole)

        assert (await storage.list_media()).items == (full, whole)

    async def test_adding_nothing_is_no_error(self, storage: Storage) -> None:
        await storage.add_media()
        await storage.confirm_media([])
        await storage.schedule_media([], at=NOW)

        assert await storage.list_media() == ((), None)

    async def test_entries_are_added_all_or_none(self, storage: Storage) -> None:
        with pytest.raises(InvalidRequestError):
            await storage.add_media(entry("a"), entry("not/valid"))
        with pytest.raises(InvalidRequestError):
            await storage.add_media(*(entry(f"e{n}") for n in range(MAX_PAGE + 1)))

        assert (await storage.list_media()).items == ()

    async def test_an_entry_in_use_is_never_claimed(self, storage: Storage) -> None:
        await storage.add_media(entry("e"))

        assert await storage.claim_media(now=NOW * 2, until=NOW * 3) == ()

    async def test_a_scheduled_entry_is_claimed_when_its_time_has_come(self, storage: Storage) -> None:
        await storage.add_media(entry("e"))
        await storage.schedule_media([E], at=NOW)

        early = await storage.claim_media(now=NOW - 1, until=NOW + 10)
        due = await storage.claim_media(now=NOW, until=NOW + 10)

        assert early == ()
        assert due == (entry("e", next_attempt_at=NOW + 10, attempts=1),)

    async def test_a_claimed_entry_is_nobody_else_s_until_the_claim_ends(
        self, storage: Storage, other: Storage
    ) -> None:
        await storage.add_media(entry("e", next_attempt_at=NOW))
        await storage.claim_media(now=NOW, until=NOW + 10)

        meanwhile = await other.claim_media(now=NOW + 9, until=NOW + 19)
        afterwards = await other.claim_media(now=NOW + 10, until=NOW + 20)

        assert meanwhile == ()
        assert [each.attempts for each in afterwards] == [2]

    async def test_claims_at_the_same_time_share_the_entries(self, storage: Storage, other: Storage) -> None:
        await storage.add_media(*(entry(f"e{n}", next_attempt_at=NOW - n) for n in range(self.writers)))

        claims = await asyncio.gather(
            storage.claim_media(now=NOW, until=NOW + 10), other.claim_media(now=NOW, until=NOW + 10)
        )

        claimed = sorted(each.entry_id for claim in claims for each in claim)
        assert claimed == sorted(f"e{n}" for n in range(self.writers))

    async def test_the_longest_due_are_claimed_first_up_to_the_limit(self, storage: Storage) -> None:
        times = {"a": NOW - 1, "b": NOW - 3, "c": NOW - 2, "d": NOW + 1, "e": NOW - 3}
        await storage.add_media(*(entry(name, next_attempt_at=time) for name, time in times.items()))

        first = await storage.claim_media(now=NOW, until=NOW + 10, limit=3)
        second = await storage.claim_media(now=NOW, until=NOW + 10, limit=3)

        assert [each.entry_id for each in first] == ["b", "e", "c"]
        assert [each.entry_id for each in second] == ["a"]

    async def test_a_failed_attempt_is_put_off_with_its_count(self, storage: Storage) -> None:
        await storage.add_media(entry("e", next_attempt_at=NOW))
        await storage.claim_media(now=NOW, until=NOW + 10)

        await storage.schedule_media([E], at=NOW + 60)

        assert await storage.claim_media(now=NOW + 59, until=NOW + 99) == ()
        assert [each.attempts for each in await storage.claim_media(now=NOW + 60, until=NOW + 99)] == [2]

    async def test_a_confirmed_entry_is_gone_and_confirming_it_again_is_no_error(self, storage: Storage) -> None:
        await storage.add_media(entry("e", next_attempt_at=NOW), entry("f", next_attempt_at=NOW))

        await storage.confirm_media([E, EntryId("never-was")])
        await storage.confirm_media([E])
        await storage.schedule_media([E], at=NOW)

        assert [each.entry_id for each in await storage.claim_media(now=NOW, until=NOW + 10)] == ["f"]
        assert len((await storage.list_media()).items) == 1

    async def test_an_entry_added_again_replaces_the_first(self, storage: Storage) -> None:
        await storage.add_media(entry("e", next_attempt_at=NOW, attempts=4))
        await storage.add_media(entry("e", mid="7"))

        assert (await storage.list_media()).items == (entry("e", mid="7"),)
        assert await storage.claim_media(now=NOW, until=NOW + 10) == ()

    async def test_entries_are_listed_by_session_by_node_and_by_page(self, storage: Storage) -> None:
        for n in range(6):
            await storage.add_media(entry(f"e{n}", session_id=f"s{n % 2}", node_id=f"n{n % 3}"))

        session = await storage.list_media(session_id=SessionId("s0"), limit=2)
        rest = await storage.list_media(session_id=SessionId("s0"), limit=2, after=session.next)
        node = await storage.list_media(node_id=NodeId("n1"))
        nobody = await storage.list_media(node_id=NodeId("n9"))

        assert [each.entry_id for each in (*session.items, *rest.items)] == ["e0", "e2", "e4"]
        assert [each.entry_id for each in node.items] == ["e1", "e4"]
        assert nobody.items == ()
        with pytest.raises(InvalidRequestError):
            await storage.list_media(session_id=SessionId("s0"), node_id=NodeId("n1"))

    async def test_damaged_entries_do_not_keep_others_from_being_claimed(self, storage: Storage) -> None:
        for n in range(3):
            await self.plant(storage, "media_closings", f"d{n}", {"entry_id": f"d{n}", "next_attempt_at": NOW - 10})
        await storage.add_media(entry("e", next_attempt_at=NOW))

        claimed = await storage.claim_media(now=NOW, until=NOW + 10, limit=2)

        assert [each.entry_id for each in claimed] == ["e"]
