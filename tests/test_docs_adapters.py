"""The adapters of docs/adapters.md, installed as packages of their own and used by the real command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "adapters.md"
EXAMPLES = dict(re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```\n<!-- end -->", PAGE.read_text(), re.DOTALL))
LIMIT = 300.0


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Install the page's package into a folder of its own, as pip would."""
    site = tmp_path / "site"
    info = site / "json_file_storage-1.0.dist-info"
    info.mkdir(parents=True)
    for name, text in EXAMPLES.items():
        (site / name).write_text(text)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: json-file-storage\nVersion: 1.0\n")
    group, _, entries = PAGE.read_text().partition('[project.entry-points."')[2].partition('"]\n')
    name, value = entries.split("\n")[0].split(" = ")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {json.loads(value)}\n")
    return site


def run(package: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(package)} | variables
    return subprocess.run(
        [sys.executable, "-m", *command],
        check=False,
        env=environment,
        cwd=package,
        text=True,
        capture_output=True,
        timeout=LIMIT,
    )


@pytest.mark.long
def test_the_store_of_the_page_keeps_the_contract(package: Path) -> None:
    done = run(package, "pytest", "-q", "-p", "no:randomly", "-o", "asyncio_mode=auto", "--rootdir", str(package))

    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 50


@pytest.mark.long
def test_the_command_line_finds_the_store_and_passes_on_its_options(package: Path) -> None:
    config = package / "config.toml"
    config.write_text('[storage]\nbackend = "json-file"\n[storage.options]\npath = "store.json"\n')

    checked = run(package, "signal_manager", "check-config")
    used = run(package, "signal_manager", "storage", "check")
    elsewhere = run(package, "signal_manager", "storage", "check", SIGNAL_MANAGER_STORAGE_OPTIONS_PATH="other.json")

    assert '[storage.options]\npath = "store.json"  # ' in checked.stdout, checked.stderr
    assert checked.returncode == 0
    for done in (used, elsewhere):
        assert (done.returncode, done.stdout.split("\n")[0]) == (0, "storage json-file works"), done.stderr
    assert (package / "store.json").exists()
    assert (package / "other.json").exists()


@pytest.mark.long
def test_what_an_adapter_misses_is_said_as_the_page_says_it(package: Path) -> None:
    (package / "config.toml").write_text('[storage]\nbackend = "json-file"\n[storage.options]\npth = "store.json"\n')
    (said,) = re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)

    checked, served = run(package, "signal_manager", "check-config"), run(package, "signal_manager", "serve")

    assert (checked.returncode, checked.stderr) == (2, said)
    assert served.returncode == 2
    assert all(line.removeprefix("error: ") in served.stderr for line in said.splitlines())
