"""The service killed in mid-flight and started again, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from signal_manager.client import SignalClient

ONE = ("test_client_1", "test_token_1")


class Serving:
    """A running `signal-manager serve`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.url = f"ws://127.0.0.1:{port}"

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Serving]]]:
    started: list[Serving] = []
    config = tmp_path / "config.toml"
    config.write_text(
        f"[server]\nport = 0\n[metrics]\nenabled = false\n[media]\nbackend = 'none'\n"
        f"[storage]\nsqlite_path = {json.dumps(str(tmp_path / 'signal.db'))}\n"
    )

    async def start() -> Serving:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "signal_manager", "serve", "--config", str(config)),
            stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("SIGNAL_MANAGER_")},
        )
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while line := await process.stderr.readline():
                if b"service started" in line:
                    started.append(Serving(process, json.loads(line)["port"]))
                    return started[-1]
        raise AssertionError("the service ended before it listened")

    yield start
    for serving in started:
        if serving.process.returncode is None:
            serving.process.terminate()
            async with asyncio.timeout(20):
                await serving.process.wait()


def status(database: Path) -> list[tuple[str, str | None]]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT body FROM clients").fetchall()
    records = [json.loads(body) for (body,) in rows]
    return [(record["status"], record["node_id"]) for record in records]


@pytest.mark.long
async def test_clients_of_a_killed_service_are_offline_after_its_next_start(
    serve: Callable[[], Awaitable[Serving]], tmp_path: Path
) -> None:
    serving = await serve()
    async with SignalClient(serving.url, *ONE) as client:
        await client.register(metadata={"name": "Ada"})
        await serving.kill()
    assert [state for state, node in status(tmp_path / "signal.db") if node] == ["online"]

    again = await serve()

    assert status(tmp_path / "signal.db") == [("offline", None)]
    async with SignalClient(again.url, *ONE) as client:
        await client.register()
    again.process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(again.process.wait(), 20) == 0
    assert status(tmp_path / "signal.db") == [("offline", None)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("backend = 'papyrus'", b"expected one of"),
        ("sqlite_path = '/proc/no/such/directory.db'", b"/proc/no/such/directory.db"),
        ("sqlite_path = '.'", b"sqlite_path"),
    ],
)
async def test_a_store_that_cannot_be_used_is_one_line_and_exit_status_2(
    tmp_path: Path, setting: str, says: bytes
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"[server]\nport = 0\n[storage]\n{setting}\n")

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "signal_manager", "serve", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    _, printed = await asyncio.wait_for(process.communicate(), 20)

    assert process.returncode == 2
    assert says in printed
    assert len(printed.splitlines()) == 1
