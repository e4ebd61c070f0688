"""The servers that the benchmarks measure, and how each of them is started."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from benchmarks.processes import ROOT, MeasurementError, free_port, running

__all__ = [
    "EMBEDDED",
    "FLOOR",
    "GORILLA",
    "NATS",
    "SERVERS",
    "SERVICE",
    "TUNGSTENITE",
    "WEBSOCKETS",
    "WS",
    "Server",
    "Sfu",
    "local_sfu",
    "nats_server",
    "reference",
    "service",
    "why_skipped",
]

SERVICE = "service"
FLOOR = "floor"
WEBSOCKETS = "websockets"
WS = "ws"
TUNGSTENITE = "tungstenite"
GORILLA = "gorilla"
SERVERS = (SERVICE, FLOOR, TUNGSTENITE, GORILLA, WS, WEBSOCKETS)
NATS = "nats-server"

# Clients that come back may find their last connections still closing.
SPARE_CONNECTIONS = 100

# Messages per minute: the limit is on, as it is in production, and no client of a benchmark reaches it.
UNREACHED_RATE = 1_000_000_000

NO_MEDIA = """\
[media]
backend = "none"
"""

# The local SFU in the service's own process.
EMBEDDED: Final = "embedded"
_EMBEDDED_SETTINGS = """\
[media]
backend = "local"
"""

# A setting that earlier revisions do not have.
_BYTE_RATE = "max_bytes_per_minute"
_REFERENCES = Path("benchmarks/references")
_NODE_MODULES = ROOT / _REFERENCES / "node_modules"
# What `make references` compiles, and the compiler that each needs.
_BUILT = {
    FLOOR: (_REFERENCES / "build/floor_relay", "cc"),
    TUNGSTENITE: (_REFERENCES / "build/tungstenite_relay", "cargo"),
    GORILLA: (_REFERENCES / "build/gorilla_relay", "go"),
}


@dataclass(frozen=True)
class Sfu:
    """A local SFU in a process of its own."""

    port: int
    app_id: str
    app_secret: str

    @property
    def settings(self) -> str:
        """The service's configuration for it."""
        return f"""\
[media]
backend = "cloudflare"

[cloudflare]
base_url = "http://127.0.0.1:{self.port}/v1"
app_id = "{self.app_id}"
app_secret = "{self.app_secret}"
stun_url = ""
"""


@dataclass(frozen=True)
class Server:
    """A server that answers on `port` of 127.0.0.1."""

    name: str
    pid: int
    port: int


def why_skipped(name: str) -> str | None:
    """Return why a server cannot be measured on this machine, or None when it can."""
    if name in _BUILT and not (ROOT / _BUILT[name][0]).is_file():
        program, compiler = _BUILT[name]
        return f"{program} is missing: `make references` builds it where there is `{compiler}`"
    if name != WS:
        return None
    if shutil.which("node") is None:
        return "there is no `node` on the PATH"
    if not _NODE_MODULES.is_dir():
        return f"{_REFERENCES}/node_modules is missing: `make bench` installs it where there is npm"
    return None


@contextmanager
def reference(name: str, *, core: int | None = None) -> Iterator[Server]:
    """Run a reference relay while the block lasts."""
    port = free_port()
    if name in _BUILT:
        start = [str(ROOT / _BUILT[name][0])]
    elif name == WS:
        start = ["node", str(_REFERENCES / "ws_relay.mjs")]
    else:
        start = [sys.executable, "-m", "benchmarks.references.websockets_relay"]
    with running([*start, "--port", str(port)], port=port, core=core) as pid:
        yield Server(name, pid, port)


@contextmanager
def nats_server(*, core: int | None = None) -> Iterator[Server]:
    """Run a nats-server while the block lasts, with one processor unless GOMAXPROCS says otherwise.

    Go's runtime looks for work on every processor that it is given, and here workers need them.

    Raises:
        MeasurementError: there is none on this machine.
    """
    # Debian installs it where only root's PATH looks.
    found = shutil.which(NATS) or shutil.which(NATS, path="/usr/sbin:/usr/local/bin")
    if found is None:
        raise MeasurementError("there is no nats-server on the PATH: apt-get install nats-server")
    port = free_port()
    command = [found, "--addr", "127.0.0.1", "--port", str(port)]
    with running(command, port=port, core=core, environment={"GOMAXPROCS": "1", **os.environ}) as pid:
        yield Server(NATS, pid, port)


@contextmanager
def local_sfu(*, latency: float = 0.0) -> Iterator[Sfu]:
    """Run the local SFU while the block lasts; `latency` (s) is added to each of its answers."""
    sfu = Sfu(free_port(), secrets.token_hex(16), secrets.token_hex(32))
    with TemporaryDirectory(prefix="signal-manager-bench-") as directory:
        faults = Path(directory) / "faults.toml"
        faults.write_text(f'[[faults]]\nkind = "latency"\nseconds = {latency}\n' if latency else "")
        command = [sys.executable, "-m", "signal_manager", "sfu", "--port", str(sfu.port), "--app-id", sfu.app_id]
        environment = os.environ | {"SFU_APP_SECRET": sfu.app_secret}
        with running([*command, "--faults", str(faults)], port=sfu.port, environment=environment):
            yield sfu


@contextmanager
def service(
    tokens: Mapping[str, str],
    *,
    core: int | None = None,
    storage: Literal["memory", "sqlite"] = "memory",
    database: Path | None = None,
    nats_port: int | None = None,
    sfu: Sfu | Literal["embedded"] | None = None,
    metrics_port: int | None = 0,
    auth_method: Literal["token", "store"] = "token",
    log: Path | None = None,
    source: Path = ROOT,
    port: int | None = None,
    token_secret: str = "",
    certificate: tuple[Path, Path] | None = None,
    program: Sequence[str] = (sys.executable, "-m", "signal_manager"),
) -> Iterator[Server]:
    """Run this service while the block lasts: its defaults, with a message rate that nobody reaches.

    Args:
        tokens: the token of each client that may connect, all of them at the same time.
        core: the processor it may use.
        storage: where it keeps registrations.
        database: the file of SQLite, which nodes share; None for one in a directory of its own.
        nats_port: where the nats-server is over which nodes reach each other; None for a node on its own.
        sfu: what its rooms use; EMBEDDED for one in its own process, None for rooms without media.
        metrics_port: its second port, where the demo page is; normally any free one, None for a service without.
        auth_method: who may connect: those of `tokens`, or those that the store knows.
        log: a file for warnings and errors, as JSON lines.
        source: where the version to be run is checked out.
        port: where it listens; None for a free one.
        token_secret: verifies signed tokens.
        certificate: PEM files of its certificate and key, to serve wss:// itself.
        program: the beginning of its command, before its arguments.
    """
    port = port or free_port()
    with TemporaryDirectory(prefix="signal-manager-bench-") as directory:
        config = Path(directory) / "config.toml"
        config.write_text(
            _service_config(
                tokens,
                port=port,
                storage=storage,
                database=database or Path(directory) / "signal-manager.db",
                nats_port=nats_port,
                sfu=sfu,
                metrics_port=metrics_port,
                auth_method=auth_method,
                log=log,
                token_secret=token_secret,
                certificate=certificate,
                counts_bytes=_BYTE_RATE in (source / "src/signal_manager/service/settings.py").read_text(),
            )
        )
        # What the developer's shell sets for the service must not reach this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGNAL_MANAGER_")}
        environment["PYTHONPATH"] = str(source / "src")
        command = [*program, "serve", "--config", str(config)]
        with running(command, port=port, core=core, environment=environment) as pid:
            yield Server(SERVICE, pid, port)


def _service_config(
    tokens: Mapping[str, str],
    *,
    port: int,
    storage: str,
    database: Path,
    nats_port: int | None,
    sfu: Sfu | Literal["embedded"] | None,
    metrics_port: int | None,
    auth_method: str,
    log: Path | None,
    token_secret: str,
    certificate: tuple[Path, Path] | None,
    counts_bytes: bool,
) -> str:
    byte_rate = f"{_BYTE_RATE} = {UNREACHED_RATE}000" if counts_bytes else ""
    bus = "" if nats_port is None else f'[bus]\nbackend = "nats"\nnats_url = "nats://127.0.0.1:{nats_port}"\n'
    media = NO_MEDIA if sfu is None else _EMBEDDED_SETTINGS if isinstance(sfu, str) else sfu.settings
    # A JSON string is a TOML basic string too.
    secret = f"token_secret = {json.dumps(token_secret)}" if token_secret else ""
    tls = ""
    if certificate is not None:
        chain, key = (json.dumps(str(path)) for path in certificate)
        tls = f"tls_enabled = true\ntls_cert_path = {chain}\ntls_key_path = {key}"
    api_keys = ", ".join(json.dumps(f"{client_id}:{token}") for client_id, token in tokens.items())
    return f"""\
[server]
host = "127.0.0.1"
port = {port}
max_connections = {len(tokens) + SPARE_CONNECTIONS}
{tls}

[auth]
auth_method = "{auth_method}"
api_keys = [{api_keys}]
{secret}

[security]
max_messages_per_minute = {UNREACHED_RATE}
{byte_rate}

[storage]
backend = "{storage}"
sqlite_path = {json.dumps(str(database))}

{bus}
{media}
[metrics]
enabled = {json.dumps(metrics_port is not None)}
port = {metrics_port or 0}

[logging]
level = "warning"
file_path = {json.dumps(str(log) if log is not None else "")}
"""
