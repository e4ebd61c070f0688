"""`signal-manager storage` as a person and a script use it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from signal_manager.model import ClientId, ClientRecord, Room, RoomId
from signal_manager.storage.sqlite.adapter import SqliteStorage


@pytest.fixture
def configs(tmp_path: Path) -> tuple[Path, Path]:
    """Two configurations with a database each."""
    paths = (tmp_path / "old.toml", tmp_path / "new.toml")
    for path in paths:
        path.write_text(f"[storage]\nsqlite_path = {json.dumps(str(path.with_suffix('.db')))}\n")
    return paths


def run(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGNAL_MANAGER_")}
    return subprocess.run(
        [sys.executable, "-m", "signal_manager", "storage", *arguments],
        input=given,
        capture_output=True,
        timeout=60,
        check=False,
        env=environment | {"NO_COLOR": "1"},
    )


async def filled(config: Path) -> None:
    async with SqliteStorage(path=config.with_suffix(".db")) as storage:
        for number in range(3):
            await storage.put_client(ClientRecord(client_id=ClientId(f"client-{number}"), auth_token="secret"))
        await storage.create_room(Room(room_id=RoomId("room"), is_active=True))


def test_check_tells_that_the_store_works(configs: tuple[Path, Path]) -> None:
    done = run("check", "--config", str(configs[0]))

    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[0] == "storage sqlite works"


def test_check_as_json(configs: tuple[Path, Path]) -> None:
    report = json.loads(run("check", "--config", str(configs[0]), "--json").stdout)

    assert report["backend"] == "sqlite"
    assert set(report["milliseconds"]) == {"write", "read", "remove"}


def test_a_store_that_does_not_work_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text(f"[storage]\nsqlite_path = {json.dumps(str(tmp_path / 'no' / 'such' / 'directory.db'))}\n")

    done = run("check", "--config", str(config))

    assert done.returncode == 2
    assert done.stdout == b""
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.long
async def test_an_export_can_be_imported_elsewhere(configs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = configs
    await filled(old)
    exported = run("export", "--config", str(old))
    assert exported.returncode == 0, exported.stderr
    assert b"secret" not in exported.stdout

    imported = run("import", "--config", str(new), given=exported.stdout)

    assert imported.stdout.decode() == "3 clients, 1 rooms, 0 media\n"
    assert run("export", "--config", str(new)).stdout == exported.stdout


@pytest.mark.long
async def test_lines_that_are_no_records_are_named(configs: tuple[Path, Path], tmp_path: Path) -> None:
    await filled(configs[0])
    file = tmp_path / "export.jsonl"
    assert run("export", "--config", str(configs[0]), "--file", str(file)).returncode == 0
    file.write_bytes(file.read_bytes() + b"{nonsense\n")

    done = run("import", "--config", str(configs[1]), "--file", str(file), "--json")

    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert (report["clients"], report["rejected"], report["bad_lines"][0]["number"]) == (3, 1, 6)
    assert b"line 6 left out" in run("import", "--config", str(configs[1]), "--file", str(file)).stderr


def test_a_file_that_is_no_export_is_refused(configs: tuple[Path, Path]) -> None:
    done = run("import", "--config", str(configs[0]), given=b"hello\n")

    assert done.returncode == 2
    assert b"no header" in done.stderr


def test_a_file_that_is_not_there_is_explained(configs: tuple[Path, Path]) -> None:
    done = run("import", "--config", str(configs[0]), "--file", "nowhere.jsonl")

    assert done.returncode == 2
    assert b"nowhere.jsonl: cannot open it" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments", [("--apply",), ("--from", "original", "--file", "x"), ("--from", "elsewhere"), ("--from", "original")]
)
def test_an_import_that_cannot_be_meant_is_one_line(configs: tuple[Path, Path], arguments: tuple[str, ...]) -> None:
    done = run("import", *arguments, "--config", str(configs[0]))

    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
