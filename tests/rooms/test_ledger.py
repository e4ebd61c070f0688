"""The ledger of media to close: nothing is forgotten, and nothing is closed that is in use."""

from __future__ import annotations

import pytest

from signal_manager.media.base import WHOLE_SESSION, MediaSessionId
from signal_manager.model import ClientId, NodeId, RoomId, SessionId
from signal_manager.rooms.ledger import MediaLedger
from signal_manager.storage.memory import MemoryStorage
from tests.rooms.harness import NODE, RoomHarness, in_one_room

SESSION = MediaSessionId("session-1")


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


# -- alone ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def ledger(storage: MemoryStorage) -> MediaLedger:
    return MediaLedger(storage, node_id=NODE, clock=lambda: 1000.0)


async def entries(storage: MemoryStorage) -> list[tuple[str, str | None, float | None]]:
    page = await storage.list_media()
    return sorted((each.session_id, each.mid, each.next_attempt_at) for each in page.items)


async def test_what_is_about_to_exist_is_recorded_once_with_who_causes_it(
    storage: MemoryStorage, ledger: MediaLedger
) -> None:
    for_alice = ledger.on_behalf_of(ClientId("alice"), RoomId("r"))

    await for_alice.caused(SESSION, "0", WHOLE_SESSION)
    await for_alice.caused(SESSION, "0")

    page = await storage.list_media()
    assert sorted((each.mid or "", each.client_id, each.room_id, each.node_id) for each in page.items) == [
        ("", "alice", "r", NODE),
        ("0", "alice", "r", NODE),
    ]


async def test_only_what_is_confirmed_is_struck_out(storage: MemoryStorage, ledger: MediaLedger) -> None:
    await ledger.caused(SESSION, "0", "1")

    await ledger.closed(SESSION, "0", "never caused")

    assert await entries(storage) == [(SESSION, "1", None)]


async def test_an_abandoned_session_is_due_and_what_is_due_already_keeps_its_time(
    storage: MemoryStorage, ledger: MediaLedger
) -> None:
    await ledger.caused(SESSION, "0")
    await ledger.abandon(SessionId(SESSION), at=1060.0)
    await ledger.caused(SESSION, "1")

    await ledger.abandon(SessionId(SESSION), at=2000.0)

    assert await entries(storage) == [(SESSION, "0", 1060.0), (SESSION, "1", 2000.0)]


async def test_everything_of_a_node_that_is_gone_is_due(storage: MemoryStorage, ledger: MediaLedger) -> None:
    gone = MediaLedger(storage, node_id=NodeId("gone"), clock=lambda: 1000.0)
    for number in range(150):  # more than a page
        await gone.caused(MediaSessionId(f"s{number}"), "0")
    await ledger.caused(SESSION, "0")

    await ledger.abandon_node(NodeId("gone"), at=1000.0)

    assert len(await storage.claim_media(now=1000.0, until=1010.0)) > 0
    after, due = None, 0
    while True:
        page = await storage.list_media(after=after)
        due += sum(each.next_attempt_at is not None for each in page.items)
        after = page.next
        if after is None:
            break
    assert due == 150


async def test_words_that_the_sfu_chooses_are_no_obstacle(storage: MemoryStorage, ledger: MediaLedger) -> None:
    odd = MediaSessionId("ß/../" + "x" * 300)

    await ledger.caused(odd, "a/b", "..")
    await ledger.closed(odd, "a/b")

    assert await entries(storage) == [(odd, "..", None)]
