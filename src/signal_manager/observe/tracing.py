"""Optional OpenTelemetry traces, configured by OpenTelemetry's own variables: where the time of a request goes.

`service/app.py` wraps storage and the SFU in it; `gateway/dispatcher.py` opens a span for each request. Without
configuration there is no `Tracing`, and OpenTelemetry's SDK is not imported.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar, cast

import structlog

from signal_manager.errors import SignalManagerError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanKind, Tracer

__all__ = ["Tracing", "tracing_from"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Seconds that a stopping service waits to send its last spans; a missing collector must not delay the stop.
STOP_TIMEOUT = 3.0

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Tracing:
    """Makes a span for each request, and below it one for each call to storage and to the SFU."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - optional

        self._tracer = tracer
        self._trace = trace

    @contextmanager
    def request(self, name: str, **attributes: str | None) -> Iterator[None]:
        """Open a span for a client's request; attributes that are None are omitted."""
        own = {f"signal_manager.{key}": value for key, value in attributes.items() if value is not None}
        with self._span(name, self._trace.SpanKind.SERVER, own):
            yield

    def around(self, target: T, interface: type, prefix: str) -> T:
        """Return `target` with a span around each operation of `interface` within a request.

        What is done for no request, such as the search for expired records, has no span: it would be noise.
        """
        return cast("T", _Traced(target, interface, self._traced, prefix))

    def _traced(self, operation: Callable[..., Awaitable[Any]], name: str) -> Callable[..., Awaitable[Any]]:
        async def run(*args: Any, **kwargs: Any) -> Any:
            # Also false after the answer to the request: background work has no span.
            if not self._trace.get_current_span().is_recording():
                return await operation(*args, **kwargs)
            with self._span(name, self._trace.SpanKind.CLIENT, {}):
                return await operation(*args, **kwargs)

        return run

    @contextmanager
    def _span(self, name: str, kind: SpanKind, attributes: Mapping[str, str]) -> Iterator[None]:
        # `_failed` records the class or code of an error. A stack trace may contain secrets.
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                self._failed(span, error)
                raise

    def _failed(self, span: Span, error: BaseException) -> None:
        if isinstance(error, SignalManagerError):
            span.set_attribute("error.type", str(error.code))
            if error.code >= 500:  # a lower code is an answer, such as "no such room"
                span.set_status(self._trace.StatusCode.ERROR, error.message)
            return
        span.set_attribute("error.type", type(error).__name__)
        if not isinstance(error, asyncio.CancelledError):  # a cancelled call is no error
            span.set_status(self._trace.StatusCode.ERROR)


class _Traced:
    """Has each operation of the interface with a span around it; other attributes are the target's."""

    def __init__(
        self,
        target: object,
        interface: type,
        traced: Callable[[Callable[..., Awaitable[Any]], str], Callable[..., Awaitable[Any]]],
        prefix: str,
    ) -> None:
        self._target = target
        for name, member in vars(interface).items():
            if inspect.iscoroutinefunction(member) and not name.startswith("_"):
                setattr(self, name, traced(getattr(target, name), f"{prefix} {name}"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


@asynccontextmanager
async def tracing_from(environment: Mapping[str, str], *, version: str, node_id: str) -> AsyncIterator[Tracing | None]:
    """Export traces while the block lasts, as the standard OTEL_* variables say; yield None if they configure none.

    They ask for it with OTEL_TRACES_EXPORTER or with an OTLP endpoint. What they ask for and cannot have is a warning:
    a platform may set them for everything that it runs.
    """
    provider = _provider(environment, version, node_id)
    if provider is None:
        yield None
        return
    try:
        yield Tracing(provider.get_tracer("signal_manager", version))
    finally:
        # A daemon thread, which does not delay the end of the process.
        closing = threading.Thread(target=provider.shutdown, daemon=True, name="last spans")
        closing.start()
        await asyncio.to_thread(closing.join, STOP_TIMEOUT)


def _provider(environment: Mapping[str, str], version: str, node_id: str) -> TracerProvider | None:
    names = _exporters(environment)
    if not names:
        return None
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        known = entry_points(group="opentelemetry_traces_exporter")
        exporters = [known[name].load()() for name in names]
    except (ImportError, KeyError, ValueError) as error:
        # KeyError: no such exporter; ValueError: a variable that it reads is wrong.
        log.warning("traces are not exported", reason=f"{error}", try_this='pip install "signal-manager[otel]"')
        return None
    ours = Resource({"service.name": "signal-manager", "service.version": version, "service.instance.id": node_id})
    # The variables take precedence; `create` adds the name and version of the SDK.
    provider = TracerProvider(
        resource=Resource.create().merge(ours).merge(OTELResourceDetector().detect()), shutdown_on_exit=False
    )
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    log.info("traces are exported", exporters=names)
    return provider


def _exporters(environment: Mapping[str, str]) -> list[str]:
    """Return the entry points of the configured exporters."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    default = "otlp" if any(environment.get(name) for name in _ENDPOINTS) else "none"
    asked = (environment.get("OTEL_TRACES_EXPORTER") or default).split(",")
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    names = [name.strip() for name in asked]
    return [otlp if name == "otlp" else name for name in names if name not in {"", "none"}]
