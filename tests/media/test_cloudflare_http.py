"""Calls go through few connections at a time, and all through the first while there are few of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from signal_manager.media.cloudflare_http import POOL_SIZE, Pools

TIME_LIMIT = 20.0


class Stub:
    """Answers when it is told to, and counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0
        self.changed = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                self.changed.set()
                await self.may_answer.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async def stop(self) -> None:
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def until(self, requests: int) -> None:
        async with asyncio.timeout(TIME_LIMIT):
            while self.requests < requests:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def stub() -> Stub:
    return Stub()


@pytest.fixture
async def url(stub: Stub) -> AsyncIterator[str]:
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    stub.may_answer.set()
    await stub.stop()


@pytest.fixture
async def pools() -> AsyncIterator[Pools]:
    pools = Pools("http://127.0.0.1", max_connections=24, timeout=TIME_LIMIT)
    yield pools
    await pools.aclose()


async def call(pools: Pools, url: str) -> bytes:
    status, body = await pools.exchange("GET", url, content=None, headers={})
    assert status == 200
    return body


async def test_calls_one_after_another_share_a_connection(pools: Pools, stub: Stub, url: str) -> None:
    stub.may_answer.set()

    assert [await call(pools, url) for _ in range(3)] == [b"{}"] * 3
    assert stub.connections == 1


async def test_many_calls_at_once_are_spread_over_pools_up_to_the_limit(pools: Pools, stub: Stub, url: str) -> None:
    calls = [asyncio.create_task(call(pools, url)) for _ in range(40)]
    await stub.until(24)

    stub.may_answer.set()

    assert await asyncio.gather(*calls) == [b"{}"] * 40
    assert POOL_SIZE < stub.connections <= 24
    assert [pool.calls for pool in pools._pools] == [0, 0, 0]


async def test_a_call_that_is_given_up_makes_room(pools: Pools, stub: Stub, url: str) -> None:
    waiting = asyncio.create_task(call(pools, url))
    await stub.until(1)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert pools._pools[0].calls == 0
