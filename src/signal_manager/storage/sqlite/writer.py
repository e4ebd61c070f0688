"""The service's end of the process that writes a SQLite file: who waits to write, what goes out together, who is told.

Writes that wait together share one transaction, and so one flush to disk. What shall be written is worked out here,
from what was last seen; the process (`worker.py`) writes it if that is there still, or says what is.
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

# Enough for a second of 500 writes/s behind a slow disk many times over; past it, waiting would only end in time-outs.
MAX_WAITING = 10_000
# How many waiting writes share a transaction: it holds the file's only write lock, so other processes wait for it.
MAX_BATCH = 200
# Characters of documents that are remembered: a right guess of what is there saves a question.
MAX_REMEMBERED = 4 * 1024 * 1024

# The one reply that is known before it comes.
_DONE = packed(DONE)

log = structlog.get_logger(__name__)


class _Write(msgspec.Struct, Generic[T], frozen=True):
    """A write that waits for its turn.

    `apply` finds the documents that `reads` names, and sets those that shall be written; it raises before it sets any.
    It runs again when the documents were not what was last seen of them. `until` is when its caller gives up.
    """

    kind: Kind[Any]
    reads: Sequence[str]
    apply: Callable[[Documents], T]
    done: asyncio.Future[T]
    until: float


class Worker(asyncio.Protocol):
    """One writing process, and the socket to it: it is asked one thing at a time.

    Args:
        on_reply: called with every reply.
        on_end: called when the process has ended, whoever ended it.
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
            OSError: the machine has no room for one more.
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
        """The process."""
        return self._process.pid

    def ask(self, request: Request) -> None:
        """Send a request; a process that has ended does not answer, and has said so."""
        self._transport.write(packed(request))

    async def stop(self, timeout: float) -> None:
        """Let the process end after what it is doing, or kill it after `timeout` seconds: what it commits is whole."""
        if not self.has_ended:
            self._transport.write_eof()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), timeout)
        if not self.has_ended:
            self._process.kill()
            await self._ended.wait()
        # Its end of the socket is closed, so it has ended, but for what the kernel does.
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
        """Say that the process has ended."""
        self.has_ended = True
        self._ended.set()
        self._on_end()


class Writer:
    """Write to the file at `path`, from one process that is started again should it end.

    One batch is on its way at a time. All steps are plain calls, from the caller's or from the socket's: a task would
    take one more turn of the event loop for each of them, which is long where the loop is busy relaying. One alarm
    keeps the time of all writes, since a timer for each would cost as much as the rest of a write does here.
    """

    def __init__(self, *, path: str, operation_timeout: float) -> None:
        self._path = path
        self._operation_timeout = operation_timeout
        self._waiting: deque[_Write[Any]] = deque()
        self._alone: deque[_Write[Any]] = deque()  # came from a batch that failed, and are tried one by one
        self._batch: _Batch | None = None  # on its way
        self._seen = _Memory()
        self._worker: Worker | None = None
        self._starting: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None  # rings when the oldest write may have to be given up
        self._idle: asyncio.Event | None = None  # what `stop` waits for

    async def start(self) -> None:
        """Start the process; raise `OSError` where that is not possible."""
        self._worker = await self._start_worker()

    async def stop(self, timeout: float) -> None:
        """Write what waits, and end the process, within `timeout` seconds each."""
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
        """Return what `apply` returned once what it set is on disk.

        Args:
            reads: the ids of the documents that `apply` looks at.
            apply: sets documents to their new bodies, or None. It may run more than once.

        Raises:
            UnavailableError: nothing could be written; or the process ended or took too long, and nobody knows.
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
        """Send what waits, if there is anything."""
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
        # A caller that gave up before its turn gets no effect, and nobody waits for the lock on its behalf.
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
        except Exception as error:  # whatever a caller gave us, the others go on
            log.exception("storage writes failed")
            batch.fail(error)
            self._batch = None

    def _replied(self, reply: Reply) -> None:
        worker, batch = self._worker, self._batch
        if worker is None or batch is None:
            return  # we are closing
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
                    self._alone.extend(batch.writes)  # one that fails must not fail the others
                else:
                    log.warning("storage write failed", reason=reason)
                    # Full, locked, failing or damaged storage is unavailable.
                    batch.fail(UnavailableError(f"storage failed: {reason}"))
        self._send_next()

    def _give_up(self) -> None:
        """Tell the callers whose time is over; a write of theirs that is on its way may be done or not."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._alarm = None
        for write in self._pending():
            if write.done.done():
                continue
            if write.until > now:  # they stand in the order in which they came
                self._alarm = loop.call_at(write.until, self._give_up)
                return
            error = UnavailableError(f"storage did not answer within {self._operation_timeout:g} s")
            write.done.set_exception(error)

    def _pending(self) -> Iterable[_Write[Any]]:
        """Return all writes that are on their way or wait, in the order in which they came."""
        return chain(() if self._batch is None else self._batch.writes, self._alone, self._waiting)

    # From process to process

    async def _start_worker(self) -> Worker:
        return await Worker.start(
            self._path, self._operation_timeout, on_reply=self._replied, on_end=self._worker_ended
        )

    def _worker_ended(self) -> None:
        if self._worker is None:
            return  # we have stopped it
        log.error("sqlite writer ended", pid=self._worker.pid)
        if self._batch is not None:
            self._batch.forget()
            self._batch.fail(UnavailableError("storage failed: the process that writes has ended"))
            self._send_next()

    async def _restart(self) -> None:
        """Start another process for the batch that waits for one."""
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
    """Writes that share a transaction, and what is known of the documents that they read."""

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
        """Apply the writes one after the other to what is known, and return what came of it."""
        # Loops rather than comprehensions, which are calls of their own: this is what the service does for every write.
        documents: dict[str, Documents] = {}
        for collection, known in self.known.items():
            documents[collection] = known.copy()
        outcomes: list[Any] = []
        for write in self.writes:
            try:
                outcomes.append(write.apply(documents[write.kind.collection]))
            except Exception as error:  # whatever a change raises belongs to its caller alone
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
        """Take note of what is in the file now."""
        for collection, bodies in self._documents.items():
            self._seen.note(collection, bodies)

    def forget(self) -> None:
        """Take note that nobody knows what is in the file."""
        for collection, bodies in self._documents.items():
            self._seen.forget(collection, bodies)

    def settle(self) -> None:
        """Tell the callers what became of their writes."""
        for write, outcome in zip(self.writes, self._outcomes, strict=True):
            if write.done.done():
                continue
            if isinstance(outcome, Exception):
                write.done.set_exception(outcome)
            else:
                write.done.set_result(outcome)

    def fail(self, error: Exception) -> None:
        """Tell all callers that their writes failed."""
        self._outcomes = [error] * len(self.writes)
        self.settle()


class _Memory:
    """What was last seen of documents, up to so many characters; other processes may have changed them since."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[str, str], str] = {}  # the longest unused first
        self._size = 0

    def recall(self, collection: str, key: str) -> str | None:
        """Return the body, or None: probably there is none."""
        return self._bodies.get((collection, key))

    def note(self, collection: str, documents: Documents) -> None:
        """Keep these bodies, and let go of the oldest that are too much."""
        for key, body in documents.items():
            # Even the same one is put in anew, at the end.
            self._size -= len(self._bodies.pop((collection, key), ""))
            if body is not None:
                self._bodies[collection, key] = body
                self._size += len(body)
        while self._size > MAX_REMEMBERED:
            self._size -= len(self._bodies.pop(next(iter(self._bodies))))

    def forget(self, collection: str, keys: Iterable[str]) -> None:
        """Let go of these."""
        for key in keys:
            self._size -= len(self._bodies.pop((collection, key), ""))


def _spawn(channel: socket.socket, path: str, timeout: float) -> subprocess.Popen[bytes]:
    """Start the worker with its end of the socket; a group of its own keeps Ctrl-C away from it."""
    descriptor = channel.fileno()
    # Isolated and without site packages: it needs none, and starts in a third of the time.
    command = [sys.executable, "-I", "-S", str(_PROGRAM), str(descriptor), os.path.abspath(path), str(timeout)]
    return subprocess.Popen(  # noqa: S603 - nothing in it comes from outside
        command, stdin=subprocess.DEVNULL, pass_fds=[descriptor], process_group=0
    )


_PROGRAM = Path(__file__).with_name("worker.py")
