"""One connection over a real socket, and ordinary requests beside uvicorn, a server that is not ours."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from signal_manager.asgi import HttpServer
from tests.waiting import until
from tests.web import plain_http


async def echo(request: Request) -> Response:
    return JSONResponse(
        {
            "method": request.method,
            "path": request.url.path,
            "raw_path": request.scope["raw_path"].decode(),
            "query": request.url.query,
            "version": request.scope["http_version"],
            "headers": [[*map(bytes.decode, header)] for header in request.scope["headers"]],
            "client": request.scope["client"][0],
            "server": request.scope["server"][0],
            "body": (await request.body()).decode(),
        }
    )


async def unread(_request: Request) -> Response:
    return PlainTextResponse("the body stays unread")


async def stream(_request: Request) -> Response:
    async def pieces() -> AsyncIterator[str]:
        for piece in ("one", "", "two", "x" * 100_000):
            yield piece
            await asyncio.sleep(0)

    return StreamingResponse(pieces(), media_type="text/plain")


async def empty(_request: Request) -> Response:
    return Response(status_code=204)


async def unchanged(_request: Request) -> Response:
    return Response(status_code=304, headers={"etag": '"x"'})


async def broken(_request: Request) -> Response:
    raise KeyError("x")


async def large(_request: Request) -> Response:
    return Response(b"y" * 3_000_000)


APP = Starlette(
    routes=[
        Route("/echo/{rest:path}", echo, methods=["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        Route("/unread", unread, methods=["POST"]),
        Route("/stream", stream),
        Route("/empty", empty),
        Route("/unchanged", unchanged),
        Route("/broken", broken),
        Route("/large", large),
    ]
)


@asynccontextmanager
async def ours(app: Any = APP, **settings: Any) -> AsyncIterator[int]:
    server = HttpServer(app, host="127.0.0.1", port=0, **{"max_connections": 10} | settings)
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop()


@pytest.fixture(scope="module")
def independent() -> Iterator[int]:
    """Serve the same application with uvicorn, in a thread, where it leaves signal handlers alone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            APP, loop="asyncio", lifespan="off", log_config=None, access_log=False, server_header=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, "Host: x", *headers, "", ""]).encode()


# What ordinary clients send; each is the last of its connection.
ORDINARY = {
    "get": head("GET /echo/a?b=c HTTP/1.1", "Accept: */*", "X-Twice: 1", "X-Twice: 2", "Connection: close"),
    "escapes": head("GET /echo/a%20b%2Fc/%C3%A4?d=%20 HTTP/1.1", "Connection: close"),
    "absolute": head("GET http://x:1/echo/y HTTP/1.1", "Connection: close"),
    "post": head("POST /echo/ HTTP/1.1", "Content-Length: 5", "Connection: close") + b"hello",
    "chunked": head("POST /echo/ HTTP/1.1", "Transfer-Encoding: chunked", "Connection: close")
    + b"3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n",
    "continue": head("PUT /echo/ HTTP/1.1", "Expect: 100-continue", "Content-Length: 2", "Connection: close") + b"hi",
    "options": head("OPTIONS /echo/ HTTP/1.1", "Origin: http://y", "Connection: close"),
    "head": head("HEAD /large HTTP/1.1", "Connection: close"),
    "head of a stream": head("HEAD /stream HTTP/1.1", "Connection: close"),
    "stream": head("GET /stream HTTP/1.1", "Connection: close"),
    "empty": head("GET /empty HTTP/1.1", "Connection: close"),
    "unchanged": head("GET /unchanged HTTP/1.1", 'If-None-Match: "x"', "Connection: close"),
    "missing": head("GET /nothing HTTP/1.1", "Connection: close"),
    "method": head("DELETE /large HTTP/1.1", "Connection: close"),
    "broken": head("GET /broken HTTP/1.1", "Connection: close"),
    "large": head("GET /large HTTP/1.1", "Connection: close"),
    "many": head("GET /echo/1 HTTP/1.1") * 3 + head("GET /echo/2 HTTP/1.1", "Connection: close"),
    "many with bodies": (head("POST /echo/ HTTP/1.1", "Content-Length: 3") + b"abc") * 3
    + head("POST /echo/ HTTP/1.1", "Content-Length: 1", "Connection: close")
    + b"d",
    "unread": head("POST /unread HTTP/1.1", "Content-Length: 3")
    + b"abc"
    + head("GET /echo/ HTTP/1.1", "Connection: close"),
    "old": head("GET /echo/ HTTP/1.0"),
}


async def exchanged(port: int, sent: bytes) -> bytes:
    """Send bytes, and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.transport.abort()


def compared(received: bytes) -> list[bytes]:
    """Return the lines of what came, without what may differ: the date, and the order and the pieces of a body."""
    lines = [line for line in received.split(b"\r\n") if not line.startswith(b"date: ")]
    return sorted(lines)


@pytest.mark.parametrize("name", ORDINARY)
async def test_ordinary_requests_get_the_same_response_as_from_uvicorn(name: str, independent: int) -> None:
    with capture_logs():
        async with ours() as port:
            received, expected = await exchanged(port, ORDINARY[name]), await exchanged(independent, ORDINARY[name])

    assert received.startswith(b"HTTP/1.1 ")
    assert compared(received) == compared(expected)


async def test_a_body_of_any_size_arrives_while_the_application_reads_it() -> None:
    async with ours() as port, plain_http(timeout=30) as http:
        answer = await http.post(f"http://127.0.0.1:{port}/echo/", content=b"z" * 3_000_000)

    assert len(answer.json()["body"]) == 3_000_000


async def test_a_body_that_nobody_reads_is_not_kept() -> None:
    may_go = asyncio.Event()

    async def hold(_request: Request) -> Response:
        await may_go.wait()
        return PlainTextResponse("held")

    server = HttpServer(
        Starlette(routes=[Route("/", hold, methods=["POST"])]), host="127.0.0.1", port=0, max_connections=3
    )
    await server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head("POST / HTTP/1.1", "Content-Length: 30000000") + b"z" * 30_000_000)
        await until(lambda: len(server._connections) == 1)
        (connection,) = server._connections
        await until(lambda: not connection.transport.is_reading())
        exchange = connection._exchange
        assert exchange is not None
        size = len(exchange._body)
        may_go.set()
        async with asyncio.timeout(30):
            assert (await reader.readuntil(b"held")).startswith(b"HTTP/1.1 200")
            await writer.drain()  # the rest is read and left out
        writer.transport.abort()
    finally:
        await server.stop()

    assert size <= 1 << 19


async def test_the_body_of_a_request_that_waits_for_its_turn_arrives_too() -> None:
    may_go = asyncio.Event()

    async def slow(request: Request) -> Response:
        await may_go.wait()
        return PlainTextResponse(f"{len(await request.body())} bytes\n")

    async with ours(Starlette(routes=[Route("/", slow, methods=["GET", "POST"])])) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        last = head("POST / HTTP/1.1", "Content-Length: 400000", "Connection: close")
        writer.write(head("GET / HTTP/1.1") + last + b"a")
        writer.write(b"b" * 399_999)
        may_go.set()
        async with asyncio.timeout(30):
            received = await reader.read()
        writer.transport.abort()

    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.index(b"0 bytes\n") < received.index(b"400000 bytes\n")


async def test_an_event_stream_ends_when_its_client_leaves() -> None:
    is_over = asyncio.Event()

    async def events(_request: Request) -> Response:
        async def endless() -> AsyncIterator[str]:
            try:
                yield "data: 1\n\n"
                await asyncio.sleep(3600)
            finally:
                is_over.set()

        return StreamingResponse(endless(), media_type="text/event-stream")

    async with ours(Starlette(routes=[Route("/", events)])) as port, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head("GET / HTTP/1.1"))
        assert (await reader.readuntil(b"data: 1\n\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
        await is_over.wait()


async def test_an_application_that_writes_faster_than_its_client_reads_waits() -> None:
    written = 0

    async def flood(_request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            nonlocal written
            for _ in range(1000):
                yield b"f" * 100_000
                written += 100_000

        return StreamingResponse(pieces())

    async with ours(Starlette(routes=[Route("/", flood)])) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
        writer.write(head("GET / HTTP/1.1", "Connection: close"))
        await until(lambda: written > 0)
        stands = -1
        while stands != written:
            stands = written
            await asyncio.sleep(0.2)
        assert written < 50_000_000
        received = 0
        async with asyncio.timeout(60):
            while piece := await reader.read(1 << 20):
                received += len(piece)
        writer.transport.abort()

    assert received > written == 100_000_000


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
async def test_an_upgrade_is_answered_as_any_other_request(upgrade: str) -> None:
    sent = head("GET /echo/ HTTP/1.1", "Connection: Upgrade", f"Upgrade: {upgrade}", "Sec-WebSocket-Version: 13")

    async with ours() as port:
        received = await exchanged(port, sent + b"\x81\x00")

    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.count(b"HTTP/1.1") == 1


async def test_a_client_that_rests_too_long_is_closed() -> None:
    async with ours(keep_alive_timeout=0.1) as port:
        received = await exchanged(port, head("GET /echo/ HTTP/1.1"))

    assert received.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_an_invalid_request_behind_a_valid_one_gets_no_place_inside_its_response() -> None:
    started, may_go = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"begin"
            started.set()
            await may_go.wait()
            yield b"end"

        return StreamingResponse(pieces())

    async with ours(Starlette(routes=[Route("/", slow)])) as port, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head("GET / HTTP/1.1"))
        await started.wait()
        writer.write(b"nonsense\r\n\r\n")
        may_go.set()
        received = await reader.read()
        writer.transport.abort()

    assert received.index(b"end") < received.index(b"HTTP/1.1 400 ")


async def test_connections_use_no_memory_of_the_requests_that_are_over() -> None:
    server = HttpServer(APP, host="127.0.0.1", port=0, max_connections=3)
    await server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(3):
            writer.write(head("POST /echo/ HTTP/1.1", "Content-Length: 3") + b"abc")
            async with asyncio.timeout(30):
                await reader.readuntil(b'"abc"}')
        (connection,) = server._connections

        assert (connection._exchange, connection._arriving, connection._early) == (None, None, b"")
        assert not connection._waiting
        await until(lambda: not server._tasks)
        writer.transport.abort()
    finally:
        await server.stop()
