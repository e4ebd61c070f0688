"""Finds what `serve` would refuse without starting it: missing packages, files, folders and addresses.

`check-config` uses this module. `service/settings.py` checks the configuration alone; this module checks the machine.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from signal_manager.adapters import load_adapter
from signal_manager.errors import ConfigurationError
from signal_manager.gateway.tls import Certificate
from signal_manager.service import backends
from signal_manager.service.config import Config, bus_backend_of, exposure, option_problems, unsupported_settings
from signal_manager.service.local_sfu import NO_SFU, is_sfu_missing

__all__ = ["busy_ports", "problems"]

_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - read, not listened on


def problems(config: Config, *, insecure: bool = False) -> Iterator[str]:
    """Yield every reason why `serve` would not start with `config` on this machine, one sentence each.

    Args:
        insecure: whether published default secrets are allowed beyond this machine.
    """
    yield from unsupported_settings(config)
    reason = exposure(config)
    if reason is not None and not insecure:
        yield reason
    yield from _storage(config)
    yield from _media(config)
    yield from _bus(config)
    server, metrics = config.server, config.metrics
    if server.tls_enabled and server.tls_cert_path and server.tls_key_path:
        with _caught() as found:
            Certificate(
                cert_path=server.tls_cert_path,
                key_path=server.tls_key_path,
                client_ca_path=server.tls_client_ca_path,
            )
        yield from found
    if config.logging.file_path:
        yield from _not_writable("logging.file_path", Path(config.logging.file_path), makes_folder=True)
    is_one_host = server.host == metrics.host or bool({server.host, metrics.host} & _EVERYWHERE)
    if metrics.enabled and server.port and server.port == metrics.port and is_one_host:
        yield f"server.port and metrics.port are both {server.port}"
    for section, host, port in _addresses(config):
        number = _listening_error(host, port)
        if number not in (None, errno.EADDRINUSE):
            yield f"{section}.host and {section}.port: cannot listen on {host}:{port}: {_reason(number)}"


def busy_ports(config: Config) -> Iterator[str]:
    """Yield a sentence for each port that is in use now, perhaps by the service itself."""
    for section, host, port in _addresses(config):
        if _listening_error(host, port) == errno.EADDRINUSE:
            yield f"{section}.port: {host}:{port} is taken now, by this service or by another program"


def _storage(config: Config) -> Iterator[str]:
    backend = config.storage.backend
    yield from _adapter(config, "storage", backend)
    if backend == "sqlite":
        path = config.storage.sqlite_path
        if path == ":memory:":
            yield f"storage.sqlite_path is {path!r}, expected a file; see storage.backend"
        else:
            yield from _not_writable("storage.sqlite_path", Path(path))
    elif backend == "firestore":
        if not config.firestore.project_id:
            yield "firestore.project_id is empty, expected the id of a Google Cloud project"
        if "/" in config.firestore.collection_prefix:
            yield f"firestore.collection_prefix is {config.firestore.collection_prefix!r}, expected no slash in it"
        yield from _not_readable("firestore.credentials_path", config.firestore.credentials_path)


def _media(config: Config) -> Iterator[str]:
    backend = backends.media_backend_of(config)
    if backend in {"cloudflare", "local", "none"}:
        yield from option_problems(config, "media", None)
    if backend == "cloudflare":
        if not (config.cloudflare.app_id and config.cloudflare.app_secret.get_secret_value()):
            yield 'media.backend "cloudflare" needs cloudflare.app_id and cloudflare.app_secret'
    elif backend == "local":
        if is_sfu_missing():
            yield f'media.backend is "local" and {NO_SFU}'
    elif backend != "none":
        yield from _adapter(config, "media", backend)


def _bus(config: Config) -> Iterator[str]:
    backend, bus = bus_backend_of(config), config.bus
    yield from _adapter(config, "bus", backend)
    if backend != "nats":
        return
    for key in ("nats_ca_path", "nats_cert_path", "nats_key_path", "nats_credentials_path"):
        yield from _not_readable(f"bus.{key}", getattr(bus, key))
    if bus.nats_credentials_path and importlib.util.find_spec("nkeys") is None:
        yield "bus.nats_credentials_path needs a package that is not installed: pip install 'signal-manager[nats]'"


def _adapter(config: Config, wall: str, name: str) -> Iterator[str]:
    """Yield why an adapter cannot be loaded, and the mistakes in its options."""
    adapter = None
    with _caught() as found:
        adapter = load_adapter(wall, name)
    yield from found or option_problems(config, wall, adapter)


@contextlib.contextmanager
def _caught() -> Iterator[list[str]]:
    """Collect the errors of the block instead of raising them."""
    found: list[str] = []
    try:
        yield found
    except ConfigurationError as error:
        found.append(error.message)


def _not_readable(setting: str, path: str) -> Iterator[str]:
    if path:
        try:
            Path(path).open("rb").close()
        except OSError as error:
            yield f"{setting}: cannot read {path}: {error.strerror}"


def _not_writable(setting: str, path: Path, *, makes_folder: bool = False) -> Iterator[str]:
    """Yield why a file cannot be written, without changing anything.

    Args:
        makes_folder: whether the service creates a missing folder itself.
    """
    folder = path.absolute().parent
    if path.exists():
        if path.is_dir():
            yield f"{setting}: {path} is a folder, expected a file"
        elif not os.access(path, os.R_OK | os.W_OK):
            yield f"{setting}: cannot write {path}: {os.strerror(errno.EACCES)}"
        return
    while makes_folder and not folder.exists():
        folder = folder.parent
    if not folder.exists():
        yield f"{setting}: the folder {folder} does not exist"
    elif not folder.is_dir():
        yield f"{setting}: {folder} is no folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"{setting}: cannot write into {folder}: {os.strerror(errno.EACCES)}"


def _addresses(config: Config) -> Iterator[tuple[str, str, int]]:
    yield "server", config.server.host, config.server.port
    if config.metrics.enabled:
        yield "metrics", config.metrics.host, config.metrics.port


def _listening_error(host: str, port: int) -> int | None:
    """Return the error number of an attempt to listen; None if it succeeds."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        socket.create_server(address[:2], family=family).close()
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL
    return None


def _reason(number: int | None) -> str:
    if number == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return os.strerror(number or 0)
