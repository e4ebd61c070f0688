"""The command line as a person and a script meet it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

import signal_manager
from signal_manager import __version__
from signal_manager.cli import main as cli
from signal_manager.cli import test_call as trial
from signal_manager.cli.main import parse_duration
from signal_manager.cli.terminal import span
from signal_manager.errors import ConfigurationError
from signal_manager.form import form
from signal_manager.service import app
from signal_manager.service.settings import DEFAULT_TOKEN_SECRET, Config
from signal_manager.sfu import LocalSfu

SECRET = "the secret of these tests, longer than 32 bytes"


class Result(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command line inside this process, in an empty folder and without variables."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("SIGNAL_MANAGER_"):
            monkeypatch.delenv(name)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["signal-manager", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        status = ended.value.code
        assert isinstance(status, int)
        return Result(status, captured.out, captured.err)

    return run


def assert_one_error(result: Result, message: str) -> None:
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert message in result.err
    assert result.err.count("\n") == 1


# The whole


def test_the_version_is_told(run: Run) -> None:
    assert run("--version") == (0, f"signal-manager {__version__} ({form()})\n", "")


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_names_every_command(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.status == 0
    assert all(command in result.out for command in ("serve", "check-config", "token", "try", "rooms", "kick"))


@pytest.mark.parametrize("command", ["serve", "check-config", "token", "try"])
def test_every_command_has_examples(run: Run, command: str) -> None:
    result = run(command, "-h")

    assert result.status == 0
    assert f"signal-manager {command}" in result.out.split("Examples:")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["srve"], "No such command 'srve'"),
        (["serve", "--prot", "1"], "No such option: --prot"),
        (["serve", "--port", "eighty"], "'--port'"),
        (["serve", "--port", "65536"], "'--port'"),
        (["serve", "--log-level", "loud"], "'loud' is not one of 'debug', 'info'"),
        (["serve", "--config"], "'--config' requires an argument"),
        (["serve", "\x1b[31m\nerror: forged"], "unexpected extra argument"),
        (["token", "--client-id", "a", "--role", "boss"], "'boss' is not one of 'sender', 'receiver'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)

    assert_one_error(result, message)
    assert "signal-manager" in result.err.partition("(see: ")[2]
    assert "\x1b" not in result.err


def test_an_interrupt_is_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", interrupted)

    assert run("serve") == (130, "", "")


def test_an_interrupt_before_any_command_is_quiet_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "application", interrupted)

    assert run() == (130, "", "")


# serve


class Started(NamedTuple):
    config: Config
    insecure: bool


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """What `serve` hands to the composition root, which does not run."""
    calls: list[Started] = []

    def note(config: Config, *, insecure: bool, announce: object, warnings: object) -> None:
        calls.append(Started(config, insecure))

    monkeypatch.setattr(app, "run", note)
    return calls


def test_serve_starts_with_the_file_under_the_environment_under_its_options(
    run: Run, started: list[Started], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text(
        '[server]\nhost = "::1"\nport = 1\nmax_connections = 3\n[logging]\nlevel = "error"'
    )
    monkeypatch.setenv("SIGNAL_MANAGER_SERVER_MAX_CONNECTIONS", "4")

    result = run("serve", "-c", "mine.toml", "--port", "0", "--log-level", "debug", "--insecure")

    config = started[0].config
    assert result == (0, "", "")
    assert (config.server.host, config.server.port, config.server.max_connections) == ("::1", 0, 4)
    assert (config.logging.level, started[0].insecure) == ("debug", True)


def test_serve_without_anything_starts_on_the_defaults(run: Run, started: list[Started]) -> None:
    run("serve")

    assert started == [Started(Config(), insecure=False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "none.toml"], "none.toml: no such file"),
        (["--config", "."], ".: cannot read it: Is a directory"),
        (["--host", ""], "server.host: expected something that is not empty"),
        (["--host", "0.0.0.0"], "auth.token_secret"),
    ],
)
def test_serve_refuses_in_one_line(run: Run, arguments: list[str], message: str) -> None:
    assert_one_error(run("serve", *arguments), message)


def test_a_person_is_told_in_three_lines_what_to_open_and_to_try(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/signal-manager", "serve"])

    cli._announce(Config(), "ws://127.0.0.1:8080", "http://127.0.0.1:9090/")

    assert capsys.readouterr().err.splitlines() == [
        "demo       http://127.0.0.1:9090/demo/?room=hello - open it in two windows",
        "dashboard  http://127.0.0.1:9090/",
        "try it     .venv/bin/signal-manager try --url ws://127.0.0.1:8080 - in another terminal; Ctrl-C stops the "
        "service",
    ]


@pytest.mark.parametrize(
    ("sections", "dashboard", "first", "last"),
    [
        ({"admin": {"demo": False}}, "http://h:1/", "service    ws://s", "signal-manager try --url ws://s - in"),
        ({"metrics": {"enabled": False}}, None, "service    ws://s", "signal-manager try --url ws://s - in"),
        ({"auth": {"token_secret": SECRET}}, "http://h:1/", "demo ", "--sender ID:TOKEN --receiver ID:TOKEN - in"),
    ],
)
def test_a_person_is_told_only_what_is_there(  # noqa: PLR0917 - two are fixtures
    sections: dict[str, Any],
    dashboard: str | None,
    first: str,
    last: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/signal-manager", "serve"])

    cli._announce(Config.model_validate(sections), "ws://s", dashboard)

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (3 if dashboard else 2)
    assert lines[0].startswith(first)
    assert last in lines[-1]


def test_run_as_a_module_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/signal_manager/__main__.py"])

    assert cli._own_name() == f"{sys.executable} -m signal_manager"


def test_a_program_is_told_by_log_lines_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(app, "run", lambda _config, *, announce, **_more: calls.append(announce))

    run("serve")

    assert calls == [None]


class Service:
    """A service in a process of its own; `port` is known once it listens."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SIGNAL_MANAGER_")}
        environ["SIGNAL_MANAGER_METRICS_PORT"] = "0"
        command = [sys.executable, "-m", "signal_manager", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.PIPE, text=True)
        self._limit = threading.Timer(30, self.process.kill)
        self._limit.start()
        assert self.process.stderr is not None
        self.lines = self.process.stderr
        self.port = next(entry["port"] for entry in map(json.loads, self.lines) if entry["event"] == "service started")

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait()

    def close(self) -> None:
        self._limit.cancel()
        self.process.kill()
        self.process.wait()
        self.lines.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.mark.long
def test_a_real_service_ends_in_order_on_sigterm(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=5):
        pass

    assert service.stop(signal.SIGTERM) == 0
    assert "service stopped" in service.lines.read()


def test_a_port_that_is_taken_is_one_line_and_status_2(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert_one_error(run("serve", "--port", str(port)), f"127.0.0.1:{port}")


# check-config


def test_check_config_shows_every_value_and_where_it_comes_from(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SIGNAL_MANAGER_METRICS_ENABLED", "false")
    (tmp_path / "config.toml").write_text(f'[auth]\ntoken_secret = "{SECRET}"')
    monkeypatch.setenv("SIGNAL_MANAGER_SERVER_PORT", "1234")

    result = run("check-config")

    assert (result.status, result.err) == (0, "")
    assert "port = 1234  # SIGNAL_MANAGER_SERVER_PORT" in result.out
    assert f'token_secret = "***"  # {tmp_path / "config.toml"}' in result.out
    assert 'host = "127.0.0.1"  # default' in result.out
    assert result.out.endswith("configuration is valid\n")
    assert SECRET not in result.out


def test_check_config_refuses_published_secrets_beyond_loopback_as_serve_does(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNAL_MANAGER_SERVER_HOST", "0.0.0.0")
    monkeypatch.setenv("SIGNAL_MANAGER_SERVER_PORT", "0")
    monkeypatch.setenv("SIGNAL_MANAGER_METRICS_PORT", "0")
    monkeypatch.setenv("SIGNAL_MANAGER_AUTH_TOKEN_SECRET", "short")
    monkeypatch.setenv("SIGNAL_MANAGER_AUTH_API_KEYS", '["test_client_1:test_token_1"]')

    assert_one_error(run("check-config"), "refusing to listen on 0.0.0.0 while auth.api_keys is the published default")

    result = run("check-config", "--insecure")

    assert result.status == 0
    assert result.err.splitlines() == [
        "warning: auth.api_keys is the published default: `serve` refuses to listen on 0.0.0.0 unless --insecure is "
        "given",
        "warning: auth.token_secret is shorter than 32 bytes",
    ]


def test_check_config_says_what_the_local_sfu_carries(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNAL_MANAGER_MEDIA_SFU_MAX_PACKETS_PER_SECOND", "5400")
    lines = run("check-config").out.splitlines()
    notes = json.loads(run("check-config", "--json").out)["notes"]
    monkeypatch.setenv("SIGNAL_MANAGER_MEDIA_BACKEND", "none")
    without = run("check-config").out

    assert lines[-2].startswith("the local SFU forwards up to 5400 packets/s on one core")
    assert "a room of 8 in which" in lines[-2]
    assert notes == [lines[-2]]
    assert "local SFU forwards" not in without


def test_check_config_speaks_json(run: Run, tmp_path: Path) -> None:
    (tmp_path / "app-config.toml").write_text("[server]\nport = 0\n[metrics]\nport = 0")

    document = json.loads(run("check-config", "--json").out)

    file = str(tmp_path / "app-config.toml")
    assert (document["valid"], document["file"], document["warnings"]) == (True, file, [])
    assert document["settings"]["server"]["port"] == {"value": 0, "origin": file}
    assert document["settings"]["auth"]["token_secret"]["value"] == "***"


def test_check_config_says_in_json_what_is_wrong(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNAL_MANAGER_SERVER_PORT", "x")

    result = run("check-config", "--json")

    message = 'SIGNAL_MANAGER_SERVER_PORT: expected a whole number, got "x"'
    assert json.loads(result.out) == {"valid": False, "error": message, "errors": [message]}
    assert (result.status, result.err) == (2, f"error: {message}\n")


def test_check_config_refuses_what_cannot_be_served(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNAL_MANAGER_SERVER_WORKERS", "2")

    assert_one_error(run("check-config"), "server.workers = 2 needs an SFU that all processes share")


# token


def claims_of(token: str, secret: str = DEFAULT_TOKEN_SECRET, **options: Any) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, secret, algorithms=["HS256"], **options)
    return claims


def test_a_token_is_all_that_is_printed(run: Run) -> None:
    result = run("token", "--client-id", "alice", "--ttl", "15m")

    assert (result.status, result.err, result.out.count("\n")) == (0, "", 1)
    claims = claims_of(result.out.strip())
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("alice", 900)


def test_a_token_carries_the_grants_that_were_asked_for(run: Run) -> None:
    options = "--room demo-* --room lobby --role sender --signal-to bob --no-publish --no-subscribe --admin"

    claims = claims_of(run("token", "--client-id", "alice", *options.split()).out.strip())

    del claims["iat"], claims["exp"]
    assert claims == {
        "sub": "alice",
        "rooms": ["demo-*", "lobby"],
        "roles": ["sender"],
        "signal_to": ["bob"],
        "publish": False,
        "subscribe": False,
        "admin": True,
    }


def test_a_token_follows_the_configuration(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        f'[auth]\ntoken_secret = "{SECRET}"\ntoken_expiry = 7\njwt_audience = "ours"\njwt_issuer = "us"'
    )

    claims = claims_of(run("token", "--client-id", "alice").out.strip(), SECRET, audience="ours")

    assert (claims["exp"] - claims["iat"], claims["iss"]) == (7, "us")


@pytest.mark.parametrize(
    ("toml", "warning"),
    [
        ('auth_method = "api_key"', 'auth.auth_method is "api_key": the service does not accept signed tokens'),
        (
            'jwt_algorithms = ["RS256"]\njwks_url = "https://keys"',
            "auth.jwt_algorithms lacks HS256: the service does not accept this token",
        ),
    ],
)
def test_a_token_that_the_service_would_refuse_comes_with_a_warning(
    run: Run, tmp_path: Path, toml: str, warning: str
) -> None:
    (tmp_path / "config.toml").write_text(f"[auth]\n{toml}")

    result = run("token", "--client-id", "alice")

    assert (result.status, result.err) == (0, f"warning: {warning}\n")
    assert claims_of(result.out.strip())["sub"] == "alice"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --client-id ID of 1 to 128 letters"),
        (["--client-id", ""], "expected --client-id"),
        (["--client-id", "a/b"], "expected --client-id"),
        (["--client-id", "a", "--ttl", "1 fortnight"], "expected a duration such as 90s, 15m, 1h or 7d"),
        (["--client-id", "a", "--json"], "--json goes only with --inspect"),
        (["--client-id", "a", "--inspect", "x"], "--inspect explains a token"),
        (["--admin", "--inspect", "x"], "--inspect explains a token"),
        (["--client-id", "a", "--config", "none.toml"], "none.toml: no such file"),
    ],
)
def test_a_token_that_cannot_be_issued_is_one_line(run: Run, arguments: list[str], message: str) -> None:
    assert_one_error(run("token", *arguments), message)


def test_a_token_is_explained(run: Run) -> None:
    token = run("token", "--client-id", "alice", "--ttl", "2d", "--room", "demo-*", "--no-publish").out.strip()

    result = run("token", "--inspect", token)

    lines = dict(line.split(maxsplit=1) for line in result.out.replace("signals to", "signals-to").splitlines())
    assert (result.status, result.err) == (0, "")
    assert lines["issued"].endswith("s ago)")
    assert lines["expires"].endswith("(in 1d 23h)")
    del lines["issued"], lines["expires"]
    assert lines == {
        "client": "alice",
        "algorithm": "HS256",
        "signature": "valid",
        "rooms": "demo-*",
        "roles": "any",
        "signals-to": "any",
        "publish": "no",
        "subscribe": "yes",
        "admin": "no",
        "accepted": "yes",
    }
    assert token not in result.out


def test_a_token_is_explained_from_standard_input_in_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = {"sub": "alice", "exp": 1, "aud": "others", "iss": "them"}
    monkeypatch.setattr(sys, "stdin", io.StringIO(jwt.encode(claims, SECRET, algorithm="HS256") + "\n"))

    result = run("token", "--inspect", "-", "--json")

    report = json.loads(result.out)
    assert (result.status, report["signature"], report["audience"]) == (1, "wrong", "others")
    assert any(reason.startswith("the token has expired") for reason in report["refused_because"])


def test_a_token_is_explained_with_the_leeway_of_the_service(run: Run, tmp_path: Path) -> None:
    """Otherwise the person who asks why a token is refused would be told another answer than its client."""
    token = jwt.encode({"sub": "alice", "exp": time.time() + 600, "nbf": time.time() + 90}, SECRET, algorithm="HS256")
    config = tmp_path / "config.toml"
    config.write_text(f'[auth]\ntoken_secret = "{SECRET}"\nleeway = 120')

    assert run("token", "--inspect", token, "--config", str(config)).status == 0
    config.write_text(f'[auth]\ntoken_secret = "{SECRET}"')
    refused = run("token", "--inspect", token, "--config", str(config))
    assert refused.status == 1
    assert "valid only in" in refused.out


@pytest.mark.parametrize(
    ("claims", "line"),
    [
        ({"sub": "alice", "exp": 1}, "expires     1970-01-01 00:00:01 UTC ("),
        ({"sub": "alice", "exp": 2**50}, "expires     after the year 9999"),
        ({"sub": "a\n\x1b[31m", "exp": 1}, r"client      a\n\x1b[31m"),
        ({"sub": "alice", "exp": 1, "rooms": []}, "rooms       none"),
        ({"sub": "alice", "exp": 1, "aud": ["x"], "iss": "y"}, 'audience    ["x"]'),
        ({"sub": "alice", "rooms": 1}, "accepted    no: the token has no valid expiry (exp); the token's grants are"),
    ],
)
def test_an_odd_token_is_explained_safely(run: Run, claims: dict[str, Any], line: str) -> None:
    result = run("token", "--inspect", jwt.encode(claims, DEFAULT_TOKEN_SECRET, algorithm="HS256"))

    assert line in result.out
    assert "\x1b" not in result.out


def test_garbage_is_explained_as_such(run: Run) -> None:
    result = run("token", "--inspect", "garbage")

    assert result == (1, "signature   wrong\naccepted    no: it is not a JSON Web Token\n", "")


def test_a_token_of_a_published_key_stays_open(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[auth]\njwt_algorithms = ["ES256"]\njwks_url = "https://keys"')
    token = jwt.encode({"sub": "alice", "exp": 2**33}, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256")

    result = run("token", "--inspect", token)

    assert (result.status, result.out.splitlines()[-1]) == (
        0,
        "accepted    not known here: published keys verify it",
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604800), ("1.5h", 5400), (" 2 m ", 120)]
)
def test_durations_have_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "0s", "-1h", "1y", "h", "1h30m", "1e9d", "9999d", "٣h", "1 0s", "x" * 200])
def test_other_durations_are_answered_with_examples(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"expected a duration such as 90s, 15m, 1h or 7d, at most 3650d, got"
    ) as e:
        parse_duration(text)
    assert len(e.value.message) < 140


@given(st.floats(0, 1e9))
def test_spans_are_short(seconds: float) -> None:
    assert len(span(seconds).split()) <= 2


# try


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `try` hands to the trial, which does not run: tests/cli/test_test_call.py has the real one."""
    calls: list[dict[str, Any]] = []

    async def run_test_call(**options: Any) -> int:
        calls.append(options)
        return 1

    monkeypatch.setattr(trial, "run_test_call", run_test_call)
    return calls


def test_try_without_options_is_a_trial_on_the_defaults(run: Run, trials: list[dict[str, Any]]) -> None:
    result = run("try")

    assert result.status == 1
    assert trials == [
        {
            "url": None,
            "sender": ("test_client_1", "test_token_1"),
            "receiver": ("test_client_2", "test_token_2"),
            "messages": 100,
            "timeout": 30,
            "json_output": False,
        }
    ]


def test_try_takes_a_service_and_two_clients(run: Run, trials: list[dict[str, Any]]) -> None:
    options = "--url ws://example.org --sender alice:a:b --receiver bob:c --messages 3 --timeout 1m --json"

    run("try", *options.split())

    assert trials == [
        {
            "url": "ws://example.org",
            "sender": ("alice", "a:b"),
            "receiver": ("bob", "c"),
            "messages": 3,
            "timeout": 60,
            "json_output": True,
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sender", "alice"], "expected --sender ID:TOKEN"),
        (["--receiver", "a/b:hunter2"], "expected --receiver ID:TOKEN"),
        (["--sender", "test_client_2:t"], "sender and receiver are both 'test_client_2'"),
        (["--messages", "0"], "'--messages'"),
        (["--timeout", "30"], "expected a duration"),
    ],
)
def test_a_trial_that_cannot_work_is_one_line(run: Run, arguments: list[str], message: str) -> None:
    result = run("try", *arguments)

    assert_one_error(result, message)
    assert "hunter2" not in result.err


def test_try_without_webrtc_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name == "signal_manager.cli.test_call" or name.partition(".")[0] == "aiortc":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(signal_manager, "trial", raising=False)
    monkeypatch.setattr(sys, "meta_path", [WithoutWebRtc(), *sys.meta_path])

    assert_one_error(run("try"), "pip install 'signal-manager[sfu]'")


class WithoutWebRtc(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "aiortc":
            raise ModuleNotFoundError("No module named 'aiortc'", name="aiortc")


# check-config --online


def test_online_needs_credentials(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert_one_error(run("check-config", "--online"), "cloudflare.app_id")


@pytest.mark.long
async def test_online_tries_the_credentials(tmp_path: Path) -> None:
    async with LocalSfu(http_port=0) as sfu:
        for secret, status, says in ((sfu.app_secret, 0, ""), ("wrong", 2, "error: ")):
            config = tmp_path / "config.toml"
            config.write_text(
                f"[cloudflare]\napp_id = '{sfu.app_id}'\napp_secret = '{secret}'\nbase_url = '{sfu.base_url}'\n"
            )
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "signal_manager", "check-config", "--online", "--config", str(config)),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            _, errors = await asyncio.wait_for(process.communicate(), 30)

            assert process.returncode == status
            assert errors.decode().startswith(says)
            assert secret not in errors.decode()
