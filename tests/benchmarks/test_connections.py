"""The connections benchmark counts what it holds and cleans up after itself; what a connection costs, no test says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.connections import measure
from benchmarks.processes import ROOT, MeasurementError, free_port, running
from benchmarks.servers import WEBSOCKETS, Server, reference

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory and CPU time are read from /proc"),
    pytest.mark.long,
]


def test_every_connection_is_held_and_counted() -> None:
    said: list[str] = []

    with reference(WEBSOCKETS) as server:
        footprint = measure(server, [20, 60], idle_seconds=0.1, report=said.append)

    assert footprint.connections == 60
    assert [(step.since, step.until) for step in footprint.growth] == [(20, 60)]
    assert footprint.rss_after_bytes > footprint.rss_before_bytes > 0
    assert footprint.connects_per_second > 0
    assert footprint.connect_cpu_seconds > 0
    assert said == ["connecting 20 clients", "connecting 40 clients", "watching them for 0.1 s"]


def test_a_server_that_is_no_websocket_server_ends_the_measurement() -> None:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]

    with (
        running(command, port=port) as pid,
        pytest.raises(MeasurementError, match="the clients could not connect"),
    ):
        measure(Server("http", pid, port), [1], idle_seconds=0.1, report=lambda line: None)


def test_the_servers_process_is_gone_afterwards() -> None:
    with reference(WEBSOCKETS) as server:
        assert os.path.exists(f"/proc/{server.pid}")

    assert not os.path.exists(f"/proc/{server.pid}")


def test_the_file_limit_is_raised_to_what_the_system_allows() -> None:
    # In a process of its own: the limit is this whole process's.
    program = """
import resource
from benchmarks.connections import raise_file_limit
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
print(raise_file_limit() == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""

    outcome = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert outcome.stdout == "True\n"
