"""How soon is a client back on a changed network? Both SDKs, behind a proxy that swallows their connections.

A swallowed connection's sockets stay open, and nothing goes through any more: no RST, no FIN, and new connections work.
That is what a changed network looks like to a client.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Annotated, Protocol, Self

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.processes import ROOT, MeasurementError, end_on_sigterm
from benchmarks.results import machine, write_json
from benchmarks.servers import service
from signal_manager.client import Reconnected, RoomReconnecting, SignalClient
from signal_manager.errors import UnavailableError
from signal_manager.protocol.messages import IceServers, IceServersAck

__all__ = ["BAR", "SCENES", "BlackHole", "Subject", "app", "browser_client", "browser_sdk", "measure", "python_client"]

TOKEN = "token-of-the-black-hole-benchmark"
# Seconds within which a client must be back, where it asks for something or is in a room.
BAR = 5.0
# What the client does when its network is gone, and whether the bar holds for it.
SCENES = {
    "a request is on its way": "ask",
    "in a room, saying nothing": "nothing",
    "reconnect() is called": "reconnect",
    "the browser says `online`": "online",
}
LIMIT = 60.0
_CHUNK = 65536
_SDK = ROOT / "sdk" / "js"
_SCRIPT = ROOT / "benchmarks" / "blackhole_client.mjs"


class BlackHole:
    """Forward connections to a service; an async context manager.

    Args:
        port: where the service listens, on loopback.
    """

    def __init__(self, port: int) -> None:
        self.connections = 0  # that were accepted
        self.port = 0
        self._target = port
        self._way = asyncio.Event()  # whether the connections that are there now get through
        self._way.set()
        self._may_enter = asyncio.Event()  # whether new ones do
        self._may_enter.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://127.0.0.1:{self.port}"

    def swallow(self) -> None:
        """Let nothing of the present connections through any more; new ones get through."""
        self._way.clear()
        self._way = asyncio.Event()
        self._way.set()

    def shut(self) -> asyncio.Event:
        """Let the present connections through once the event that is returned is set, and new ones after `admit`."""
        way, self._way = self._way, asyncio.Event()
        way.clear()
        self._way.set()
        self._may_enter.clear()
        return way

    def admit(self) -> None:
        """Let new connections through again."""
        self._may_enter.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer, self._way))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: asyncio.Event) -> None:
        outwards = None
        try:
            await self._may_enter.wait()
            inner_reader, outwards = await asyncio.open_connection("127.0.0.1", self._target)
            ways = [
                asyncio.ensure_future(_forward(reader, outwards, way)),
                asyncio.ensure_future(_forward(inner_reader, writer, way)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in ways:
                    each.cancel()
        except OSError:
            pass  # the service is gone
        finally:
            for end in (writer, outwards):
                if end is not None:
                    end.transport.abort()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            await way.wait()
            writer.write(data)
            await writer.drain()


class Subject(Protocol):
    """A client of one of the SDKs, as far as a measurement drives it."""

    async def do(self, word: str) -> None:
        """Start one of: join, ask (a request), reconnect, online, nothing, close."""

    async def hears(self, word: str) -> None:
        """Wait until one of these has happened: connected, joined, asked, back."""


class _Words:
    """What has happened, for those who wait for it."""

    def __init__(self) -> None:
        self._words: asyncio.Queue[str] = asyncio.Queue()

    def put(self, word: str) -> None:
        self._words.put_nowait(word)

    async def hears(self, word: str) -> None:
        """Wait until `word` has happened; raise MeasurementError when the client ends or loses its session first."""
        async with asyncio.timeout(LIMIT):
            while (heard := await self._words.get()) != word:
                if heard in {"closed", "rejoined", "lost"}:
                    raise MeasurementError(f"expected {word}, heard {heard}")


class _PythonClient(_Words):
    def __init__(self, client: SignalClient) -> None:
        super().__init__()
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()
        client.on("reconnected", self._returned)

    def _returned(self, event: Reconnected) -> None:
        self.put("back" if event.resumed else "lost")

    async def do(self, word: str) -> None:
        """Start one of the works in the SDK."""
        works = {"join": self._join, "ask": self._ask, "reconnect": self._client.reconnect}
        if word in works:
            task = asyncio.get_running_loop().create_task(works[word]())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _join(self) -> None:
        room = await self._client.join(self._client.client_id, create=True)
        room.on("reconnecting", self._rejoined)
        self.put("joined")

    def _rejoined(self, _event: RoomReconnecting) -> None:
        self.put("rejoined")

    async def _ask(self) -> None:
        with suppress(UnavailableError):  # the client is closed before
            await self._client.request(IceServers(), IceServersAck, timeout=LIMIT)
            self.put("asked")


@asynccontextmanager
async def python_client(url: str, name: str, token: str = TOKEN) -> AsyncIterator[Subject]:
    """Connect a client of the Python SDK."""
    client = SignalClient(url, name, token)
    subject = _PythonClient(client)
    async with client:
        subject.put("connected")
        yield subject


class _BrowserClient(_Words):
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        self._process = process

    async def do(self, word: str) -> None:
        """Pass the word to the Node process."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        await self._process.stdin.drain()

    async def read(self) -> None:
        """Take what the client says, until it ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.put(line.decode().strip())


def browser_sdk(directory: Path) -> Path | None:
    """Return the browser SDK as one module, made from its sources in `directory`; None where there is no Node."""
    esbuild = _SDK / "node_modules" / ".bin" / "esbuild"
    if shutil.which("node") is None or not esbuild.exists():
        return None
    module = directory / "sdk.mjs"
    options = ["--bundle", "--format=esm", "--log-level=error", f"--outfile={module}"]
    subprocess.run([esbuild, _SDK / "src" / "index.ts", *options], check=True)
    return module


@asynccontextmanager
async def browser_client(sdk: Path, url: str, name: str, token: str = TOKEN) -> AsyncIterator[Subject]:
    """Connect a client of the browser SDK, in a Node of its own."""
    process = await asyncio.create_subprocess_exec(
        "node", _SCRIPT, url, name, token, sdk, _SDK, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    subject = _BrowserClient(process)
    reading = asyncio.get_running_loop().create_task(subject.read())
    try:
        yield subject
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


@dataclass(frozen=True)
class Return:
    """How long clients of one SDK were away in one scene (s)."""

    sdk: str
    scene: str
    seconds: list[float]

    @property
    def median(self) -> float:
        """What half of them took at most."""
        return statistics.median(self.seconds)

    @property
    def is_within(self) -> bool:
        """Whether the bar holds."""
        return self.median <= BAR


async def measure(port: int, sdk: Path | None, *, runs: int, report: Callable[[str], None]) -> list[Return]:
    """Let the network of `runs` clients of each SDK be gone at the same time, in one scene after the other.

    Raises:
        MeasurementError: a client lost its session, or its place in the room.
    """
    results: list[Return] = []
    for scene, word in SCENES.items():
        for name in ("Python", "browser"):
            if (name == "browser" and sdk is None) or (name == "Python" and word == "online"):
                continue
            report(f"{name}: {scene}")
            async with asyncio.timeout(LIMIT):
                seconds = await asyncio.gather(
                    *(_away(port, sdk if name == "browser" else None, client_id(run), word) for run in range(runs))
                )
            results.append(Return(name, scene, seconds))
    return results


def client_id(run: int) -> str:
    """Return the name of one of the clients."""
    return f"mover-{run}"


async def _away(port: int, sdk: Path | None, name: str, word: str) -> float:
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(BlackHole(port))
        connecting = python_client(network.url, name) if sdk is None else browser_client(sdk, network.url, name)
        subject = await stack.enter_async_context(connecting)
        await subject.hears("connected")
        if word == "nothing":
            await subject.do("join")
            await subject.hears("joined")
        await asyncio.sleep(0.5)  # nothing is on its way any more
        network.swallow()
        began = time.monotonic()
        await subject.do(word)
        await subject.hears("back")
        return time.monotonic() - began


def _table(results: Iterable[Return]) -> Table:
    table = Table(
        title="Seconds until the session goes on, after its connection was swallowed",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("scene")
    table.add_column("SDK")
    for heading in ("median", "longest", f"bar {BAR:g} s"):
        table.add_column(heading, justify="right")
    for each in results:
        bar = "within" if each.is_within else "over"
        table.add_row(each.scene, each.sdk, f"{each.median:.2f}", f"{max(each.seconds):.2f}", bar)
    return table


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.blackhole --runs 2 --json results.json")
def main(
    *,
    runs: Annotated[int, typer.Option(min=1, help="Clients of each SDK that play each scene at the same time.")] = 5,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 1 if a bar is missed.")] = False,
    json_target: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="File to write the results to as JSON; - is standard output, without the table.",
        ),
    ] = None,
) -> None:
    """Measure how soon clients of both SDKs are back after their network has dropped silently."""
    end_on_sigterm()
    screen = Console(stderr=True, highlight=False)
    try:
        with TemporaryDirectory(prefix="signal-manager-bench-") as directory:
            sdk = browser_sdk(Path(directory))
            if sdk is None:
                screen.print("the browser SDK is left out: it needs Node, and `npm install` in sdk/js")
            with service(dict.fromkeys(map(client_id, range(runs)), TOKEN)) as server:
                results = asyncio.run(measure(server.port, sdk, runs=runs, report=screen.print))
    except (MeasurementError, OSError) as error:
        screen.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    if json_target is not None:
        figures = [asdict(each) | {"median": each.median} for each in results]
        write_json({"benchmark": "blackhole", "machine": machine(), "results": figures}, json_target)
    if json_target != "-":
        Console().print(_table(results))
    if check and not all(each.is_within for each in results):
        sys.exit(1)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.blackhole")
