"""The service as a process of its own, for what a test cannot do to itself: run out of files, or be measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import free_port, running
from tests.integration.conftest import DEFAULTS

__all__ = ["ServiceProcess", "service_process"]

_LIMITED = """\
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
"""
_START = """\
import runpy
runpy.run_module("signal_manager", run_name="__main__", alter_sys=True)
"""


class ServiceProcess(NamedTuple):
    """Where a process's service is, and where it logs."""

    pid: int
    port: int
    log: Path
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}"

    def logged(self) -> list[dict[str, Any]]:
        """Return the lines of its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def service_process(
    directory: Path,
    settings: Mapping[str, Any],
    *,
    max_files: int | None = None,
    host: str = "127.0.0.1",
    prefix: Sequence[str] = (),
    before: str = "",
) -> Iterator[ServiceProcess]:
    """Run the service with these settings while the block lasts.

    Args:
        directory: where its configuration and its log go.
        settings: values by "section.key".
        max_files: file descriptors that it may have, hard.
        host: where this process reaches it.
        prefix: what its command line begins with.
        before: what it runs before anything else, for what no setting can do.
    """
    port, log = free_port(), directory / "service.log"
    sections: dict[str, dict[str, Any]] = {name: dict(values) for name, values in DEFAULTS.items()}
    own = {"server.port": port, "logging.file_path": str(log), "logging.format": "json"}
    for name, value in (own | dict(settings)).items():
        section, key = name.split(".")
        sections.setdefault(section, {})[key] = value
    config = directory / "config.toml"
    # JSON's strings, numbers, booleans and lists are TOML's too.
    lines = [
        line
        for section, values in sections.items()
        for line in (f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    ]
    config.write_text("\n".join(lines))
    if max_files is not None:
        before = _LIMITED.format(files=max_files)
    start = ["-c", before + _START] if before else ["-m", "signal_manager"]
    command = [*prefix, sys.executable, *start, "serve", "--config", str(config)]
    with running(command, port=port, host=host) as pid:
        yield ServiceProcess(pid, port, log, host)
