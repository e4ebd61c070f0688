"""Several processes as one SFU: a front that serves HTTP, and workers of which each forwards on a core of its own.

Neighbours: `sfu_command` starts both. A worker is a whole `LocalSfu` with a media port of its own, whose session ids
begin with its number: so the front knows where a request belongs, and keeps no table of sessions. New sessions of one
room go to one worker, because a worker can forward only what it receives; the room is what comes before the slash in
the `correlationId` of the request. Sessions that name none are all with the first worker.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from types import TracebackType
from typing import Any, Self

import httpx
import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from signal_manager.errors import ConfigurationError
from signal_manager.sfu.api import failed, room_of
from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.http import LostResponse, response_of
from signal_manager.sfu.http_port import SfuHttp
from signal_manager.sfu.settings import SfuSettings

__all__ = ["MOST_WORKERS", "Workers", "prefix_of"]

# Two hex digits of a session id.
MOST_WORKERS = 256
_PREFIX_DIGITS = 2
# How long all workers may take to start (s).
_START_LIMIT = 60.0
# A worker that died is started again after this (s), and asked to stop for so long before it is killed.
_PAUSE, _STOP_LIMIT = 0.5, 5.0
_POLL = 1.0
# A room that no worker knows any more is kept so long (s): its first session may not be there yet.
_ROOM_KEPT = 30.0
# What a room is expected to cost before its packets flow (packets/s).
_NEW_ROOM = 500.0
_NOT_PASSED_ON = {"host", "content-length", "connection", "transfer-encoding", "keep-alive", "te", "upgrade"}

_log = structlog.get_logger(__name__)


def prefix_of(index: int) -> str:
    """Return what the session ids of a worker begin with."""
    return f"{index:0{_PREFIX_DIGITS}x}"


class _Worker:
    """One worker's process, and its last reported load."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: asyncio.subprocess.Process | None = None
        self.base_url = ""  # empty while it does not run
        self.is_ready = asyncio.Event()
        self.packets_per_second = 0.0
        self.expected = 0.0  # of rooms that were placed since the load was asked for
        self.rooms: set[str] = set()

    @property
    def load(self) -> float:
        """Return what it carries and soon will (packets/s)."""
        return self.packets_per_second + self.expected


class Workers:
    """The front and its workers, as an async context manager.

    Args:
        command: starts a worker, which reads its order from standard input as one line of JSON, prints its base URL as
            a line, and ends when its standard input does.
        count: how many workers there are.
        order: what all workers are told; each also gets its `index` and its `udp_port`.
        host: where the front listens.
        port: 0 lets the system choose.
        udp_port: the first worker's media port, of which the others have the next ones; 0 lets the system choose.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        count: int,
        order: Mapping[str, Any],
        host: str = "127.0.0.1",
        port: int = 0,
        udp_port: int = 0,
        settings: SfuSettings | None = None,
    ) -> None:
        self.app_id = str(order["app_id"])
        self.app_secret = str(order["app_secret"])
        self._command = tuple(command)
        self._order = dict(order)
        self._udp_port = udp_port
        self._settings = settings or SfuSettings()
        self._workers = [_Worker(index) for index in range(count)]
        self._rooms: dict[str, tuple[_Worker, float]] = {}  # and when a session was opened last
        self._is_stopping = False
        self._keepers: list[asyncio.Task[None]] = []
        self._poller: asyncio.Task[None] | None = None
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=2.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )
        routes = [
            Route("/", self._status, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/workers/{index:int}", self._status_of_worker, methods=["GET"]),
            Route("/{path:path}", self._pass_on, methods=["GET", "POST", "PUT", "DELETE"]),
        ]
        self._http = SfuHttp(
            Starlette(routes=routes), host=host, port=port, max_connections=self._settings.max_http_connections
        )

    # -- life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the workers, and listen when all of them do.

        Raises:
            ConfigurationError: a worker cannot run like this, or the port cannot be listened on.
        """
        self._keepers = [
            asyncio.create_task(self._keep(worker), name=f"sfu-worker-{worker.index}") for worker in self._workers
        ]
        ready = asyncio.create_task(self._all_ready(), name="sfu-workers-ready")
        await asyncio.wait({ready, *self._keepers}, timeout=_START_LIMIT, return_when=asyncio.FIRST_COMPLETED)
        try:
            if not ready.done():
                raise ConfigurationError("a worker of the SFU cannot run like this, see above")
            await self._http.start()
        except ConfigurationError:
            ready.cancel()
            await self.stop()
            raise
        self._poller = asyncio.create_task(self._poll(), name="sfu-poll")

    async def _all_ready(self) -> None:
        for worker in self._workers:
            await worker.is_ready.wait()

    async def stop(self) -> None:
        """Stop listening, and then the workers."""
        self._is_stopping = True
        await self._http.stop()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])
        for worker in self._workers:
            if worker.process is not None and worker.process.stdin is not None:
                worker.process.stdin.close()
        if self._keepers:
            _, hanging = await asyncio.wait(self._keepers, timeout=_STOP_LIMIT)
            for worker in self._workers:
                if worker.process is not None:
                    worker.process.kill()
            if hanging:
                await asyncio.wait(hanging)
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def base_url(self) -> str:
        """Return the base URL for a client of Cloudflare Realtime."""
        return self._http.base_url

    @property
    def pids(self) -> list[int]:
        """Return the processes of the workers that run."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    async def _keep(self, worker: _Worker) -> None:
        """Run a worker, and start it again when it dies; return when it cannot even start."""
        while not self._is_stopping:
            status = await self._run_once(worker)
            if self._is_stopping:
                return
            _log.error("worker died, starting it again", worker=worker.index, status=status)
            if not worker.is_ready.is_set():
                return
            await asyncio.sleep(_PAUSE)

    async def _run_once(self, worker: _Worker) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the front, which stops all of them in order
        )
        worker.process = process
        udp_port = self._udp_port + worker.index if self._udp_port else 0
        order = self._order | {"index": worker.index, "udp_port": udp_port}
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 -- asked for above
        process.stdin.write(json.dumps(order).encode() + b"\n")
        try:
            worker.base_url = (await process.stdout.readline()).decode().strip().removesuffix("/v1")
            if worker.base_url:
                worker.is_ready.set()
            return await process.wait()
        finally:
            worker.process, worker.base_url = None, ""
            worker.packets_per_second = worker.expected = 0.0
            # What it had is gone: its rooms begin anew, wherever there is room.
            self._rooms = {room: place for room, place in self._rooms.items() if place[0] is not worker}

    # -- where sessions go ---------------------------------------------------------------------------------------------

    def _place(self, room: str, now: float) -> _Worker:
        """Return the worker for a new session of a room."""
        if not room:
            return self._workers[0]
        known = self._rooms.get(room)
        if known is not None:
            worker = known[0]
        else:
            running = [worker for worker in self._workers if worker.base_url] or self._workers
            worker = min(running, key=lambda candidate: candidate.load)
            worker.expected += _NEW_ROOM
        self._rooms[room] = (worker, now)
        return worker

    def _of_session(self, session_id: str) -> _Worker:
        try:
            return self._workers[int(session_id[:_PREFIX_DIGITS], 16)]
        except (ValueError, IndexError):
            return self._workers[0]  # which says that there is no such session

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL)
            for worker in self._workers:
                await self._ask_load(worker)
            now = time.monotonic()
            self._rooms = {
                room: (worker, at)
                for room, (worker, at) in self._rooms.items()
                if room in worker.rooms or now - at < _ROOM_KEPT
            }

    async def _ask_load(self, worker: _Worker) -> None:
        if not worker.base_url:
            return
        headers = {"authorization": f"Bearer {self.app_secret}"}
        with suppress(httpx.HTTPError, ValueError, KeyError):  # asked again in a second
            response = await self._client.get(
                f"{worker.base_url}/v1/apps/{self.app_id}/load", headers=headers, timeout=5.0
            )
            load = response.json()
            worker.packets_per_second = float(load["packetsPerSecond"])
            worker.rooms = set(load["rooms"])
            worker.expected /= 2

    # -- HTTP ----------------------------------------------------------------------------------------------------------

    async def _pass_on(self, request: Request) -> Response:
        parts = request.path_params["path"].split("/")
        session = parts[parts.index("sessions") + 1] if "sessions" in parts[:-1] else ""
        if session == "new":
            worker = self._place(room_of(request.query_params.get("correlationId", "")), time.monotonic())
        else:
            worker = self._of_session(session)
        if not worker.base_url:
            return response_of(failed(_not_running(worker)))
        try:
            body = await self._body(request)
        except ClientDisconnect:
            return LostResponse()
        except RefusedError as error:
            return response_of(failed(error))
        query = f"?{request.url.query}" if request.url.query else ""
        headers = [(name, value) for name, value in request.headers.items() if name not in _NOT_PASSED_ON]
        return await self._ask(worker, request.method, request.url.path + query, headers, body)

    async def _ask(
        self, worker: _Worker, method: str, path: str, headers: list[tuple[str, str]], body: bytes = b""
    ) -> Response:
        try:
            answer = await self._client.request(method, worker.base_url + path, headers=headers, content=body)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return response_of(failed(_not_running(worker)))
        except httpx.HTTPError:
            return LostResponse()  # as the worker did: a fault that was asked for, or its death
        kept = {name: answer.headers[name] for name in ("vary",) if name in answer.headers}
        return Response(answer.content, answer.status_code, kept, answer.headers.get("content-type"))

    async def _body(self, request: Request) -> bytes:
        chunks, size, limit = [], 0, self._settings.max_body
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise RefusedError(413, "payload_too_large", f"the body is larger than {limit} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    async def _status(self, request: Request) -> Response:
        rows = "".join(
            f'<li><a href="/workers/{worker.index}">worker {worker.index}</a>: '
            + (f"{worker.packets_per_second:.0f} packets/s" if worker.base_url else "is started again")
            + f", {escape(str(len(worker.rooms)))} rooms</li>"
            for worker in self._workers
        )
        return HTMLResponse(f"<!doctype html><title>Local SFU</title><h1>Local SFU</h1><ul>{rows}</ul>")

    async def _status_of_worker(self, request: Request) -> Response:
        index = request.path_params["index"]
        if index >= len(self._workers) or not self._workers[index].base_url:
            return Response("there is no such worker now", 404)
        return await self._ask(self._workers[index], "GET", "/", [])

    async def _metrics(self, request: Request) -> Response:
        """Serve the metrics of all workers, each under its number."""
        texts = await asyncio.gather(
            *(self._ask(worker, "GET", "/metrics", []) for worker in self._workers if worker.base_url)
        )
        running = [worker.index for worker in self._workers if worker.base_url]
        families: dict[str, list[str]] = {}
        for index, response in zip(running, texts, strict=False):
            _collect(families, bytes(response.body).decode(), index)
        lines = [line for family in families.values() for line in family]
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")


def _collect(families: dict[str, list[str]], text: str, index: int) -> None:
    """Add one worker's metrics in Prometheus' text format, so that each family stays together."""
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            name = line.split()[2]
            if line not in families.setdefault(name, []):
                families[name].append(line)
            continue
        sample, _, value = line.rpartition(" ")
        label = f'worker="{index}"'
        labelled = f"{sample[:-1]},{label}}}" if sample.endswith("}") else f"{sample}{{{label}}}"
        families.setdefault(name, []).append(f"{labelled} {value}")


def _not_running(worker: _Worker) -> RefusedError:
    return RefusedError(
        503, "temporarily_unavailable_error", f"worker {worker.index} of the SFU died and is started again"
    )
