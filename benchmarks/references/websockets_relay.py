"""A relay on `websockets` and uvloop, as plain as ws_relay.mjs beside it, to compare the service with.

It speaks v1 frames with plain JSON, takes any token, and relays SIGNAL_OFFER (docs/protocol.md).
"""

from __future__ import annotations

import argparse
import json
import struct
from typing import Any
from uuid import uuid4

import uvloop
from websockets.asyncio.server import ServerConnection, serve

START = 0xAA
HEADER = struct.Struct(">BB16sBH")
CONNECT = 0x01
CONNECT_ACK = 0x02
SIGNAL_OFFER = 0x10


class Relay:
    """The connected clients, and what their messages do."""

    def __init__(self) -> None:
        self._clients: dict[str, ServerConnection] = {}

    async def handle(self, connection: ServerConnection) -> None:
        """Serve one connection until it closes."""
        client_id = ""
        try:
            async for message in connection:
                if not isinstance(message, bytes) or len(message) < HEADER.size:
                    return await connection.close(1002)
                start, message_type, message_id, payload_type, length = HEADER.unpack_from(message)
                if start != START or length != len(message) - HEADER.size:
                    return await connection.close(1002)
                payload = json.loads(message[HEADER.size :])
                if message_type == CONNECT:
                    client_id = payload["client_id"]
                    self._clients[client_id] = connection
                    answer = {"status": "success", "session_id": str(uuid4())}
                    await connection.send(frame(CONNECT_ACK, message_id, payload_type, answer))
                elif message_type == SIGNAL_OFFER:
                    payload["sender_client_id"] = client_id
                    target = self._clients.get(payload["target_client_id"])
                    if target is not None:
                        await target.send(frame(SIGNAL_OFFER, message_id, payload_type, payload))
        finally:
            self._clients.pop(client_id, None)


def frame(message_type: int, message_id: bytes, payload_type: int, payload: dict[str, Any]) -> bytes:
    """Return a v1 frame with `payload` as JSON."""
    body = json.dumps(payload).encode()
    return HEADER.pack(START, message_type, message_id, payload_type, len(body)) + body


async def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    async with serve(Relay().handle, "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
