"""`signal-manager storage` as a person and a script use it, inside this process but for one test."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from signal_manager.cli import main as cli
from signal_manager.cli import storage as commands
from signal_manager.errors import UnavailableError
from signal_manager.model import ClientId, ClientRecord, Room, RoomId
from signal_manager.service import backends
from signal_manager.storage.memory import MemoryStorage
from signal_manager.storage.original import ROOMS_COLLECTION
from signal_manager.storage.sqlite.adapter import SqliteStorage
from signal_manager.storage.transfer import MAX_REPORTED
from tests.cli.test_main import Result
from tests.storage.test_firestore import ORIGINAL_CLIENT, ORIGINAL_ROOM

Storage = Callable[..., Result]


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


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Storage]:
    """Run `signal-manager storage` inside this process, with what it reads on its standard input."""
    for name in os.environ:
        if name.startswith("SIGNAL_MANAGER_"):
            monkeypatch.delenv(name)
    stdin = os.dup(0)

    def run(*arguments: str, given: str = "") -> Result:
        with tempfile.TemporaryFile() as file:
            file.write(given.encode())
            file.seek(0)
            os.dup2(file.fileno(), 0)
            capfd.readouterr()
            status = cli._exit_status(["storage", *arguments])
            return Result(status, *capfd.readouterr())

    yield run
    os.dup2(stdin, 0)
    os.close(stdin)


async def filled(config: Path) -> None:
    async with SqliteStorage(path=config.with_suffix(".db")) as storage:
        for number in range(3):
            await storage.put_client(ClientRecord(client_id=ClientId(f"client-{number}"), auth_token="secret"))
        await storage.create_room(Room(room_id=RoomId("room"), is_active=True))


# check


def test_check_tells_that_the_store_works(storage: Storage, configs: tuple[Path, Path]) -> None:
    done = storage("check", "--config", str(configs[0]))

    assert done.status == 0, done.err
    first, *times = done.out.splitlines()
    assert first == "storage sqlite works"
    assert [line.split()[0] for line in times] == ["write", "read", "remove"]
    assert all(line.endswith(" ms") for line in times)


def test_check_as_json(storage: Storage, configs: tuple[Path, Path]) -> None:
    report = json.loads(storage("check", "--config", str(configs[0]), "--json").out)

    assert report["backend"] == "sqlite"
    assert set(report["milliseconds"]) == {"write", "read", "remove"}


def test_a_store_that_does_not_work_is_one_line_and_exit_status_2(storage: Storage, tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text(f"[storage]\nsqlite_path = {json.dumps(str(tmp_path / 'no' / 'such' / 'directory.db'))}\n")

    done = storage("check", "--config", str(config))

    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)


# export and import


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


def test_an_export_goes_through_files_and_pipes_alike(
    storage: Storage, configs: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = configs
    asyncio.run(filled(old))
    file = tmp_path / "export.jsonl"

    piped = storage("export", "--config", str(old))
    filed = storage("export", "--config", str(old), "--file", str(file))
    imported = storage("import", "--config", str(new), given=piped.out)
    again = storage("import", "--config", str(new), "--file", str(file))

    assert (piped.status, filed.status, filed.out, file.read_text()) == (0, 0, "", piped.out)
    assert filed.err == "exported: 4 records\n"
    assert imported == again == Result(0, "3 clients, 1 rooms, 0 media\n", "")
    assert storage("export", "--config", str(new)).out == piped.out


def test_an_export_leaves_standard_output_open(storage: Storage, configs: tuple[Path, Path]) -> None:
    first, second = (storage("export", "--config", str(configs[0])) for _ in range(2))

    assert (first.status, second.status) == (0, 0)
    assert first.out == second.out != ""


def test_lines_that_are_no_records_are_named(storage: Storage, configs: tuple[Path, Path], tmp_path: Path) -> None:
    asyncio.run(filled(configs[0]))
    file = tmp_path / "export.jsonl"
    assert storage("export", "--config", str(configs[0]), "--file", str(file)).status == 0
    file.write_bytes(file.read_bytes() + b"{nonsense\n")

    done = storage("import", "--config", str(configs[1]), "--file", str(file), "--json")

    report = json.loads(done.out)
    assert done.status == 1
    assert (report["clients"], report["rejected"], report["bad_lines"][0]["number"]) == (3, 1, 6)
    assert "line 6 left out" in storage("import", "--config", str(configs[1]), "--file", str(file)).err


def test_of_very_many_bad_lines_the_first_are_named_and_the_others_counted(
    storage: Storage, configs: tuple[Path, Path]
) -> None:
    header = storage("export", "--config", str(configs[0])).out

    done = storage("import", "--config", str(configs[0]), given=header + "{nonsense\n" * (MAX_REPORTED + 2))

    warnings = done.err.splitlines()
    assert (done.status, len(warnings)) == (1, MAX_REPORTED + 1)
    assert warnings[-1] == "warning: and 2 more lines"


def test_progress_is_shown_on_a_terminal_only(
    storage: Storage, configs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(filled(configs[0]))
    monkeypatch.setattr(commands, "PROGRESS_EVERY", 2)
    silent = storage("export", "--config", str(configs[0]))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")

    shown = storage("export", "--config", str(configs[0]))
    read = storage("import", "--config", str(configs[1]), given=shown.out)

    assert "so far" not in silent.err
    assert shown.err.splitlines()[:2] == ["exported: 2 records so far", "exported: 4 records so far"]
    assert read.err.splitlines()[0] == "imported: 2 records so far"


def test_a_file_that_is_no_export_is_refused(storage: Storage, configs: tuple[Path, Path]) -> None:
    done = storage("import", "--config", str(configs[0]), given="hello\n")

    assert done.status == 2
    assert "no header" in done.err


def test_a_file_that_is_not_there_is_explained(storage: Storage, configs: tuple[Path, Path]) -> None:
    done = storage("import", "--config", str(configs[0]), "--file", "nowhere.jsonl")

    assert done.status == 2
    assert "nowhere.jsonl: No such file" in done.err


@pytest.mark.parametrize(
    "arguments", [("--apply",), ("--from", "original", "--file", "x"), ("--from", "elsewhere"), ("--from", "original")]
)
def test_an_import_that_cannot_be_meant_is_one_line(
    storage: Storage, configs: tuple[Path, Path], arguments: tuple[str, ...]
) -> None:
    done = storage("import", *arguments, "--config", str(configs[0]))

    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)


# import --from original


class Originals:
    """The original service's Firestore database, with one room, one client and a document that is none of its."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return

    async def originals(self, collection: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        if collection == ROOMS_COLLECTION:
            yield "r", {**ORIGINAL_ROOM, "room_id": "r"}
        else:
            yield "a", {**ORIGINAL_CLIENT, "client_id": "a"}
            yield "b", {"client_id": "b"}


@pytest.fixture
def original_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "original_store_for", lambda config: Originals())


@pytest.mark.usefixtures("original_store")
def test_the_original_service_is_looked_at_first_and_taken_over_when_asked(
    storage: Storage, configs: tuple[Path, Path]
) -> None:
    command = ("import", "--from", "original", "--config", str(configs[0]))

    looked = storage(*command)
    stored_by_looking = storage("export", "--config", str(configs[0])).out.count("\n") - 1
    took = storage(*command, "--apply")
    again = json.loads(storage(*command, "--apply", "--json").out)

    assert (looked.status, took.status, stored_by_looking) == (1, 1, 0)  # one document is left out
    assert looked.out == "1 rooms (1 open) and 1 clients found, 0 kept\n"
    assert "left out: " in looked.err
    assert "repeat with --apply" in looked.err
    assert took.out == "1 rooms (1 open) and 1 clients taken over, 0 kept\n"
    assert "repeat with --apply" not in took.err
    assert (again["applied"], again["rooms"], again["clients"], again["kept"]) == (True, 0, 0, 2)


@pytest.mark.usefixtures("original_store")
def test_a_store_that_fails_while_it_takes_over_is_one_line(
    storage: Storage, configs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(MemoryStorage):
        async def get_room(self, room_id: RoomId) -> Room | None:
            raise UnavailableError("the disk is full")

    monkeypatch.setattr(backends, "storage_for", lambda config: Broken())

    done = storage("import", "--from", "original", "--apply", "--config", str(configs[0]))

    assert (done.status, done.out, done.err) == (2, "", "error: the disk is full\n")
