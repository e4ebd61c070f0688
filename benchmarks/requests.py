"""Requests that come in beside the relay: clients in the load process that ask on a fixed schedule, and count answers.

A process of their own would take the load's core from it each time it wakes, and the relay would look slower for that.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Literal

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks import frames

__all__ = ["CLIENTS", "Kind", "Requests", "client_names"]

# They ask in turn: each waits for its answer, and none must have to wait for its turn.
CLIENTS = 40

# Generous: a busy machine must not end a measurement.
HANDSHAKE_LIMIT = 60.0

Kind = Literal["heartbeat", "register"]

_ANSWERS = {frames.HEARTBEAT_ACK, frames.REGISTER_ACK}


def client_names() -> list[str]:
    """Return the clients that ask."""
    return [f"asking-{number}" for number in range(CLIENTS)]


class AskingClient(WSListener):
    """A connection that asks when it is told to, as cheaply as can be."""

    def __init__(self, name: str, token: str, latencies: list[float]) -> None:
        super().__init__()
        self._connect = frames.connect(name, token)
        self._latencies = latencies
        self._asked_at = 0.0
        self.transport: WSTransport | None = None
        self.accepted = asyncio.get_running_loop().create_future()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say who we are."""
        self.transport = transport
        transport.send(WSMsgType.BINARY, self._connect)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take the time of an answer that says yes."""
        message_type = frame.get_payload_as_bytes()[1]
        if message_type in _ANSWERS:
            self._latencies.append(perf_counter() - self._asked_at)
        elif message_type == frames.CONNECT_ACK:
            self.accepted.set_result(None)

    def ask(self, request: bytes) -> None:
        """Send one request."""
        if self.transport is not None:
            self._asked_at = perf_counter()
            self.transport.send(WSMsgType.BINARY, request)


class Requests:
    """So many requests per second, of one kind at a time."""

    def __init__(self, rate: int, token: str) -> None:
        self.kind: Kind = "register"
        self._rate = rate
        self._asked = 0
        self.latencies: list[float] = []
        self._clients = [AskingClient(name, token, self.latencies) for name in client_names()]

    async def connect(self, port: int) -> None:
        """Connect all clients."""
        for client in self._clients:
            await ws_connect(
                lambda client=client: client, f"ws://127.0.0.1:{port}/", websocket_handshake_timeout=HANDSHAKE_LIMIT
            )
            await client.accepted

    async def run(self) -> None:
        """Ask until cancelled."""
        build = frames.heartbeat if self.kind == "heartbeat" else frames.register
        before, started = self._asked, perf_counter()
        while True:
            self._clients[self._asked % CLIENTS].ask(build(self._asked))
            self._asked += 1
            due = started + (self._asked - before) / self._rate
            await asyncio.sleep(max(0.0, due - perf_counter()))

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            if client.transport is not None:
                client.transport.disconnect(graceful=False)
