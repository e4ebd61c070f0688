"""`signal-manager migrate-config`: a configuration file of the original service, explained and written anew.

`service/original_config.py` knows its words, `service/config.py` reads it as `serve` would.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from signal_manager.cli.terminal import tell
from signal_manager.errors import ConfigurationError

if TYPE_CHECKING:
    from signal_manager.service.config import LoadedConfig

__all__ = ["migrate_config"]


def migrate_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The original service's configuration file.")],
    write: Annotated[
        bool, typer.Option("--write", help="Replace FILE, and keep what it was as FILE.orig, in place of printing.")
    ] = False,
) -> None:
    """Explain a configuration file of the original service, and rewrite it in this service's words.

    The new file goes to standard output, secrets included; what changes, and why, to standard error. The environment
    is not looked at. A file that needs no change comes out with the same settings.

    Examples:

    - `signal-manager migrate-config config.toml > new.toml`
    - `signal-manager migrate-config /etc/signal-manager/config.toml --write`
    """
    from signal_manager.service.config import as_toml, load_with_origins

    loaded = load_with_origins(file, environ={})
    # The values of [gcp] are in [firestore] by now.
    kept = {name for name in loaded.origins if not name.startswith("gcp.")}
    text = as_toml(loaded.config, hide_secrets=False, only=kept)
    for sentence in (*loaded.warnings, *_advice(loaded)) or ("nothing in this file needs to change",):
        tell("note:", "yellow", sentence.removeprefix(f"{file}: "))
    if not write:
        print(text, end="")
        return
    kept_as = _replace(file, text)
    tell("written:", "green", f"{file}; what it was is in {kept_as}")


def _advice(loaded: LoadedConfig) -> list[str]:
    """Print settings that are valid here but that a deployment should check."""
    from signal_manager.service.config import insecure_settings

    config, advice = loaded.config, []
    if any(name.startswith("gcp.") for name in loaded.origins):
        advice.append("[gcp] is part of [firestore] now")
    advice += [
        f"{name} is the published default: `serve` refuses to listen on {config.server.host} with it"
        for name in insecure_settings(config)
    ]
    if config.logging.file_path:
        advice.append(f"logging.file_path is written here, to {config.logging.file_path}; the original wrote no file")
    return advice


def _replace(file: Path, text: str) -> Path:
    """Replace a file with the same permissions, keep the old one, and return its new path."""
    kept_as = file.with_name(f"{file.name}.orig")
    new = file.with_name(f".{file.name}.new")
    try:
        mode = file.stat().st_mode & 0o777
        if kept_as.exists():
            raise ConfigurationError(f"{kept_as} exists already: it is not overwritten, move it away first")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as out:
            out.write(text)
        os.link(file, kept_as)
        new.replace(file)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise ConfigurationError(f"{error.filename or file}: cannot write it: {error.strerror}") from None
    return kept_as
