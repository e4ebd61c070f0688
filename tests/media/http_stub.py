"""A scripted HTTP server on loopback: the client under test meets real sockets, and the test says what comes back."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any, NamedTuple, Self

from tests.media.field_tables import endpoint_of, misfits_of_request


class Request(NamedTuple):
    """What the client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any  # the decoded JSON, or None for no body


class Reply(NamedTuple):
    """What the server sends: `body` as JSON, or as it is when it is bytes."""

    status: int = 200
    body: Any = None

    def encode(self) -> bytes:
        content = self.body if isinstance(self.body, bytes) else json.dumps(self.body or {}).encode()
        head = f"HTTP/1.1 {self.status} Status\r\nContent-Length: {len(content)}\r\n\r\n"
        return head.encode() + content


CUT = b""  # the connection is closed instead of an answer
CUT_SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"  # and here in the middle of one


class HttpStub:
    """Answer each request with the next scripted reply; None keeps the client waiting.

    Every request is checked against the field tables at once, so that no test needs to.
    """

    def __init__(self) -> None:
        self.script: deque[Reply | bytes | None] = deque()
        self.requests: list[Request] = []
        self.base_url = ""
        self.waiting = asyncio.Event()  # set when a client is kept waiting
        self._closing = asyncio.Event()

    def will_reply(self, *replies: Reply | bytes | None) -> None:
        self.script.extend(replies)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                misfits = misfits_of_request(endpoint_of(request.method, request.path), request.body)
                reply = self.script.popleft() if not misfits else Reply(599, {"errorDescription": " ".join(misfits)})
                if reply is None:
                    self.waiting.set()
                    await self._closing.wait()
                    break
                writer.write(reply.encode() if isinstance(reply, Reply) else reply)
                if isinstance(reply, bytes):
                    break
        except ConnectionError:
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, json.loads(content) if content else None)
