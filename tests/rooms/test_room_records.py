"""How records of rooms and clients change: a change that was made although storage reported an error is found."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from signal_manager.errors import NotFoundError, UnavailableError
from signal_manager.media.base import MediaSessionId
from signal_manager.model import ClientId, ClientRecord, MemberRecord, Room, RoomId, SessionId
from signal_manager.rooms import changes
from signal_manager.rooms.ledger import MediaLedger
from signal_manager.rooms.local_room import LocalRoom
from signal_manager.rooms.room_log import RoomLog
from signal_manager.rooms.room_records import RoomRecords
from signal_manager.storage.memory import MemoryStorage
from tests.rooms.harness import NODE

R, NOW = RoomId("r"), 1000.0
ALICE = MemberRecord(client_id=ClientId("alice"), role="sender", node_id=NODE, generation=1)
BOB = MemberRecord(client_id=ClientId("bob"), role="receiver", node_id=NODE, generation=1)
KEY = changes.key_of(ALICE)
AWAY = changes.with_absence(KEY, away=True, now=NOW)


class Records:
    """Records over storage in memory, and a room as this process knows it."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()
        self.ledger = MediaLedger(self.storage, node_id=NODE, clock=lambda: NOW)
        self.records = RoomRecords(storage=self.storage, ledger=self.ledger, clock=lambda: NOW)
        self.local = LocalRoom()

    async def open(self) -> Room:
        opened = changes.opened(R, ALICE, app_id="", metadata={}, max_participants=5, now=NOW)
        room = await self.storage.create_room(opened)
        self.local.room_log = RoomLog(room)
        return room


@pytest.fixture
async def made() -> Records:
    made = Records()
    await made.open()
    return made


async def test_a_change_is_made_and_numbered(made: Records) -> None:
    before = await made.records.get(R)
    assert before is not None

    after = await made.records.repair(made.local, R, AWAY, is_known=True)

    assert after is not None
    assert after.sequence == before.sequence + 1
    assert after.participants[0].away


async def test_a_change_that_an_earlier_attempt_has_made_is_announced_all_the_same(made: Records) -> None:
    made_already = await made.storage.change_room(R, AWAY)

    assert await made.records.repair(made.local, R, AWAY, is_known=True) == made_already


async def test_a_change_that_this_process_knows_of_is_not_announced_twice(made: Records) -> None:
    changed = await made.storage.change_room(R, AWAY)
    assert await made.records.repair(made.local, R, AWAY, is_known=False) is None
    made.local.room_log = RoomLog(changed)

    assert await made.records.repair(made.local, R, AWAY, is_known=True) is None


@pytest.mark.parametrize("is_known", [True, False])
async def test_nothing_of_a_room_that_is_closed_or_gone_is_announced(made: Records, is_known: bool) -> None:
    await made.storage.change_room(R, changes.closed("ended", now=NOW))

    assert await made.records.repair(made.local, R, AWAY, is_known=is_known) is None
    assert await made.records.repair(made.local, RoomId("unknown"), AWAY, is_known=is_known) is None


async def test_a_plain_change_says_what_it_does_not_find(made: Records) -> None:
    with pytest.raises(NotFoundError):
        await made.records.change(RoomId("unknown"), AWAY)
    with pytest.raises(NotFoundError, match="client bob"):
        await made.records.member(R, ClientId("bob"))
    with pytest.raises(NotFoundError):
        await made.records.member(RoomId("unknown"), ClientId("alice"))
    await made.records.change(R, changes.with_member(BOB, limit=5, now=NOW))

    assert await made.records.member(R, ClientId("bob")) == BOB


async def test_where_a_client_is_is_written_if_it_is_on_record(made: Records) -> None:
    await made.storage.put_client(ClientRecord(client_id=ClientId("alice"), auth_token="t"))

    await made.records.note_client(ClientId("alice"), room_id=R)
    await made.records.note_client(ClientId("never registered"), room_id=R)

    record = await made.storage.get_client(ClientId("alice"))
    assert record is not None
    assert record.room_id == R


async def test_a_client_record_that_cannot_be_written_is_only_logged(
    made: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise UnavailableError("the store does not answer")

    monkeypatch.setattr(made.storage, "update_client", away)

    with capture_logs() as logs:
        await made.records.note_client(ClientId("alice"), room_id=R)

    assert [line["reason"] for line in logs] == ["the store does not answer"]


async def test_abandoned_media_is_looked_at_again_after_a_minute(made: Records) -> None:
    await made.ledger.caused(MediaSessionId("s"), "0")

    await made.records.abandon_media(SessionId("s"))

    assert not await made.storage.claim_media(now=NOW + 59, until=NOW + 100)
    assert len(await made.storage.claim_media(now=NOW + 60, until=NOW + 100)) == 1
