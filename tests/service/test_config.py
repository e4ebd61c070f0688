"""Where settings come from, what is said about wrong ones, and how they are printed."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from signal_manager.errors import ConfigurationError
from signal_manager.model import NAME_RULE
from signal_manager.service.config import Config, as_json, as_toml, example_toml, load, load_with_origins
from signal_manager.service.settings import Auth, Bus, Cloudflare, Logging

ROOT = Path(__file__).parents[2]

Problem = Callable[..., str]


@pytest.fixture
def problem_with(tmp_path: Path) -> Problem:
    """Give the error for a file's text and for variables without their prefix, less the file's folder."""

    def problem(toml: str = "", **variables: str) -> str:
        (tmp_path / "config.toml").write_text(toml)
        environ = {f"SIGNAL_MANAGER_{name}": value for name, value in variables.items()}
        with pytest.raises(ConfigurationError) as caught:
            load(environ=environ, directory=tmp_path)
        assert "\n" not in caught.value.message
        return caught.value.message.removeprefix(f"{tmp_path}/")

    return problem


def test_without_a_file_there_are_the_defaults(tmp_path: Path) -> None:
    loaded = load_with_origins(environ={}, directory=tmp_path)

    assert loaded == (Config(), None, {}, (), ())


def test_app_config_comes_before_config(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = 1")
    (tmp_path / "app-config.toml").write_text("[server]\nport = 2")

    assert load(environ={}, directory=tmp_path).server.port == 2


def test_a_named_file_comes_before_both(tmp_path: Path) -> None:
    (tmp_path / "app-config.toml").write_text("[server]\nport = 2")
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf[server]\nport = 3")

    assert load(tmp_path / "mine.toml", environ={}, directory=tmp_path).server.port == 3


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[server]\nhost = "::1"\nport = 1\nmax_connections = 5')
    environ = {"SIGNAL_MANAGER_SERVER_PORT": "2", "SIGNAL_MANAGER_SERVER_MAX_CONNECTIONS": "6", "PATH": "/bin"}

    loaded = load_with_origins(environ=environ, directory=tmp_path, overrides={"server": {"port": 3}})

    assert (loaded.config.server.host, loaded.config.server.max_connections, loaded.config.server.port) == ("::1", 6, 3)
    assert loaded.origins == {
        "server.host": str(file),
        "server.max_connections": "SIGNAL_MANAGER_SERVER_MAX_CONNECTIONS",
        "server.port": "command line",
    }


def test_the_process_has_an_environment_and_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[metrics]\nport = 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGNAL_MANAGER_SERVER_PORT", "2")

    config = load()

    assert (config.metrics.port, config.server.port) == (1, 2)


def test_variables_carry_text_numbers_booleans_and_json() -> None:
    environ = {
        "SIGNAL_MANAGER_AUTH_TOKEN_SECRET": "s3cret",
        "SIGNAL_MANAGER_AUTH_API_KEYS": '["alice:a:b"]',
        "SIGNAL_MANAGER_SERVER_HEARTBEAT_INTERVAL": "0.5",
        "SIGNAL_MANAGER_METRICS_ENABLED": "false",
        "SIGNAL_MANAGER_SERVER_TRUSTED_PROXIES": '["10.0.0.0/8", "::1"]',
        "SIGNAL_MANAGER_CLOUDFLARE_APP_ID": "",
    }

    config = load(environ=environ, directory=Path("/nonexistent"))

    assert config.auth.token_secret.get_secret_value() == "s3cret"
    assert config.auth.api_keys == (SecretStr("alice:a:b"),)
    assert config.server.heartbeat_interval == 0.5
    assert config.metrics.enabled is False
    assert config.server.trusted_proxies == ("10.0.0.0/8", "::1")


def test_words_of_the_original_service_are_understood(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[auth]\nauth_method = "firestore"\n[logging]\nlevel = "WARN"')

    config = load(environ={}, directory=tmp_path)

    assert (config.auth.auth_method, config.logging.level) == ("store", "warning")


def test_gcp_fills_what_firestore_leaves_empty(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[gcp]\nproject_id = "old"\nregion = "r"\n[firestore]\nproject_id = "new"\nregion = ""'
    )

    loaded = load_with_origins(environ={}, directory=tmp_path)

    assert (loaded.config.firestore.project_id, loaded.config.firestore.region) == ("new", "r")
    assert loaded.origins["firestore.region"] == str(tmp_path / "config.toml")


def test_whether_a_log_format_was_asked_for_stays_known(tmp_path: Path) -> None:
    asked = load(environ={"SIGNAL_MANAGER_LOGGING_FORMAT": "json"}, directory=tmp_path)

    assert "format" in asked.logging.model_fields_set
    assert "format" not in load(environ={}, directory=tmp_path).logging.model_fields_set


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[server]\nport = "80"', 'config.toml: [server] port: expected a whole number, got "80"'),
        ("[server]\nport = true", "config.toml: [server] port: expected a whole number, got true"),
        ("[server]\nport = 1.5", "config.toml: [server] port: expected a whole number, got 1.5"),
        ("[server]\nport = 65536", "config.toml: [server] port: expected a number of at most 65535, got 65536"),
        ("[server]\nport = -1", "config.toml: [server] port: expected a number of at least 0, got -1"),
        ("[server]\ndrain_timeout = 0", "config.toml: [server] drain_timeout: expected a number above 0, got 0"),
        ("[server]\ndrain_timeout = nan", "config.toml: [server] drain_timeout: expected a finite number, got NaN"),
        ("[server]\nhost = 12:00:00", 'config.toml: [server] host: expected a string, got ["12:00:00"]'),
        ("[server]\nhost = { a = 1 }", "config.toml: [server] host: expected a string, got a table"),
        ('[server]\nhost = ""', 'config.toml: [server] host: expected something that is not empty, got ""'),
        ("[server]\nprot = 1", 'config.toml: unknown key "prot" in [server]; did you mean port?'),
        ("[server]\ntoken_secret = 1", 'config.toml: unknown key "token_secret" in [server]; it belongs in [auth]'),
        ("[server]\nzzzzzz = 1", 'config.toml: unknown key "zzzzzz" in [server]'),
        ("[sever]\nport = 1", "config.toml: unknown section [sever]; did you mean [server]?"),
        ("port = 1", 'config.toml: key "port" stands outside any section; it belongs in [server] or [metrics]'),
        ("server = 3", "config.toml: expected [server] to be a table, got 3"),
        ("[[server]]", "config.toml: expected [server] to be a table, got [{}]"),
        (
            '[server]\ntrusted_proxies = ["10.0.0.0/8", "lan"]',
            'config.toml: [server] trusted_proxies[1]: expected an IP address or network such as 10.0.0.0/8, got "lan"',
        ),
        (
            '[media]\nsfu_public_addresses = ["10.0.0.0/8"]',
            'config.toml: [media] sfu_public_addresses[0]: expected an IP address, got "10.0.0.0/8"',
        ),
        (
            '[auth]\nauth_method = "magic"',
            "config.toml: [auth] auth_method: expected 'token', 'api_key', 'jwt' or 'store', got \"magic\"",
        ),
        (
            '[auth]\njwt_algorithms = ["none"]',
            "config.toml: [auth] jwt_algorithms[0]: expected 'HS256', 'RS256' or 'ES256', got \"none\"",
        ),
        (
            "[auth]\njwt_algorithms = []",
            "config.toml: [auth] jwt_algorithms: expected something that is not empty, got []",
        ),
        (
            '[auth]\njwks_url = "ftp://keys"',
            'config.toml: [auth] jwks_url: expected an address that starts with https:// or http://, got "ftp://keys"',
        ),
        ('[bus]\nnode_id = "a/b"', f'config.toml: [bus] node_id: expected {NAME_RULE}, got "a/b"'),
        (f'[server]\nport = "{"x" * 500}"', f'config.toml: [server] port: expected a whole number, got "{"x" * 58}…'),
    ],
)
def test_a_wrong_file_is_one_line_that_says_where_and_what(problem_with: Problem, toml: str, message: str) -> None:
    assert problem_with(toml) == message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SERVER_PORT", "eighty", 'SIGNAL_MANAGER_SERVER_PORT: expected a whole number, got "eighty"'),
        ("SERVER_PORT", "", 'SIGNAL_MANAGER_SERVER_PORT: expected a whole number, got ""'),
        ("METRICS_ENABLED", "maybe", 'SIGNAL_MANAGER_METRICS_ENABLED: expected true or false, got "maybe"'),
        (
            "SERVER_TRUSTED_PROXIES",
            "10.0.0.0/8",
            'SIGNAL_MANAGER_SERVER_TRUSTED_PROXIES: expected a JSON list such as \'["a", "b"]\', got "10.0.0.0/8"',
        ),
        ("SERVER_PROT", "1", "unknown variable SIGNAL_MANAGER_SERVER_PROT; did you mean SIGNAL_MANAGER_SERVER_PORT?"),
        ("SERVER", "{}", "unknown variable SIGNAL_MANAGER_SERVER"),
        ("FOO_BAR", "", "unknown variable SIGNAL_MANAGER_FOO_BAR"),
    ],
)
def test_a_wrong_variable_is_named(problem_with: Problem, name: str, value: str, message: str) -> None:
    assert problem_with(**{name: value}).startswith(message)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[auth]\ntoken_secret = 12345678", "config.toml: [auth] token_secret: expected a string, got ***"),
        ('[auth]\napi_keys = ["12345678"]', "config.toml: [auth] api_keys[0]: expected 'client_id:token', got ***"),
        ('[auth]\napi_keys = "a:12345678"', "config.toml: [auth] api_keys: expected a list, got ***"),
        ("[cloudflare]\napp_secret = 12345678", "config.toml: [cloudflare] app_secret: expected a string, got ***"),
        (
            '[bus]\nnats_url = "http://u:12345678@n"',
            "config.toml: [bus] nats_url: expected an address that starts with nats:// or tls:// or ws:// or wss://, "
            "got ***",
        ),
    ],
)
def test_a_wrong_secret_is_not_shown(problem_with: Problem, toml: str, message: str) -> None:
    assert problem_with(toml) == message


def test_a_secret_that_is_no_json_is_not_shown_either(problem_with: Problem) -> None:
    assert "12345678" not in problem_with(AUTH_API_KEYS="alice:12345678")
    assert "12345678" not in problem_with(AUTH_API_KEYS="[" * 100_000 + "12345678")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            "[server]\nheartbeat_timeout = 30",
            "server.heartbeat_timeout (30 s) must be longer than server.heartbeat_interval (30 s)",
        ),
        (
            "[session]\nresume_total_bytes = 1",
            "session.resume_total_bytes (1) must not be smaller than session.resume_buffer_bytes (262144)",
        ),
        ('[auth]\njwt_algorithms = ["ES256"]', "auth.jwt_algorithms allows ES256, which needs auth.jwks_url"),
        (
            '[auth]\njwks_url = "https://keys"',
            "auth.jwks_url is set, but auth.jwt_algorithms allows neither RS256 nor ES256",
        ),
        (
            '[media]\nturn_urls = ["turn:t"]',
            "media.turn_urls needs media.turn_secret, or media.turn_username and media.turn_password",
        ),
        ('[media]\nturn_secret = "s"', "media.turn_secret needs media.turn_urls"),
        ('[media]\nturn_username = "u"\nturn_password = "p"', "media.turn_username needs media.turn_urls"),
        ('[media]\nturn_urls = ["turn:t"]\nturn_username = "u"', "media.turn_username needs media.turn_password"),
        ('[media]\nturn_urls = ["turn:t"]\nturn_password = "p"', "media.turn_password needs media.turn_username"),
        (
            '[media]\nturn_urls = ["turn:t"]\nturn_secret = "s"\nturn_username = "u"\nturn_password = "p"',
            "media.turn_secret and media.turn_username are both set, expected one of them",
        ),
        ('[metrics]\nhost = "0.0.0.0"', "admin.token is required, since metrics.host 0.0.0.0 is not loopback"),
    ],
)
def test_settings_that_contradict_each_other_are_both_named(problem_with: Problem, toml: str, message: str) -> None:
    assert problem_with(toml) == message


@pytest.mark.parametrize("url", ["stun:t:3478", "turn.example.org", "turn:t:3478?transport=sctp", "turn://t"])
def test_an_address_of_no_turn_server_is_named(problem_with: Problem, url: str) -> None:
    expected = "a TURN address such as turn:turn.example.org:3478 or turns:turn.example.org?transport=tcp"

    assert expected in problem_with(f'[media]\nturn_urls = ["{url}"]\nturn_secret = "s"')


def test_secrets_of_turn_are_not_printed(tmp_path: Path) -> None:
    environ = {
        "SIGNAL_MANAGER_MEDIA_TURN_URLS": '["turn:t", "turns:[::1]:443?transport=tcp"]',
        "SIGNAL_MANAGER_MEDIA_TURN_SECRET": "hunter2",
    }

    config = load(environ=environ, directory=tmp_path)

    assert config.media.turn_urls == ("turn:t", "turns:[::1]:443?transport=tcp")
    assert "hunter2" not in as_toml(config) + repr(config)


def test_a_contradiction_may_be_settled_by_another_source(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nheartbeat_timeout = 5")

    config = load(environ={"SIGNAL_MANAGER_SERVER_HEARTBEAT_INTERVAL": "2"}, directory=tmp_path)

    assert (config.server.heartbeat_timeout, config.server.heartbeat_interval) == (5, 2)


def test_a_wrong_override_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"server.host: expected something that is not empty, got \"\""):
        load_with_origins(environ={}, directory=tmp_path, overrides={"server": {"host": ""}})


def test_broken_toml_names_the_line(problem_with: Problem) -> None:
    assert problem_with("[server]\nport = ").startswith("config.toml: not valid TOML: ")
    assert "line 2" in problem_with("[server]\nport = =")
    assert problem_with("a = " + "[" * 10_000).startswith("config.toml: not valid TOML: ")


def test_bytes_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"[server]\n\xff")

    with pytest.raises(ConfigurationError, match="byte 9 is not UTF-8"):
        load(environ={}, directory=tmp_path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/none.toml: no such file"):
        load(tmp_path / "none.toml", environ={})
    with pytest.raises(ConfigurationError, match=f"{tmp_path}: cannot read it: Is a directory"):
        load(tmp_path, environ={})


def test_a_kubernetes_service_of_our_name_does_no_harm(tmp_path: Path) -> None:
    environ = {
        "SIGNAL_MANAGER_SERVICE_HOST": "10.0.0.1",
        "SIGNAL_MANAGER_SERVICE_PORT_WS": "8080",
        "SIGNAL_MANAGER_PORT": "tcp://10.0.0.1:8080",
        "SIGNAL_MANAGER_PORT_8080_TCP_ADDR": "10.0.0.1",
    }

    assert load(environ=environ, directory=tmp_path) == Config()


@given(st.text())
def test_any_text_is_either_a_configuration_or_one_clear_line(text: str) -> None:
    environ = {"SIGNAL_MANAGER_SERVER_PORT": text, "SIGNAL_MANAGER_AUTH_API_KEYS": text}
    message = ""

    try:
        load(environ=environ, directory=Path("/nonexistent"))
    except ConfigurationError as error:
        message = error.message

    assert message.startswith("SIGNAL_MANAGER_")  # no text is both a number and a list


def test_the_committed_example_is_current() -> None:
    command = "python -c 'from signal_manager.service.config import example_toml; print(example_toml(), end=\"\")'"

    assert (ROOT / "config.example.toml").read_text() == example_toml(), f"renew it: {command} > config.example.toml"


def test_the_example_loads_to_the_defaults() -> None:
    assert load(ROOT / "config.example.toml", environ={}) == Config()


def test_every_setting_is_described() -> None:
    documented = example_toml().splitlines()
    settings = [line for line in documented if "=" in line and not line.startswith("#")]

    assert all(documented[documented.index(line) - 1].startswith("# ") for line in settings)


def test_printed_configurations_hide_secrets_but_not_whose_they_are() -> None:
    config = Config(
        auth=Auth(
            token_secret=SecretStr("hunter2"),
            api_keys=(SecretStr("alice:hunter2"),),
            jwks_url="https://u:hunter2@hunter2@h/keys?code=hunter2&x=hunter2#hunter2",
            jwt_algorithms=("RS256",),
        ),
        cloudflare=Cloudflare(turn_key_token=SecretStr("hunter2")),
        bus=Bus(nats_url=SecretStr("nats://user:hunter2@one:1,nats://hunter2@two:2")),
    )

    printed = as_toml(config)

    assert "hunter2" not in printed
    assert "hunter2" not in str(as_json(config, origins={}))
    assert 'token_secret = "***"' in printed
    assert 'api_keys = ["alice:***"]' in printed
    assert 'nats_url = "nats://***@one:1,nats://***@two:2"' in printed
    assert 'jwks_url = "https://***@h/keys?***"' in printed
    assert 'app_secret = ""' in printed


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1))
def test_any_text_survives_being_printed(text: str) -> None:
    config = Config(logging=Logging(file_path=text), auth=Auth(token_secret=SecretStr(text)))

    read = tomllib.loads(as_toml(config, hide_secrets=False))

    assert (read["logging"]["file_path"], read["auth"]["token_secret"]) == (text, text)


def test_printed_values_say_where_they_come_from(tmp_path: Path) -> None:
    loaded = load_with_origins(environ={"SIGNAL_MANAGER_SERVER_PORT": "1"}, directory=tmp_path)

    assert "port = 1  # SIGNAL_MANAGER_SERVER_PORT" in as_toml(loaded.config, origins=loaded.origins)
    assert as_json(loaded.config, origins=loaded.origins)["server"]["port"] == {
        "value": 1,
        "origin": "SIGNAL_MANAGER_SERVER_PORT",
    }
    assert as_json(loaded.config, origins=loaded.origins)["server"]["host"]["origin"] == "default"
