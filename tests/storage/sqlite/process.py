"""A process on a SQLite store, for tests that need several of them or one that dies.

python tests/storage/sqlite/process.py PATH write NAME    writes for ever, one line of output per acknowledged write
python tests/storage/sqlite/process.py PATH join NAME N   joins room "r" N times and says how often that succeeded
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from itertools import count

import msgspec

from signal_manager.errors import ConflictError
from signal_manager.model import ClientId, ClientRecord, EntryId, MediaClosing, MemberRecord, Room, RoomId, SessionId
from signal_manager.storage.base import RoomChange
from signal_manager.storage.sqlite.adapter import SqliteStorage

# Long enough for a write that is cut short to be seen.
FILLING = "x" * 5000


def joining(name: str) -> RoomChange:
    """Return the change that adds a member, or raises because the room is full."""
    member = MemberRecord(client_id=ClientId(name), role="sender")

    def join(room: Room) -> Room:
        if room.max_participants is not None and len(room.participants) >= room.max_participants:
            raise ConflictError("the room is full")
        return msgspec.structs.replace(room, participants=(*room.participants, member))

    return join


async def write(storage: SqliteStorage, name: str) -> None:
    """Write a client, a pair of ledger entries and a room change at a time, and acknowledge each on stdout."""

    async def acknowledged(writing: Awaitable[object], what: str) -> None:
        await writing
        print(what, flush=True)

    for n in count():
        client = ClientRecord(client_id=ClientId(f"{name}-{n}"), auth_token="", metadata={"filling": FILLING})
        pair = [
            MediaClosing(entry_id=EntryId(f"{name}-{n}-{half}"), session_id=SessionId("s"), created_at=0.0)
            for half in "ab"
        ]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(acknowledged(storage.create_client(client), f"client {name}-{n}"))
            tasks.create_task(acknowledged(storage.add_media(*pair), f"pair {name}-{n}"))
            tasks.create_task(acknowledged(storage.change_room(RoomId("r"), joining(f"{name}-{n}")), "room"))


async def join(storage: SqliteStorage, name: str, times: int) -> None:
    """Join as often as asked, all at once, and print how many succeeded."""
    outcomes = await asyncio.gather(
        *(storage.change_room(RoomId("r"), joining(f"{name}-{n}")) for n in range(times)),
        return_exceptions=True,
    )
    unexpected = [outcome for outcome in outcomes if not isinstance(outcome, Room | ConflictError)]
    print(sum(isinstance(outcome, Room) for outcome in outcomes), *unexpected)


async def main() -> None:
    """Do what the command line says."""
    path, what, name, *rest = sys.argv[1:]
    async with SqliteStorage(path=path, operation_timeout=20) as storage:
        if what == "write":
            await write(storage, name)
        else:
            await join(storage, name, int(rest[0]))


if __name__ == "__main__":
    asyncio.run(main())
