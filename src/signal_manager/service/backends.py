"""Builds the parts that the configuration names: storage, bus, SFU and authenticators.

`service/app.py` runs the service with them. Commands that need only one part build it here too.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple

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
from signal_manager.errors import ConfigurationError
from signal_manager.gateway.ports import RelayTarget
from signal_manager.loading import Loader
from signal_manager.media.base import MediaBackend
from signal_manager.model import NodeId
from signal_manager.observe.metrics import Metrics
from signal_manager.service.config import Config, bus_backend_of, options_for, published_credentials
from signal_manager.service.local_sfu import NO_SFU, Media, is_sfu_missing, local_media
from signal_manager.service.settings import DEFAULT_API_KEYS, DEFAULT_TOKEN_SECRET, secrets, static_keys
from signal_manager.storage.base import Storage

if TYPE_CHECKING:
    from signal_manager.bus.nats.link import NatsSecurity
    from signal_manager.storage.firestore import FirestoreStorage

__all__ = [
    "Authenticators",
    "Media",
    "authenticators_for",
    "bus_for",
    "check_bus",
    "cloudflare_for",
    "media_backend_of",
    "media_for",
    "missing_sfu",
    "storage_for",
]

log = structlog.get_logger(__name__)


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


def missing_sfu(config: Config) -> str | None:
    """Return the warning that rooms lack media because the local SFU is not installed; None if that is not so."""
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
            async with local_media(config, metrics, loader or Loader()) as media:
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
