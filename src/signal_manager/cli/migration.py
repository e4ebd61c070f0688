"""`signal-manager migrate-config`: translate a configuration file of the original service.

`service/original_config.py` knows the original settings; `service/config.py` reads the file as `serve` would.
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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration file of the original service.")],
    write: Annotated[
        bool, typer.Option("--write", help="Replace FILE and keep the old one as FILE.orig, do not print.")
    ] = False,
) -> None:
    """Translate a configuration file of the original service into this service's settings.

    Prints the new file, secrets included, to standard output, and the reason of each change to standard error.
    Environment variables are ignored. A file that needs no change keeps its settings.

    Examples:

    - `signal-manager migrate-config config.toml > new.toml`
    - `signal-manager migrate-config /etc/signal-manager/config.toml --write`
    """
    from signal_manager.service.config import as_toml, load_with_origins

    loaded = load_with_origins(file, environ={})
    # Loading has moved the values of [gcp] to [firestore].
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
    """Return a sentence for each setting that is valid but that a deployment should check."""
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
            raise ConfigurationError(f"{kept_as} exists already: move it away first")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as out:
            out.write(text)
        os.link(file, kept_as)
        new.replace(file)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise ConfigurationError(f"cannot write {error.filename or file}: {error.strerror}") from None
    return kept_as
