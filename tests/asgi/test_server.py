"""The server as a guest in a process, and clients that take what belongs to others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from signal_manager.asgi import HttpServer
from tests.waiting import until
from tests.web import plain_http


async def hello(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


APP = Starlette(routes=[Route("/", hello)])


async def test_it_leaves_signals_and_logging_alone() -> None:
    handlers = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    loggers = [(name, logging.getLogger(name).handlers[:]) for name in ("", "asyncio")]
    server = HttpServer(APP, host="127.0.0.1", port=0, max_connections=10)

    await server.start()
    try:
        assert [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)] == handlers
        assert [(name, logging.getLogger(name).handlers) for name, _ in loggers] == loggers
    finally:
        await server.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_it_serves_on_every_kind_of_address(host: str) -> None:
    server = HttpServer(APP, host=host, port=0, max_connections=10)
    await server.start()
    name = f"[{host}]" if ":" in host else host
    try:
        async with plain_http() as http:
            response = await http.get(f"http://{name}:{server.port}/")
        assert response.text == "hello"
        assert "server" not in response.headers
    finally:
        await server.stop()


async def test_stopping_twice_or_before_starting_is_nothing() -> None:
    server = HttpServer(APP, host="127.0.0.1", port=0, max_connections=10)

    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()


# -- those who are up to no good ---------------------------------------------------------------------------------


@asynccontextmanager
async def serving(*, max_connections: int = 10, request_timeout: float = 60.0) -> AsyncIterator[HttpServer]:
    server = HttpServer(APP, host="127.0.0.1", port=0, max_connections=max_connections, request_timeout=request_timeout)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def opened(server: HttpServer, sent: bytes = b"") -> AsyncIterator[asyncio.StreamReader]:
    """Connect and write this; leave without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    try:
        yield reader
    finally:
        writer.transport.abort()


async def is_cut(reader: asyncio.StreamReader) -> bool:
    """Wait until the connection ends, and tell whether nothing was answered."""
    async with asyncio.timeout(20):
        try:
            return await reader.read() == b""
        except ConnectionError:
            return True


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", b"GET / HTTP/1.1\r\nX: ", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"],
    ids=["nothing", "a letter", "half a head", "half a body"],
)
async def test_a_request_that_does_not_arrive_is_not_waited_for(sent: bytes) -> None:
    async with serving(request_timeout=0.05) as server, opened(server, sent) as reader:
        await is_cut(reader)


async def test_a_second_request_that_does_not_arrive_is_not_waited_for_either() -> None:
    async with serving(request_timeout=1.5) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(20):
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HT")
        assert await is_cut(reader)
        writer.close()


async def test_an_answer_may_take_longer_than_a_request() -> None:
    release = asyncio.Event()

    async def slow(_request: Request) -> PlainTextResponse:
        await release.wait()
        return PlainTextResponse("at last")

    server = HttpServer(
        Starlette(routes=[Route("/", slow)]), host="127.0.0.1", port=0, max_connections=10, request_timeout=1.5
    )
    await server.start()
    try:
        async with opened(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as reader:
            async with opened(server) as silent:
                assert await is_cut(silent), "the time of a request is over"
            release.set()
            async with asyncio.timeout(20):
                assert b"at last" in await reader.readuntil(b"at last")
    finally:
        await server.stop()


async def test_those_who_say_nothing_give_way_to_others() -> None:
    async with serving(max_connections=3) as server, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(opened(server)) for _ in range(3)]
        async with plain_http() as http:
            for _ in range(2):
                assert (await http.get(f"http://127.0.0.1:{server.port}/")).text == "hello"

        assert await is_cut(silent[0])


BIG = b"x" * 8_000_000  # more than a socket's buffers take


def unread(server: HttpServer, count: int) -> contextlib.AbstractAsyncContextManager[list[asyncio.StreamWriter]]:
    """Connect so many clients that ask for a file and do not read it."""

    @asynccontextmanager
    async def connected() -> AsyncIterator[list[asyncio.StreamWriter]]:
        writers = []
        for _ in range(count):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket has it
            writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            writers.append(writer)
        try:
            yield writers
        finally:
            for writer in writers:
                writer.transport.abort()

    return connected()


@asynccontextmanager
async def serving_files(*, max_connections: int, write_timeout: float = 60.0) -> AsyncIterator[HttpServer]:
    async def big(_request: Request) -> Response:
        return Response(BIG)

    app = Starlette(routes=[Route("/", hello), Route("/big", big)])
    server = HttpServer(app, host="127.0.0.1", port=0, max_connections=max_connections, write_timeout=write_timeout)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_those_who_do_not_read_what_they_asked_for_give_way_to_others() -> None:
    async with serving_files(max_connections=8) as server, unread(server, 12), plain_http() as http:
        for _ in range(3):
            assert (await http.get(f"http://127.0.0.1:{server.port}/")).text == "hello"


async def test_an_answer_that_is_not_read_is_not_waited_for() -> None:
    async with serving_files(max_connections=8, write_timeout=0.1) as server, unread(server, 4):
        await until(lambda: len(server._connections) == 4)
        await until(lambda: not server._connections)


async def test_those_whose_requests_are_in_progress_give_way_too() -> None:
    async def hang(_request: Request) -> PlainTextResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    app = Starlette(routes=[Route("/", hello), Route("/hang", hang)])
    server = HttpServer(app, host="127.0.0.1", port=0, max_connections=3)
    await server.start()
    try:
        async with AsyncExitStack() as stack, plain_http() as http:
            for _ in range(3):
                await stack.enter_async_context(opened(server, b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n"))
            assert (await http.get(f"http://127.0.0.1:{server.port}/")).text == "hello"
    finally:
        await server.stop()


async def test_a_head_without_end_is_refused() -> None:
    async with serving() as server, opened(server, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000) as reader:
        with contextlib.suppress(ConnectionError):  # what it had not read when it closed resets the connection
            async with asyncio.timeout(20):
                assert b" 200 " not in await reader.read()

        async with plain_http() as http:
            assert (await http.get(f"http://127.0.0.1:{server.port}/")).text == "hello"


@pytest.mark.parametrize(
    "line", [b"CONNECT x:1 HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET http:// HTTP/1.1"]
)
async def test_a_strange_request_is_refused_and_hurts_nobody(line: bytes) -> None:
    async with serving() as server, opened(server, line + b"\r\nHost: x\r\nConnection: close\r\n\r\n") as reader:
        async with asyncio.timeout(20):
            assert (await reader.read()).startswith(b"HTTP/1.1 4")

        async with plain_http() as http:
            assert (await http.get(f"http://127.0.0.1:{server.port}/")).text == "hello"


# -- many requests at once ---------------------------------------------------------------------------------------

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def test_some_requests_at_once_are_answered_in_turn() -> None:
    async with serving() as server, opened(server, REQUEST * 5 + LAST) as reader, asyncio.timeout(20):
        assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 6


async def test_requests_at_once_without_end_are_refused_before_they_cost_anything() -> None:
    async with serving() as server, opened(server, REQUEST * 5_000) as reader:
        with contextlib.suppress(ConnectionError):  # what it had not read when it closed resets the connection
            async with asyncio.timeout(20):
                assert (await reader.read()).count(b"HTTP/1.1 200 OK") <= 1


async def test_what_comes_while_a_request_is_in_progress_waits_in_the_socket() -> None:
    has_come, may_go = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> PlainTextResponse:
        has_come.set()
        await may_go.wait()
        return PlainTextResponse("slow")

    app = Starlette(routes=[Route("/", hello), Route("/slow", slow)])
    server = HttpServer(app, host="127.0.0.1", port=0, max_connections=3)
    await server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(REQUEST.replace(b"/ ", b"/slow ", 1))
        await has_come.wait()
        writer.write(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_000_000)  # more than a socket's buffers take

        (connection,) = server._connections
        await until(lambda: not connection.transport.is_reading())
        assert len(connection._early) <= 1 << 20
        may_go.set()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 1
        writer.transport.abort()
    finally:
        await server.stop()


async def test_more_headers_than_anybody_sends_are_refused() -> None:
    few, many = (b"GET / HTTP/1.1\r\nConnection: close\r\n" + b"X: y\r\n" * count + b"\r\n" for count in (120, 200))
    for sent, status in ((few, b"200"), (many, b"400")):
        async with serving() as server, opened(server, sent) as reader, asyncio.timeout(20):
            assert (await reader.read()).startswith(b"HTTP/1.1 " + status)


async def test_a_stopping_server_finishes_what_it_answers_and_closes_the_rest() -> None:
    has_come, may_go = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> PlainTextResponse:
        has_come.set()
        await may_go.wait()
        return PlainTextResponse("slow")

    server = HttpServer(Starlette(routes=[Route("/", slow)]), host="127.0.0.1", port=0, max_connections=3)
    await server.start()
    async with opened(server, REQUEST) as busy, opened(server) as silent, asyncio.timeout(30):
        await has_come.wait()
        stopping = asyncio.create_task(server.stop())
        assert await silent.read() == b""
        may_go.set()
        answer = await busy.read()
        await stopping

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"slow")


async def test_a_stopping_server_does_not_wait_for_ever() -> None:
    has_come, was_cancelled = asyncio.Event(), asyncio.Event()

    async def hang(_request: Request) -> PlainTextResponse:
        has_come.set()
        try:
            await asyncio.sleep(3600)
        finally:
            was_cancelled.set()
        raise AssertionError

    server = HttpServer(Starlette(routes=[Route("/", hang)]), host="127.0.0.1", port=0, max_connections=3)
    await server.start()
    async with opened(server, REQUEST) as reader, asyncio.timeout(30):
        await has_come.wait()
        await server.stop()

        assert was_cancelled.is_set()
        assert await is_cut(reader)


async def test_nothing_looks_at_connections_while_there_are_none() -> None:
    async with serving(request_timeout=0.05) as server:
        assert server._watch is None
        async with opened(server) as reader:
            await is_cut(reader)
        await until(lambda: server._watch is None)
