"""Out of file descriptors: the service stays up, says so once, and recovers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.exceptions import InvalidHandshake

from benchmarks.processes import cpu_seconds
from tests.integration.attack import RudeClient, talking
from tests.integration.processes import service_process
from tests.integration.v1_client import TIME_LIMIT, connect

pytestmark = pytest.mark.long

FILES = 80


async def get_in(url: str) -> None:
    """Connect as a client does that tries again."""
    async with asyncio.timeout(TIME_LIMIT):
        while True:
            try:
                async with connect(url) as client:
                    await client.send("CONNECT", {"client_id": "nobody", "auth_token": "wrong"})
                    await client.expect_error(401)
                    return
            except (InvalidHandshake, OSError):
                await asyncio.sleep(0.05)


async def test_a_service_without_descriptors_goes_on_and_recovers(tmp_path: Path) -> None:
    with service_process(tmp_path, {}, max_files=FILES) as service:
        async with talking(service.url):
            async with AsyncExitStack() as flood:
                for _ in range(2 * FILES):
                    await flood.enter_async_context(RudeClient.open(service.port))
                # More than there can be were accepted by the kernel; those that do not fit are told, not left waiting.
                late = await flood.enter_async_context(RudeClient.open(service.port))
                await late.read_end()
                cpu_before = cpu_seconds(service.pid)
            await get_in(service.url)

        events = [line["event"] for line in service.logged()]
        assert events.count("cannot accept connections") == 1
        assert not [line for line in service.logged() if line["level"] in {"error", "critical"}]
        assert cpu_seconds(service.pid) - cpu_before < 5, "an accept loop that spins takes all there is"


async def test_max_connections_stays_below_the_descriptors_there_are(tmp_path: Path) -> None:
    with service_process(tmp_path, {"server.max_connections": 10_000}, max_files=FILES) as service:
        warned_of = "too few file descriptors for max_connections"
        (warning,) = [line for line in service.logged() if line["event"] == warned_of]

        assert (warning["limit"], warning["max_connections"]) == (FILES, FILES // 2)
        async with AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(RudeClient.upgraded(service.port)) for _ in range(FILES // 4)]
            assert await silent[0].read_close() in (4503, None), "they have a quarter of the rest"
            await silent[-1].check_alive()
