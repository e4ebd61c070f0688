"""What can be set: every setting with its default, its limits and its description, and what settings say together.

`config` reads and prints these; only the composition root and the command line see either, since everything below takes
keyword arguments.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    model_validator,
)

from signal_manager.auth.authenticators import DEFAULT_LEEWAY, StaticKeys
from signal_manager.errors import ConfigurationError
from signal_manager.model import NAME_RULE, is_valid_name

__all__ = [
    "Config",
    "Section",
    "bus_backend_of",
    "capacity",
    "contradictions",
    "exposure",
    "has_other_nodes",
    "insecure_settings",
    "is_loopback",
    "published_credentials",
    "secrets",
    "static_keys",
    "unsupported_settings",
    "weak_secrets",
]

ENVIRONMENT_PREFIX = "SIGNAL_MANAGER_"
DEFAULT_TOKEN_SECRET = "your-secret-key-change-in-production"  # noqa: S105 - public, hence refused beyond loopback
DEFAULT_API_KEYS = ("test_client_1:test_token_1", "test_client_2:test_token_2")
DEFAULT_RATE = 1000  # messages of one client per minute
# What a member of a room sends: 50 packets of sound a second, and 45 of a picture of 640x480 at a usual rate.
PACKETS_OF_MEMBER = 95
HMAC_SECRET_BYTES = 32  # RFC 7518 section 3.2: an HS256 key is at least as long as its hash

# RFC 7065, section 3.1.
_TURN_URL = re.compile(r"turns?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(\?transport=(udp|tcp))?")

_Text = TypeVar("_Text", str, SecretStr)


def _address(*prefixes: str) -> AfterValidator:
    def check(value: _Text) -> _Text:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text and not text.startswith(prefixes):
            raise ValueError(f"an address that starts with {' or '.join(prefixes)}")
        return value

    return AfterValidator(check)


def _api_key(value: SecretStr) -> SecretStr:
    try:
        StaticKeys([value.get_secret_value()])
    except ConfigurationError:
        raise ValueError("'client_id:token'") from None
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("an IP address or network such as 10.0.0.0/8") from None
    return value


def _ip_address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError("an IP address") from None
    return value


def _token(name: str) -> str:
    if not is_valid_name(name) or "." in name:
        raise ValueError(f"expected one word of letters, digits or _ ~ @ + = -, got {name!r}")
    return name


def _optional_name(value: str) -> str:
    if value and not is_valid_name(value):
        raise ValueError(NAME_RULE)
    return value


def _written_as(**aliases: str) -> BeforeValidator:
    """Accept any case, and the original service's words for the same thing."""
    return BeforeValidator(lambda value: aliases.get(value.lower(), value.lower()) if isinstance(value, str) else value)


def _turn_url(value: str) -> str:
    if not _TURN_URL.fullmatch(value):
        raise ValueError("a TURN address such as turn:turn.example.org:3478 or turns:turn.example.org?transport=tcp")
    return value


Host = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Secret = Annotated[SecretStr, Field(min_length=1)]
WebAddress = Annotated[str, _address("https://", "http://")]


def _options() -> Any:
    return Field(
        default_factory=dict, description="Settings of an adapter of another package, which knows what they mean."
    )


class Section(BaseModel):
    """One table of the file: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def summary(cls) -> str:
        """Return what the section is about, in one line."""
        return (cls.__doc__ or "").partition("\n")[0]


class Server(Section):
    """The WebSocket listener and the limits of one connection.

    Large because it is a list: one field for each setting of the section.
    """

    host: Host = Field(
        default="127.0.0.1", description="Address to listen on; 0.0.0.0 is every IPv4 address, :: every address."
    )
    port: Port = Field(default=8080, description="Port to listen on; 0 lets the system choose one.")
    max_connections: Count = Field(
        default=1000, description="Authenticated clients at one time; one more is closed with 4503."
    )
    heartbeat_interval: Seconds = Field(
        default=30.0, description="Seconds of silence after which a connection is pinged."
    )
    heartbeat_timeout: Seconds = Field(
        default=90.0, description="Seconds of silence after which a connection is closed (4408)."
    )
    connection_timeout: Seconds = Field(default=10.0, description="Seconds that a new connection has for its CONNECT.")
    drain_timeout: Seconds = Field(
        default=20.0, description="Seconds to close all connections in order before the service stops."
    )
    max_message_size: Size = Field(default=1048576, description="Bytes of the largest accepted WebSocket message.")
    outbound_queue_bytes: Size = Field(
        default=1048576, description="Bytes that may wait for one slow client before its connection is closed (4413)."
    )
    max_half_read_bytes: Size = Field(
        default=268435456,
        description="Bytes that incomplete messages of all clients may take; beyond it, the connection with the most "
        "is closed (4503).",
    )
    read_buffer_size: Size = Field(
        default=2048,
        description="Bytes of one connection's read buffer; a larger one costs memory on idle connections.",
    )
    write_buffer_size: Size = Field(
        default=8192, description="Bytes that may wait in the socket before the client counts as slow."
    )
    workers: Count = Field(default=1, description="Processes that share the port.")
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        default=(), description="Addresses or networks whose X-Forwarded-For header the service trusts."
    )
    tls_enabled: bool = Field(default=False, description="Serve wss:// directly.")
    tls_cert_path: str = Field(default="", description="PEM file with the certificate chain.")
    tls_key_path: str = Field(default="", description="PEM file with the private key, not encrypted.")
    tls_client_ca_path: str = Field(
        default="", description="PEM file with authorities; clients must then present a certificate from one of them."
    )


class Auth(Section):
    """Who may connect."""

    auth_method: Annotated[Literal["token", "api_key", "jwt", "store"], _written_as(firestore="store")] = Field(
        default="token",
        description='"token" (static keys and signed tokens), "api_key", "jwt" or "store" (client records).',
    )
    token_secret: Secret = Field(
        default=SecretStr(DEFAULT_TOKEN_SECRET), description="Signs and verifies HS256 tokens; 32 random bytes or more."
    )
    previous_token_secrets: tuple[Secret, ...] = Field(
        default=(), description="Old secrets that still verify tokens while clients move to a new token_secret."
    )
    token_expiry: Seconds = Field(default=3600.0, description="Default lifetime of an issued token in seconds.")
    leeway: Annotated[float, Field(ge=0, le=600)] = Field(
        default=DEFAULT_LEEWAY,
        description="Seconds by which a token's times (exp, nbf, iat) may be off, because clocks differ.",
    )
    token_expiry_action: Literal["continue", "close"] = Field(
        default="continue",
        description='What happens to a connection whose token expires: "continue" (it stays, but may start nothing '
        'new), or "close" (4402 after leeway; the client may come back with a new token).',
    )
    api_keys: tuple[Annotated[SecretStr, AfterValidator(_api_key)], ...] = Field(
        default=(),
        description='Static keys, each "client_id:token"; a client with two entries has two valid tokens. While no key '
        "of [auth] is set, two test clients may connect from this machine.",
    )
    jwt_algorithms: Annotated[tuple[Literal["HS256", "RS256", "ES256"], ...], Field(min_length=1)] = Field(
        default=("HS256",),
        description="Accepted signatures: HS256 by token_secret; RS256 and ES256 by the keys of jwks_url.",
    )
    jwt_audience: str = Field(
        default="", description="A token's `aud` must name this; when empty, tokens with an `aud` are refused."
    )
    jwt_issuer: str = Field(
        default="", description="A token's `iss` must be this; when empty, every issuer is accepted."
    )
    jwks_url: WebAddress = Field(
        default="", description="URL where an identity provider publishes its public keys (RFC 7517)."
    )


class Session(Section):
    """A client's presence over its connections."""

    session_timeout: Seconds = Field(
        default=3600.0, description="Seconds without any activity after which a session ends."
    )
    cleanup_interval: Seconds = Field(default=300.0, description="Seconds between two searches for expired sessions.")
    max_sessions_per_client: Count = Field(
        default=1, description="Sessions of one client; a newer one ends the oldest (4409)."
    )
    resume_window: Seconds = Field(
        default=30.0, description="Seconds that a session waits for its client after the connection was lost."
    )
    resume_buffer_bytes: Size = Field(
        default=262144, description="Bytes kept for one session until its client confirms them."
    )
    resume_total_bytes: Size = Field(default=268435456, description="Bytes kept for all sessions together.")


class Rooms(Section):
    """Absence of members of a room."""

    away_after: Seconds = Field(
        default=8.0,
        description="Seconds of silence after which the other members see a member as away; it is pinged after half of "
        "them.",
    )
    leave_after: Seconds = Field(
        default=28.0,
        description="Seconds of silence after which a member has left, even if session.resume_window is longer.",
    )


class Security(Section):
    """Limits against abuse."""

    rate_limit_enabled: bool = Field(default=True, description="Enforce max_messages_per_minute.")
    max_messages_per_minute: Count = Field(default=DEFAULT_RATE, description="Messages of one client per minute.")
    max_bytes_per_minute: Count = Field(
        default=33554432,
        description="Bytes of one client's messages per minute, a sixteenth of them at once; no limit if "
        "rate_limit_enabled is false.",
    )
    max_connections_per_ip: Count = Field(
        default=10, description="Connections from one address at a time; loopback is not counted."
    )
    max_connects_per_minute: Count = Field(
        default=600, description="CONNECTs from one address per minute, also successful ones; loopback is not counted."
    )
    max_failed_auth_per_minute: Count = Field(
        default=10, description="Failed authentications from one address per minute."
    )
    allowed_origins: tuple[str, ...] = Field(
        default=("*",), description='Accepted Origin headers of browsers; "*" is any.'
    )


class Storage(Section):
    """The store of rooms, clients and the ledger."""

    backend: Annotated[str, Field(min_length=1), _written_as()] = Field(
        default="sqlite", description='"sqlite", "memory", "firestore", or the name of an adapter that is installed.'
    )
    sqlite_path: Host = Field(default="signal-manager.db", description="Database file of the sqlite backend.")
    operation_timeout: Seconds = Field(default=5.0, description="Seconds that one storage operation may take.")
    options: dict[str, Any] = _options()


class Firestore(Section):
    """The firestore storage backend."""

    project_id: str = Field(default="", description="Google Cloud project.")
    credentials_path: str = Field(
        default="", description="Service account file; when empty, the environment's credentials."
    )
    database_name: Host = Field(default="(default)", description="Database within the project.")
    collection_prefix: str = Field(default="", description="Prefix of the collections' names.")
    region: str = Field(default="", description="Region of the database.")


class Gcp(Section):
    """Values for empty settings of [firestore], as the original service's files have them."""

    project_id: str = Field(default="", description="Used when firestore.project_id is empty.")
    credentials_path: str = Field(default="", description="Used when firestore.credentials_path is empty.")
    region: str = Field(default="", description="Used when firestore.region is empty.")


class Media(Section):
    """The SFU that forwards audio, video and data of rooms, and TURN servers."""

    backend: Annotated[str, Field(min_length=1), _written_as()] = Field(
        default="auto",
        description='"cloudflare", "local", "none", the name of an installed adapter, or "auto": cloudflare when its '
        "credentials are set, else local where that is installed.",
    )
    negotiation_timeout: Seconds = Field(default=15.0, description="Seconds that a client has to answer an offer.")
    sfu_udp_port: Port = Field(default=0, description="UDP port of the local SFU; 0 lets the system choose one.")
    sfu_max_packets_per_second: Annotated[int, Field(ge=1)] = Field(
        default=15_000,
        description="Packets per second that the local SFU may forward before it refuses members and pulls (503). The "
        "default is less than one core carried in every measurement; it allows 13 members with audio and video.",
    )
    sfu_public_addresses: tuple[Annotated[str, AfterValidator(_ip_address)], ...] = Field(
        default=(), description="Addresses in the local SFU's ICE candidates; when empty, those of this machine."
    )
    turn_urls: tuple[Annotated[str, AfterValidator(_turn_url)], ...] = Field(
        default=(),
        description="Own TURN servers, with any backend or none, such as turn:turn.example.org:3478?transport=udp.",
    )
    turn_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Secret shared with the TURN servers (coturn's static-auth-secret), for credentials that expire.",
    )
    turn_ttl: Seconds = Field(default=3600.0, description="Lifetime in seconds of credentials made with turn_secret.")
    turn_username: str = Field(default="", description="Instead of turn_secret: one user name for all clients.")
    turn_password: SecretStr = Field(default=SecretStr(""), description="The password of turn_username.")
    options: dict[str, Any] = _options()


class Cloudflare(Section):
    """Cloudflare Realtime: SFU and TURN."""

    app_id: str = Field(default="", description="App of the SFU.")
    app_secret: SecretStr = Field(default=SecretStr(""), description="The app's bearer token.")
    base_url: Annotated[WebAddress, Field(min_length=1)] = Field(
        default="https://rtc.live.cloudflare.com/v1", description="Address of the SFU's interface."
    )
    stun_url: Annotated[str, _address("stun:", "stuns:")] = Field(
        default="stun:stun.cloudflare.com:3478", description="STUN server for clients."
    )
    turn_key_id: str = Field(
        default="", description="Key for short-lived TURN credentials; when empty, clients get STUN only."
    )
    turn_key_token: SecretStr = Field(default=SecretStr(""), description="The TURN key's bearer token.")
    turn_ttl: Seconds = Field(default=3600.0, description="Lifetime of TURN credentials in seconds.")
    request_timeout: Seconds = Field(default=10.0, description="Seconds that one request to Cloudflare may take.")


class Bus(Section):
    """How nodes reach each other's clients."""

    backend: Annotated[str, Field(min_length=1), _written_as()] = Field(
        default="local", description='"local" (one node), "nats", or the name of an adapter that is installed.'
    )
    nats_url: Annotated[Secret, _address("nats://", "tls://", "ws://", "wss://")] = Field(
        default=SecretStr("nats://127.0.0.1:4222"),
        description="Address of nats-server; may carry user and password, or a token.",
    )
    nats_ca_path: str = Field(
        default="", description="PEM file with the authorities that verify nats-server's certificate."
    )
    nats_cert_path: str = Field(default="", description="PEM file with the certificate that this node presents.")
    nats_key_path: str = Field(default="", description="PEM file with that certificate's private key.")
    nats_credentials_path: str = Field(
        default="", description="Credentials file of a NATS account, instead of user and password."
    )
    nats_subject_prefix: Annotated[str, AfterValidator(_token)] = Field(
        default="signal-manager",
        description="Prefix of all subjects; services with different prefixes can share a NATS.",
    )
    node_id: Annotated[str, AfterValidator(_optional_name)] = Field(
        default="", description="Name of this node; when empty, the service makes one at its start."
    )
    options: dict[str, Any] = _options()


class Logging(Section):
    """The log: level, format and file."""

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        _written_as(trace="debug", warn="warning", fatal="critical"),
    ] = Field(default="info", description='"debug", "info", "warning", "error" or "critical".')
    format: Annotated[Literal["json", "console"], _written_as()] = Field(
        default="json", description='"json" or "console"; when not set at all, "console" on a terminal.'
    )
    file_path: str = Field(default="", description="Also log to this file, which is rotated.")
    console_output: bool = Field(default=True, description="Log to standard error.")
    max_file_size: Size = Field(default=10485760, description="Bytes after which the file is rotated.")
    max_files: Count = Field(default=5, description="Rotated files that are kept beside the current one.")


class Metrics(Section):
    """The second port: metrics, health and administration."""

    enabled: bool = Field(default=True, description="Open this port.")
    host: Host = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = Field(default=9090, description="Port to listen on; 0 lets the system choose one.")
    connection_stats_interval: Seconds = Field(
        default=60.0, description="Seconds between two log lines about connections."
    )
    message_stats_interval: Seconds = Field(default=30.0, description="Seconds between two log lines about messages.")


class Admin(Section):
    """Management on the second port."""

    enabled: bool = Field(default=True, description="Serve the management interface and the dashboard.")
    token: SecretStr = Field(
        default=SecretStr(""), description="Bearer token; required when metrics.host is not loopback."
    )
    demo: bool = Field(default=True, description="Serve the demo page, on loopback only.")


class Config(BaseModel):
    """The service's whole configuration.

    Constructing it reads neither files nor the environment, so `Config()` is exactly the defaults: see `load`. Settings
    that contradict each other are refused, unless the validation's context holds `even_if_contradictory`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: Server = Server()
    auth: Auth = Auth()
    session: Session = Session()
    rooms: Rooms = Rooms()
    security: Security = Security()
    storage: Storage = Storage()
    firestore: Firestore = Firestore()
    gcp: Gcp = Gcp()
    media: Media = Media()
    cloudflare: Cloudflare = Cloudflare()
    bus: Bus = Bus()
    logging: Logging = Logging()
    metrics: Metrics = Metrics()
    admin: Admin = Admin()

    @model_validator(mode="after")
    def _agrees(self, info: ValidationInfo) -> Self:
        if not (info.context or {}).get("even_if_contradictory"):
            for contradiction in contradictions(self):
                raise ValueError(contradiction)
        return self


def contradictions(config: Config) -> Iterator[str]:
    """Yield what settings say against each other, one sentence each."""
    server, session, auth = config.server, config.session, config.auth
    if server.heartbeat_timeout <= server.heartbeat_interval:
        yield (
            f"server.heartbeat_timeout ({server.heartbeat_timeout:g} s) must be longer than "
            f"server.heartbeat_interval ({server.heartbeat_interval:g} s)"
        )
    if config.rooms.leave_after <= config.rooms.away_after:
        yield (
            f"rooms.leave_after ({config.rooms.leave_after:g} s) must be longer than "
            f"rooms.away_after ({config.rooms.away_after:g} s)"
        )
    if server.tls_enabled and not (server.tls_cert_path and server.tls_key_path):
        yield "server.tls_enabled needs server.tls_cert_path and server.tls_key_path"
    if session.resume_total_bytes < session.resume_buffer_bytes:
        yield (
            f"session.resume_total_bytes ({session.resume_total_bytes}) must not be smaller than "
            f"session.resume_buffer_bytes ({session.resume_buffer_bytes})"
        )
    yield from _contradictions_of_turn(config.media)
    by_public_key = [algorithm for algorithm in auth.jwt_algorithms if algorithm != "HS256"]
    if by_public_key and not auth.jwks_url:
        yield f"auth.jwt_algorithms allows {by_public_key[0]}, which needs auth.jwks_url"
    if auth.jwks_url and not by_public_key:
        yield "auth.jwks_url is set, but auth.jwt_algorithms allows neither RS256 nor ES256"
    is_administrable = config.metrics.enabled and config.admin.enabled and not is_loopback(config.metrics.host)
    if is_administrable and not config.admin.token.get_secret_value():
        yield f"admin.token is required, since metrics.host {config.metrics.host} is not loopback"


def _contradictions_of_turn(media: Media) -> Iterator[str]:
    has_secret = bool(media.turn_secret.get_secret_value())
    has_username, has_password = bool(media.turn_username), bool(media.turn_password.get_secret_value())
    if has_username != has_password:
        given, missing = ("username", "password") if has_username else ("password", "username")
        yield f"media.turn_{given} needs media.turn_{missing}"
    if has_secret and has_username:
        yield "media.turn_secret and media.turn_username are both set, expected one of them"
    if media.turn_urls and not (has_secret or has_username or has_password):
        yield "media.turn_urls needs media.turn_secret, or media.turn_username and media.turn_password"
    if not media.turn_urls and (has_secret or (has_username and has_password)):
        yield f"media.turn_{'secret' if has_secret else 'username'} needs media.turn_urls"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach `host`; any name but localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def static_keys(config: Config) -> list[str]:
    """Return the static keys: those that are set, and those of the test clients while nothing of [auth] is."""
    if not config.auth.model_fields_set:
        return list(DEFAULT_API_KEYS)
    return [key.get_secret_value() for key in config.auth.api_keys]


def published_credentials(config: Config) -> list[str]:
    """Return what everybody knows of the credentials that get clients in: these are good on this machine alone."""
    auth = config.auth
    found = []
    if (
        auth.auth_method in {"token", "jwt"}
        and "HS256" in auth.jwt_algorithms
        and DEFAULT_TOKEN_SECRET in secrets(config)
    ):
        found.append("auth.token_secret")
    if auth.auth_method in {"token", "api_key"}:
        found += [key.partition(":")[0] for key in static_keys(config) if key in DEFAULT_API_KEYS]
    return found


def secrets(config: Config) -> list[str]:
    """Return what HS256 tokens are verified with, the one that signs them first."""
    auth = config.auth
    return [each.get_secret_value() for each in (auth.token_secret, *auth.previous_token_secrets)]


def insecure_settings(config: Config) -> list[str]:
    """Return the settings, as "section.key", that must change before the service may listen beyond loopback."""
    if is_loopback(config.server.host):
        return []
    insecure = []
    if config.auth.token_secret.get_secret_value() == DEFAULT_TOKEN_SECRET:
        insecure.append("auth.token_secret")
    if any(key.get_secret_value() in DEFAULT_API_KEYS for key in config.auth.api_keys):
        insecure.append("auth.api_keys")
    return insecure


def exposure(config: Config) -> str | None:
    """Return why `serve` refuses to let strangers in with secrets that everybody knows; None where it does not."""
    exposed = insecure_settings(config)
    if not exposed:
        return None
    return (
        f"refusing to listen on {config.server.host} while {' and '.join(exposed)} "
        f"{'are' if len(exposed) > 1 else 'is'} the published default: change it, or pass --insecure"
    )


def weak_secrets(config: Config) -> list[str]:
    """Return the settings whose HS256 secrets are shorter than RFC 7518, section 3.2, asks for."""
    secrets = {
        "auth.token_secret": (config.auth.token_secret,),
        "auth.previous_token_secrets": config.auth.previous_token_secrets,
    }
    return [
        name
        for name, values in secrets.items()
        if any(len(value.get_secret_value().encode()) < HMAC_SECRET_BYTES for value in values)
    ]


def bus_backend_of(config: Config) -> str:
    """Return the bus that nodes meet on: `bus.backend`, but NATS for the workers of a service that names no bus."""
    backend = config.bus.backend
    return "nats" if backend == "local" and config.server.workers > 1 else backend


def has_other_nodes(config: Config) -> bool:
    """Tell whether the service is, or may be, more than one process."""
    return bus_backend_of(config) != "local"


def unsupported_settings(config: Config) -> list[str]:
    """Return what `config` asks for and this version cannot do, one sentence each.

    Starting in spite of it would be worse than not starting: memory in place of a database, or half a room.
    """
    if not has_other_nodes(config):
        return []
    backend = config.bus.backend
    asked = f'bus.backend = "{backend}"' if backend != "local" else f"server.workers = {config.server.workers}"
    problems = []
    if config.storage.backend == "memory":
        problems.append(
            f'{asked} needs a store that all processes share: set storage.backend to "sqlite" or "firestore"'
        )
    if config.session.max_sessions_per_client > 1:
        problems.append(f"{asked} allows one session per client: set session.max_sessions_per_client to 1")
    if _has_own_sfu(config):
        problems.append(
            f"{asked} needs an SFU that all processes share, and media.backend is the one inside a process: run "
            "`signal-manager sfu` and name it in [cloudflare], use Cloudflare Realtime, or set media.backend to "
            '"none"'
        )
    urls = config.bus.nats_url.get_secret_value().split(",")
    if bus_backend_of(config) == "nats" and any(url.startswith(("ws://", "wss://")) for url in urls):
        problems.append("bus.nats_url over WebSocket is not supported yet: use nats:// or tls://")
    return problems


def capacity(config: Config) -> str | None:
    """Say what the SFU inside the service carries; None where there is no such SFU."""
    if not _has_own_sfu(config):
        return None
    packets, members = config.media.sfu_max_packets_per_second, 1
    while members * (members + 1) * PACKETS_OF_MEMBER <= packets:
        members += 1
    return (
        f"the local SFU forwards up to {packets} packets/s on one core (media.sfu_max_packets_per_second): a room of "
        f"{members} in which everybody sends sound and a picture; `signal-manager sfu --workers` uses more cores"
    )


def _has_own_sfu(config: Config) -> bool:
    if config.media.backend != "auto":
        return config.media.backend == "local"
    return not (config.cloudflare.app_id and config.cloudflare.app_secret.get_secret_value())
