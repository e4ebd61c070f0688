from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from signal_manager.errors import ConfigurationError, UnavailableError
from signal_manager.model import ClientId, NodeId, SessionId, hash_token
from signal_manager.storage.documents import Kind, RecordT
from signal_manager.storage.memory import Document, MemoryStorage
from signal_manager.storage.sqlite.adapter import SqliteStorage
from signal_manager.storage.transfer import BadLine, Imported, check, export_lines, import_lines
from signal_manager.testing.storage.fixtures import NOW, client, entry, member, room

HEADER = b'{"format":"signal-manager storage","version":1}\n'
CLIENT = b'{"collection":"clients","record":{"client_id":"a","auth_token":""}}\n'


@pytest.fixture
async def store() -> AsyncIterator[MemoryStorage]:
    async with MemoryStorage() as storage:
        yield storage


async def given(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    for line in lines:
        yield line


async def exported(storage: MemoryStorage | SqliteStorage) -> list[bytes]:
    return [line async for line in export_lines(storage)]


class FailingStorage(MemoryStorage):
    """A store whose writes fail as if its disk were full."""

    async def _write(self, kind: Kind[RecordT], records: Sequence[RecordT]) -> None:
        raise UnavailableError("storage failed: database or disk is full")


class ForgetfulStorage(MemoryStorage):
    """A store that acknowledges what it does not keep."""

    async def _write(self, kind: Kind[RecordT], records: Sequence[RecordT]) -> None:
        pass


# check


async def test_a_check_says_how_long_each_operation_took_and_leaves_nothing(store: MemoryStorage) -> None:
    checked = await check(store)

    assert all(0 <= seconds < 60 for seconds in checked)
    assert (await store.list_clients()).items == ()


async def test_a_check_of_a_failing_store_passes_its_error_on() -> None:
    async with FailingStorage() as store:
        with pytest.raises(UnavailableError, match="disk is full"):
            await check(store)


async def test_a_check_notices_a_store_that_forgets() -> None:
    async with ForgetfulStorage() as store:
        with pytest.raises(UnavailableError, match="does not return what was written"):
            await check(store)


# export and import


async def test_a_store_moves_to_another_one_whole(store: MemoryStorage, tmp_path: Path) -> None:
    clients = [client(f"c{n:03}", metadata={"n": n, "name": "ü\n"}, expires_at=NOW) for n in range(150)]
    rooms = [room("open", participants=(member("a"),), sequence=7), room("closed", is_active=False, sequence=3)]
    for record in clients:
        await store.put_client(record)
    for each in rooms:
        await store.put_room(each)
    await store.add_media(entry("e1", next_attempt_at=NOW, attempts=3), entry("e2"))

    lines = await exported(store)
    async with SqliteStorage(path=tmp_path / "other.db") as other:
        imported = await import_lines(other, given(lines))
        again = await import_lines(other, given(lines))
        arrived = await exported(other)

    assert imported == again == Imported(150, 2, 2, 0, ())
    assert arrived == lines
    assert lines[0] == HEADER
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)


async def test_an_empty_store_exports_its_header_alone(store: MemoryStorage) -> None:
    assert await exported(store) == [HEADER]
    assert await import_lines(store, given([HEADER])) == Imported(0, 0, 0, 0, ())


async def test_no_token_is_exported_or_imported_in_clear(store: MemoryStorage) -> None:
    document = b'{"client_id": "a", "auth_token": "secret"}'
    store._collections["clients"]["a"] = Document(document, {}, [])

    lines = await exported(store)
    provisioned = b'{"collection":"clients","record":{"client_id":"b","auth_token":"another"}}'
    await import_lines(store, given([HEADER, provisioned]))

    assert json.loads(lines[1])["record"]["auth_token"] == hash_token("secret")
    assert await store.get_client(ClientId("b")) == client("b", auth_token=hash_token("another"))


async def test_an_import_replaces_what_is_there(store: MemoryStorage) -> None:
    await store.put_client(client("a", role="sender"))
    await store.put_client(client("b"))

    await import_lines(store, given([HEADER, CLIENT]))

    assert (await store.list_clients()).items == (client("a"), client("b"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"oops", "JSON is malformed"),
        (b'{"collection":"clients"}', "missing required field `record`"),
        (b'{"collection":"songs","record":{}}', "the collection is 'songs', expected one of: clients, rooms"),
        (b'{"collection":"clients","record":{"client_id":"a"}}', "missing required field `auth_token`"),
        (b'{"collection":"clients","record":{"client_id":"a/b","auth_token":""}}', "not a valid name"),
        (b'{"collection":"rooms","record":{"room_id":"r","is_active":1}}', "Expected `bool`, got `int`"),
        (b"\xff\xfe", "malformed"),
        (b'{"collection":"clients","record":' + b"[" * 1_000_000 + b"}", "recursion"),
    ],
)
async def test_a_bad_line_is_reported_and_the_others_are_stored(store: MemoryStorage, line: bytes, reason: str) -> None:
    imported = await import_lines(store, given([HEADER, b"\n", line, CLIENT]))

    assert (imported.clients, imported.rejected) == (1, 1)
    assert imported.bad_lines[0].number == 3
    assert reason in imported.bad_lines[0].reason
    assert await store.get_client(ClientId("a")) == client("a")


async def test_a_file_of_bad_lines_is_counted_whole_and_reported_in_part(store: MemoryStorage) -> None:
    imported = await import_lines(store, given([HEADER, *[b"oops\n"] * 500]))

    assert imported.rejected == 500
    assert len(imported.bad_lines) == 100
    assert all(isinstance(line, BadLine) for line in imported.bad_lines)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "the import is empty"),
        ([CLIENT], "no header"),
        ([b"\x89PNG\r\n"], "no header"),
        ([b'{"format":"something else","version":1}'], "no header"),
        ([b'{"format":"signal-manager storage","version":2}'], "version 2, expected at most 1"),
    ],
)
async def test_what_is_no_export_is_refused_whole(store: MemoryStorage, lines: list[bytes], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        await import_lines(store, given([*lines, CLIENT]) if lines else given([]))

    assert await exported(store) == [HEADER]


async def test_an_import_into_a_failing_store_ends_with_its_error() -> None:
    async with FailingStorage() as store:
        with pytest.raises(UnavailableError, match="disk is full"):
            await import_lines(store, given([HEADER, CLIENT]))


async def test_nodes_that_imported_records_name_are_cleaned_up_after_unless_they_live(
    store: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal_manager.storage.transfer.time.time", lambda: NOW)
    await store.hold_lease(NodeId("lives"), until=NOW + 30)
    records: list[tuple[str, Any]] = [
        ("clients", {"client_id": "a", "auth_token": "", "node_id": "gone1"}),
        (
            "rooms",
            {
                "room_id": "r",
                "is_active": True,
                "participants": [{"client_id": "a", "role": "sender", "node_id": "lives"}],
            },
        ),
        ("media_closings", {"entry_id": "e", "session_id": "s", "created_at": 0, "node_id": "gone2"}),
    ]
    lines = [json.dumps({"collection": collection, "record": record}).encode() for collection, record in records]

    await import_lines(store, given([HEADER, *lines]))
    await store.renew_lease(NodeId("lives"), until=NOW + 90)

    assert await store.take_over(now=NOW + 59, until=NOW + 99) is None
    assert [await store.take_over(now=NOW + 60, until=NOW + 99) for _ in range(3)] == ["gone1", "gone2", None]


async def test_an_exported_room_s_session_is_found_in_the_ledger_afterwards(store: MemoryStorage) -> None:
    await store.add_media(entry("e", session_id="s9"))
    lines = await exported(store)
    async with MemoryStorage() as other:
        await import_lines(other, given(lines))

        assert (await other.list_media(session_id=SessionId("s9"))).items == (entry("e", session_id="s9"),)
