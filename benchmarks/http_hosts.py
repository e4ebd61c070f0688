"""What does one HTTP request cost in our server, and in others?

What is measured is the CPU time of the server, for requests on a connection that stays open. The application is the
same everywhere. `granian` and `hypercorn` take part where they are installed.
"""

from __future__ import annotations

import asyncio
import sys
from importlib.util import find_spec
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.table import Table
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.processes import cpu_seconds, end_on_sigterm, free_port, running

__all__ = ["app"]

app = typer.Typer(add_completion=False)

HOSTS = ("ours", "uvicorn-httptools", "uvicorn-h11", "granian", "hypercorn")
METRICS = b"m" * 20_000
ANSWER = b'{"sdp":"' + b"v" * 6000 + b'"}'
REQUESTS = {
    "a probe": b"GET /health HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.30\r\nAccept: */*\r\n\r\n",
    "/metrics, 20 KB": b"GET /metrics HTTP/1.1\r\nHost: x\r\nUser-Agent: Prometheus/3.0\r\nAccept: text/plain\r\n\r\n",
    "a negotiation, 6 KB each way": b"POST /negotiate HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nAuthorization: Bearer "
    + b"a" * 64
    + b"\r\nContent-Type: application/json\r\nContent-Length: 6000\r\n\r\n"
    + b"o" * 6000,
}


def application() -> Starlette:
    """Return an application that does next to nothing."""

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(_request: Request) -> Response:
        return Response(METRICS, media_type="text/plain")

    async def negotiate(request: Request) -> Response:
        await request.body()
        return Response(ANSWER, media_type="application/json")

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/negotiate", negotiate, methods=["POST"]),
        ]
    )


async def serve(host: str, port: int) -> None:
    """Serve until SIGTERM."""
    served: Any = application()
    if host == "ours":
        from signal_manager.asgi import HttpServer

        await HttpServer(served, host="127.0.0.1", port=port, max_connections=100).start()
        await asyncio.Event().wait()
    elif host.startswith("uvicorn"):
        import uvicorn

        parser: Any = host.removeprefix("uvicorn-")
        config = uvicorn.Config(served, port=port, http=parser, lifespan="off", log_config=None, access_log=False)
        await uvicorn.Server(config).serve()
    elif host == "granian":
        from granian.constants import Interfaces  # type: ignore[import-not-found]  # optional
        from granian.server.embed import Server  # type: ignore[import-not-found]

        await Server(served, address="127.0.0.1", port=port, interface=Interfaces.ASGINL, log_enabled=False).serve()
    else:
        from hypercorn.asyncio import serve as hypercorn  # type: ignore[import-not-found]  # optional
        from hypercorn.config import Config  # type: ignore[import-not-found]

        settings = Config.from_mapping(bind=[f"127.0.0.1:{port}"], keep_alive_max_requests=10**9)
        await hypercorn(served, settings)


async def ask(port: int, request: bytes, count: int) -> None:
    """Send a request so many times, each after the response to the one before."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(count):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"expected 200, got {head!r}")
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    writer.close()


def measure(host: str, count: int) -> list[float]:
    """Return the CPU time of a request of each kind (µs)."""
    port = free_port()
    figures = []
    command = [sys.executable, "-m", "benchmarks.http_hosts", "--serve", host, "--port", str(port)]
    with running(command, port=port) as pid:
        for request in REQUESTS.values():
            asyncio.run(ask(port, request, count // 10))
            before = cpu_seconds(pid)
            asyncio.run(ask(port, request, count))
            figures.append((cpu_seconds(pid) - before) / count * 1e6)
    return figures


@app.command()
def main(
    requests: Annotated[int, typer.Option(help="Requests of each kind.")] = 5000,
    serve_host: Annotated[str, typer.Option("--serve", hidden=True)] = "",
    port: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Measure each server, and print a table."""
    if serve_host:
        end_on_sigterm()
        uvloop.run(serve(serve_host, port))
        return
    table = Table("CPU µs per request", *REQUESTS)
    for host in HOSTS:
        if find_spec(host.partition("-")[0]) or host == "ours":
            table.add_row(host, *(f"{figure:.0f}" for figure in measure(host, requests)))
    Console().print(table)


if __name__ == "__main__":
    app()
