"""`signal-manager migrate-config`: what it prints, what it writes, and that nothing is lost."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from signal_manager.service.config import Config, load_with_origins
from tests.cli.test_main import Run, run
from tests.service.test_original_config import COMPLETE, PROTOCOL_PAGE, README

__all__ = ["run"]  # a fixture


@pytest.mark.parametrize("original", [README, PROTOCOL_PAGE, COMPLETE], ids=["README", "protocol page", "complete"])
def test_a_migrated_file_means_the_same_and_needs_no_more_words(run: Run, tmp_path: Path, original: str) -> None:
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(original)

    migrated = run("migrate-config", str(old))
    new.write_text(migrated.out)
    again = run("migrate-config", str(new))

    assert (migrated.status, again.status) == (0, 0)
    before, after = load_with_origins(old, environ={}), load_with_origins(new, environ={})
    assert _without_gcp(after.config) == _without_gcp(before.config)
    assert after.warnings == ()
    assert again.out == migrated.out


def _without_gcp(config: Config) -> Mapping[str, object]:
    return config.model_dump(exclude={"gcp"})


def test_migrating_in_place_keeps_the_old_file_and_who_may_read_it(run: Run, tmp_path: Path) -> None:
    file, kept = tmp_path / "config.toml", tmp_path / "config.toml.orig"
    file.write_text(PROTOCOL_PAGE)
    file.chmod(0o600)

    assert run("migrate-config", str(file), "--write").status == 0
    assert run("migrate-config", str(file), "--write").status == 2  # the second would lose the original

    assert kept.read_text() == PROTOCOL_PAGE
    assert tomllib.loads(file.read_text())["server"]["heartbeat_interval"] == 20
    assert (file.stat().st_mode & 0o777, sorted(os.listdir(tmp_path))) == (0o600, ["config.toml", "config.toml.orig"])


@pytest.mark.parametrize("text", ["[server", "[sever]\nport = 1", None])
def test_a_file_that_cannot_be_migrated_is_one_line(run: Run, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "config.toml"
    if text is not None:
        file.write_text(text)

    result = run("migrate-config", str(file))

    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)


def test_what_a_person_should_look_at_is_said_beside_the_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[server]\nhost = "0.0.0.0"\n[gcp]\nproject_id = "p"\n[logging]\nfile_path = "signal.log"\n[auth]\napi_keys = '
        '["test_client_1:test_token_1"]\n'
    )

    result = run("migrate-config", str(file))

    assert result.status == 0
    assert "note: [gcp] is part of [firestore] now" in result.err
    assert "refuses to listen on 0.0.0.0 with it" in result.err
    assert "logging.file_path is written here, to signal.log" in result.err


def test_a_file_of_ours_needs_no_change_and_says_so(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[server]\nport = 1234\n")

    result = run("migrate-config", str(file))

    assert (result.status, tomllib.loads(result.out)) == (0, {"server": {"port": 1234}})
    assert result.err == "note: nothing in this file needs to change\n"


def test_a_file_that_cannot_be_written_stays_as_it_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(PROTOCOL_PAGE)

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(target))

    monkeypatch.setattr(os, "link", refuse)

    result = run("migrate-config", str(file), "--write")

    assert result.status == 2
    assert f"{file}.orig" in result.err
    assert result.err.endswith(": Operation not permitted\n")
    assert file.read_text() == PROTOCOL_PAGE
    assert os.listdir(tmp_path) == ["config.toml"]
