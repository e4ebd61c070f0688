"""The service's end of the process that writes a SQLite file: the queue of writes, their batches and their results.

Writes that wait together share one transaction, and so one flush to disk. This module computes the new documents from
those last seen. The process (`worker.py`) writes them if the file still holds what was seen; otherwise it replies with
what the file holds.
"""

from __future__ import annotations

import asyncio
import marshal
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, cast

import msgspec
import structlog

from signal_manager.errors import UnavailableError
from signal_manager.storage.documents import Kind
from signal_manager.storage.sqlite.worker import DONE, LENGTH, Documents, Reply, Request, packed

__all__ = ["Worker", "Writer"]

T = TypeVar("T")

# Many seconds of 500 writes/s behind a slow disk. Writes beyond it would only wait until they time out.
MAX_WAITING = 10_000
# The most writes in one transaction. It holds the file's only write lock, so other processes wait for it.
MAX_BATCH = 200
# Characters of documents to remember: knowing what the file holds saves a round trip to the process.
MAX_REMEMBERED = 4 * 1024 * 1024

# The usual reply; comparing bytes saves decoding it.
_DONE = packed(DONE)

log = structlog.get_logger(__name__)


class _Write(msgspec.Struct, Generic[T], frozen=True):
    """A write that waits for its turn.

    `apply` gets the documents that `reads` names and sets those to write; if it raises, it has set none. It runs again
    if the file holds other documents than those last seen. `until` is the time when its caller gives up.
    """

    kind: Kind[Any]
    reads: Sequence[str]
    apply: Callable[[Documents], T]
    done: asyncio.Future[T]
    until: float


class Worker(asyncio.Protocol):
    """One writing process and the socket to it; it gets one request at a time.

    Args:
        on_reply: called with every reply.
        on_end: called when the process has ended for any reason.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], *, on_reply: Callable[[Reply], None], on_end: Callable[[], None]
    ) -> None:
        self._process = process
        self._on_reply = on_reply
        self._on_end = on_end
        self._transport: asyncio.Transport
        self._received = bytearray()
        self.has_ended = False
        self._ended = asyncio.Event()

    @classmethod
    async def start(
        cls, path: str, timeout: float, *, on_reply: Callable[[Reply], None], on_end: Callable[[], None]
    ) -> Self:
        """Start a process that writes the file at `path`, and waits up to `timeout` seconds for other writers.

        Raises:
            OSError: the machine cannot start another process.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = _spawn(theirs, path, timeout)
            except BaseException:
                ours.close()
                raise
        _, worker = await asyncio.get_running_loop().create_unix_connection(
            lambda: cls(process, on_reply=on_reply, on_end=on_end), sock=ours
        )
        return worker

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def ask(self, request: Request) -> None:
        """Send a request. A process that has ended does not answer; `on_end` has reported its end."""
        self._transport.write(packed(request))

    async def stop(self, timeout: float) -> None:
        """Let the process finish and end, or kill it after `timeout` seconds. SQLite never commits in part."""
        if not self.has_ended:
            self._transport.write_eof()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), timeout)
        if not self.has_ended:
            self._process.kill()
            await self._ended.wait()
        # Its end of the socket is closed, so the process has ended and the kernel only cleans up.
        await asyncio.to_thread(self._process.wait)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, and another base class

    def data_received(self, data: bytes) -> None:
        """Hand a reply on once it is whole."""
        received = self._received
        if data == _DONE and not received:
            self._on_reply(DONE)  # nearly always
            return
        received += data
        if len(received) < LENGTH.size or len(received) < LENGTH.size + LENGTH.unpack_from(received)[0]:
            return
        self._received = bytearray()
        self._on_reply(marshal.loads(memoryview(received)[LENGTH.size :]))  # noqa: S302 - from our own process

    def connection_lost(self, exc: Exception | None) -> None:
        """Report that the process has ended."""
        self.has_ended = True
        self._ended.set()
        self._on_end()


class Writer:
    """Write to the file at `path` through one process, which is restarted if it ends.

    One batch is in progress at a time. All steps are plain calls from the caller or from the socket: a task would take
    one more turn of the event loop for each step, which is long while the loop is busy relaying. One timer serves all
    writes, because a timer for each would double the cost of a write here.
    """

    def __init__(self, *, path: str, operation_timeout: float) -> None:
        self._path = path
        self._operation_timeout = operation_timeout
        self._waiting: deque[_Write[Any]] = deque()
        self._alone: deque[_Write[Any]] = deque()  # writes of a batch that failed, retried one by one
        self._batch: _Batch | None = None  # in progress
        self._seen = _Memory()
        self._worker: Worker | None = None
        self._starting: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None  # fires when the oldest write may have timed out
        self._idle: asyncio.Event | None = None  # `stop` waits for it

    async def start(self) -> None:
        """Start the process; raise `OSError` if the machine cannot."""
        self._worker = await self._start_worker()

    async def stop(self, timeout: float) -> None:
        """Finish the waiting writes, then end the process, within `timeout` seconds each."""
        if self._batch is not None:
            self._idle = asyncio.Event()
            try:
                await asyncio.wait_for(self._idle.wait(), timeout)
            except TimeoutError:
                log.warning("storage closes with writes waiting", waiting=len(self._waiting) + len(self._alone))
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        self._fail_all(UnavailableError("storage has closed"))
        if self._alarm is not None:
            self._alarm.cancel()
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop(timeout)

    async def write(self, kind: Kind[Any], reads: Sequence[str], apply: Callable[[Documents], T]) -> T:
        """Return the result of `apply` once the documents that it set are on disk.

        Args:
            reads: the ids of the documents that `apply` reads.
            apply: sets documents to their new bodies, or None. It may run more than once.

        Raises:
            UnavailableError: nothing was written; or the process ended or took too long, and the write may be on
                disk or not.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise UnavailableError(f"storage has {MAX_WAITING} writes waiting already")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        until = loop.time() + self._operation_timeout
        self._waiting.append(_Write(kind, reads, apply, done, until))
        if self._alarm is None:
            self._alarm = loop.call_at(until, self._give_up)
        if self._batch is None:
            self._send_next()
        return await done

    # From batch to batch

    def _send_next(self) -> None:
        """Send the next batch, if any write waits."""
        self._batch = None
        while self._batch is None:
            writes = self._next_writes()
            if not writes:
                if self._idle is not None:
                    self._idle.set()
                return
            self._batch = _Batch(writes, self._seen)
            if self._worker is not None and not self._worker.has_ended:
                self._ask(self._worker, self._batch)
            elif self._starting is None:
                self._starting = asyncio.create_task(self._restart(), name="sqlite writer")

    def _next_writes(self) -> list[_Write[Any]]:
        # Drop writes whose caller has given up: they must have no effect, and would only hold the lock.
        while self._alone:
            write = self._alone.popleft()
            if not write.done.done():
                return [write]
        writes: list[_Write[Any]] = []
        while self._waiting and len(writes) < MAX_BATCH:
            write = self._waiting.popleft()
            if not write.done.done():
                writes.append(write)
        return writes

    def _ask(self, worker: Worker, batch: _Batch) -> None:
        try:
            worker.ask(batch.request())
        except Exception as error:  # the fault of one caller must not stop the other writes
            log.exception("storage writes failed")
            batch.fail(error)
            self._batch = None

    def _replied(self, reply: Reply) -> None:
        worker, batch = self._worker, self._batch
        if worker is None or batch is None:
            return  # `stop` has begun
        match reply:
            case ("done", _):
                batch.remember()
                batch.settle()
            case ("found", found):
                batch.known |= found
                self._ask(worker, batch)
                if self._batch is not None:
                    return
            case (_, reason):
                batch.forget()
                if len(batch.writes) > 1:
                    self._alone.extend(batch.writes)  # one failing write must not fail the others
                else:
                    log.warning("storage write failed", reason=reason)
                    # The file is full, locked, failing or damaged.
                    batch.fail(UnavailableError(f"storage failed: {reason}"))
        self._send_next()

    def _give_up(self) -> None:
        """Fail the writes that have timed out; one in progress may still reach the disk."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._alarm = None
        for write in self._pending():
            if write.done.done():
                continue
            if write.until > now:  # the writes are in order of arrival, and so of `until`
                self._alarm = loop.call_at(write.until, self._give_up)
                return
            error = UnavailableError(f"storage did not answer within {self._operation_timeout:g} s")
            write.done.set_exception(error)

    def _pending(self) -> Iterable[_Write[Any]]:
        """Return all writes that are in progress or wait, in order of arrival."""
        return chain(() if self._batch is None else self._batch.writes, self._alone, self._waiting)

    # From process to process

    async def _start_worker(self) -> Worker:
        return await Worker.start(
            self._path, self._operation_timeout, on_reply=self._replied, on_end=self._worker_ended
        )

    def _worker_ended(self) -> None:
        if self._worker is None:
            return  # `stop` ended it
        log.error("sqlite writer ended", pid=self._worker.pid)
        if self._batch is not None:
            self._batch.forget()
            self._batch.fail(UnavailableError("storage failed: the process that writes has ended"))
            self._send_next()

    async def _restart(self) -> None:
        """Start another process for the waiting batch."""
        try:
            if self._worker is not None:
                await self._worker.stop(self._operation_timeout)
            self._worker = await self._start_worker()
        except OSError as error:
            log.error("sqlite writer cannot be started", reason=str(error))
            self._starting = None
            self._fail_all(UnavailableError(f"storage failed: {error.strerror}"))
            return
        self._starting = None
        log.info("sqlite writer started again", pid=self._worker.pid)
        if self._batch is not None:
            self._ask(self._worker, self._batch)
            if self._batch is None:
                self._send_next()

    def _fail_all(self, error: UnavailableError) -> None:
        for write in self._pending():
            if not write.done.done():
                write.done.set_exception(error)
        self._alone.clear()
        self._waiting.clear()
        self._batch = None
        if self._idle is not None:
            self._idle.set()


class _Batch:
    """Writes that share a transaction, and the documents that they read as last seen."""

    def __init__(self, writes: Sequence[_Write[Any]], seen: _Memory) -> None:
        self.writes = writes
        self._seen = seen
        self._id_columns: dict[str, str] = {}  # by collection
        self.known: dict[str, Documents] = {}
        for write in writes:
            collection = write.kind.collection
            self._id_columns[collection] = write.kind.key
            known = self.known.setdefault(collection, {})
            for key in write.reads:
                known[key] = seen.recall(collection, key)
        self._documents: dict[str, Documents] = {}
        self._outcomes: list[Any] = []

    def request(self) -> Request:
        """Apply the writes in order to the known documents, and return the request that writes the result."""
        # Loops instead of comprehensions, which are calls of their own: this runs for every write.
        documents: dict[str, Documents] = {}
        for collection, known in self.known.items():
            documents[collection] = known.copy()
        outcomes: list[Any] = []
        for write in self.writes:
            try:
                outcomes.append(write.apply(documents[write.kind.collection]))
            except Exception as error:  # an error of `apply` goes to its caller alone
                outcomes.append(error)
        request: Request = []
        for collection, known in self.known.items():
            changed: Documents = {}
            for key, body in documents[collection].items():
                if known.get(key, ...) != body:
                    changed[key] = body
            request.append((collection, self._id_columns[collection], known, changed))
        self._documents, self._outcomes = documents, outcomes
        return request

    def remember(self) -> None:
        """Remember the documents that the file holds now."""
        for collection, bodies in self._documents.items():
            self._seen.note(collection, bodies)

    def forget(self) -> None:
        """Forget these documents, because the file may hold others now."""
        for collection, bodies in self._documents.items():
            self._seen.forget(collection, bodies)

    def settle(self) -> None:
        """Give each caller its result or error."""
        for write, outcome in zip(self.writes, self._outcomes, strict=True):
            if write.done.done():
                continue
            if isinstance(outcome, Exception):
                write.done.set_exception(outcome)
            else:
                write.done.set_result(outcome)

    def fail(self, error: Exception) -> None:
        """Fail the writes of all callers."""
        self._outcomes = [error] * len(self.writes)
        self.settle()


class _Memory:
    """Documents as last seen, up to `MAX_REMEMBERED` characters; other processes may have changed them since."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[str, str], str] = {}  # least recently used first
        self._size = 0

    def recall(self, collection: str, key: str) -> str | None:
        """Return the body as last seen, or None if none was seen."""
        return self._bodies.get((collection, key))

    def note(self, collection: str, documents: Documents) -> None:
        """Keep these bodies and drop the least recently used beyond the limit."""
        for key, body in documents.items():
            # Re-insert even an equal body, to move it to the end.
            self._size -= len(self._bodies.pop((collection, key), ""))
            if body is not None:
                self._bodies[collection, key] = body
                self._size += len(body)
        while self._size > MAX_REMEMBERED:
            self._size -= len(self._bodies.pop(next(iter(self._bodies))))

    def forget(self, collection: str, keys: Iterable[str]) -> None:
        """Drop these bodies."""
        for key in keys:
            self._size -= len(self._bodies.pop((collection, key), ""))


def _spawn(channel: socket.socket, path: str, timeout: float) -> subprocess.Popen[bytes]:
    """Start the worker with its end of the socket, in a process group that Ctrl-C does not reach."""
    descriptor = channel.fileno()
    # Isolated and without site packages, which it does not need, it starts in a third of the time.
    command = [sys.executable, "-I", "-S", str(_PROGRAM), str(descriptor), os.path.abspath(path), str(timeout)]
    return subprocess.Popen(  # noqa: S603 - nothing in it comes from outside
        command, stdin=subprocess.DEVNULL, pass_fds=[descriptor], process_group=0
    )


_PROGRAM = Path(__file__).with_name("worker.py")
