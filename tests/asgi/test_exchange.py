"""What an application receives and sends, on a connection that only notes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from signal_manager.asgi.exchange import Application, Exchange
from signal_manager.asgi.response import ResponseError, ResponseWriter

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
BODY = {"type": "http.response.body", "body": b"ok"}


class Noted:
    """A connection that notes what its exchange does."""

    def __init__(self) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self.written = b""
        self.is_closed = False
        self.answers = 0
        self.taken = 0

    def write(self, parts: list[bytes]) -> None:
        self.written += b"".join(parts)

    def body_taken(self) -> None:
        self.taken += 1

    def answered(self, exchange: Exchange) -> None:
        self.answers += 1

    def close(self) -> None:
        self.is_closed = True


def exchange(connection: Noted, *, expects_continue: bool = False) -> Exchange:
    response = ResponseWriter(is_head=False, can_chunk=True, keep_alive=True)
    return Exchange({"path": "/"}, connection, response=response, expects_continue=expects_continue)


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)


async def fail(scope: Any, receive: Any, send: Any) -> None:
    raise KeyError("x")


async def fail_late(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    raise KeyError("x")


async def forget(scope: Any, receive: Any, send: Any) -> None:
    pass


async def forget_the_body(scope: Any, receive: Any, send: Any) -> None:
    await send(START)


async def test_a_response_is_written_and_the_connection_goes_on() -> None:
    connection = Noted()

    await exchange(connection).run(answer)

    assert connection.written.endswith(b"\r\n\r\nok")
    assert (connection.answers, connection.is_closed) == (1, False)


@pytest.mark.parametrize("app", [fail, forget])
async def test_an_application_without_a_response_answers_500(app: Application) -> None:
    connection = Noted()

    with capture_logs() as lines:
        await exchange(connection).run(app)

    assert connection.written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert [line["log_level"] for line in lines] == ["error"]


@pytest.mark.parametrize("app", [fail_late, forget_the_body])
async def test_a_response_that_is_not_whole_ends_the_connection(app: Application) -> None:
    connection = Noted()

    with capture_logs():
        await exchange(connection).run(app)

    assert connection.is_closed
    assert not connection.answers


@pytest.mark.parametrize("app", [answer, fail, forget])
async def test_nothing_is_written_or_logged_for_a_client_that_is_gone(app: Application) -> None:
    connection = Noted()
    gone = exchange(connection)
    gone.disconnect()

    with capture_logs() as lines:
        await gone.run(app)

    assert connection.written == b""
    assert lines == []


async def test_the_body_comes_in_pieces_and_then_the_end() -> None:
    made = exchange(Noted())
    made.feed(b"one")
    first = await made.receive()
    made.feed(b"two")
    made.finish()
    second = await made.receive()
    third = asyncio.create_task(made.receive())
    await asyncio.sleep(0)
    assert not third.done()
    made.disconnect()

    assert first == {"type": "http.request", "body": b"one", "more_body": True}
    assert second == {"type": "http.request", "body": b"two", "more_body": False}
    assert await third == {"type": "http.disconnect"}


async def test_a_client_sends_its_body_when_the_application_wants_it() -> None:
    connection = Noted()
    made = exchange(connection, expects_continue=True)
    receiving = asyncio.create_task(made.receive())
    await asyncio.sleep(0)
    assert connection.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    made.finish()

    await receiving
    await made.run(answer)

    assert made.response.keep_alive


async def test_a_client_that_still_waits_for_leave_sends_no_further_request() -> None:
    connection = Noted()
    made = exchange(connection, expects_continue=True)

    await made.run(answer)

    assert b"100 Continue" not in connection.written
    assert b"connection: close\r\n" in connection.written


async def test_an_application_waits_for_a_client_that_reads_slowly() -> None:
    connection = Noted()
    connection.writable.clear()
    running = asyncio.create_task(exchange(connection).run(answer))
    await asyncio.sleep(0)
    assert connection.written == b""

    connection.writable.set()
    await running

    assert connection.answers == 1


async def test_an_unknown_message_is_an_error_of_the_application() -> None:
    with pytest.raises(ResponseError, match="got websocket"):
        await exchange(Noted()).send({"type": "websocket.send"})
