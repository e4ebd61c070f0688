"""The local SFU in the service's own process: started while the service runs already, and called without HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import unquote

import structlog

from signal_manager.adapters import load_adapter
from signal_manager.errors import ConfigurationError, UnavailableError
from signal_manager.loading import Loader
from signal_manager.media.base import MediaBackend
from signal_manager.media.errors import NoAnswerError
from signal_manager.observe.metrics import Metrics
from signal_manager.service.config import Config

if TYPE_CHECKING:
    from signal_manager.sfu.service import LocalSfu

__all__ = ["NO_SFU", "InThisProcess", "Media", "is_sfu_missing", "local_media"]

NO_SFU = "the local SFU is not installed: pip install 'signal-manager[sfu]'"

# The local SFU's part of each URL; no request goes there.
_BASE_URL = "http://local-sfu.invalid/v1"

log = structlog.get_logger(__name__)


def is_sfu_missing() -> bool:
    """Tell whether the local SFU, a distribution of its own, is not installed, or not what it needs."""
    return any(importlib.util.find_spec(name) is None for name in ("signal_manager.sfu", "aiortc"))


class Media(NamedTuple):
    """An SFU, and the STUN and TURN servers for its clients."""

    backend: MediaBackend | None
    app_id: str = ""
    stun_url: str = ""


@contextlib.asynccontextmanager
async def local_media(config: Config, metrics: Metrics, loader: Loader) -> AsyncIterator[Media]:
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
            base_url=_BASE_URL,
            stun_url="",  # the SFU is on this machine, so clients need only its own address
            request_timeout=config.cloudflare.request_timeout,
            transport=InThisProcess(sfu),
        )
        async with backend:
            yield backend


class InThisProcess:
    """Carries requests to a local SFU in this process; a `Transport` of `media/cloudflare_client.py`."""

    def __init__(self, sfu: LocalSfu) -> None:
        self._sfu = sfu

    async def exchange(
        self, method: str, url: str, *, content: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Call the SFU; raise NoAnswerError if a fault takes its reply."""
        from signal_manager.sfu.api import LOST, Call  # noqa: PLC0415 - imported by now, and not with the service

        # As `urlsplit` and `parse_qsl` would, at a tenth of their cost: our own client has built this URL.
        _, _, _, rest = url.split("/", 3)
        path, _, query = rest.partition("?")

        async def body() -> bytes:
            return content or b""

        reply = await self._sfu.call(
            Call(
                method=method,
                path=unquote(f"/{path}"),
                authorization=headers["Authorization"],
                correlation_id=unquote(query.removeprefix("correlationId=")),
                body=body,
            )
        )
        if reply is LOST:
            raise NoAnswerError("the SFU did not answer")
        return reply

    async def aclose(self) -> None:
        """Leave the SFU to its owner."""


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
