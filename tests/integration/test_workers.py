"""`server.workers`: real processes that share a port, and the effects on their clients when one of them dies."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from signal_manager.storage.sqlite.adapter import SqliteStorage
from tests.integration.test_nodes import LIMIT, ask, log_in
from tests.integration.v1_client import Client, connect
from tests.nats_server import NatsServer, free_port
from tests.web import plain_http

NAMES = [f"c{number}" for number in range(8)]


class Workers:
    """A service of several workers, as a shell would start it."""

    def __init__(self, folder: Path, nats_url: str, *, count: int = 2) -> None:
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.store = folder / "shared.db"
        self.log = folder / "stderr"
        self._config = folder / "config.toml"
        settings: dict[str, dict[str, Any]] = {
            "server": {"port": self.port, "workers": count, "drain_timeout": 5},
            "auth": {"api_keys": [f"{name}:t" for name in NAMES]},
            "storage": {"sqlite_path": str(self.store)},
            "media": {"backend": "none"},
            "metrics": {"port": free_port()},
            "bus": {"nats_url": nats_url, "node_id": "worker"},
            "logging": {"format": "json"},
        }
        self._config.write_text(
            "\n".join(
                line
                for section, values in settings.items()
                for line in (f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()))
            )
        )
        self.admin = f"http://127.0.0.1:{settings['metrics']['port']}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "signal_manager", "serve", "--config", str(self._config)), stderr=log
            )

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    async def until_logged(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        assert self.process is not None
        async with asyncio.timeout(3 * LIMIT):
            while len(self.logged(event)) < count:
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.05)
        return self.logged(event)

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), LIMIT)


@asynccontextmanager
async def workers(folder: Path, nats_url: str) -> AsyncIterator[Workers]:
    service = Workers(folder, nats_url)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


@pytest.mark.long
async def test_workers_share_a_port_a_dead_one_is_replaced_and_all_stop_in_order(
    nats: NatsServer, tmp_path: Path
) -> None:
    async with workers(tmp_path, nats.url) as service, AsyncExitStack() as stack:
        await service.until_logged("all workers started")
        pids = {line["pid"] for line in service.logged("worker started")}
        assert len(pids) == 2

        clients = {name: await stack.enter_async_context(connect(service.url, "signal-manager.v2")) for name in NAMES}
        for name, client in clients.items():
            await log_in(client, name)
        await ask(clients["c0"], "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        for name in NAMES[1:]:
            await ask(clients[name], "WEBRTC_ROOM_JOIN", role="receiver", room_id="r")
        for name in NAMES[1:]:
            await clients[name].send("SIGNAL_MESSAGE", {"target_client_id": "c0", "signal_data": name, "ack": True})
        heard: set[str] = set()
        while len(heard) < len(NAMES) - 1:
            received = await clients["c0"].receive()
            if received.type == "SIGNAL_MESSAGE":
                heard.add(received.fields["signal_data"])
        assert heard == set(NAMES[1:])
        async with plain_http() as http:
            numbers = (await http.get(f"{service.admin}/metrics", timeout=LIMIT)).text
        clients_of = re.findall(r'^signal_manager_clients\{worker="(\d)"\} (\d+)', numbers, re.MULTILINE)
        assert [worker for worker, _ in clients_of] == ["0", "1"]
        assert sum(int(count) for _, count in clients_of) == len(NAMES)
        assert "signal_manager_workers_unheard 0.0" in numbers

        victim = service.logged("worker started")[0]
        os.kill(victim["pid"], signal.SIGKILL)
        await service.until_logged("worker started", count=3)
        # The restarted worker cleans up: its former clients are out of the room, the others stay in it.
        gone = {name for name, client in clients.items() if await is_closed(client)}
        stayed = sorted(set(NAMES) - gone)
        async with SqliteStorage(path=str(service.store)) as store, asyncio.timeout(LIMIT):
            while True:
                room = await store.get_room("r")  # type: ignore[arg-type]  # a plain name
                present = sorted(member.client_id for member in room.participants) if room and room.is_active else []
                if present == stayed:
                    break
                await asyncio.sleep(0.05)

        async with at_any(service, sorted(gone)[0] if gone else "c0") as again:
            await again.check_alive()
        assert await service.stop() == 0
        assert service.logged("all workers stopped")


async def is_closed(client: Client) -> bool:
    """Tell whether a client's connection is gone."""
    try:
        await asyncio.wait_for(client.websocket.ping(), 5)
    except Exception:
        return True
    return client.websocket.close_code is not None


@asynccontextmanager
async def at_any(service: Workers, name: str) -> AsyncIterator[Client]:
    async with connect(service.url, "signal-manager.v2") as client:
        await log_in(client, name)
        yield client


@pytest.mark.long
async def test_workers_without_nats_say_how_to_start_it(tmp_path: Path) -> None:
    port = free_port()
    service = Workers(tmp_path, f"nats://127.0.0.1:{port}")
    await service.start()
    assert service.process is not None

    assert await asyncio.wait_for(service.process.wait(), 3 * LIMIT) == 1
    assert f"nats-server --addr 127.0.0.1 --port {port}" in service.log.read_text()
