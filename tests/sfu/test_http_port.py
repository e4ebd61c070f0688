"""A port for an application: where it is, and a taken address."""

from __future__ import annotations

import asyncio
import socket

import pytest
from starlette.applications import Starlette

from signal_manager.errors import ConfigurationError
from signal_manager.sfu.http_port import SfuHttp


async def test_an_application_is_served_until_the_port_closes() -> None:
    port = SfuHttp(Starlette(), host="127.0.0.1", port=0, max_connections=10)
    await port.start()
    try:
        assert port.base_url == f"http://127.0.0.1:{port.port}/v1"
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 404")
        writer.close()
    finally:
        await port.stop()

    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port.port)


async def test_a_taken_address_is_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"cannot listen on 127\.0\.0\.1 port {number}"):
            await SfuHttp(Starlette(), host="127.0.0.1", port=number, max_connections=10).start()


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert SfuHttp(Starlette(), host="::1", port=5, max_connections=1).base_url == "http://[::1]:5/v1"
