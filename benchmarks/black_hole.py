"""A TCP proxy that can swallow connections: their sockets stay open, and nothing goes through any more.

That is what a changed network looks like to a client: no RST, no FIN, and new connections work.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["BlackHole"]

_CHUNK = 65536


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
