"""Serves an ASGI application over HTTP/1.1 in this process's event loop, with a bound on all that a client can take.

The second port and the local SFU use it. It imports nothing else of this package. docs/adr/0011-own-http-host.md says
why it is our own.
"""

from signal_manager.asgi.server import HttpServer

__all__ = ["HttpServer"]
