"""`init` and `check-config` as a person meets them."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path

import pytest

from signal_manager.service.config import load
from signal_manager.service.settings import Config
from tests.cli.test_main import Run, assert_one_error, run

__all__ = ["run"]


# init


def test_init_writes_every_setting_explained_and_commented_out(run: Run, tmp_path: Path) -> None:
    result = run("init")

    file = tmp_path / "config.toml"
    text = file.read_text()
    assert result == (
        0,
        "",
        "written: config.toml; see what is in effect with: signal-manager check-config\n",
    )
    assert tomllib.loads(text) == {section: {} for section in Config.model_fields}
    assert "# Port to listen on; 0 lets the system choose one.\n#port = 8080\n" in text
    assert load(environ={}, directory=tmp_path) == Config()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["config.toml"]


def test_every_default_of_init_may_be_uncommented(run: Run) -> None:
    text = run("init", "-").out

    uncommented = "\n".join(line.removeprefix("#") if line[:2].strip() != "#" else "" for line in text.splitlines())

    assert Config.model_validate(tomllib.loads(uncommented)) == Config()


def test_init_overwrites_nothing_without_force(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")

    assert_one_error(run("init", "mine.toml"), "mine.toml exists already: --force replaces it")
    assert (tmp_path / "mine.toml").read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["mine.toml"]

    result = run("init", "mine.toml", "--force")

    assert result.err.endswith("signal-manager check-config --config mine.toml\n")
    assert "#port = 8080" in (tmp_path / "mine.toml").read_text()


def test_init_writes_to_standard_output(run: Run, tmp_path: Path) -> None:
    result = run("init", "-")

    assert (result.status, result.err) == (0, "")
    assert "#port = 8080" in result.out
    assert not list(tmp_path.iterdir())


def test_init_says_that_another_file_comes_first(run: Run, tmp_path: Path) -> None:
    (tmp_path / "app-config.toml").touch()

    assert "warning: the service reads app-config.toml and ignores config.toml" in run("init").err


def test_init_says_where_it_cannot_write(run: Run) -> None:
    assert_one_error(run("init", "no/such/folder.toml"), "cannot write no/such/folder.toml: No such file")


# check-config


EVERYTHING_WRONG = """
stray = 1
[sever]
port = 1
[server]
port = "eighty"
prot = 1
heartbeat_timeout = 5
tls_enabled = true
tls_cert_path = "missing.pem"
tls_key_path = "missing.key"
[storage]
backend = "firestore"
[firestore]
credentials_path = "missing.json"
[media]
backend = "cloudflare"
[metrics]
port = 0
[logging]
file_path = "."
"""


def test_check_config_reports_all_mistakes_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text(EVERYTHING_WRONG)
    monkeypatch.setenv("SIGNAL_MANAGER_AUTH_LEEWAY", "-1")
    monkeypatch.setenv("SIGNAL_MANAGER_SERVER_HOTS", "x")

    result = run("check-config")

    file = tmp_path / "config.toml"
    assert (result.status, result.out) == (2, "")
    assert [line.removeprefix("error: ") for line in result.err.splitlines()] == [
        f'{file}: key "stray" stands outside any section',
        f"{file}: unknown section [sever]; did you mean [server]?",
        f'{file}: [server] port: expected a whole number, got "eighty"',
        f'{file}: unknown key "prot" in [server]; did you mean port?',
        "unknown variable SIGNAL_MANAGER_SERVER_HOTS; did you mean SIGNAL_MANAGER_SERVER_HOST?",
        'SIGNAL_MANAGER_AUTH_LEEWAY: expected a number of at least 0, got "-1"',
        "server.heartbeat_timeout (5 s) must be longer than server.heartbeat_interval (30 s)",
        "firestore.project_id is empty, expected the id of a Google Cloud project",
        "firestore.credentials_path: cannot read missing.json: No such file or directory",
        'media.backend "cloudflare" needs cloudflare.app_id and cloudflare.app_secret',
        "server.tls_cert_path: cannot read missing.pem: No such file or directory",
        "logging.file_path: . is a folder, expected a file",
    ]


def test_other_commands_name_the_first_mistake_and_count_the_others(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = true\nprot = 1")

    for command in (["serve"], ["token", "--client-id", "a"]):
        assert_one_error(run(*command), "got true (and 1 more: `signal-manager check-config` lists all)")


def test_all_mistakes_are_there_for_programs_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = true\nprot = 1")

    document = json.loads(run("check-config", "--json").out)

    assert (document["valid"], len(document["errors"])) == (False, 2)
    assert document["error"] == document["errors"][0]


def test_of_a_file_that_cannot_be_read_nothing_else_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server")

    assert_one_error(run("check-config"), "not valid TOML")
