"""Programs of the pages, run as their readers run them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["TIME_LIMIT", "Program", "finished", "started"]

# Generous: it only matters when something is broken (s).
TIME_LIMIT = 60.0


class Program:
    """A program that runs, and the lines that it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    async def says(self, line: str) -> str:
        """Return the next line that begins so; others are passed over."""
        assert self._process.stdout is not None
        async with asyncio.timeout(TIME_LIMIT):
            while True:
                text = (await self._process.stdout.readline()).decode()
                assert text, f"it ended after {self.lines}"
                self.lines.append(text.rstrip("\n"))
                if text.startswith(line):
                    return self.lines[-1]


@asynccontextmanager
async def started(
    folder: Path, text: str, *arguments: str, name: str = "program.py", environment: Mapping[str, str] | None = None
) -> AsyncIterator[Program]:
    """Run a Python program in `folder` while the block lasts; what it says of errors is printed with its lines."""
    file = folder / name
    file.write_text(text)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(name, *arguments),
        cwd=folder,
        env=os.environ | dict(environment or {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()  # also closes its pipe


async def finished(folder: Path, text: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a Python program to its end, which has to be a good one, and return what it printed."""
    (folder / "program.py").write_text(text)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("program.py", *arguments),
        cwd=folder,
        env=os.environ | dict(environment or {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TIME_LIMIT):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()
