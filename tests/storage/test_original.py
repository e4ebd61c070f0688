"""The original service's documents become records of ours, and are taken over where there are none yet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from google.cloud.firestore_v1 import AsyncClient

from signal_manager.model import ClientId, ClientRecord, Room, RoomId
from signal_manager.storage import original
from signal_manager.storage.documents import CLIENTS, ROOMS, decode
from signal_manager.storage.firestore import EMULATOR_HOST
from signal_manager.storage.memory import MemoryStorage
from signal_manager.storage.sqlite.adapter import SqliteStorage
from signal_manager.storage.transfer import ORIGINALS_KEPT, TakenOver, take_over
from tests.cli.test_storage import run as run_storage
from tests.storage.test_firestore import ORIGINAL_CLIENT, ORIGINAL_ROOM

TERMINATED = {**ORIGINAL_ROOM, "room_id": "ended", "status": "Terminated", "receiver_client_id": "b"}
NOW = 1_800_000_000.0


def test_a_terminated_room_is_closed() -> None:
    room = original.room_of(TERMINATED)

    assert (room.is_active, room.close_reason, room.closed_at) == (False, "terminated", 1767323046.0)
    assert room.receiver_client_id == "b"


@pytest.mark.parametrize("time", ["yesterday", "", None, "9999999-01-01T00:00:00Z"])
def test_a_time_that_is_none_is_left_out(time: str | None) -> None:
    assert "created_at" not in original.room_of({**ORIGINAL_ROOM, "created_at": time}).metadata
    assert original.client_of({**ORIGINAL_CLIENT, "joined_at": time}).registered_at is None


def test_a_client_that_has_left_its_room_is_in_none() -> None:
    assert original.client_of({**ORIGINAL_CLIENT, "room_id": ""}).room_id is None


def test_metadata_need_not_be_a_map() -> None:
    assert original.client_of({**ORIGINAL_CLIENT, "metadata": ["x"]}).metadata == {"metadata": ["x"]}


@pytest.mark.parametrize("field", ["room_id", "status", "record_created_at"])
def test_a_document_that_lacks_what_the_original_always_wrote_is_damaged(field: str) -> None:
    document = {name: value for name, value in ORIGINAL_ROOM.items() if name != field}
    with pytest.raises(msgspec.ValidationError):
        decode(ROOMS, "r", document)


def test_a_document_of_ours_with_a_mistake_is_damaged_as_ever() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(CLIENTS, "a", {"client_id": "a"})


async def documents(*each: dict[str, Any]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    for document in each:
        yield document.get("client_id") or document["room_id"], document


async def taken(storage: MemoryStorage, *, apply: bool) -> TakenOver:
    rooms = documents(ORIGINAL_ROOM, TERMINATED, {"room_id": "odd"})
    clients = documents(ORIGINAL_CLIENT, {**ORIGINAL_CLIENT, "client_id": "known"}, {"client_id": "odd"})
    return await take_over(rooms, clients, storage, apply=apply, now=NOW)


async def test_rooms_and_clients_are_counted_first_and_taken_over_once() -> None:
    async with MemoryStorage() as storage:
        known = ClientRecord(client_id=ClientId("known"), auth_token="sha256:" + "0" * 64)
        await storage.put_client(known)

        dry = await taken(storage, apply=False)
        assert await storage.get_room(RoomId("r")) is None
        done = await taken(storage, apply=True)
        again = await taken(storage, apply=True)

        assert dry == done
        assert (done.rooms, done.open_rooms, done.clients, done.kept, len(done.unreadable)) == (2, 1, 1, 1, 2)
        assert (again.rooms, again.clients, again.kept) == (0, 0, 4)
        room = await storage.get_room(RoomId("r"))
        assert isinstance(room, Room)
        assert (room.is_active, room.expires_at) == (True, NOW + ORIGINALS_KEPT)
        assert await storage.get_client(ClientId("known")) == known


@pytest.mark.long
async def test_rooms_of_the_original_service_are_looked_at_first_and_then_taken_over(
    tmp_path: Path, emulator_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into SQLite, from the database that [firestore] names."""
    project = f"p{uuid4().hex[:12]}"
    monkeypatch.setenv(EMULATOR_HOST, emulator_host)
    config = tmp_path / "config.toml"
    database = tmp_path / "own.db"
    storage_table = f'[storage]\nbackend = "sqlite"\nsqlite_path = "{database}"\n'
    config.write_text(f'{storage_table}[firestore]\nproject_id = "{project}"\n')
    client = AsyncClient(project=project)
    await client.collection("webrtc_rooms").document("r").set(ORIGINAL_ROOM)
    await client.collection("webrtc_clients").document("a").set(ORIGINAL_CLIENT)
    await client.collection("webrtc_clients").document("b").set({"client_id": "b"})

    looked = await asyncio.to_thread(run_storage, "import", "--from", "original", "--config", str(config))
    took = await asyncio.to_thread(
        run_storage, "import", "--from", "original", "--apply", "--json", "--config", str(config)
    )

    assert looked.returncode == took.returncode == 1  # one document is left out
    assert looked.stdout.decode() == "1 rooms (1 open) and 1 clients found, 0 kept\n"
    assert b"webrtc_clients/b" in looked.stderr
    assert json.loads(took.stdout)["applied"] is True
    async with SqliteStorage(path=database) as storage:
        assert await storage.get_room(RoomId("r")) is not None
        assert await storage.get_client(ClientId("a")) is not None
