"""Several workers on one port: each has its own order, a dead one is started again, and none outlives a stop."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from signal_manager.errors import ConfigurationError, UnavailableError
from signal_manager.gateway.server import Dashboard
from signal_manager.service import app, supervisor
from signal_manager.service.config import Config
from signal_manager.service.supervisor import _shared_port, _Supervisor
from tests.nats_server import free_port
from tests.waiting import until

# In place of a whole service, a worker of these tests notes its order, and behaves as the test wants.
PATIENT = "signal.pause()"
DYING = "sys.exit(7) if order.stat().st_size < 2 * size else signal.pause()"
WRONG = "sys.exit(2)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); [signal.pause() for _ in 'xxxx']"


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Leave the signals as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Workers:
    """A supervisor whose workers are small scripts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.announced: list[str] = []
        self._patch = monkeypatch
        self._running: asyncio.Task[bool] | None = None

    def start(self, then: str, *, ready: bool = True, **sections: dict[str, Any]) -> None:
        """Run the supervisor; its workers say that they are ready, and do `then`."""
        script = (
            "import json, pathlib, signal, sys\n"
            "line = sys.stdin.readline()\n"
            "node = json.loads(line)['config']['bus']['node_id']\n"
            f"order = pathlib.Path({str(self.folder)!r}) / node\n"
            "size = len(line)\n"
            "with order.open('a') as out: out.write(line)\n"
            f"{'print(chr(82), flush=True)' if ready else ''}\n"
            f"{then}\n"
        )
        self._patch.setattr(supervisor, "_WORK", script)
        settings: dict[str, Any] = {
            "server": {"workers": 2, "drain_timeout": 1} | sections.pop("server", {}),
            "bus": {"backend": "a bus of another package", "node_id": "w"},
        }
        config = Config.model_validate(settings | sections)
        self.supervisor = _Supervisor(config, port=4711, insecure=True, announce=self.announced.append)
        self._running = asyncio.ensure_future(self.supervisor.run())

    def orders(self, node: str) -> list[dict[str, Any]]:
        """Return what a worker was started with, each time."""
        path = self.folder / node
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, unless the supervisor ends first."""
        assert self._running is not None
        running = self._running
        await until(lambda: condition() or running.done(), limit=60)
        assert condition()

    async def stop(self) -> bool:
        """Stop as SIGTERM does; return what the supervisor returns."""
        assert self._running is not None
        if not self._running.done():
            os.kill(os.getpid(), signal.SIGTERM)
        return await asyncio.wait_for(self._running, 60)

    async def ended(self) -> bool:
        assert self._running is not None
        return await asyncio.wait_for(asyncio.shield(self._running), 60)


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workers:
    return Workers(tmp_path, monkeypatch)


async def test_each_worker_has_a_name_a_log_and_the_first_one_the_second_port(workers: Workers) -> None:
    workers.start(
        PATIENT,
        metrics={"port": 9999},
        logging={"file_path": str(workers.folder / "log")},
        auth={"token_secret": "a secret of these tests, 32 bytes long"},
    )
    await workers.until(lambda: bool(workers.announced))
    first, second = workers.orders("w-0")[0], workers.orders("w-1")[0]
    ended_well = await workers.stop()

    assert ended_well
    assert [order["config"]["server"]["port"] for order in (first, second)] == [4711, 4711]
    assert [order["config"]["metrics"]["enabled"] for order in (first, second)] == [True, False]
    assert [order["config"]["logging"]["file_path"][-5:] for order in (first, second)] == ["log.0", "log.1"]
    assert first["config"]["auth"]["token_secret"] == "a secret of these tests, 32 bytes long"
    assert Dashboard(*second["dashboard"]).port == 9999
    assert first["insecure"]
    assert workers.announced == ["ws://127.0.0.1:4711"]


async def test_defaults_that_depend_on_the_place_are_left_to_the_worker(workers: Workers) -> None:
    workers.start(PATIENT, metrics={"port": 0})
    await workers.until(lambda: bool(workers.announced))
    (order,) = workers.orders("w-0")
    await workers.stop()

    assert "auth" not in order["config"]
    assert "format" not in order["config"]["logging"]
    assert order["dashboard"] is None


async def test_a_worker_that_dies_is_started_again_with_its_name(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE", 0.001)
    with capture_logs() as logs:
        workers.start(DYING)
        await workers.until(lambda: all(len(workers.orders(f"w-{index}")) == 2 for index in range(2)))
        await until(lambda: sum(line["event"] == "worker started" for line in logs) == 4, limit=60)
        await workers.stop()

    died = [line for line in logs if line["event"] == "worker died, starting it again"]
    assert [(line["status"], line["pause"]) for line in died] == [(7, 0.002)] * 2
    assert {line["worker"] for line in died} == {0, 1}
    assert len(workers.announced) == 1


async def test_a_worker_that_cannot_run_as_configured_stops_all(workers: Workers) -> None:
    workers.start(WRONG, ready=False)

    assert not await workers.ended()
    assert workers.announced == []


async def test_a_worker_that_does_not_stop_in_time_is_killed(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_GRACE", -0.95)
    with capture_logs() as logs:
        workers.start(STUBBORN, ready=False)
        await workers.until(lambda: bool(workers.announced))
        await workers.stop()

    assert [line["workers"] for line in logs if line["event"] == "workers did not stop in time"] == [2]
    assert logs[-1]["event"] == "all workers stopped"


async def test_a_new_certificate_is_every_workers_business(workers: Workers) -> None:
    noted = workers.folder / "hangups"
    workers.start(
        f"signal.signal(signal.SIGHUP, lambda *_: open({str(noted)!r}, 'a').write('x')); print('ready', flush=True)\n"
        "while True: signal.pause()",
        ready=False,
        server={"tls_enabled": True, "tls_cert_path": "c", "tls_key_path": "k"},
    )
    await workers.until(lambda: bool(workers.announced))

    os.kill(os.getpid(), signal.SIGHUP)

    await workers.until(lambda: noted.exists() and len(noted.read_text()) == 2)
    assert workers.announced == ["wss://127.0.0.1:4711"]
    await workers.stop()


# -- the port ----------------------------------------------------------------------------------------------------------


def test_the_port_is_kept_while_workers_come_and_go() -> None:
    with _shared_port("127.0.0.1", 0) as port, socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", port))
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            pass

    assert port > 0


def test_a_port_that_another_program_uses_is_refused() -> None:
    with (
        socket.create_server(("127.0.0.1", 0), reuse_port=True) as other,
        pytest.raises(ConfigurationError, match="the port is taken"),
        _shared_port("127.0.0.1", other.getsockname()[1]),
    ):
        pass


# -- the whole -----------------------------------------------------------------------------------------------------


def config_of(**sections: dict[str, Any]) -> Config:
    return Config.model_validate(sections)


def test_published_secrets_are_not_served_to_other_machines_by_workers_either() -> None:
    config = config_of(server={"host": "0.0.0.0", "workers": 2})

    with pytest.raises(ConfigurationError, match="token_secret"):
        supervisor.run(config)


def test_workers_that_would_share_nothing_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"a store that all processes share|an SFU that all processes share"):
        supervisor.run(config_of(server={"workers": 2}, logging={"level": "ERROR"}))


async def test_a_missing_nats_server_is_one_error_and_starts_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_WORK", "raise SystemExit('a worker was started')")
    config = config_of(server={"workers": 2}, bus={"nats_url": f"nats://127.0.0.1:{free_port()}"})

    with pytest.raises(UnavailableError, match="no nats-server answers"):
        await _Supervisor(config, port=1, insecure=False, announce=None).run()


def test_workers_that_cannot_run_end_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(self: _Supervisor) -> bool:
        return False

    monkeypatch.setattr(_Supervisor, "run", run)
    config = config_of(server={"port": free_port()}, logging={"level": "ERROR"})

    with pytest.raises(ConfigurationError, match="a worker cannot run as configured"):
        supervisor.run(config)


# -- a worker ------------------------------------------------------------------------------------------------------


class Order:
    """What a worker is started with, and what it runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[Config, dict[str, Any]]] = []
        self.error: Exception | None = None
        self._patch = monkeypatch

    def run(self, config: Config, **options: Any) -> None:
        self.ran.append((config, options))
        if self.error is not None:
            raise self.error
        options["announce"](None)

    def work(self, dashboard: object = None) -> None:
        """Do what the command of a worker does."""
        order = {"config": {"server": {"port": 4711}}, "insecure": True, "dashboard": dashboard}
        self._patch.setattr(sys, "stdin", io.StringIO(json.dumps(order) + "\n"))
        self._patch.setattr(supervisor, "_end_with_supervisor", lambda: None)
        self._patch.setattr(app, "run", self.run)
        supervisor.work()


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Order:
    return Order(monkeypatch)


def test_a_worker_runs_its_order_and_says_when_it_listens(order: Order, capsys: pytest.CaptureFixture[str]) -> None:
    order.work(dashboard=["127.0.0.1", 9999, True])

    ((config, options),) = order.ran
    assert (config.server.port, options["insecure"], options["is_worker"]) == (4711, True, True)
    assert options["dashboard"] == Dashboard("127.0.0.1", 9999)
    assert capsys.readouterr().out == "ready\n"


@pytest.mark.parametrize(
    ("error", "status"), [(ConfigurationError("no such key"), 2), (UnavailableError("no such server"), 1)]
)
def test_a_worker_that_cannot_run_says_why_in_one_line(
    order: Order, error: ConfigurationError | UnavailableError, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    order.error = error

    with pytest.raises(SystemExit) as ended:
        order.work()

    assert ended.value.code == status
    assert capsys.readouterr().err == f"signal-manager: {error.message}\n"


def test_a_worker_ends_with_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))

    supervisor._end_with_supervisor()

    assert killed == [(os.getpid(), signal.SIGTERM)]
