"""Which modules of the service one message passes: an offer, a join, a resume and an offer to another node.

`python -m tools.walk` prints the table of docs/architecture.md. The service runs in this process, its clients in
another one, so that only the service's modules are counted: those of which a function runs in the event loop's thread.
The offer to another node counts both nodes and needs nats-server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from types import FrameType
from typing import Any

import structlog

from signal_manager.client import SignalClient
from signal_manager.service.app import running
from signal_manager.service.config import Config

_PACKAGE = "signal_manager."
_NOT_ON_THE_WAY = ("admin.", "observe.logs", "records.housekeeping", "model", "errors")
# Timers of the service run in between; what they touch shows up in a walk of the same length without any message.
_SETTLED = 0.3


async def _clients(first: str, second: str) -> None:
    """Do one step for each line on standard input, and say so on standard output."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    alice, bob = (
        SignalClient(first, "test_client_1", "test_token_1"),
        SignalClient(first, "test_client_2", "test_token_2"),
    )
    far = SignalClient(second, "test_client_2", "test_token_2")
    received = asyncio.Event()
    for each in (bob, far):
        each.on("offer", lambda _: received.set())
    await alice.connect()
    while line := (await lines.readline()).decode().strip():
        received.clear()
        if line == "near":
            await bob.connect()
        elif line == "offer":
            await alice.send_offer("test_client_2", "v=0")
            await received.wait()
        elif line == "join":
            await alice.join("walk", create=True)
        elif line == "resume":
            await alice.reconnect()
        elif line == "far":
            await bob.close()
            await far.connect()
        print("done", flush=True)
    for each in (alice, bob, far):
        await each.close()


@contextlib.asynccontextmanager
async def _steps(first: str, second: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    command = [sys.executable, "-m", "tools.walk", "clients", first, second]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    orders, answers = process.stdin, process.stdout

    async def step(name: str) -> None:
        orders.write(f"{name}\n".encode())
        if await answers.readline() != b"done\n":
            raise RuntimeError(f"the clients failed at {name!r}")

    try:
        yield step
    finally:
        orders.close()
        await process.wait()


async def _touched(step: Awaitable[None]) -> set[str]:
    """Return the modules of which a function runs during a step."""
    found: set[str] = set()

    def note(frame: FrameType, _event: str, _argument: Any) -> None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(_PACKAGE):
            found.add(name.removeprefix(_PACKAGE))

    sys.setprofile(note)
    try:
        await step
    finally:
        sys.setprofile(None)
    return {each for each in found if not each.startswith(_NOT_ON_THE_WAY)}


def _config(folder: str, nats: str | None = None) -> Config:
    sections: dict[str, Any] = {
        "server": {"host": "127.0.0.1", "port": 0},
        "storage": {"backend": "sqlite", "sqlite_path": f"{folder}/walk.db"},
        "media": {"backend": "local" if nats is None else "none"},
        "metrics": {"enabled": False},
    }
    if nats is not None:
        sections["bus"] = {"backend": "nats", "nats_url": nats}
    return Config.model_validate(sections)


async def _walk(folder: str) -> dict[str, set[str]]:
    walks: dict[str, set[str]] = {}
    async with running(_config(folder)) as server, _steps(*2 * (f"ws://127.0.0.1:{server.port}",)) as step:
        await step("near")
        for name in ("offer", "join", "resume"):
            await asyncio.sleep(_SETTLED)
            walks[name] = await _touched(step(name))
    if shutil.which("nats-server") is not None:
        async with (
            _nats() as url,
            running(_config(folder, url)) as one,
            running(_config(folder, url)) as two,
            _steps(f"ws://127.0.0.1:{one.port}", f"ws://127.0.0.1:{two.port}") as step,
        ):
            await step("far")
            await asyncio.sleep(_SETTLED)
            walks["offer to another node"] = await _touched(step("offer"))
    return walks


@contextlib.asynccontextmanager
async def _nats() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *("nats-server", "--addr", "127.0.0.1", "--port", "-1"), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if b"Listening for client connections on" in line:
                yield f"nats://{line.decode().split()[-1]}"
                break
    finally:
        process.terminate()
        await process.communicate()


def main() -> None:
    """Walk, and print a table; with `--json`, everything."""
    if sys.argv[1:2] == ["clients"]:
        asyncio.run(_clients(*sys.argv[2:]))
        return
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with tempfile.TemporaryDirectory() as folder:
        walks = asyncio.run(_walk(folder))
    if "--json" in sys.argv:
        print(json.dumps({name: sorted(modules) for name, modules in walks.items()}, indent=2))
        return
    print("| walk | modules | through |\n|---|---|---|")
    for name, modules in walks.items():
        print(f"| {name} | {len(modules)} | {', '.join(f'`{each}`' for each in sorted(modules))} |")


if __name__ == "__main__":
    main()
