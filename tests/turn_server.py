"""A real coturn for a test, on a port of its own."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import aioice.turn
import pytest

from tests.nats_server import free_port

__all__ = ["TurnServer", "relayed"]

_START = 20.0


class TurnServer:
    """A coturn on loopback that relays to loopback too, as it would never do in earnest.

    Args:
        folder: where its files go.
        arguments: of its command line; they win over the configuration.
        configuration: a file; none without it.
    """

    def __init__(self, folder: Path, *arguments: str, configuration: Path | None = None) -> None:
        found = shutil.which("turnserver") or shutil.which("turnserver", path="/usr/bin:/usr/sbin:/usr/local/bin")
        if found is None:
            pytest.skip("no coturn on this machine: apt-get install coturn")
        self._binary = found
        self._folder = folder
        self._arguments = (*(("-c", str(configuration)) if configuration else ("-n",)), *arguments)
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"turn:127.0.0.1:{self.port}?transport=udp"

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            self._binary,
            *("--no-cli", "--no-tls", "--no-dtls", "--allow-loopback-peers", "--realm=test", "--log-file=stdout"),
            *("--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={self.port}"),
            *(f"--pidfile={self._folder / 'turn.pid'}", f"--userdb={self._folder / 'turn.db'}", "--min-port=49152"),
            *self._arguments,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(_START):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self._process.returncode is None, "coturn did not start"
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    return

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class _Received(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self.first.done():
            self.first.set_result(data)


async def relayed(urls: Sequence[str], username: str, credential: str) -> bytes:
    """Allocate a relay, send through it to a socket of our own, and return what came; raises what aioice does."""
    _, host, port = urls[0].partition("?")[0].split(":")
    transport, _ = await aioice.turn.create_turn_endpoint(
        asyncio.DatagramProtocol, (host, int(port)), username=username, password=credential
    )
    loop = asyncio.get_running_loop()
    target, received = await loop.create_datagram_endpoint(
        _Received, local_addr=("127.0.0.1", 0), family=socket.AF_INET
    )
    try:
        transport.sendto(b"through the relay", target.get_extra_info("sockname"))
        async with asyncio.timeout(_START):
            return await received.first
    finally:
        target.close()
        transport.close()
