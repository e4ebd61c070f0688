"""The composition root: starts a service from a Config, and stops it in order.

Only this module and the command line know every part. Each part gets its dependencies as keyword arguments.
`service/backends.py` builds the parts that the configuration chooses.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import structlog
import uvloop

from signal_manager import __version__
from signal_manager.admin.cluster import ClusterSessions
from signal_manager.admin.exposition import MetricsExposition
from signal_manager.errors import ConfigurationError
from signal_manager.form import form
from signal_manager.gateway.dispatcher import Dispatcher
from signal_manager.gateway.limits import HALF_OPEN, STRANGERS, Limits
from signal_manager.gateway.listener import listen
from signal_manager.gateway.server import Dashboard, Server
from signal_manager.gateway.sessions import ResumeSettings
from signal_manager.gateway.tls import Certificate
from signal_manager.loading import Loader
from signal_manager.media.base import MediaBackend
from signal_manager.media.negotiation import Limits as NegotiationLimits
from signal_manager.model import NodeId
from signal_manager.observe import logs
from signal_manager.observe.metrics import Metrics
from signal_manager.observe.tracing import Tracing, tracing_from
from signal_manager.protocol.state_machine import SessionSettings
from signal_manager.records.housekeeping import Housekeeping
from signal_manager.records.registrations import Registrations
from signal_manager.rooms import RoomService, RoomSettings, TurnServers
from signal_manager.service.backends import authenticators_for, bus_for, media_for, storage_for
from signal_manager.service.config import (
    Config,
    as_plain,
    exposure,
    has_other_nodes,
    insecure_settings,
    is_loopback,
    published_credentials,
    unsupported_settings,
    weak_secrets,
)
from signal_manager.storage.base import Storage
from signal_manager.storage.measured import measured

if TYPE_CHECKING:
    from signal_manager.admin.api import Management
    from signal_manager.admin.server import AdminServer
    from signal_manager.admin.tokens import TokenIssuer

__all__ = [
    "check_exposure",
    "configure_logs",
    "dashboard_of",
    "local_url",
    "local_url_of",
    "run",
    "running",
    "tell_of_published_credentials",
]

log = structlog.get_logger(__name__)

# File descriptors beside the connections: the second port's, the listener, the log file, the event loop, a database.
_OTHER_DESCRIPTORS = 256

# The share of `server.drain_timeout` that is left for these parts after the connections.
_ROOMS_STOP_SHARE = 0.15
_RECORDS_STOP_SHARE = 0.08


@contextlib.asynccontextmanager
async def running(
    config: Config, *, dashboard: Dashboard | None = None, is_announced: bool = False
) -> AsyncIterator[Server]:
    """Run the service while the block lasts; the yielded server's `port` is the port that it listens on.

    Args:
        dashboard: the second port of another process of this service, if this process has none.
        is_announced: whether the terminal shows the start, so that the log need not.

    Raises:
        ConfigurationError: the service cannot run with this configuration; the message names the setting.
    """
    for problem in unsupported_settings(config):
        raise ConfigurationError(problem)
    async with contextlib.AsyncExitStack() as stack:
        listening = stack.enter_context(
            listen(config.server.host, config.server.port, is_shared=config.server.workers > 1)
        )
        room = _allow_descriptors(config.server.max_connections)
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
        loader = Loader(waits=True)
        media = await stack.enter_async_context(media_for(config, metrics, loader))
        bus = await stack.enter_async_context(bus_for(config, node_id, metrics))
        rooms = RoomService(
            storage=storage,
            bus=bus,
            media=_traced(media.backend, tracing),
            metrics=metrics,
            node_id=node_id,
            settings=RoomSettings(
                app_id=media.app_id,
                stun_url=media.stun_url,
                turn=TurnServers(
                    urls=config.media.turn_urls,
                    secret=config.media.turn_secret.get_secret_value(),
                    username=config.media.turn_username,
                    password=config.media.turn_password.get_secret_value(),
                    ttl=config.media.turn_ttl,
                ),
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
        authenticators = await stack.enter_async_context(authenticators_for(config, storage))
        server = Server(
            dispatcher=Dispatcher(
                authenticator=authenticators.near,
                far=authenticators.far,
                bus=bus,
                registrations=registrations,
                rooms=rooms,
                tracing=tracing,
            ),
            bus=bus,
            listening=listening,
            version=__version__,
            limits=Limits(
                max_connections=room.connections,
                max_strangers=room.strangers,
                max_connections_per_address=config.security.max_connections_per_ip,
                messages_per_minute=(
                    config.security.max_messages_per_minute if config.security.rate_limit_enabled else None
                ),
                bytes_per_minute=(config.security.max_bytes_per_minute if config.security.rate_limit_enabled else None),
                largest_message=config.server.max_message_size,
                connects_per_minute=config.security.max_connects_per_minute,
                failed_auth_per_minute=config.security.max_failed_auth_per_minute,
                outbound_queue_bytes=config.server.outbound_queue_bytes,
                half_read_bytes=config.server.max_half_read_bytes,
                write_buffer_bytes=config.server.write_buffer_size,
            ),
            allowed_origins=config.security.allowed_origins,
            trusted_proxies=config.server.trusted_proxies,
            certificate=certificate,
            read_buffer_size=config.server.read_buffer_size,
            session=SessionSettings(
                connection_timeout=config.server.connection_timeout,
                heartbeat_interval=config.server.heartbeat_interval,
                heartbeat_timeout=config.server.heartbeat_timeout,
                away_after=config.rooms.away_after,
                leave_after=config.rooms.leave_after,
                token_leeway=config.auth.leeway,
                on_expiry=config.auth.token_expiry_action,
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
        )
        bus.serve_others(hand_over=server.hand_over, join=server.join_writes, flush=server.flush_writes)
        if not has_other_nodes(config):
            reclaimed = await server.reclaim()
            if reclaimed:
                log.info("sessions reclaimed", sessions=reclaimed)

        def degradations() -> list[str]:
            return [] if bus.is_connected else ["the other nodes cannot be reached"]

        cluster = ClusterSessions(
            live_sessions=server.live_sessions, rooms=rooms, node_id=node_id, others=bus.ask_others
        )
        exposition = MetricsExposition(metrics, node_id=node_id, workers=config.server.workers, others=bus.ask_others)
        bus.respond(lambda question: exposition.answer(question) or cluster.answer(question))
        if config.metrics.enabled:

            def management() -> Management:
                from signal_manager.admin.api import Management  # noqa: PLC0415 - a quarter of what a service imports

                return Management(
                    live_sessions=server.live_sessions,
                    storage=storage,
                    rooms=rooms,
                    bus=bus,
                    cluster=cluster,
                    tokens=_token_issuer(config),
                    configuration=as_plain(config),
                    node_id=node_id,
                    version=__version__,
                    has_demo=config.admin.demo and is_loopback(config.metrics.host),
                )

            admin = await stack.enter_async_context(
                _admin(
                    config,
                    server,
                    storage,
                    management,
                    metrics,
                    loader=loader,
                    exposition=exposition,
                    degradations=degradations,
                )
            )
            dashboard = dashboard_of(config, port=admin.port)
        server.dashboard = dashboard
        await server.start()
        stack.push_async_callback(server.stop)
        if certificate is not None:
            stack.enter_context(_reloaded_on_hangup(certificate))
        say = log.debug if is_announced else log.info
        say("service started", host=server.host, port=server.port, version=__version__, form=form())
        loader.begin()
        yield server
        log.info("service stopping")
    log.info("service stopped")


def run(
    config: Config,
    *,
    insecure: bool = False,
    announce: Callable[[Server], None] | None = None,
    is_worker: bool = False,
    dashboard: Dashboard | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """Run the service, or one worker of it, until SIGTERM or SIGINT.

    Args:
        insecure: listen beyond loopback although secrets are the published defaults.
        announce: called once the service listens, to show a person the first steps instead of log lines.
        is_worker: whether a supervisor has already logged the configuration's warnings.
        dashboard: for a worker, the second port of the first worker.
        warnings: settings that the service interprets differently than written, for the log.

    Raises:
        ConfigurationError: the service cannot run with this configuration.
    """
    check_exposure(config, insecure=insecure)
    written = configure_logs(config, is_quiet=is_worker, warnings=warnings)
    try:
        uvloop.run(_run_until_signal(config, announce, is_worker=is_worker, dashboard=dashboard))
    finally:
        written.close()


def check_exposure(config: Config, *, insecure: bool) -> None:
    """Refuse to listen beyond loopback with published default secrets.

    Raises:
        ConfigurationError: the message names the secret to change.
    """
    reason = exposure(config)
    if reason is not None and not insecure:
        raise ConfigurationError(reason)


def configure_logs(config: Config, *, is_quiet: bool = False, warnings: Sequence[str] = ()) -> logs.Logs:
    """Set up logging; log configuration warnings unless `is_quiet`."""
    written = logs.configure(
        level=config.logging.level,
        format=config.logging.format if "format" in config.logging.model_fields_set else None,
        file_path=config.logging.file_path or None,
        console_output=config.logging.console_output,
        max_file_size=config.logging.max_file_size,
        max_files=config.logging.max_files,
    )
    for warning in warnings:
        log.warning("configuration", note=warning)
    if not is_quiet:
        for setting in insecure_settings(config):
            log.warning("insecure default in use", setting=setting)
        for setting in weak_secrets(config):
            log.warning("secret is shorter than 32 bytes", setting=setting)
    return written


def tell_of_published_credentials(config: Config, *, is_announced: bool = False) -> None:
    """Log that the service, which listens now, accepts published credentials.

    That is intended for a first run on one machine. It is a warning if other machines can connect.
    """
    published = published_credentials(config)
    if not published:
        return
    is_for_others = not is_loopback(config.server.host) or bool(config.server.trusted_proxies)
    say = log.warning if is_for_others else log.debug if is_announced else log.info
    say("published credentials are good on this machine alone", published=published)


def dashboard_of(config: Config, *, port: int) -> Dashboard | None:
    """Return the location of the second port's pages, or None if it has none."""
    if not (config.metrics.enabled and config.admin.enabled):
        return None
    return Dashboard(config.metrics.host, port, is_loopback(config.metrics.host))


def _traced(backend: MediaBackend | None, tracing: Tracing | None) -> MediaBackend | None:
    return backend if backend is None or tracing is None else tracing.around(backend, MediaBackend, "sfu")


def _admin(
    config: Config,
    server: Server,
    storage: Storage,
    management: Callable[[], Management],
    metrics: Metrics,
    *,
    loader: Loader,
    exposition: MetricsExposition,
    degradations: Callable[[], list[str]],
) -> AdminServer:
    """Build the second port."""
    from signal_manager.admin.server import AdminServer  # noqa: PLC0415 - as above

    return AdminServer(
        host=config.metrics.host,
        port=config.metrics.port,
        is_loopback=is_loopback(config.metrics.host),
        version=__version__,
        live_sessions=server.live_sessions,
        storage=storage,
        degradations=degradations,
        metrics=metrics,
        exposition=exposition,
        connection_stats_interval=config.metrics.connection_stats_interval,
        message_stats_interval=config.metrics.message_stats_interval,
        token=config.admin.token.get_secret_value(),
        management=management if config.admin.enabled else None,
        websocket_url=local_url(server),
        loader=loader,
    )


def _token_issuer(config: Config) -> TokenIssuer | None:
    """Build the signer of tokens, or return None if the service would not accept them."""
    from signal_manager.admin.tokens import TokenIssuer  # noqa: PLC0415 - as above

    auth = config.auth
    if auth.auth_method in {"api_key", "store"} or "HS256" not in auth.jwt_algorithms:
        return None
    return TokenIssuer(
        auth.token_secret.get_secret_value(),
        default_ttl=auth.token_expiry,
        audience=auth.jwt_audience,
        issuer=auth.jwt_issuer,
    )


def local_url(server: Server) -> str:
    """Return the URL of the WebSocket port for a browser on this machine."""
    return local_url_of(server.host, server.port, is_secure=server.is_secure)


def local_url_of(host: str, port: int, *, is_secure: bool) -> str:
    """Return the URL of `host` and `port` for a browser on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not listened on
    scheme = "wss" if is_secure else "ws"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def _run_until_signal(
    config: Config, announce: Callable[[Server], None] | None, *, is_worker: bool, dashboard: Dashboard | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # A log file contains everything, so the announcement does not replace its lines.
    is_announced = announce is not None and not config.logging.file_path
    async with running(config, dashboard=dashboard, is_announced=is_announced and not is_worker) as server:
        # What the start has made lives as long as the process. Without this, each full collection goes through it
        # again: a seventh of a connect, and a pause of 20 to 40 ms.
        gc.freeze()
        if not is_worker:
            tell_of_published_credentials(config, is_announced=is_announced)
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
    """Reload the certificate's files at every SIGHUP while the block lasts."""

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


class _Room(NamedTuple):
    """The number of connections that the file descriptors allow."""

    connections: int
    strangers: int


def _allow_descriptors(connections: int) -> _Room:
    """Raise the soft limit of file descriptors for this many connections, and return how many it allows.

    The service refuses connections before it runs out, because databases and key files need descriptors too.
    """
    # After a restart all clients return; a quarter of them may be between the upgrade and the answer to CONNECT.
    strangers = max(STRANGERS, connections // 4)
    spare = strangers + HALF_OPEN + _OTHER_DESCRIPTORS
    wanted = connections + spare
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _Room(connections, strangers)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    possible = min(connections, max(allowed - spare, allowed // 2))
    if possible < connections:
        log.warning("too few file descriptors for max_connections", limit=allowed, max_connections=possible)
    return _Room(possible, min(strangers, max(1, (allowed - possible) // 4)))
