"""Clients of the connections benchmark that connect, authenticate and then say nothing, in a process of their own.

`connections.py` starts it and reads two JSON lines: one when all clients are accepted, one after its stdin was closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
from time import perf_counter

import uvloop
from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks import frames

__all__ = ["TOKEN", "client_id"]

TOKEN = "token-of-the-connections-benchmark"

# Handshakes under way at a time: enough to keep the service busy, too few to overflow its backlog.
AT_A_TIME = 50
ACCEPT_LIMIT = 60.0

# A client that hears next to nothing needs no larger one.
READ_BUFFER_BYTES = 256


class RefusedError(Exception):
    """The service did not accept a client."""


def client_id(number: int) -> str:
    """Return the client id of one connection."""
    return f"idle-{number}"


class IdleClient(WSListener):
    """One connection; `accepted` is the outcome of its CONNECT."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: WSTransport | None = None
        self._name = name

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say who we are."""
        self.transport = transport
        transport.send(WSMsgType.BINARY, frames.connect(self._name, TOKEN))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Wait for CONNECT_ACK; what comes later has nothing to say here."""
        if self.accepted.done():
            return
        message = frame.get_payload_as_bytes()
        if frame.msg_type is WSMsgType.BINARY and message[1:2] == bytes((frames.CONNECT_ACK,)):
            self.accepted.set_result(None)
        else:
            self.accepted.set_exception(RefusedError(f"{self._name} expected CONNECT_ACK, got {message[:200]!r}"))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Fail when nothing else was heard."""
        if not self.accepted.done():
            self.accepted.set_exception(RefusedError(f"the service closed the connection of {self._name}"))


async def hold(*, port: int, address: str, first: int, count: int, tls: int) -> None:
    """Hold `count` connections from the source `address` until stdin ends.

    Raises:
        RefusedError: the service did not accept a client.
    """
    clients: list[IdleClient] = []
    context = _trusting() if tls else None
    started_at = perf_counter()
    for start in range(first, first + count, AT_A_TIME):
        names = [client_id(number) for number in range(start, min(start + AT_A_TIME, first + count))]
        clients += await asyncio.gather(*(_connected(name, port, address, context) for name in names))
    _tell(held=len(clients), seconds=perf_counter() - started_at)

    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    transports = [client.transport for client in clients if client.transport is not None]
    _tell(held=sum(not transport.is_disconnected for transport in transports))
    for transport in transports:
        transport.send_close(WSCloseCode.OK)


def _trusting() -> ssl.SSLContext:
    """Return a context that asks no certificate: the server is ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def _connected(name: str, port: int, address: str, context: ssl.SSLContext | None) -> IdleClient:
    client = IdleClient(name)
    await ws_connect(
        lambda: client,
        f"{'ws' if context is None else 'wss'}://127.0.0.1:{port}/",
        ssl_context=context,
        websocket_handshake_timeout=ACCEPT_LIMIT,
        read_buffer_init_size=READ_BUFFER_BYTES,
        local_addr=(address, 0),
    )
    async with asyncio.timeout(ACCEPT_LIMIT):
        await client.accepted
    return client


def _tell(**facts: float) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    """Hold connections for the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.idle", description="The client process of benchmarks.connections."
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--tls", type=int, default=0)
    try:
        uvloop.run(hold(**vars(parser.parse_args())))
    except (RefusedError, WSError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
