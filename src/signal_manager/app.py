"""The composition root: a Config becomes a running service, and a running service stops in order.

Only this module and the command line know every part; each part gets what it needs as keyword arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

import structlog
import uvloop

from signal_manager import __version__, logs
from signal_manager.adapters import load_adapter
from signal_manager.admin import AdminServer, Everywhere, Management, Numbers, TokenIssuer
from signal_manager.auth import Authenticator, FirstOf, SignedTokens, StaticKeys, StoredClients
from signal_manager.bus.local import LocalBus
from signal_manager.bus.nats import NatsBus
from signal_manager.bus.nats_link import NatsSecurity
from signal_manager.config import (
    Config,
    as_plain,
    has_other_nodes,
    insecure_settings,
    is_loopback,
    unsupported_settings,
    weak_secrets,
)
from signal_manager.errors import ConfigurationError
from signal_manager.housekeeping import Housekeeping
from signal_manager.jwks import JwksKeys
from signal_manager.limits import HALF_OPEN, TURNED_AWAY, Limits
from signal_manager.listener import listen
from signal_manager.media.base import MediaBackend
from signal_manager.media.negotiation import Limits as NegotiationLimits
from signal_manager.metrics import Metrics
from signal_manager.model import NodeId
from signal_manager.protocol.session import SessionSettings
from signal_manager.registrations import Registrations
from signal_manager.resumption import Reachable, ResumeSettings
from signal_manager.rooms import RoomService, RoomSettings
from signal_manager.router import Router
from signal_manager.server import Server
from signal_manager.storage.base import Storage
from signal_manager.storage.measured import measured
from signal_manager.tls import Certificate
from signal_manager.tracing import Tracing, tracing_from

__all__ = [
    "check_exposure",
    "cloudflare_for",
    "configure_logs",
    "media_backend_of",
    "nats_security",
    "run",
    "running",
    "storage_for",
]

log = structlog.get_logger(__name__)

# File descriptors beside the connections: the listener, the log file, the event loop, a database.
_OTHER_DESCRIPTORS = 64

# What `server.drain_timeout` has left for these once the switchboard has had its shares of it.
_ROOMS_STOP_SHARE = 0.15
_RECORDS_STOP_SHARE = 0.08


@contextlib.asynccontextmanager
async def running(config: Config) -> AsyncIterator[Server]:
    """Run the service while the block lasts; the server's `port` tells where it listens.

    Raises:
        ConfigurationError: it cannot run like this; the message says which setting to change.
    """
    for problem in unsupported_settings(config):
        raise ConfigurationError(problem)
    async with contextlib.AsyncExitStack() as stack:
        listening = stack.enter_context(
            listen(config.server.host, config.server.port, is_shared=config.server.workers > 1)
        )
        max_connections = _allow_descriptors(config.server.max_connections)
        certificate = _certificate(config)
        metrics = Metrics()
        node_id = NodeId(config.bus.node_id or uuid4().hex)
        tracing = await stack.enter_async_context(tracing_from(os.environ, version=__version__, node_id=node_id))
        storage = measured(await stack.enter_async_context(storage_for(config)), metrics)
        if tracing is not None:
            storage = tracing.around(storage, Storage, "storage")
        registrations = Registrations(
            storage=storage,
            node_id=node_id,
            keeps_records=config.auth.auth_method == "store",
            offline_ttl=config.session.session_timeout,
        )
        media = await stack.enter_async_context(_media(config, metrics))
        bus = await stack.enter_async_context(_bus(config, node_id, metrics))
        rooms = RoomService(
            storage=storage,
            bus=bus,
            media=_traced(media.backend, tracing),
            metrics=metrics,
            node_id=node_id,
            settings=RoomSettings(
                app_id=media.app_id,
                stun_url=media.stun_url,
                limits=NegotiationLimits(answer=config.media.negotiation_timeout),
                stop_timeout=config.server.drain_timeout * _ROOMS_STOP_SHARE,
            ),
        )
        await stack.enter_async_context(
            Housekeeping(
                storage=storage,
                node_id=node_id,
                clean_ups=[registrations.end_node, rooms.clean_up_after],
                expire=rooms.expire,
                close_media=rooms.close_due_media,
                is_alone=not has_other_nodes(config),
                cleanup_interval=config.session.cleanup_interval,
                stop_timeout=config.server.drain_timeout * _RECORDS_STOP_SHARE,
            )
        )
        await stack.enter_async_context(rooms)
        authenticator = await stack.enter_async_context(_authenticator(config, storage))
        server = Server(
            router=Router(
                authenticator=authenticator, bus=bus, registrations=registrations, rooms=rooms, tracing=tracing
            ),
            bus=bus,
            listening=listening,
            version=__version__,
            limits=Limits(
                max_connections=max_connections,
                max_connections_per_address=config.security.max_connections_per_ip,
                messages_per_minute=(
                    config.security.max_messages_per_minute if config.security.rate_limit_enabled else None
                ),
                failed_auth_per_minute=config.security.max_failed_auth_per_minute,
                outbound_queue_bytes=config.server.outbound_queue_bytes,
                write_buffer_bytes=config.server.write_buffer_size,
            ),
            allowed_origins=config.security.allowed_origins,
            trusted_proxies=config.server.trusted_proxies,
            certificate=certificate,
            max_message_size=config.server.max_message_size,
            read_buffer_size=config.server.read_buffer_size,
            session=SessionSettings(
                connection_timeout=config.server.connection_timeout,
                heartbeat_interval=config.server.heartbeat_interval,
                heartbeat_timeout=config.server.heartbeat_timeout,
                server_version=__version__,
            ),
            metrics=metrics,
            resume=ResumeSettings(
                window=config.session.resume_window,
                buffer_bytes=config.session.resume_buffer_bytes,
                total_bytes=config.session.resume_total_bytes,
            ),
            storage=storage,
            drain_timeout=config.server.drain_timeout,
            away=bus if isinstance(bus, NatsBus) else None,
        )
        if isinstance(bus, NatsBus):
            bus.hand_over = server.hand_over
            bus.before_batch, bus.after_batch = server.join_writes, server.flush_writes
        else:
            reclaimed = await server.reclaim()
            if reclaimed:
                log.info("sessions reclaimed", sessions=reclaimed)

        def degradations() -> list[str]:
            return [] if bus.is_connected else ["the other nodes cannot be reached"]

        everywhere = Everywhere(presence=server.presence, rooms=rooms, node_id=node_id, others=bus.ask_others)
        numbers = Numbers(metrics, node_id=node_id, workers=config.server.workers, others=bus.ask_others)
        bus.respond(lambda question: numbers.answer(question) or everywhere.answer(question))
        if config.metrics.enabled:
            management = Management(
                presence=server.presence,
                storage=storage,
                rooms=rooms,
                bus=bus,
                everywhere=everywhere,
                tokens=_token_issuer(config),
                configuration=as_plain(config),
                node_id=node_id,
                version=__version__,
                has_demo=config.admin.demo and is_loopback(config.metrics.host),
            )
            await stack.enter_async_context(
                _admin(config, server, management, metrics, numbers=numbers, degradations=degradations)
            )
        await server.start()
        stack.push_async_callback(server.stop)
        if certificate is not None:
            stack.enter_context(_reloaded_on_hangup(certificate))
        log.info("service started", host=server.host, port=server.port, version=__version__)
        yield server
        log.info("service stopping")
    log.info("service stopped")


def run(
    config: Config,
    *,
    insecure: bool = False,
    announce: Callable[[Server], None] | None = None,
    is_worker: bool = False,
) -> None:
    """Run the service, or one worker of it, until SIGTERM or SIGINT.

    Args:
        insecure: listen beyond loopback although secrets are the published defaults.
        announce: called once the service listens, to tell a person what to try next.
        is_worker: whether a supervisor has said already what is to be said of the configuration.

    Raises:
        ConfigurationError: the service cannot run like this.
    """
    check_exposure(config, insecure=insecure)
    written = configure_logs(config, is_quiet=is_worker)
    try:
        uvloop.run(_run_until_signal(config, announce))
    finally:
        written.close()


def check_exposure(config: Config, *, insecure: bool) -> None:
    """Refuse to let strangers in with secrets that everybody knows.

    Raises:
        ConfigurationError: which to change.
    """
    exposed = insecure_settings(config)
    if exposed and not insecure:
        raise ConfigurationError(
            f"refusing to listen on {config.server.host} while {' and '.join(exposed)} "
            f"{'are' if len(exposed) > 1 else 'is'} the published default: change it, or pass --insecure"
        )


def configure_logs(config: Config, *, is_quiet: bool = False) -> logs.Logs:
    """Begin to log as configured, and unless `is_quiet` log what is to be said of the configuration."""
    written = logs.configure(
        level=config.logging.level,
        format=config.logging.format if "format" in config.logging.model_fields_set else None,
        file_path=config.logging.file_path or None,
        console_output=config.logging.console_output,
        max_file_size=config.logging.max_file_size,
        max_files=config.logging.max_files,
    )
    if not is_quiet:
        for setting in insecure_settings(config):
            log.warning("insecure default in use", setting=setting)
        for setting in weak_secrets(config):
            log.warning("secret is shorter than 32 bytes", setting=setting)
    return written


def nats_security(config: Config) -> NatsSecurity:
    """Return how this node proves to NATS who it is."""
    settings = config.bus
    return NatsSecurity(
        ca_path=settings.nats_ca_path,
        cert_path=settings.nats_cert_path,
        key_path=settings.nats_key_path,
        credentials_path=settings.nats_credentials_path,
    )


def storage_for(config: Config) -> Storage:
    """Build what `storage.backend` asks for, not yet opened.

    An adapter of another package is called with `operation_timeout` alone.
    """
    backend = config.storage.backend
    adapter = load_adapter("storage", backend)
    settings: dict[str, Any] = {"operation_timeout": config.storage.operation_timeout}
    if backend == "sqlite":
        settings["path"] = config.storage.sqlite_path
    elif backend == "firestore":
        settings |= {
            "project": config.firestore.project_id,
            "database": config.firestore.database_name,
            "credentials_path": config.firestore.credentials_path,
            "collection_prefix": config.firestore.collection_prefix,
        }
    storage: Storage = adapter(**settings)
    return storage


def media_backend_of(config: Config) -> str:
    """Return what `media.backend` comes to: "auto" means Cloudflare where there are credentials, else this machine."""
    if config.media.backend != "auto":
        return config.media.backend
    if config.cloudflare.app_id and config.cloudflare.app_secret.get_secret_value():
        return "cloudflare"
    # Without aiortc there is no local SFU, and clients still find each other peer to peer.
    return "local" if importlib.util.find_spec("aiortc") is not None else "none"


def cloudflare_for(config: Config, metrics: Metrics) -> MediaBackend:
    """Build the client of Cloudflare Realtime, not yet opened.

    Raises:
        ConfigurationError: the credentials are missing.
    """
    cloudflare = config.cloudflare
    if not cloudflare.app_id or not cloudflare.app_secret.get_secret_value():
        raise ConfigurationError('media.backend "cloudflare" needs cloudflare.app_id and cloudflare.app_secret')
    backend: MediaBackend = load_adapter("media", "cloudflare")(
        app_id=cloudflare.app_id,
        app_secret=cloudflare.app_secret.get_secret_value(),
        metrics=metrics,
        base_url=cloudflare.base_url,
        stun_url=cloudflare.stun_url,
        turn_key_id=cloudflare.turn_key_id,
        turn_key_token=cloudflare.turn_key_token.get_secret_value(),
        turn_ttl=cloudflare.turn_ttl,
        request_timeout=cloudflare.request_timeout,
    )
    return backend


@contextlib.asynccontextmanager
async def _bus(config: Config, node_id: NodeId, metrics: Metrics) -> AsyncIterator[LocalBus[Reachable]]:
    """Run what `bus.backend` asks for while the block lasts."""
    if not has_other_nodes(config):
        yield LocalBus(max_subscribers=config.session.max_sessions_per_client)
        return
    settings = config.bus
    bus: NatsBus[Reachable] = NatsBus(
        node_id=node_id,
        url=settings.nats_url.get_secret_value(),
        security=nats_security(config),
        prefix=settings.nats_subject_prefix,
        metrics=metrics,
    )
    async with bus:
        yield bus


class _Media(NamedTuple):
    """An SFU, and what clients are told of it."""

    backend: MediaBackend | None
    app_id: str = ""
    stun_url: str = ""


@contextlib.asynccontextmanager
async def _media(config: Config, metrics: Metrics) -> AsyncIterator[_Media]:
    """Run what `media.backend` asks for while the block lasts; no backend where clients talk peer to peer only."""
    match media_backend_of(config):
        case "cloudflare":
            async with cloudflare_for(config, metrics) as backend:
                yield _Media(backend, config.cloudflare.app_id, config.cloudflare.stun_url)
        case "local":
            async with _local_media(config, metrics) as media:
                yield media
        case "none":
            yield _Media(None)
        case other:
            # An adapter of another package is called with `metrics` and `request_timeout` alone.
            adapter = load_adapter("media", other)
            async with adapter(metrics=metrics, request_timeout=config.cloudflare.request_timeout) as backend:
                yield _Media(backend)


def _traced(backend: MediaBackend | None, tracing: Tracing | None) -> MediaBackend | None:
    return backend if backend is None or tracing is None else tracing.around(backend, MediaBackend, "sfu")


@contextlib.asynccontextmanager
async def _local_media(config: Config, metrics: Metrics) -> AsyncIterator[_Media]:
    """Run the local SFU while the block lasts, and speak to it as to Cloudflare."""
    try:
        from signal_manager.media.sfu import LocalSfu  # noqa: PLC0415 - needs an optional dependency
    except ModuleNotFoundError as error:
        raise ConfigurationError("media.backend \"local\" needs: pip install 'signal-manager[rtc]'") from error
    sfu = LocalSfu(http_port=0, udp_port=config.media.sfu_udp_port, public_addresses=config.media.sfu_public_addresses)
    async with sfu:
        backend: MediaBackend = load_adapter("media", "cloudflare")(
            app_id=sfu.app_id,
            app_secret=sfu.app_secret,
            metrics=metrics,
            base_url=sfu.base_url,
            stun_url="",  # the SFU is on this machine: its own address is all that a client needs
            request_timeout=config.cloudflare.request_timeout,
        )
        async with backend:
            yield _Media(backend, sfu.app_id)


def _admin(
    config: Config,
    server: Server,
    management: Management,
    metrics: Metrics,
    *,
    numbers: Numbers,
    degradations: Callable[[], list[str]],
) -> AdminServer:
    """Build the second port."""
    return AdminServer(
        host=config.metrics.host,
        port=config.metrics.port,
        is_loopback=is_loopback(config.metrics.host),
        version=__version__,
        presence=server.presence,
        storage=management.storage,
        degradations=degradations,
        metrics=metrics,
        numbers=numbers,
        connection_stats_interval=config.metrics.connection_stats_interval,
        message_stats_interval=config.metrics.message_stats_interval,
        token=config.admin.token.get_secret_value(),
        management=management if config.admin.enabled else None,
        websocket_url=_local_url(server),
    )


def _token_issuer(config: Config) -> TokenIssuer | None:
    """Build what signs tokens, where the service would accept them."""
    auth = config.auth
    if auth.auth_method in {"api_key", "store"} or "HS256" not in auth.jwt_algorithms:
        return None
    return TokenIssuer(
        auth.token_secret.get_secret_value(),
        default_ttl=auth.token_expiry,
        audience=auth.jwt_audience,
        issuer=auth.jwt_issuer,
    )


def _local_url(server: Server) -> str:
    """Return where a browser on this machine reaches the WebSocket port."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 - read, not listened on
    scheme = "wss" if server.is_secure else "ws"
    return f"{scheme}://[{host}]:{server.port}" if ":" in host else f"{scheme}://{host}:{server.port}"


@contextlib.asynccontextmanager
async def _authenticator(config: Config, storage: Storage) -> AsyncIterator[Authenticator]:
    """Build what `auth.auth_method` asks for; keys from a JWKS URL are refreshed while the block lasts."""
    auth = config.auth
    if auth.auth_method == "store":
        yield StoredClients(find=storage.get_client, rewrite=storage.update_client)
        return
    static = StaticKeys([key.get_secret_value() for key in auth.api_keys])
    if auth.auth_method == "api_key":
        yield static
        return
    async with contextlib.AsyncExitStack() as stack:
        keys = await stack.enter_async_context(JwksKeys(auth.jwks_url)) if auth.jwks_url else None
        signed = SignedTokens(
            auth.token_secret.get_secret_value(),
            previous_secrets=[secret.get_secret_value() for secret in auth.previous_token_secrets],
            algorithms=auth.jwt_algorithms,
            audience=auth.jwt_audience,
            issuer=auth.jwt_issuer,
            keys=keys,
        )
        yield signed if auth.auth_method == "jwt" else FirstOf(static, signed)


async def _run_until_signal(config: Config, announce: Callable[[Server], None] | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(config) as server:
        if announce is not None:
            announce(server)
        await stop.wait()


def _certificate(config: Config) -> Certificate | None:
    if not config.server.tls_enabled:
        return None
    certificate = Certificate(
        cert_path=config.server.tls_cert_path,
        key_path=config.server.tls_key_path,
        client_ca_path=config.server.tls_client_ca_path,
    )
    _warn_of(certificate)
    return certificate


@contextlib.contextmanager
def _reloaded_on_hangup(certificate: Certificate) -> Iterator[None]:
    """Read the certificate's files again at every SIGHUP while the block lasts."""

    def reload() -> None:
        try:
            certificate.reload()
        except ConfigurationError as error:
            log.error("certificate not reloaded", reason=error.message)
            return
        log.info("certificate reloaded")
        _warn_of(certificate)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _warn_of(certificate: Certificate) -> None:
    problem = certificate.problem(datetime.now(UTC))
    if problem is not None:
        log.warning("clients will refuse the certificate", reason=problem)


def _allow_descriptors(connections: int) -> int:
    """Raise the soft limit of file descriptors for so many connections, and return how many it is enough for.

    Running out of them in mid-flight is worse than refusing: databases and key files need them too.
    """
    spare = HALF_OPEN + TURNED_AWAY + _OTHER_DESCRIPTORS
    wanted = connections + spare
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    possible = min(connections, max(allowed - spare, allowed // 2))
    if possible < connections:
        log.warning("too few file descriptors for max_connections", limit=allowed, max_connections=possible)
    return possible
