"""A real nats-server for a test, on a port of its own."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["NatsServer", "free_port"]

_START = 20.0


def free_port() -> int:
    """Return a port that nobody listens on at present."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class NatsServer:
    """A nats-server that can be killed and started again on the same port."""

    def __init__(self, arguments: Sequence[str] = (), *, host: str = "127.0.0.1") -> None:
        found = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/bin")
        if found is None:
            pytest.skip("no nats-server on this machine: apt-get install nats-server")
        self._binary = found
        self._arguments = arguments
        self.host = host
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            self._binary,
            *("--addr", self.host, "--port", str(self.port), *self._arguments),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(_START):
            while True:
                try:
                    _, writer = await asyncio.open_connection(self.host, self.port)
                except OSError:
                    assert self._process.returncode is None, "nats-server did not start"
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    return

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @staticmethod
    def config(folder: Path, text: str) -> tuple[str, str]:
        """Return the arguments for a configuration file."""
        file = folder / "nats.conf"
        file.write_text(text)
        return ("--config", str(file))
