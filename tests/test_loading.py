"""Large libraries are imported one at a time, and not before the service listens."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

from signal_manager.loading import Loader
from tests.waiting import until

_START = """
import asyncio, sys
from signal_manager.service.app import running
from signal_manager.service.config import Config

async def main():
    config = Config.model_validate({"server": {"port": 0}, "metrics": {"port": 0}, "storage": {"backend": "memory"}})
    async with running(config):
        print(*(name for name in ("fastapi", "aiortc", "httpx") if name in sys.modules), file=sys.stderr)

asyncio.run(main())
"""


async def test_a_waiting_loader_calls_nothing_before_it_begins() -> None:
    loader = Loader(waits=True)
    loading = asyncio.create_task(loader.load(threading.get_ident))
    await asyncio.sleep(0)
    assert not loading.done()
    loader.begin()
    assert await loading != threading.get_ident()


async def test_functions_are_called_one_after_another_even_by_two_loaders() -> None:
    running = most = 0
    go = threading.Event()

    def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        go.wait(30)
        running -= 1

    loads = [asyncio.create_task(Loader().load(count)) for _ in range(3)]
    await until(lambda: running == 1)
    go.set()
    await asyncio.gather(*loads)
    assert most == 1


async def test_the_failure_of_a_function_is_its_callers() -> None:
    loader = Loader()
    failed = (await asyncio.gather(loader.load(lambda: 1 // 0), return_exceptions=True))[0]
    assert isinstance(failed, ZeroDivisionError)
    assert await loader.load(lambda: 7) == 7


def test_a_service_listens_before_it_imports_the_second_port_and_the_sfu() -> None:
    started = subprocess.run([sys.executable, "-c", _START], capture_output=True, text=True, timeout=60, check=True)
    assert started.stderr == "\n"
