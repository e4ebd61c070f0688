"""The three distributions, built, each installed alone in a fresh environment, and used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from signal_manager import __version__

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
LIMIT = 900

USE_OF_CLIENT = """
import asyncio, sys
from signal_manager.client import SignalClient, SignalReceived
from signal_manager.protocol.messages import PayloadType

async def main():
    url = sys.argv[1]
    kinds = [PayloadType.JSON, PayloadType.PROTOBUF, PayloadType.CBOR]
    for kind in kinds:
        async with (
            SignalClient(url, "test_client_1", "test_token_1", payload_type=kind) as one,
            SignalClient(url, "test_client_2", "test_token_2", payload_type=kind) as two,
        ):
            await one.send_offer("test_client_2", {"type": "offer", "sdp": "v=0"})
            async for event in two:
                if isinstance(event, SignalReceived):
                    print(kind.name, event.sender, event.data["sdp"])
                    break
    print(*{"aiortc", "av", "pydantic", "fastapi", "httptools", "httpx"} & set(sys.modules))

asyncio.run(main())
"""
RELAYED = "JSON test_client_1 v=0\nPROTOBUF test_client_1 v=0\nCBOR test_client_1 v=0\n\n"


class Environment:
    """A fresh virtual environment, without pip in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "env", with_pip=False)
        self.python = folder / "env/bin/python"
        self.command = str(folder / "env/bin/signal-manager")

    def install(self, *what: str) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", "install"]
        constraints = ["--quiet", "--no-compile", "--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, *constraints, *what], check=True, timeout=LIMIT)

    def run(self, *command: str, fails: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            command, cwd=self.folder, env=clean(variables), capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert (ended.returncode != 0) is fails, ended.stdout + ended.stderr
        return ended

    def packages(self) -> set[str]:
        """Return what is installed, in lower case."""
        code = "import importlib.metadata as m; print(*{d.name.lower() for d in m.distributions()})"
        return set(self.run(str(self.python), "-c", code).stdout.split())

    def megabytes(self) -> float:
        """Return what all of it takes on the disk, without compiled Python files, which Python makes when it likes."""
        (installed,) = self.folder.glob("env/lib/python*/site-packages")
        files = [path for path in installed.rglob("*") if path.is_file() and path.suffix != ".pyc"]
        return sum(path.stat().st_size for path in files) / 1e6


def clean(variables: dict[str, str]) -> dict[str, str]:
    """Return this process's environment without what would lead to the source tree or to settings."""
    left_out = ("PYTHON", "SIGNAL_MANAGER_", "COVERAGE", "COV_")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)} | variables


@contextmanager
def serving(command: Sequence[str], folder: Path, **variables: str) -> Iterator[tuple[str, list[str]]]:
    """Run a service while the block lasts; give its URL, and the lines that it logged until it was there."""
    environ = clean({"SIGNAL_MANAGER_METRICS_PORT": "0", **variables})
    process = subprocess.Popen(
        [*command, "serve", "--port", "0"], cwd=folder, env=environ, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "service started" in line:
                break
        assert lines, "the service ended and logged nothing"
        yield f"ws://127.0.0.1:{json.loads(lines[-1])['port']}", lines
        process.terminate()
        process.communicate(timeout=LIMIT)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build the three from the source tree; give their paths by the distributions' names."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    parts = [str(ROOT / "packages/client"), str(ROOT / "packages/sfu"), str(ROOT)]
    subprocess.run([*pip, "--wheel-dir", str(folder), *parts], check=True, timeout=LIMIT)
    return {path.name.partition("-")[0].replace("_", "-"): str(path) for path in folder.glob("*.whl")}


def test_no_file_belongs_to_two_wheels_and_none_is_left_out(wheels: dict[str, str]) -> None:
    names = [name for path in wheels.values() for name in zipfile.ZipFile(path).namelist()]
    # A machine with a C compiler compiles some of the modules.
    compiled = {name for name in names if name.endswith(".so")}
    ours = {name for name in names if not re.match(r"[^/]+\.dist-info/", name)} - compiled
    tracked = [path for path in (ROOT / "src").rglob("*") if path.is_file() and path.suffix not in {".pyc", ".so"}]

    assert len(wheels) == 3
    assert len(set(names)) == len(names)
    assert {re.sub(r"\.[^/]*\.so$", ".pxd", name) for name in compiled} <= ours
    assert ours == {path.relative_to(ROOT / "src").as_posix() for path in tracked}


def test_a_client_is_small_and_relays_with_protobuf_5_6_and_7(wheels: dict[str, str], tmp_path: Path) -> None:
    client = Environment(tmp_path)
    client.install(wheels["signal-manager-client"])
    packages, size = client.packages(), client.megabytes()
    print(f"{len(packages)} packages, {size:.1f} MB: {', '.join(sorted(packages))}")

    assert len(packages) <= 12
    assert size <= 15
    with serving([sys.executable, "-m", "signal_manager"], tmp_path, SIGNAL_MANAGER_MEDIA_BACKEND="none") as (url, _):
        assert client.run(str(client.python), "-c", USE_OF_CLIENT, url).stdout == RELAYED
        for version in (5, 6):
            other = tmp_path / f"protobuf{version}"
            pip = [
                sys.executable,
                "-m",
                "pip",
                "--disable-pip-version-check",
                "install",
                "--quiet",
                "--no-compile",
                "--no-deps",
            ]
            subprocess.run([*pip, "--target", str(other), f"protobuf~={version}.26"], check=True, timeout=LIMIT)
            code = f"import google.protobuf as p; assert p.__version__.startswith('{version}.'), p.__version__\n"
            used = client.run(str(client.python), "-c", code + USE_OF_CLIENT, url, PYTHONPATH=str(other))
            assert used.stdout == RELAYED
    joining = "from signal_manager.client.media import MediaSession"
    assert "No module named 'aiortc'" in client.run(str(client.python), "-c", joining, fails=True).stderr


def test_a_service_alone_relays_and_with_its_sfu_runs_a_room(wheels: dict[str, str], tmp_path: Path) -> None:
    service = Environment(tmp_path)
    service.install(wheels["signal-manager-client"], wheels["signal-manager"])
    advice = "pip install 'signal-manager[sfu]'"

    assert not {"aiortc", "av", "pylibsrtp"} & service.packages()
    assert __version__ in service.run(service.command, "--version").stdout
    with serving([service.command], tmp_path, SIGNAL_MANAGER_MEDIA_BACKEND="none") as (url, lines):
        assert not any(advice in line for line in lines)
        assert service.run(str(service.python), "-c", USE_OF_CLIENT, url).stdout == RELAYED
    with serving([service.command], tmp_path) as (_, lines):
        assert len([line for line in lines if advice in line]) == 1
    for command in ("serve", "check-config"):
        refused = service.run(service.command, command, fails=True, SIGNAL_MANAGER_MEDIA_BACKEND="local").stderr
        assert refused == f'error: media.backend is "local" and the local SFU is not installed: {advice}\n'
    for command in ("sfu", "try"):
        assert service.run(service.command, command, fails=True).stderr.endswith(f": {advice}\n")

    service.install(wheels["signal-manager"] + "[sfu]", wheels["signal-manager-sfu"], wheels["signal-manager-client"])
    tried = service.run(service.command, "try", "--messages", "5", "--timeout", "120s", "--json").stdout

    assert json.loads(tried)["ok"]
    assert "skipped" not in tried
    assert {"aiortc", "pylibsrtp", "signal-manager-sfu"} <= service.packages()
