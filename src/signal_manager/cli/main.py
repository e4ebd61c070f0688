"""The command line: start the service, check its configuration, issue and explain tokens, try a running service.

Only the commands and the composition root know the configuration. A person's mistake is one line on standard error and
exit status 2. Standard output carries results alone, so that scripts can use it.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from signal_manager import __version__
from signal_manager.cli.config import check_config, init
from signal_manager.cli.management import add_management_commands
from signal_manager.cli.migration import migrate_config
from signal_manager.cli.sfu import sfu
from signal_manager.cli.storage import storage_commands
from signal_manager.cli.terminal import SECONDS_OF, Commands, ConfigOption, JsonOption, print_json, span, tell, warn
from signal_manager.errors import ConfigurationError, SignalManagerError, UnavailableError
from signal_manager.form import form
from signal_manager.observe.logs import escape_control_characters

if TYPE_CHECKING:
    from signal_manager.auth.token_report import TokenReport
    from signal_manager.model import Grants
    from signal_manager.service.config import Config, LoadedConfig

__all__ = ["application", "main", "parse_duration"]

PROGRAM = "signal-manager"

HUMAN_ERROR = 2
REFUSED = 1  # `token --inspect`: the service would not accept the token
UNREACHABLE = 1  # `serve`: a dependency does not answer now; a later start may succeed
INTERRUPTED = 130  # 128 + SIGINT, as in shells

LONGEST_DURATION = 3650 * 86400  # 10 years: longer ones are typing errors, and far longer ones have no date
LAST_DATE = 253_402_300_799  # 9999-12-31T23:59:59Z, where dates end

application = Commands(
    help="Run, check and operate a WebRTC signaling service.",
    epilog="Start with 'signal-manager serve', then 'signal-manager try' in another terminal.",
)


class Role(StrEnum):
    """The roles that a token can allow in a room; an enum, because typer takes no list of a Literal."""

    SENDER = "sender"
    RECEIVER = "receiver"


LogLevel = Literal["debug", "info", "warning", "error", "critical"]


def main() -> None:
    """Run the command line and end the process with its exit status."""
    sys.exit(_exit_status(sys.argv[1:]))


def _exit_status(arguments: list[str]) -> int:
    if arguments == ["--version"]:  # answers at once: typer imports pydantic to run any command
        print(f"{PROGRAM} {__version__} ({form()})")
        return 0
    try:
        status = application(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except SignalManagerError as error:
        return _fail(error.message)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else PROGRAM
        return _fail(f"{error.format_message().replace('Value error, ', '')} (see: {command} --help)")
    except KeyboardInterrupt:
        return INTERRUPTED
    return status if isinstance(status, int) else 0


def _fail(message: str) -> int:
    tell("error:", "bold red", message)
    return HUMAN_ERROR


@application.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="TOML file to serve with, if no command is given."),
    ] = None,
) -> None:
    if version:
        print(f"{PROGRAM} {__version__} ({form()})")
        raise typer.Exit
    if context.invoked_subcommand is not None:
        if config is not None:
            command = context.invoked_subcommand
            raise ConfigurationError(f"expected --config behind the command: {PROGRAM} {command} --config {config}")
    elif config is not None:
        serve(config)
    else:
        print(context.get_help(), end="")


@application.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on. [default: server.host]")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="TCP port to listen on; 0 picks a free one. [default: server.port]"),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine even with published default secrets.")
    ] = False,
    log_level: Annotated[
        LogLevel | None, typer.Option(help="Least severe level to log. [default: logging.level]")
    ] = None,
) -> int:
    """Run the service until SIGTERM or Ctrl-C.

    Exits with 2 if the configuration is wrong, and with 1 if NATS or the store does not answer.

    Examples:

    - `signal-manager serve`
    - `signal-manager serve --config production.toml`
    - `signal-manager serve --port 0 --log-level debug`
    """
    from signal_manager.service.config import load_with_origins

    overrides: dict[str, dict[str, Any]] = {"server": {}, "logging": {}}
    for section, key, value in (("server", "host", host), ("server", "port", port), ("logging", "level", log_level)):
        if value is not None:
            overrides[section][key] = value
    loaded = load_with_origins(config, overrides=overrides)
    try:
        _run(loaded, insecure=insecure)
    except UnavailableError as error:
        _fail(error.message)
        return UNREACHABLE
    return 0


def _run(loaded: LoadedConfig, *, insecure: bool) -> None:
    with _without_rich():
        from signal_manager.service import app

    config = loaded.config
    is_person = sys.stderr.isatty()
    if config.server.workers > 1:
        from signal_manager.service import supervisor

        dashboard = app.dashboard_of(config, port=config.metrics.port) if config.metrics.port else None
        supervisor.run(
            config,
            insecure=insecure,
            announce=(lambda url: _announce(config, url, dashboard and dashboard.url)) if is_person else None,
            warnings=loaded.warnings,
        )
        return
    app.run(
        config,
        insecure=insecure,
        announce=(lambda server: _announce(config, app.local_url(server), server.dashboard and server.dashboard.url))
        if is_person
        else None,
        warnings=loaded.warnings,
    )


@contextlib.contextmanager
def _without_rich() -> Iterator[None]:
    """Prevent imports of rich while the block lasts, unless it is imported already.

    structlog imports rich if it can, for tracebacks that the service formats itself. That import and what it pulls in
    took a tenth of the time until the service listens.
    """
    modules: dict[str, Any] = sys.modules
    if "rich" in modules:
        yield
        return
    modules["rich"] = None  # makes an import of it fail
    try:
        yield
    finally:
        del modules["rich"]


def _announce(config: Config, url: str, dashboard: str | None) -> None:
    """Print three lines for a person: the demo's URL, the dashboard's URL, and a command to try."""
    from signal_manager.service.config import is_loopback, published_credentials

    trial = f"{_own_name()} try --url {url}"
    if "test_client_1" not in published_credentials(config):
        trial += " --sender ID:TOKEN --receiver ID:TOKEN"
    has_demo = dashboard is not None and config.admin.demo and is_loopback(config.metrics.host)
    lines = {
        "demo": f"{dashboard}demo/?room=hello - open it in two windows" if has_demo else None,
        "service": None if has_demo else url,
        "dashboard": dashboard,
        "try it": f"{trial} - in another terminal; Ctrl-C stops the service",
    }
    for name, line in lines.items():
        if line is not None:
            print(f"{name:<11}{line}", file=sys.stderr)


def _own_name() -> str:
    """Return the command that runs this program in another terminal."""
    called = sys.argv[0]
    if called.endswith("__main__.py"):
        return f"{sys.executable} -m signal_manager"
    return called if "/" in called and not called.startswith("/") else PROGRAM


application.command("check-config")(check_config)
application.command("init")(init)


@application.command()
def token(
    *,
    client_id: Annotated[str | None, typer.Option(metavar="ID", help="Client that the token is for.")] = None,
    ttl: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="How long the token is valid, such as 90s, 15m, 1h or 7d. [default: auth.token_expiry]",
        ),
    ] = None,
    room: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Room that the token allows; may be repeated. [default: all]"),
    ] = None,
    role: Annotated[
        list[Role] | None, typer.Option(help="Role that the token allows; may be repeated. [default: both]")
    ] = None,
    signal_to: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Client that may be signalled; may be repeated. [default: all]"),
    ] = None,
    no_publish: Annotated[bool, typer.Option("--no-publish", help="Forbid publishing tracks.")] = False,
    no_subscribe: Annotated[bool, typer.Option("--no-subscribe", help="Forbid pulling tracks.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="Allow administration of rooms.")] = False,
    inspect: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="Explain this token, do not issue one; - reads it from standard input."),
    ] = None,
    as_json_text: Annotated[bool, typer.Option("--json", help="Print JSON, for programs; needs --inspect.")] = False,
    config: ConfigOption = None,
) -> int:
    """Issue a signed token, or explain one with `--inspect`.

    A new token is printed alone, for use in scripts. In a PATTERN, `*` stands for any characters. With `--inspect`,
    exits with 0 if the service would accept the token, and with 1 otherwise.

    Examples:

    - `signal-manager token --client-id alice --ttl 1h`
    - `signal-manager token --client-id tv --room 'demo-*' --role receiver --no-publish`
    - `signal-manager token --inspect - < token.txt`
    """
    from signal_manager.model import NAME_RULE, Grants, is_valid_name

    grants = Grants(
        rooms=tuple(room) if room else None,
        roles=tuple(str(each) for each in role) if role else None,
        signal_to=tuple(signal_to) if signal_to else None,
        publish=not no_publish,
        subscribe=not no_subscribe,
        admin=admin,
    )
    if inspect is not None:
        if client_id is not None or ttl is not None or grants != Grants():
            raise ConfigurationError("--inspect explains a token and goes only with --json and --config")
        return _explain(inspect, config, as_json_text=as_json_text)
    if as_json_text:
        raise ConfigurationError("--json goes only with --inspect: an issued token is printed as it is")
    if client_id is None or not is_valid_name(client_id):
        raise ConfigurationError(f"expected --client-id ID of {NAME_RULE}, or --inspect TOKEN")
    print(_issued(client_id, ttl, grants, config))
    return 0


def _issued(client_id: str, ttl: str | None, grants: Grants, config: Path | None) -> str:
    from signal_manager.auth.token_report import issue_token
    from signal_manager.service.config import load

    auth = load(config).auth
    lifetime = auth.token_expiry if ttl is None else parse_duration(ttl)
    if auth.auth_method in {"api_key", "store"}:
        warn(f'auth.auth_method is "{auth.auth_method}": the service does not accept signed tokens')
    if "HS256" not in auth.jwt_algorithms:
        warn("auth.jwt_algorithms lacks HS256: the service does not accept this token")
    return issue_token(
        secret=auth.token_secret.get_secret_value(),
        client_id=client_id,
        ttl=lifetime,
        grants=grants,
        now=time.time(),
        audience=auth.jwt_audience,
        issuer=auth.jwt_issuer,
    )


def _explain(inspected: str, config: Path | None, *, as_json_text: bool) -> int:
    import msgspec

    from signal_manager.auth.authenticators import MAX_TOKEN_BYTES
    from signal_manager.auth.token_report import inspect_token
    from signal_manager.service.config import load

    if inspected == "-":
        inspected = sys.stdin.read(MAX_TOKEN_BYTES + 1)
    auth = load(config).auth
    now = time.time()
    report = inspect_token(
        inspected.strip(),
        secret=auth.token_secret.get_secret_value(),
        previous_secrets=[secret.get_secret_value() for secret in auth.previous_token_secrets],
        algorithms=auth.jwt_algorithms,
        audience=auth.jwt_audience,
        issuer=auth.jwt_issuer,
        leeway=auth.leeway,
        now=now,
    )
    if as_json_text:
        print_json(msgspec.to_builtins(report))
    else:
        _print_report(report, now)
    return REFUSED if report.refused_because else 0


def _print_report(report: TokenReport, now: float) -> None:
    lines: dict[str, str | None] = {
        "client": report.subject,
        "algorithm": report.algorithm,
        "signature": report.signature,
        "issued": _moment(report.issued_at, now),
        "expires": _moment(report.expires_at, now),
        "audience": json.dumps(report.audience) if report.audience is not None else None,
        "issuer": json.dumps(report.issuer) if report.issuer is not None else None,
    }
    if report.grants:
        lines |= {
            "rooms": _patterns(report.grants.rooms),
            "roles": _patterns(report.grants.roles),
            "signals to": _patterns(report.grants.signal_to),
            "publish": _yes(report.grants.publish),
            "subscribe": _yes(report.grants.subscribe),
            "admin": _yes(report.grants.admin),
        }
    # Only a checked signature tells whether the service accepts the token.
    accepted = "not known here: published keys verify it" if report.signature == "not checked" else "yes"
    lines["accepted"] = f"no: {'; '.join(report.refused_because)}" if report.refused_because else accepted
    for name, value in lines.items():
        if value is not None:
            print(f"{name:<12}{escape_control_characters(value)}")


def _moment(at: float | None, now: float) -> str | None:
    if at is None:
        return None
    if at > LAST_DATE:
        return "after the year 9999"
    from datetime import UTC, datetime

    distance = span(abs(at - now))
    when = f"in {distance}" if at > now else f"{distance} ago"
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC ({when})"


def _patterns(patterns: tuple[str, ...] | None) -> str:
    return "any" if patterns is None else ", ".join(patterns) or "none"


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def parse_duration(text: str) -> float:
    """Return the seconds in "90s", "15m", "1h", "7d" or "1.5h".

    Raises:
        ConfigurationError: the text is no such duration, is not above 0 or is longer than ten years.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip(), re.ASCII)
    seconds = float(match[1]) * SECONDS_OF[match[2]] if match else 0.0
    if not 0 < seconds <= LONGEST_DURATION:
        shown = text if len(text) <= 40 else f"{text[:39]}…"
        raise ConfigurationError(f"expected a duration such as 90s, 15m, 1h or 7d, at most 3650d, got '{shown}'")
    return seconds


@application.command("try")
def try_service(
    *,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="WebSocket URL of a running service. [default: start one for the trial]"),
    ] = None,
    sender: Annotated[
        str, typer.Option(metavar="ID:TOKEN", help="Client id and token of the peer that offers.")
    ] = "test_client_1:test_token_1",
    receiver: Annotated[
        str, typer.Option(metavar="ID:TOKEN", help="Client id and token of the peer that answers.")
    ] = "test_client_2:test_token_2",
    messages: Annotated[int, typer.Option(min=1, max=100_000, help="Messages that each peer sends.")] = 100,
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the whole trial may take, such as 30s or 2m.")
    ] = "30s",
    as_json_text: JsonOption = False,
) -> int:
    """Connect two WebRTC peers through the service and print what arrived, step by step.

    The peers exchange offer, answer and ICE candidates, then messages over a data channel, then video in a room if the
    service has a media backend. Exits with 0 if everything arrived.

    Examples:

    - `signal-manager try`
    - `signal-manager try --url ws://127.0.0.1:8080`
    - `signal-manager try --url wss://signal.example.org --sender "a:$TOKEN_A" --receiver "b:$TOKEN_B"`
    """
    import asyncio

    try:
        from signal_manager.cli.test_call import run_test_call
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("signal_manager"):
            raise
        raise ConfigurationError("`try` needs WebRTC in Python: pip install 'signal-manager[sfu]'") from None
    return asyncio.run(
        run_test_call(
            url=url,
            sender=_credentials("--sender", sender),
            receiver=_credentials("--receiver", receiver),
            messages=messages,
            timeout=parse_duration(timeout),
            json_output=as_json_text,
        )
    )


def _credentials(option: str, text: str) -> tuple[str, str]:
    from signal_manager.model import NAME_RULE, is_valid_name

    client_id, colon, token = text.partition(":")
    if not colon or not token or not is_valid_name(client_id):
        raise ConfigurationError(f"expected {option} ID:TOKEN with an id of {NAME_RULE}")
    return client_id, token


# After the commands above, so that --help begins with the first steps.
application.command("sfu")(sfu)
application.add_typer(storage_commands, name="storage")
application.command("migrate-config")(migrate_config)
add_management_commands(application)
