"""What an idle connection keeps, counted in Python objects and their bytes: no machine's mood."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter

from signal_manager.gateway.connection import Connection
from tests.integration.conftest import Service
from tests.integration.v1_client import ALICE, BOB, connect

# picows' two buffers, 3 KiB, and libuv's handle are beside these, where Python does not see them. CPython 3.11 has 40
# objects with 4.1 KB in the pure form, and other versions differ by some bytes.
MOST_OBJECTS = 44
MOST_BYTES = 4400


def everything() -> dict[int, object]:
    """Return all objects of the process by id."""
    tracked = gc.get_objects()
    found = {id(each): each for each in tracked}
    for each in tracked:
        for referent in gc.get_referents(each):
            found.setdefault(id(referent), referent)
    return found


def kept(connection: Connection, others: dict[int, object]) -> list[object]:
    """Return the connection and what it keeps that is not among the `others`."""
    found: dict[int, object] = {id(connection): connection}
    waiting: list[object] = [connection]
    while waiting:
        for referent in gc.get_referents(waiting.pop()):
            if id(referent) not in others and id(referent) not in found:
                found[id(referent)] = referent
                waiting.append(referent)
    return list(found.values())


async def test_an_idle_connection_keeps_few_objects(service: Service) -> None:
    async with connect(service.url) as alice:
        # What the first connection makes for all is no part of the second.
        await alice.send("CONNECT", {"client_id": ALICE[0], "auth_token": ALICE[1]})
        await alice.expect("CONNECT_ACK")
        earlier = set(service.server.live_sessions.sessions())
        others = everything()
        async with connect(service.url) as bob:
            await bob.send("CONNECT", {"client_id": BOB[0], "auth_token": BOB[1]})
            await bob.expect("CONNECT_ACK")
            await asyncio.sleep(0)
            (connection,) = set(service.server.live_sessions.sessions()) - earlier
            assert isinstance(connection, Connection)

            found = kept(connection, others)

    size = sum(sys.getsizeof(each) for each in found)
    what = Counter(type(each).__name__ for each in found)
    assert len(found) <= MOST_OBJECTS, (len(found), size, what)
    assert size <= MOST_BYTES, (len(found), size, what)
