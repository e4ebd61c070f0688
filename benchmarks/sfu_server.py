"""The local SFU as the benchmark runs it: in a process of its own, on uvloop, with the tests' page beside it.

Neighbour: `sfu.py` starts it and reads its CPU and memory. Limits that would end the load early are out of the way.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

import uvloop
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from benchmarks.processes import ROOT, end_on_sigterm
from signal_manager.sfu import LocalSfu, SfuSettings

__all__ = ["APP_ID", "APP_SECRET", "PAGES"]

APP_ID = "b" * 32
APP_SECRET = "not a secret: the port is on loopback for as long as the benchmark runs"
PAGES = ROOT / "tests" / "e2e" / "pages"


async def main(port: int, udp_port: int = 0) -> None:
    """Serve until SIGTERM."""
    settings = replace(
        SfuSettings(), max_sessions=1_000_000, max_packets_per_second=1_000_000, max_busy=1.0, unconnected_timeout=20.0
    )
    sfu = LocalSfu(http_port=port, udp_port=udp_port, app_id=APP_ID, app_secret=APP_SECRET, settings=settings)
    sfu.app.router.routes.insert(0, Mount("/pages", StaticFiles(directory=PAGES)))
    async with sfu:
        await asyncio.Event().wait()


if __name__ == "__main__":
    end_on_sigterm()
    uvloop.run(main(*map(int, sys.argv[1:])))
