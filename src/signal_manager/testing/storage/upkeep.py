"""The contract of what outlives its owner: saved sessions, leases of nodes, and records past their time."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from signal_manager.model import ClientId, NodeId, RoomId, SavedSession, SessionId
from signal_manager.storage.base import Expired, Storage
from signal_manager.testing.storage.fixtures import NOW, StorageFixtures, client, member, room

S = SessionId("s")
N = NodeId("n")


def saved(session_id: str, /, *, state: bytes = b"", expires_at: float = NOW + 30) -> SavedSession:
    """Return a drained session."""
    return SavedSession(session_id=SessionId(session_id), client_id=ClientId("c"), state=state, expires_at=expires_at)


class UpkeepContract(StorageFixtures):
    """Saved sessions, leases, expiry.

    Large because it is a list: one method for each promise.
    """

    async def test_a_saved_session_is_taken_once(self, storage: Storage, other: Storage) -> None:
        await storage.save_sessions([saved("s", state=b"what was sent")])

        first = await other.take_session(S, now=NOW)
        second = await storage.take_session(S, now=NOW)

        assert first == saved("s", state=b"what was sent")
        assert second is None

    async def test_of_takers_at_the_same_time_one_gets_the_session(self, storage: Storage, other: Storage) -> None:
        await storage.save_sessions([saved("s")])

        taken = await asyncio.gather(
            *(handle.take_session(S, now=NOW) for handle in (storage, other) for _ in range(min(self.writers, 8)))
        )

        assert [each for each in taken if each is not None] == [saved("s")]

    @pytest.mark.parametrize("session_id", ["never-was", "", "../../etc", "x" * 1000])
    async def test_a_session_that_was_not_saved_is_none(self, storage: Storage, session_id: str) -> None:
        assert await storage.take_session(SessionId(session_id), now=NOW) is None

    async def test_an_expired_session_is_not_taken(self, storage: Storage) -> None:
        await storage.save_sessions([saved("s", expires_at=NOW)])

        assert await storage.take_session(S, now=NOW) is None

    async def test_many_sessions_with_full_buffers_are_saved(self, storage: Storage) -> None:
        state = bytes(range(256)) * 1024
        sessions = [saved(f"s{n}", state=state) for n in range(20)] + [saved("empty")]

        refused = await storage.save_sessions(sessions)

        assert refused == ()
        for session in sessions:
            assert await storage.take_session(session.session_id, now=NOW) == session

    async def test_a_session_saved_again_replaces_the_first(self, storage: Storage) -> None:
        await storage.save_sessions([saved("s", state=b"first")])
        await storage.save_sessions([saved("s", state=b"second")])

        assert await storage.take_session(S, now=NOW) == saved("s", state=b"second")

    async def test_all_sessions_are_taken_but_those_that_have_expired(self, storage: Storage, other: Storage) -> None:
        sessions = [saved(f"s{n}", state=bytes([n])) for n in range(7)]
        await storage.save_sessions([*sessions, saved("late", expires_at=NOW)])

        taken = await other.take_sessions(now=NOW, limit=4) + await storage.take_sessions(now=NOW)

        assert sorted(taken, key=lambda session: session.session_id) == sessions
        assert await storage.take_sessions(now=NOW) == ()

    async def test_a_renewed_lease_is_not_taken_over(self, storage: Storage, other: Storage) -> None:
        await storage.hold_lease(N, until=NOW)

        assert await storage.renew_lease(N, until=NOW + 30)
        assert await other.take_over(now=NOW + 29, until=NOW + 60) is None

    async def test_a_lease_that_ran_out_is_taken_over_by_one(self, storage: Storage, other: Storage) -> None:
        await storage.hold_lease(N, until=NOW)
        await storage.hold_lease(NodeId("alive"), until=NOW + 30)

        takers = await asyncio.gather(
            storage.take_over(now=NOW, until=NOW + 30), other.take_over(now=NOW, until=NOW + 30)
        )

        assert sorted(takers, key=str) == [None, N]

    async def test_each_of_several_leases_that_ran_out_is_taken_over(self, storage: Storage) -> None:
        for name in ("n1", "n2"):
            await storage.hold_lease(NodeId(name), until=NOW)

        taken = [await storage.take_over(now=NOW, until=NOW + 30) for _ in range(3)]

        assert taken == ["n1", "n2", None]

    async def test_a_lease_that_was_taken_over_cannot_be_renewed(self, storage: Storage, other: Storage) -> None:
        await storage.hold_lease(N, until=NOW)
        await other.take_over(now=NOW, until=NOW + 30)

        assert not await storage.renew_lease(N, until=NOW + 60)
        await other.release_lease(N)
        assert not await storage.renew_lease(N, until=NOW + 60)
        assert await other.take_over(now=NOW + 90, until=NOW + 120) is None

    async def test_a_node_can_hold_its_lease_again(self, storage: Storage) -> None:
        await storage.hold_lease(N, until=NOW)
        await storage.take_over(now=NOW, until=NOW + 30)

        await storage.hold_lease(N, until=NOW + 60)

        assert await storage.renew_lease(N, until=NOW + 90)

    async def test_a_cleaner_that_died_is_followed_by_another(self, storage: Storage, other: Storage) -> None:
        await storage.hold_lease(N, until=NOW)
        await storage.take_over(now=NOW, until=NOW + 30)

        assert await other.take_over(now=NOW + 29, until=NOW + 60) is None
        assert await other.take_over(now=NOW + 30, until=NOW + 60) == N

    async def test_a_released_lease_is_gone(self, storage: Storage) -> None:
        await storage.hold_lease(N, until=NOW)

        await storage.release_lease(N)
        await storage.release_lease(N)

        assert await storage.take_over(now=NOW, until=NOW + 30) is None

    async def test_nothing_to_expire_is_said_so(self, storage: Storage) -> None:
        assert await storage.expire(now=NOW) == Expired((), 0, 0, 0, True)

    async def test_clients_past_their_time_are_removed_and_others_stay(self, storage: Storage) -> None:
        for name, expires_at in (("past", NOW - 1), ("now", NOW), ("later", NOW + 1), ("never", None)):
            await storage.put_client(client(name, expires_at=expires_at))

        expired = await storage.expire(now=NOW)

        assert expired == Expired((), 0, 2, 0, True)
        assert [record.client_id for record in (await storage.list_clients()).items] == ["later", "never"]

    async def test_records_past_their_time_are_returned_until_then(self, storage: Storage) -> None:
        await storage.put_client(client("a", expires_at=NOW - 1))

        assert await storage.get_client(ClientId("a")) == client("a", expires_at=NOW - 1)

    async def test_an_active_room_past_its_time_is_closed_with_its_members_and_kept_a_while(
        self, storage: Storage
    ) -> None:
        await storage.create_room(room("r", participants=(member("a"),), expires_at=NOW))
        await storage.create_room(room("alive", expires_at=NOW + 1))

        expired = await storage.expire(now=NOW, keep_closed_for=60)

        closed = room(
            "r",
            is_active=False,
            participants=(member("a"),),
            sequence=2,
            updated_at=NOW,
            closed_at=NOW,
            close_reason="expired",
            expires_at=NOW + 60,
        )
        assert expired == Expired((closed,), 0, 0, 0, True)
        assert await storage.get_room(RoomId("r")) == closed
        assert [each.room_id for each in (await storage.list_rooms(is_active=True)).items] == ["alive"]

    async def test_a_closed_room_past_its_time_is_removed(self, storage: Storage) -> None:
        await storage.put_room(room("r", is_active=False, expires_at=NOW))
        await storage.put_room(room("kept", is_active=False))

        expired = await storage.expire(now=NOW)

        assert expired == Expired((), 1, 0, 0, True)
        assert [each.room_id for each in (await storage.list_rooms()).items] == ["kept"]

    async def test_a_room_that_expires_is_reported_to_one_caller(self, storage: Storage, other: Storage) -> None:
        await storage.create_room(room("r", expires_at=NOW))

        reports = await asyncio.gather(storage.expire(now=NOW), other.expire(now=NOW))

        assert [each.room_id for report in reports for each in report.closed_rooms] == ["r"]

    async def test_a_room_whose_time_was_extended_is_not_closed(self, storage: Storage) -> None:
        await storage.create_room(room("r", expires_at=NOW))
        await storage.change_room(RoomId("r"), lambda present: msgspec.structs.replace(present, expires_at=NOW + 9))

        assert (await storage.expire(now=NOW)).closed_rooms == ()

    async def test_saved_sessions_past_their_time_are_removed(self, storage: Storage) -> None:
        await storage.save_sessions([saved("past", expires_at=NOW), saved("later", expires_at=NOW + 1)])

        expired = await storage.expire(now=NOW)

        assert expired.removed_sessions == 1
        assert await storage.take_session(SessionId("past"), now=NOW - 10) is None
        assert await storage.take_session(SessionId("later"), now=NOW) is not None

    async def test_the_limit_leaves_the_rest_for_the_next_call(self, storage: Storage) -> None:
        for n in range(5):
            await storage.put_client(client(f"c{n}", expires_at=NOW - n))

        first = await storage.expire(now=NOW, limit=3)
        left = [record.client_id for record in (await storage.list_clients()).items]
        second = await storage.expire(now=NOW, limit=3)

        assert (first.removed_clients, first.is_complete) == (3, False)
        assert left == ["c0", "c1"]
        assert (second.removed_clients, second.is_complete) == (2, True)

    async def test_a_damaged_record_does_not_keep_others_from_expiring(self, storage: Storage) -> None:
        for name in ("b1", "b2"):
            await self.plant(storage, "clients", name, {"client_id": name, "expires_at": NOW - 2})
        await storage.put_client(client("c", expires_at=NOW))

        assert (await storage.expire(now=NOW, limit=1)).removed_clients == 1
        assert await storage.get_client(ClientId("c")) is None
