"""The newest versions that pyproject.toml allows install together, every module imports, and a call goes through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
LIMIT = 900
DISTRIBUTIONS = (f"{ROOT}[firestore,nats,otel,sfu]", f"{ROOT}/packages/client", f"{ROOT}/packages/sfu")
# The contract suites are for authors of adapters, who bring pytest.
IMPORTS = """
import importlib, pkgutil, signal_manager
for module in pkgutil.walk_packages(signal_manager.__path__, "signal_manager."):
    if not module.name.startswith(("signal_manager.testing", "signal_manager.__main__")):
        importlib.import_module(module.name)
        print(module.name)
"""


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install all three distributions without constraints.txt, and return the environment's programs."""
    folder = tmp_path_factory.mktemp("newest")
    venv.create(folder / "env", with_pip=False)
    programs = folder / "env/bin"
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "--disable-pip-version-check"]
    if subprocess.run([*pip, "download", "--quiet", "--no-deps", "-d", str(folder), "sniffio"], check=False).returncode:
        pytest.skip("the package index is out of reach, so the newest versions are unknown")
    install = [*pip, "install", "--quiet", "--upgrade", "--upgrade-strategy", "eager", *DISTRIBUTIONS]
    installed = subprocess.run(install, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert installed.returncode == 0, installed.stderr
    return programs


def run(programs: Path, *command: str) -> str:
    left_out = ("PYTHON", "SIGNAL_MANAGER_", "COVERAGE", "COV_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    ended = subprocess.run(
        [str(programs / command[0]), *command[1:]],
        cwd=programs,
        env=environ,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_every_module_imports(newest: Path) -> None:
    imported = run(newest, "python", "-c", IMPORTS).split()

    assert {"signal_manager.gateway.picows_protocol", "signal_manager.asgi.server", "signal_manager.sfu.srtp"} <= {
        *imported
    }


def test_a_call_and_a_room_go_through(newest: Path) -> None:
    """`try` starts a service with the local SFU, relays between two clients, and sends video in a room."""
    tried = run(newest, "signal-manager", "try", "--messages", "5", "--timeout", "300s", "--json")

    assert json.loads(tried)["ok"]
    assert "skipped" not in tried
