"""Builds the parts that the configuration names: storage, bus, SFU and authenticators.

`service/app.py` runs the service with them. Commands that need only one part build it here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import structlog

from signal_manager.adapters import load_adapter
from signal_manager.auth.authenticators import (
    Authenticator,
    FirstOf,
    OnThisMachineAlone,
    StaticKeys,
    StoredClients,
)
from signal_manager.auth.jwks import JwksKeys
from signal_manager.auth.signed_tokens import SignedTokens
from signal_manager.bus.base import Bus
from signal_manager.errors import ConfigurationError, UnavailableError
from signal_manager.gateway.ports import RelayTarget
from signal_manager.loading import Loader
from signal_manager.media.base import MediaBackend
from signal_manager.model import NodeId
from signal_manager.observe.metrics import Metrics
from signal_manager.service.config import Config, bus_backend_of, options_for, published_credentials
from signal_manager.service.settings import DEFAULT_API_KEYS, DEFAULT_TOKEN_SECRET, secrets, static_keys
from signal_manager.storage.base import Storage

if TYPE_CHECKING:
    from signal_manager.bus.nats.link import NatsSecurity
    from signal_manager.storage.firestore import FirestoreStorage

__all__ = [
    "NO_SFU",
    "Authenticators",
    "Media",
    "authenticators_for",
    "bus_for",
    "check_bus",
    "cloudflare_for",
    "is_sfu_missing",
    "media_backend_of",
    "media_for",
    "missing_sfu",
    "storage_for",
]

log = structlog.get_logger(__name__)

NO_SFU = "the local SFU is not installed: pip install 'signal-manager[sfu]'"


def _nats_security(config: Config) -> NatsSecurity:
    """Return how this node authenticates to NATS."""
    from signal_manager.bus.nats.link import NatsSecurity  # noqa: PLC0415 - most services have no use for it

    settings = config.bus
    return NatsSecurity(
        ca_path=settings.nats_ca_path,
        cert_path=settings.nats_cert_path,
        key_path=settings.nats_key_path,
        credentials_path=settings.nats_credentials_path,
    )


def storage_for(config: Config) -> Storage:
    """Build the store that `storage.backend` names; the caller opens it."""
    backend = config.storage.backend
    adapter, settings = _adapter(config, "storage", backend)
    settings["operation_timeout"] = config.storage.operation_timeout
    if backend == "sqlite":
        settings["path"] = config.storage.sqlite_path
    elif backend == "firestore":
        settings |= _firestore_settings(config)
    storage: Storage = adapter(**settings)
    return storage


def _adapter(config: Config, wall: str, name: str) -> tuple[Any, dict[str, Any]]:
    """Return an adapter, and its options as keyword arguments."""
    adapter = load_adapter(wall, name)
    options = options_for(config, wall, adapter)
    return adapter, {} if options is None else {"options": options}


def original_store_for(config: Config) -> FirestoreStorage:
    """Build the store of the original service from [firestore]; the caller opens it."""
    adapter = load_adapter("storage", "firestore")
    storage: FirestoreStorage = adapter(
        operation_timeout=config.storage.operation_timeout, **_firestore_settings(config)
    )
    return storage


def _firestore_settings(config: Config) -> dict[str, Any]:
    return {
        "project": config.firestore.project_id,
        "database": config.firestore.database_name,
        "credentials_path": config.firestore.credentials_path,
        "collection_prefix": config.firestore.collection_prefix,
    }


def media_backend_of(config: Config) -> str:
    """Return the media backend; "auto" means Cloudflare if its credentials are set, else the local SFU."""
    if config.media.backend != "auto":
        return config.media.backend
    if config.cloudflare.app_id and config.cloudflare.app_secret.get_secret_value():
        return "cloudflare"
    # Clients still find each other peer to peer.
    return "none" if is_sfu_missing() else "local"


def is_sfu_missing() -> bool:
    """Tell whether the local SFU, a distribution of its own, is not installed, or not what it needs."""
    return any(importlib.util.find_spec(name) is None for name in ("signal_manager.sfu", "aiortc"))


def missing_sfu(config: Config) -> str | None:
    """Say that rooms have no media because the local SFU is not installed; None where that is not the reason."""
    if config.media.backend == "auto" and media_backend_of(config) == "none":
        return f'rooms have no media, since media.backend is "auto" and {NO_SFU}'
    return None


def cloudflare_for(config: Config, metrics: Metrics) -> MediaBackend:
    """Build the client of Cloudflare Realtime; the caller opens it.

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
async def bus_for(config: Config, node_id: NodeId, metrics: Metrics) -> AsyncIterator[Bus[RelayTarget]]:
    """Run the bus that `bus.backend` names while the block lasts."""
    name = bus_backend_of(config)
    adapter, settings = _adapter(config, "bus", name)
    if name == "local":
        settings["max_subscribers"] = config.session.max_sessions_per_client
    else:
        settings |= {"node_id": node_id, "metrics": metrics}
    if name == "nats":
        settings |= {
            "url": config.bus.nats_url.get_secret_value(),
            "security": _nats_security(config),
            "prefix": config.bus.nats_subject_prefix,
        }
    bus: Bus[RelayTarget] = adapter(**settings)
    async with bus:
        yield bus


async def check_bus(config: Config) -> None:
    """Connect to nats-server once, if the bus is NATS.

    Raises:
        ConfigurationError, UnavailableError: as at the start of a node.
    """
    if bus_backend_of(config) != "nats":
        return
    from signal_manager.bus.nats.link import NatsLink  # noqa: PLC0415 - as above

    async with NatsLink(config.bus.nats_url.get_secret_value(), name="check", security=_nats_security(config)):
        pass


class Media(NamedTuple):
    """An SFU, and the STUN and TURN servers for its clients."""

    backend: MediaBackend | None
    app_id: str = ""
    stun_url: str = ""


@contextlib.asynccontextmanager
async def media_for(config: Config, metrics: Metrics, loader: Loader | None = None) -> AsyncIterator[Media]:
    """Run the media backend while the block lasts; there is none if clients talk only peer to peer.

    Args:
        loader: imports the local SFU; None imports it at once.
    """
    backend_name = media_backend_of(config)
    if backend_name in {"cloudflare", "local", "none"}:
        options_for(config, "media", None)
    match backend_name:
        case "cloudflare":
            async with cloudflare_for(config, metrics) as backend:
                yield Media(backend, config.cloudflare.app_id, config.cloudflare.stun_url)
        case "local":
            async with _local_media(config, metrics, loader or Loader()) as media:
                yield media
        case "none":
            if reason := missing_sfu(config):
                log.warning(reason)
            yield Media(None)
        case other:
            adapter, settings = _adapter(config, "media", other)
            settings |= {"metrics": metrics, "request_timeout": config.cloudflare.request_timeout}
            async with adapter(**settings) as backend:
                yield Media(backend)


@contextlib.asynccontextmanager
async def _local_media(config: Config, metrics: Metrics, loader: Loader) -> AsyncIterator[Media]:
    """Run the local SFU while the block lasts, with a client of Cloudflare's interface.

    Its libraries take as long to import as all others together, so that it starts while the service runs already, and
    the first who needs it waits. A port of its own may be taken: then it starts first, to say so.
    """
    if is_sfu_missing():
        raise ConfigurationError(f'media.backend is "local" and {NO_SFU}')
    app_id, app_secret = token_hex(16), token_hex()
    opened: asyncio.Future[MediaBackend] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def run() -> None:
        try:
            async with _local_backend(config, metrics, app_id, app_secret, loader) as backend:
                opened.set_result(backend)
                await over.wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)

    running = asyncio.create_task(run(), name="local SFU")
    try:
        if config.media.sfu_udp_port:
            loader.begin()
            yield Media(await asyncio.shield(opened), app_id)
        else:
            opened.add_done_callback(_report)
            yield Media(cast("MediaBackend", _LateBackend(opened)), app_id)
    finally:
        over.set()
        loader.begin()  # a start that fails before the service listens must not wait for it
        await running


@contextlib.asynccontextmanager
async def _local_backend(
    config: Config, metrics: Metrics, app_id: str, app_secret: str, loader: Loader
) -> AsyncIterator[MediaBackend]:
    def imported() -> Any:
        load_adapter("media", "cloudflare")
        return importlib.import_module("signal_manager.sfu")

    module = await loader.load(imported)
    sfu = module.LocalSfu(
        http_port=0,
        udp_port=config.media.sfu_udp_port,
        public_addresses=config.media.sfu_public_addresses,
        app_id=app_id,
        app_secret=app_secret,
        settings=module.SfuSettings(max_packets_per_second=config.media.sfu_max_packets_per_second),
    )
    async with sfu:
        backend: MediaBackend = load_adapter("media", "cloudflare")(
            app_id=app_id,
            app_secret=app_secret,
            metrics=metrics,
            base_url=sfu.base_url,
            stun_url="",  # the SFU is on this machine, so clients need only its own address
            request_timeout=config.cloudflare.request_timeout,
        )
        async with backend:
            yield backend


class _LateBackend:
    """A backend that is not there yet: each of its methods waits for it."""

    def __init__(self, opened: asyncio.Future[MediaBackend]) -> None:
        self._opened = opened

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def wait_and_call(*args: Any, **kwargs: Any) -> Any:
            try:
                # A request that is given up must not take the SFU with it.
                backend = await asyncio.shield(self._opened)
            except Exception as error:
                raise UnavailableError("the local SFU could not start; the log says why") from error
            return await getattr(backend, name)(*args, **kwargs)

        return wait_and_call


def _report(opened: asyncio.Future[MediaBackend]) -> None:
    if not opened.cancelled() and opened.exception() is not None:
        log.error("the local SFU could not start", exc_info=opened.exception())


class Authenticators(NamedTuple):
    """The authenticators for requests from this machine, and for all others."""

    near: Authenticator
    far: Authenticator


@contextlib.asynccontextmanager
async def authenticators_for(config: Config, storage: Storage) -> AsyncIterator[Authenticators]:
    """Build the authenticators of `auth.auth_method`, and refresh keys from a JWKS URL while the block lasts.

    Published default credentials work only for requests from this machine.
    """
    if config.auth.auth_method == "store":
        stored = StoredClients(find=storage.get_client, rewrite=storage.update_client)
        yield Authenticators(stored, stored)
        return
    published = published_credentials(config)
    own_keys = [key for key in static_keys(config) if key not in DEFAULT_API_KEYS]
    own_secrets = [secret for secret in secrets(config) if secret != DEFAULT_TOKEN_SECRET]
    async with contextlib.AsyncExitStack() as stack:
        jwks = config.auth.jwks_url if config.auth.auth_method != "api_key" else ""
        public_keys = await stack.enter_async_context(JwksKeys(jwks)) if jwks else None
        near = _authenticator(config, static_keys(config), secrets(config), public_keys)
        if not published:
            yield Authenticators(near, near)
        elif own_keys or own_secrets or public_keys is not None:
            # No token is signed with this secret.
            yield Authenticators(near, _authenticator(config, own_keys, own_secrets or [token_hex()], public_keys))
        else:
            yield Authenticators(near, OnThisMachineAlone())


def _authenticator(
    config: Config, keys: list[str], verifying: list[str], public_keys: JwksKeys | None
) -> Authenticator:
    auth = config.auth
    static = StaticKeys(keys)
    if auth.auth_method == "api_key":
        return static
    signed = SignedTokens(
        verifying[0],
        previous_secrets=verifying[1:],
        algorithms=auth.jwt_algorithms,
        audience=auth.jwt_audience,
        issuer=auth.jwt_issuer,
        keys=public_keys,
        leeway=auth.leeway,
    )
    return signed if auth.auth_method == "jwt" else FirstOf(static, signed)
