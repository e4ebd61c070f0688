"""Server processes under measurement: start, wait for the port, read CPU and memory, stop.

Needs Linux: CPU time comes from the scheduler's own account (/proc/PID/task/*/schedstat), in nanoseconds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

__all__ = [
    "ROOT",
    "MeasurementError",
    "child_processes",
    "cores",
    "cpu_seconds",
    "end_on_sigterm",
    "free_port",
    "loop_seconds",
    "pinned",
    "resident_bytes",
    "running",
    "said",
    "speaking",
    "stop",
    "waited_seconds",
]

ROOT = Path(__file__).resolve().parent.parent

START_LIMIT = 60.0
STOP_LIMIT = 10.0
OUTPUT_SHOWN = 2000


class MeasurementError(Exception):
    """A measurement could not be taken; the message is one for a person."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cores() -> tuple[int | None, int | None]:
    """Return a core for the server and another one for its clients, where there are two."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Let the processes that the block starts run on `core` alone; None leaves them everywhere."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(
    command: Sequence[str],
    *,
    port: int,
    host: str = "127.0.0.1",
    core: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run a server while the block lasts, and give its pid once `port` answers.

    Args:
        environment: the server's whole environment, normally this process's.

    Raises:
        MeasurementError: it ended, or did not answer within 60 s; with the end of what it printed.
    """
    with TemporaryFile() as output:
        with pinned(core):
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait_until_it_answers(process, (host, port), output)
            yield process.pid
        finally:
            stop(process)


@contextmanager
def speaking(module: str, *arguments: str, shows_errors: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run a client process on the second core while the block lasts; it speaks in lines of JSON (`said`).

    Args:
        module: what `python -m` runs.
        shows_errors: whether its standard error is this process's; otherwise `said` has it in its error.
    """
    with pinned(cores()[1]):
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if shows_errors else subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            yield process
        finally:
            stop(process)


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a client process says next; its own time limits bound the wait.

    Raises:
        MeasurementError: it has ended.
    """
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        errors = process.stderr.read() if process.stderr is not None else "what it says is above"
        raise MeasurementError(f"the clients could not connect: {errors.strip()[-OUTPUT_SHOWN:]}")
    facts: dict[str, Any] = json.loads(line)
    return facts


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process: ask it to, and kill it when it has not within 10 s."""
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that the live threads of a process have used, in s."""
    return _scheduled(pid, 0)


def loop_seconds(pid: int) -> float:
    """Return the CPU time that the main thread of a process has used, which runs the service's event loop, in s."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def waited_seconds(pid: int) -> float:
    """Return how long the live threads of a process could have run and had no core, in s."""
    return _scheduled(pid, 1)


def _scheduled(pid: int, field: int) -> float:
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end between the listing and the reading.
        with suppress(FileNotFoundError, ProcessLookupError):
            nanoseconds += int((task / "schedstat").read_text().split()[field])
    return nanoseconds / 1e9


def child_processes(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            children += map(int, (task / "children").read_text().split())
    return children


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory; smaps_rollup is exact where statm is kept per CPU and lags."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise MeasurementError(f"/proc/{pid}/smaps_rollup has no Rss line")


def end_on_sigterm() -> None:
    """Make SIGTERM unwind the stack as Ctrl-C does, so that no server outlives the benchmark."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: tuple[str, int], output: IO[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise MeasurementError(f"{_name(process)} ended with status {process.returncode}:\n{_tail(output)}")
        with suppress(OSError), socket.create_connection(address, timeout=1.0):
            return
        time.sleep(0.05)
    raise MeasurementError(f"{_name(process)} does not answer after {START_LIMIT:.0f} s:\n{_tail(output)}")


def _name(process: subprocess.Popen[bytes]) -> str:
    return " ".join(Path(str(word)).name for word in process.args) if isinstance(process.args, list) else "the server"


def _tail(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read()[-OUTPUT_SHOWN:].decode(errors="replace").strip()
