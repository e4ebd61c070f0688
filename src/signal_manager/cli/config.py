"""`signal-manager init` and `check-config`: write a first configuration file, and report all mistakes in one.

`cli/main.py` mounts these commands. `service/config.py` reads files and variables; `service/preflight.py` checks the
machine.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from signal_manager.cli.terminal import ConfigOption, JsonOption, print_json, tell, warn
from signal_manager.errors import ConfigurationError, SignalManagerError

if TYPE_CHECKING:
    from signal_manager.service.config import Config, LoadedConfig

__all__ = ["check_config", "init"]

HUMAN_ERROR = 2


def init(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="File to write; - is standard output.", show_default=True)
    ] = Path("config.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write a configuration file that explains every setting.

    All settings are commented out and show their defaults, so the file changes nothing until you edit it. Only its
    owner can read it, because it will hold secrets.

    Examples:

    - `signal-manager init`
    - `signal-manager init production.toml --force`
    - `signal-manager init - | less`
    """
    from signal_manager.service.config import FILE_NAMES, commented_toml

    text = commented_toml()
    if str(file) == "-":
        print(text, end="")
        return
    _write(file, text, force=force)
    option = "" if file.name in FILE_NAMES and file.absolute().parent == Path.cwd() else f" --config {file}"
    tell("written:", "green", f"{file}; see what is in effect with: signal-manager check-config{option}")
    first = file.with_name(FILE_NAMES[0])
    if not option and first.exists() and file.name != first.name:
        warn(f"the service reads {first} and ignores {file}, unless you give --config {file}")


def _write(file: Path, text: str, *, force: bool) -> None:
    """Write a new file atomically; refuse to replace an existing one unless `force`."""
    new = file.with_name(f".{file.name}.new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
            out.write(text)
        if force:
            new.replace(file)
        else:
            os.link(new, file)  # fails if the file exists, even if it was just created
            new.unlink()
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        if isinstance(error, FileExistsError):
            raise ConfigurationError(f"{file} exists already: --force replaces it") from None
        raise ConfigurationError(f"cannot write {file}: {error.strerror}") from None


def check_config(
    config: ConfigOption = None,
    online: Annotated[
        bool, typer.Option("--online", help="Also try the credentials of Cloudflare Realtime, with one harmless call.")
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Check for serve --insecure: warn of published default secrets.")
    ] = False,
    as_json_text: JsonOption = False,
) -> int:
    """Print the configuration in effect and the origin of each value, or all mistakes in it.

    Missing files and packages, and addresses that this machine does not have, are mistakes too. Exits with 0 if `serve`
    would start, and with 2 otherwise. Secrets are shown as `***`.

    Examples:

    - `signal-manager check-config`
    - `signal-manager check-config --config production.toml --json`
    - `signal-manager check-config --online`
    """
    from signal_manager.service import backends, preflight
    from signal_manager.service.config import as_json, as_toml, capacity, load_even_if_wrong

    loaded = load_even_if_wrong(config)
    problems = [*loaded.problems, *preflight.problems(loaded.config, insecure=insecure)]
    if online and not problems:
        problems += _refused_credentials(loaded.config)
    if problems:
        if as_json_text:
            print_json({"valid": False, "error": problems[0], "errors": problems})
        for problem in problems:
            tell("error:", "bold red", problem)
        return HUMAN_ERROR
    warnings = [*_warnings(loaded), *preflight.busy_ports(loaded.config)]
    carries = capacity(loaded.config) if backends.media_backend_of(loaded.config) == "local" else None
    if as_json_text:
        file = str(loaded.file) if loaded.file else None
        settings = as_json(loaded.config, origins=loaded.origins)
        notes = [carries] if carries is not None else []
        print_json({"valid": True, "file": file, "warnings": warnings, "notes": notes, "settings": settings})
        return 0
    print(as_toml(loaded.config, origins=loaded.origins))
    sys.stdout.flush()
    for warning in warnings:
        warn(warning)
    if carries is not None:
        print(carries)
    print("configuration is valid")
    return 0


def _refused_credentials(config: Config) -> list[str]:
    import asyncio

    try:
        asyncio.run(_try_credentials(config))
    except SignalManagerError as error:
        return [error.message]
    return []


async def _try_credentials(config: Config) -> None:
    from signal_manager.observe.metrics import Metrics
    from signal_manager.service import backends

    if backends.media_backend_of(config) != "cloudflare":
        raise ConfigurationError("--online tries cloudflare.app_id and cloudflare.app_secret, and they are not set")
    async with backends.cloudflare_for(config, Metrics()) as backend:
        await backend.validate_credentials()


def _warnings(loaded: LoadedConfig) -> list[str]:
    from signal_manager.service import backends
    from signal_manager.service.config import insecure_settings, weak_secrets

    host = loaded.config.server.host
    exposed = [
        f"{setting} is the published default: `serve` refuses to listen on {host} unless --insecure is given"
        for setting in insecure_settings(loaded.config)
    ]
    short = [f"{setting} is shorter than 32 bytes" for setting in weak_secrets(loaded.config)]
    absent = backends.missing_sfu(loaded.config)
    return [*loaded.warnings, *exposed, *short, *([absent] if absent else [])]
