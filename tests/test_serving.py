"""uvicorn as a guest: it takes nothing that belongs to the process."""

from __future__ import annotations

import logging
import signal

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from signal_manager.serving import HttpServer


async def hello(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


APP = Starlette(routes=[Route("/", hello)])


async def test_it_leaves_signals_and_logging_alone() -> None:
    handlers = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    loggers = [(name, logging.getLogger(name).handlers[:]) for name in ("", "uvicorn", "uvicorn.error")]
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
        async with httpx.AsyncClient() as http:
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
