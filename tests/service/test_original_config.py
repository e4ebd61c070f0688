"""Every kind of file and variable that starts the original service starts this one, and what differs is said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.processes import free_port, running
from signal_manager.errors import ConfigurationError
from signal_manager.service.config import LoadedConfig, load, load_with_origins
from tests.cli.test_main import Run, run

__all__ = ["run"]  # a fixture

# What its README shows first; its own TOML reader refuses the null as well.
README = """\
[server]
host = "127.0.0.1"
port = 8080
max_connections = 1000
heartbeat_interval = 30

[firestore]
project_id = "your-project-id"
credentials_path = null

[auth]
token_secret = "s"
token_expiry = 3600

[logging]
level = "info"
format = "json"
"""

# What its protocol page shows.
PROTOCOL_PAGE = """\
[server]
host = "127.0.0.1"
port = 8080
max_connections = 1000
connection_timeout = 30
registration_timeout = 10
tls_enabled = false

[heartbeat]
interval = 20
timeout = 80

[webrtc]
session_timeout = 300
cloudflare_timeout = 7

[database]
operation_timeout = 4
retry_attempts = 3
retry_interval = 100

[logging]
level = "info"
format = "json"
console_output = true
"""

# The shape of its config.toml, whose service does not start without every one of these keys.
COMPLETE = """\
[server]
host = "127.0.0.1"
port = 8080
max_connections = 1000
heartbeat_interval = 30
tls_enabled = false
tls_cert_path = ""
tls_key_path = ""
read_buffer_size = 8192
write_buffer_size = 8192
max_message_size = 1048576

[firestore]
project_id = "our-project"
database_name = "signal-manager-service-db"
collection_name = "registered_clients"
auth_method = "service_account"
region = "europe-west2"

[auth]
token_secret = "s"
token_expiry = 3600
auth_method = "token"
api_keys = ["tv:t"]

[logging]
level = "debug"
format = "json"
file_path = "logs/signal-manager-service.log"
console_output = true
file_output = true
max_file_size = 10485760
max_files = 5

[metrics]
enabled = true
port = 9091
host = "127.0.0.1"
connection_stats_interval = 60
message_stats_interval = 30

[session]
session_timeout = 3600
cleanup_interval = 300
max_sessions_per_client = 1

[security]
rate_limit_enabled = true
max_messages_per_minute = 100
max_connections_per_ip = 10
allowed_origins = ["*"]

[gcp]
credentials_path = "/run/secrets/account.json"
project_id = "our-project"
region = "europe-west2"
pubsub_topic = "events"
pubsub_subscription = "events-subscription"

[cloudflare]
app_id = "your-cloudflare-app-id"
app_secret = "your-cloudflare-app-secret"
base_url = "https://rtc.live.cloudflare.com/v1"
stun_url = "stun:stun.cloudflare.com:3478"
"""

Load = Callable[..., LoadedConfig]


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    """Load a file's text, with variables without their prefix."""

    def load_it(toml: str, **variables: str) -> LoadedConfig:
        (tmp_path / "config.toml").write_text(toml)
        environ = {f"SIGNAL_MANAGER_{name}": value for name, value in variables.items()}
        loaded = load_with_origins(environ=environ, directory=tmp_path)
        prefix = f"{tmp_path}/config.toml: "
        return loaded._replace(warnings=tuple(each.removeprefix(prefix) for each in loaded.warnings))

    return load_it


def test_its_readme(load_text: Load) -> None:
    loaded = load_text(README)

    assert (loaded.config.firestore.credentials_path, loaded.config.storage.backend) == ("", "sqlite")
    assert loaded.warnings == (
        'credentials_path = null is taken as not set; TOML has no null, write "" or nothing',
        "sample values taken as not set: firestore.project_id",
    )


def test_its_protocol_page(load_text: Load) -> None:
    loaded = load_text(PROTOCOL_PAGE)

    config = loaded.config
    assert (config.server.heartbeat_interval, config.server.heartbeat_timeout) == (20, 80)
    assert (config.server.connection_timeout, config.storage.operation_timeout) == (30, 4)
    assert config.cloudflare.request_timeout == 7
    assert loaded.warnings == (
        "taken under new names: heartbeat.interval as server.heartbeat_interval, heartbeat.timeout as "
        "server.heartbeat_timeout, database.operation_timeout as storage.operation_timeout, "
        "webrtc.cloudflare_timeout as cloudflare.request_timeout",
        "without effect here: database.retry_attempts, database.retry_interval, server.registration_timeout, "
        "webrtc.session_timeout",
    )


def test_its_complete_file(load_text: Load) -> None:
    loaded = load_text(COMPLETE)

    config = loaded.config
    assert (config.storage.backend, config.firestore.credentials_path) == ("firestore", "/run/secrets/account.json")
    assert (config.cloudflare.app_id, config.logging.file_path) == ("", "logs/signal-manager-service.log")
    assert loaded.origins["storage.backend"].endswith("config.toml")
    assert loaded.warnings == (
        "without effect here: firestore.auth_method, firestore.collection_name, gcp.pubsub_subscription, "
        "gcp.pubsub_topic, logging.file_output",
        "sample values taken as not set: cloudflare.app_id, cloudflare.app_secret",
        "security.max_messages_per_minute = 100 is enforced here, as it was not by the original service; the default "
        "is 1000",
        'firestore.project_id is set and storage.backend is not: taken as storage.backend = "firestore"',
    )


def test_a_file_that_says_to_log_to_no_file_does_not(load_text: Load) -> None:
    loaded = load_text('[logging]\nfile_path = "x.log"\nfile_output = false')

    assert loaded.config.logging.file_path == ""


def test_a_new_name_wins_over_the_old_one(load_text: Load) -> None:
    loaded = load_text("[heartbeat]\ninterval = 20\n[server]\nheartbeat_interval = 25")

    assert loaded.config.server.heartbeat_interval == 25


def test_an_old_name_that_is_not_used_is_not_said_to_be_taken(load_text: Load) -> None:
    warnings = str(load_text("[server]\nheartbeat_interval = 20\n[heartbeat]\ninterval = 40\n").warnings)

    assert "without effect here: heartbeat.interval" in warnings
    assert "taken under new names" not in warnings


def test_null_is_understood_in_a_file_with_line_ends_of_windows(load_text: Load) -> None:
    warnings = str(load_text("[gcp]\r\ncredentials_path = null\r\nregion = 'x'\r\n").warnings)

    assert "credentials_path = null is taken as not set" in warnings


@pytest.mark.parametrize(
    "around",
    [
        'api_keys = ["""\n{}"""]',
        "api_keys = ['''\n{}''']",
        'api_keys = ["""a:\\"""\n{}""""]',
        'api_keys = ["x:y"] # it\'s a """ comment\ntoken_secret = """\n{}"""',
        "api_keys = ['it:s', \"don:t'x\"]\ntoken_secret = '''\n{}'''",
    ],
)
def test_null_inside_a_string_is_left_alone(load_text: Load, around: str) -> None:
    toml = '[gcp]\ncredentials_path = null # it\'s "not" set\n[auth]\n' + around.format("a:b\nregion = null\n")

    loaded = load_text(toml)

    auth = loaded.config.auth
    texts = [secret.get_secret_value() for secret in (*auth.api_keys, auth.token_secret)]
    assert any("region = null\n" in text for text in texts)
    assert "credentials_path = null is taken as not set" in str(loaded.warnings)
    assert "region" not in str(loaded.warnings)


def test_a_section_of_its_own_may_be_empty(load_text: Load) -> None:
    assert load_text("[heartbeat]\n[webrtc]\n[database]\n").warnings == ()


def test_a_variable_of_its_own_is_found_by_its_neighbours(load_text: Load) -> None:
    with pytest.raises(ConfigurationError, match="HEARTBEAT_INTERVALL; did you mean SIGNAL_MANAGER_HEARTBEAT_INTERVAL"):
        load_text("", HEARTBEAT_INTERVALL="20")


def test_a_store_that_is_named_is_the_one_that_is_used(load_text: Load) -> None:
    loaded = load_text('[firestore]\nproject_id = "p"\n[storage]\nbackend = "sqlite"')

    assert (loaded.config.storage.backend, loaded.warnings) == ("sqlite", ())


def test_its_variables(load_text: Load) -> None:
    loaded = load_text(
        "",
        HEARTBEAT_INTERVAL="20",
        HEARTBEAT_TIMEOUT="80",
        LOGGING_FILE_OUTPUT="true",
        CLOUDFLARE_APP_ID="your-app-id",
        CLOUDFLARE_APP_SECRET="your-app-secret",
        AUTH_TOKEN_SECRET="your-secret",
    )

    assert (loaded.config.server.heartbeat_interval, loaded.config.server.heartbeat_timeout) == (20, 80)
    assert loaded.config.cloudflare.app_id == ""
    assert loaded.origins == {
        "server.heartbeat_interval": "SIGNAL_MANAGER_HEARTBEAT_INTERVAL",
        "server.heartbeat_timeout": "SIGNAL_MANAGER_HEARTBEAT_TIMEOUT",
    }
    assert loaded.warnings == (
        "taken under new names: SIGNAL_MANAGER_HEARTBEAT_INTERVAL as SIGNAL_MANAGER_SERVER_HEARTBEAT_INTERVAL, "
        "SIGNAL_MANAGER_HEARTBEAT_TIMEOUT as SIGNAL_MANAGER_SERVER_HEARTBEAT_TIMEOUT",
        "without effect here: SIGNAL_MANAGER_LOGGING_FILE_OUTPUT",
        "sample values taken as not set: SIGNAL_MANAGER_AUTH_TOKEN_SECRET, SIGNAL_MANAGER_CLOUDFLARE_APP_ID, "
        "SIGNAL_MANAGER_CLOUDFLARE_APP_SECRET",
    )


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[heartbeat]\ninterval = true", "[server] heartbeat_interval: expected a number, got true"),
        ("[heartbeat]\nintervall = 1", 'unknown key "intervall" in [heartbeat]; did you mean interval?'),
        ("[heartbeat]\ntimeout = 5\nport = 1", 'unknown key "port" in [heartbeat]'),
        ("heartbeat = 5", 'key "heartbeat" stands outside any section'),
        ("[server]\nport = null\nhost = nil", "not valid TOML: Invalid value (at line 3, column 8)"),
        ("[webrtc]\nother = 1", 'unknown key "other" in [webrtc]'),
        ("webrtc = []", 'key "webrtc" stands outside any section'),
    ],
)
def test_what_neither_service_knows_is_an_error(tmp_path: Path, toml: str, message: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(toml)

    with pytest.raises(ConfigurationError) as caught:
        load(file, environ={})

    assert caught.value.message.removeprefix(f"{file}: ").startswith(message)


# -- the command line of the original --------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--config", pytest.param("-c", marks=pytest.mark.long)])
def test_a_configuration_without_a_command_serves(tmp_path: Path, option: str) -> None:

    port = free_port()
    file = tmp_path / "config.toml"
    log = tmp_path / "logs" / "service.log"
    toml = PROTOCOL_PAGE.replace("8080", str(port)).replace("[logging]", f'[logging]\nfile_path = "{log}"')
    file.write_text(toml + '[storage]\nbackend = "memory"\n[media]\nbackend = "none"\n[metrics]\nenabled = false\n')

    with running([sys.executable, "-m", "signal_manager", option, str(file)], port=port):
        lines = log.read_text()

    assert "without effect here: database.retry_attempts" in lines


def test_a_configuration_before_a_command_is_asked_for_behind_it(run: Run) -> None:
    result = run("--config", "x.toml", "check-config")

    assert (result.status, result.out) == (2, "")
    assert "expected --config behind the command: signal-manager check-config --config x.toml" in result.err
