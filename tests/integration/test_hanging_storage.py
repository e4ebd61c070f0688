"""A service whose store never answers again: it stops in time all the same, and says what it has not saved."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import ROOT
from signal_manager.client import SignalClient
from signal_manager.gateway import drain
from signal_manager.protocol.messages import RoomCreate, RoomCreateAck
from signal_manager.service import app
from tests.integration.v1_client import ALICE

# An access to the store may take longer than the test waits for the end.
LIMIT = 30.0
OPERATION_TIMEOUT = 60.0

HANGING = """\
import asyncio, signal
from signal_manager.cli.main import main
from signal_manager.storage.memory import MemoryStorage

async def never(*_):
    await asyncio.get_running_loop().create_future()

def hang(*_):
    for access in ("_read", "_change", "_write", "_remove", "_select"):
        setattr(MemoryStorage, access, never)
    print("hangs", flush=True)

signal.signal(signal.SIGUSR1, hang)
main()
"""


async def lines_until(process: Process, event: str) -> list[dict[str, Any]]:
    """Return what the service logs up to an event, or to its end."""
    assert process.stderr is not None
    lines: list[dict[str, Any]] = []
    async with asyncio.timeout(LIMIT):
        while line := await process.stderr.readline():
            lines.append(json.loads(line))
            if lines[-1]["event"] == event:
                break
    return lines


@pytest.mark.long
async def test_a_service_whose_storage_hangs_stops_in_time_and_says_what_is_lost(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f"[server]\nport = 0\ndrain_timeout = 2\n[metrics]\nenabled = false\n"
        f"[media]\nbackend = 'none'\n[storage]\nbackend = 'memory'\noperation_timeout = {OPERATION_TIMEOUT}\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGNAL_MANAGER_")}
    command = (sys.executable, "-c", HANGING, "serve", "--config", str(config))
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE)
    try:
        started = (await lines_until(process, "service started"))[-1]
        async with SignalClient(f"ws://127.0.0.1:{started['port']}", *ALICE) as alice:
            await alice.request(RoomCreate(room_id="lunch", role="receiver"), RoomCreateAck)
            process.send_signal(signal.SIGUSR1)
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), LIMIT) == b"hangs\n"

            process.send_signal(signal.SIGTERM)
            logged = await lines_until(process, "none such")
            status = await asyncio.wait_for(process.wait(), LIMIT)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    said = {line["event"]: line for line in logged}
    assert status == 0
    assert {"rooms not left in time", "sessions not saved in time", "records left to the lease"} <= said.keys()
    assert said["sessions not saved"]["sessions"] == 1


def test_all_that_a_stop_may_wait_for_fits_into_its_time() -> None:
    parts = (drain._MOMENT_SHARE, drain._ANSWER_SHARE, drain._ROOMS_SHARE, drain._SAVE_SHARE)
    closing = 2 * drain._CLOSE_SHARE  # for close frames to be answered, and for sockets to be cut

    assert sum(parts) + closing + app._ROOMS_STOP_SHARE + app._RECORDS_STOP_SHARE <= 1.0 + 1e-9
