"""`server.workers`: several processes that share one port, started, watched and stopped together.

Each worker is a whole node: it listens itself (SO_REUSEPORT: the kernel distributes connections) and reaches the others
over NATS. The supervisor serves no clients. It restarts workers that die, and forwards signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import structlog

from signal_manager.errors import ConfigurationError, UnavailableError
from signal_manager.gateway.listener import listen
from signal_manager.gateway.server import Dashboard, Server
from signal_manager.service import app, backends
from signal_manager.service.config import Config, as_plain, unsupported_settings

__all__ = ["run", "work"]

log = structlog.get_logger(__name__)

_WORK = "from signal_manager.service.supervisor import work; work()"
# A worker that dies within this many seconds of its start is restarted after a growing pause, up to this maximum.
_QUICK_DEATH = 10.0
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0
# Seconds that workers may take beyond `server.drain_timeout` before they are killed.
_GRACE = 5.0
# The exit status for a wrong command line, and for a worker that cannot run with its configuration.
_WRONG = 2
# The exit status if a dependency does not answer now.
_AWAY = 1


def run(
    config: Config,
    *,
    insecure: bool = False,
    announce: Callable[[str], None] | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """Run all workers until SIGTERM or SIGINT.

    Args:
        insecure: see `app.run`.
        warnings: see `app.run`.
        announce: called with the address for clients on this machine once all of them listen, to tell a person.

    Raises:
        ConfigurationError: the service cannot run like this.
    """
    app.check_exposure(config, insecure=insecure)
    for problem in unsupported_settings(config):
        raise ConfigurationError(problem)
    written = app.configure_logs(config, warnings=warnings)
    try:
        with _shared_port(config.server.host, config.server.port) as port:
            if not asyncio.run(_Supervisor(config, port=port, insecure=insecure, announce=announce).run()):
                raise ConfigurationError("a worker cannot run as configured, see above")
    finally:
        written.close()


def work() -> None:
    """Run one worker with the configuration from standard input, until that is closed."""
    order = json.loads(sys.stdin.readline())
    config = Config.model_validate(order["config"])
    threading.Thread(target=_end_with_supervisor, daemon=True).start()

    def announce(server: Server) -> None:
        print("ready", flush=True)

    try:
        dashboard = Dashboard(*order["dashboard"]) if order["dashboard"] else None
        app.run(config, insecure=order["insecure"], announce=announce, is_worker=True, dashboard=dashboard)
    except ConfigurationError as error:
        print(f"signal-manager: {error.message}", file=sys.stderr)
        sys.exit(_WRONG)
    except UnavailableError as error:
        print(f"signal-manager: {error.message}", file=sys.stderr)
        sys.exit(_AWAY)


def _end_with_supervisor() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


class _Supervisor:
    def __init__(self, config: Config, *, port: int, insecure: bool, announce: Callable[[str], None] | None) -> None:
        self._config = config
        self._port = port
        self._insecure = insecure
        self._announce = announce
        # A restarted worker has its old id, and cleans up its old records at once.
        self._base = config.bus.node_id or uuid4().hex[:12]
        self._stop = asyncio.Event()
        self._is_wrong = False
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._ready: set[int] = set()

    async def run(self) -> bool:
        """Keep all workers running until a signal comes; return False if they cannot run with their configuration."""
        await backends.check_bus(self._config)  # one clear line instead of one from each worker
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        if self._config.server.tls_enabled:  # the default action would end the workers
            loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP)
        keepers = [asyncio.create_task(self._keep(index)) for index in range(self._config.server.workers)]
        await self._stop.wait()
        log.info("workers stopping", workers=len(self._processes))
        self._pass_on(signal.SIGTERM)
        _, late = await asyncio.wait(keepers, timeout=self._config.server.drain_timeout + _GRACE)
        if late:
            log.error("workers did not stop in time", workers=len(late))
            self._pass_on(signal.SIGKILL)
            await asyncio.wait(keepers)
        log.info("all workers stopped")
        return not self._is_wrong

    async def _keep(self, index: int) -> None:
        """Start a worker, and restart it each time it dies."""
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            began = time.monotonic()
            status = await self._run_once(index)
            if self._stop.is_set():
                return
            if status == _WRONG and index not in self._ready:
                self._is_wrong = True
                self._stop.set()
                return
            pause = _FIRST_PAUSE if time.monotonic() - began > _QUICK_DEATH else min(2 * pause, _LONGEST_PAUSE)
            log.error("worker died, starting it again", worker=index, status=status, pause=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)

    async def _run_once(self, index: int) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _WORK),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the supervisor, which stops all of them in order
        )
        self._processes[index] = process
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - asked for above
        order = {"config": self._order(index), "insecure": self._insecure, "dashboard": self._dashboard()}
        process.stdin.write(json.dumps(order).encode() + b"\n")
        try:
            if await process.stdout.readline():
                self._is_ready(index, process.pid)
            return await process.wait()
        finally:
            del self._processes[index]

    def _is_ready(self, index: int, pid: int) -> None:
        log.info("worker started", worker=index, pid=pid)
        is_first = index not in self._ready
        self._ready.add(index)
        if is_first and len(self._ready) == self._config.server.workers:
            host = self._config.server.host
            log.info("all workers started", host=host, port=self._port, workers=self._config.server.workers)
            app.tell_of_published_credentials(self._config, is_announced=self._announce is not None)
            if self._announce is not None:
                self._announce(app.local_url_of(host, self._port, is_secure=self._config.server.tls_enabled))

    def _dashboard(self) -> Dashboard | None:
        """Return the location of the first worker's second port, if it is known before the start."""
        port = self._config.metrics.port
        return app.dashboard_of(self._config, port=port) if port else None

    def _order(self, index: int) -> dict[str, dict[str, Any]]:
        """Return a worker's configuration, with its own name, log file and second port."""
        sections = as_plain(self._config, hide_secrets=False)
        sections["server"]["port"] = self._port
        sections["bus"]["node_id"] = f"{self._base}-{index}"
        if index:
            sections["metrics"]["enabled"] = False
        if "format" not in self._config.logging.model_fields_set:
            del sections["logging"]["format"]  # the default depends on the terminal
        if not self._config.auth.model_fields_set:
            del sections["auth"]  # the test clients are there only while nothing of it is set
        if sections["logging"]["file_path"]:
            sections["logging"]["file_path"] += f".{index}"
        return sections

    def _pass_on(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


@contextlib.contextmanager
def _shared_port(host: str, port: int) -> Iterator[int]:
    """Keep a port for the workers while the block lasts, and return its number.

    Raises:
        ConfigurationError: another program listens there; SO_REUSEPORT alone would allow two services.
    """
    with listen(host, port) as trial:
        port = trial.getsockname()[1]
    with listen(host, port, is_passive=True):
        yield port
