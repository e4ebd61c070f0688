"""The service stopped and started again under talking clients: nobody loses a message, and nobody hears one twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import ROOT, free_port
from signal_manager.client import Event, Reconnected, RetryPolicy, SignalClient, SignalReceived
from signal_manager.client.room import Room
from signal_manager.client.room_events import RoomHappening, RoomReconnected, RoomReconnecting
from signal_manager.service.app import running
from signal_manager.service.config import Config
from tests.integration.conftest import DEFAULTS
from tests.integration.v1_client import ALICE, BOB, connect
from tests.waiting import until

RESTARTS = 10
CLIENTS = 500
# Between hearing and answering (s): all of them talk, and the machine has something left for the service.
PAUSE = 0.5
LIMIT = 60.0
AT_ONCE = RetryPolicy(base_delay=0.01, max_delay=0.05)

# Starts the service again and again without importing all of it each time; a line in for each start, two lines out:
# the process, and how it ended.
STARTER = """\
import os, sys
import signal_manager.service.app, signal_manager.cli.main, signal_manager.storage.sqlite.adapter
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        sys.argv = ["signal-manager", "serve", "--config", line.strip()]
        signal_manager.cli.main.main()
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Restarted:
    """A service that a test stops and starts again, each time as a process of its own."""

    def __init__(self, starter: Process, config: Path, port: int) -> None:
        self.url = f"ws://127.0.0.1:{port}"
        self._starter = starter
        self._config = config
        self._port = port
        self._pid = 0

    @classmethod
    @asynccontextmanager
    async def start(cls, directory: Path, sections: dict[str, dict[str, Any]]) -> AsyncIterator[Restarted]:
        port, config = free_port(), directory / "config.toml"
        sections["server"] = sections.get("server", {}) | {"port": port}
        sections["logging"] = {"file_path": str(directory / "service.log"), "console_output": False}
        config.write_text(
            "\n".join(
                line
                for name, values in sections.items()
                for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()))
            )
        )
        starter = await asyncio.create_subprocess_exec(sys.executable, "-c", STARTER, cwd=ROOT, stdin=PIPE, stdout=PIPE)
        service = cls(starter, config, port)
        try:
            await service.begin()
            yield service
            assert await service.end() == 0
        finally:
            if service._pid:
                os.kill(service._pid, signal.SIGKILL)
            starter.kill()
            await starter.wait()

    async def begin(self) -> None:
        assert self._starter.stdin is not None
        self._starter.stdin.write(f"{self._config}\n".encode())
        self._pid = await self._line()
        async with asyncio.timeout(LIMIT):
            while not await self._answers():  # noqa: ASYNC110 - another process, which tells nobody
                await asyncio.sleep(0.02)

    async def end(self) -> int:
        """Ask the service to stop, and return its exit status."""
        os.kill(self._pid, signal.SIGTERM)
        status = await self._line()
        self._pid = 0
        return status

    async def _line(self) -> int:
        assert self._starter.stdout is not None
        async with asyncio.timeout(LIMIT):
            return int(await self._starter.stdout.readline())

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True


class Talker:
    """A client that answers each message of its partner with the next number, and notes each one out of order."""

    def __init__(self, url: str, name: str, partner: str) -> None:
        retry = RetryPolicy(first_attempts=5, base_delay=0.5, max_delay=1.0)
        self.client = SignalClient(url, name, "token", retry=retry, connect_timeout=LIMIT, request_timeout=LIMIT)
        self.heard = 0
        self.returns = 0
        self.faults: list[Event | str] = []
        self._partner = partner

    async def talk(self) -> None:
        async for event in self.client:
            match event:
                case SignalReceived(data=number) if number == self.heard + 1:
                    self.heard = number
                    await asyncio.sleep(PAUSE)
                    await self.say(number + 1)
                case Reconnected(resumed=True):
                    self.returns += 1
                case SignalReceived() | Reconnected():
                    self.faults.append(event)
                case _ if event.name == "error":
                    self.faults.append(event)

    async def say(self, number: int) -> None:
        await self.client.send_message(self._partner, number)


@pytest.mark.long
async def test_ten_restarts_under_500_talking_clients_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    names = [f"client-{number}" for number in range(CLIENTS)]
    sections = {name: dict(values) for name, values in DEFAULTS.items()}
    sections["storage"] = {"backend": "sqlite", "sqlite_path": str(tmp_path / "store.db")}
    sections["auth"] = {"auth_method": "api_key", "api_keys": [f"{name}:token" for name in names]}
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(Restarted.start(tmp_path, sections))
        talkers = [Talker(service.url, name, names[number ^ 1]) for number, name in enumerate(names)]
        await asyncio.gather(*(talker.client.connect() for talker in talkers))
        talking = [asyncio.create_task(talker.talk()) for talker in talkers]
        await asyncio.gather(*(talker.say(1) for talker in talkers))

        for restart in range(1, RESTARTS + 1):
            before = [talker.heard for talker in talkers]
            assert await service.end() == 0
            await service.begin()
            await until(lambda restart=restart: all(talker.returns == restart for talker in talkers), limit=LIMIT)  # type: ignore[misc]  # mypy cannot infer it
            # Each pair's two balls are in the air all the time: a lost one would never be heard of again.
            await until(
                lambda before=before: all(
                    talker.heard > count + 1 for talker, count in zip(talkers, before, strict=True)
                ),  # type: ignore[misc]  # as above
                limit=LIMIT,
            )

        assert [talker.faults for talker in talkers if talker.faults] == []
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
        await asyncio.gather(*(talker.client.close() for talker in talkers))


async def test_members_leave_with_the_reason_and_the_sdk_joins_again_after_the_restart(tmp_path: Path) -> None:
    sections = {name: dict(values) for name, values in DEFAULTS.items()}
    sections["storage"] = {"backend": "sqlite", "sqlite_path": str(tmp_path / "store.db")}
    async with AsyncExitStack() as stack:
        async with running(Config.model_validate(sections)) as service:
            sections["server"]["port"] = service.port
            url = f"ws://127.0.0.1:{service.port}"
            alice = await stack.enter_async_context(SignalClient(url, *ALICE, retry=AT_ONCE))
            room = await alice.join("lunch", create=True, retry=AT_ONCE)
            bob = await (await stack.enter_async_context(connect(url, "signal-manager.v2"))).log_in(BOB)
            await bob.send("WEBRTC_ROOM_JOIN", {"room_id": "lunch", "role": "receiver"})
            await bob.expect("WEBRTC_ROOM_JOIN_ACK")
        told = [(await bob.expect(kind)).fields for kind in ("GOAWAY", "ROOM_EVENT")][1]
        await stack.enter_async_context(running(Config.model_validate(sections)))
        async with asyncio.timeout(LIMIT):
            seen = [event async for event in _up_to(room, RoomReconnected)]
        bob = await (await stack.enter_async_context(connect(url, "signal-manager.v2"))).log_in(BOB)
        await bob.send("WEBRTC_ROOM_JOIN", {"room_id": "lunch", "role": "receiver"})
        again = (await bob.expect("WEBRTC_ROOM_JOIN_ACK")).fields

    assert told["reason"] == "restarting"
    assert any(isinstance(event, RoomReconnecting) for event in seen)
    assert {member["client_id"] for member in again["participants"]} == {ALICE[0], BOB[0]}


async def _up_to(room: Room, kind: type[RoomReconnected]) -> AsyncIterator[RoomHappening]:
    async for event in room:
        yield event
        if isinstance(event, kind):
            return
