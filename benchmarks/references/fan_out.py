"""The floor of a room event: on any byte from a client it sends so many bytes to every client, and that is all.

What this takes of its thread is the system's share of an event in `benchmarks.request_costs`.
"""

from __future__ import annotations

import argparse
import select
import socket

__all__ = ["main"]


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bytes", type=int, default=300)
    options = parser.parse_args()
    data = bytes(options.bytes)
    clients: dict[int, socket.socket] = {}
    ready = select.epoll()
    with socket.create_server(("127.0.0.1", options.port), backlog=1024) as server:
        ready.register(server, select.EPOLLIN)
        while True:
            for descriptor, _ in ready.poll():
                if descriptor == server.fileno():
                    client, _ = server.accept()
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    ready.register(client, select.EPOLLIN)
                    clients[client.fileno()] = client
                    client.send(b"!")
                elif clients[descriptor].recv(4096):
                    for client in clients.values():
                        client.send(data)
                else:
                    ready.unregister(descriptor)
                    clients.pop(descriptor).close()


if __name__ == "__main__":
    main()
