"""Traces of requests about rooms, read from OpenTelemetry's own exporters."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from signal_manager.errors import NotFoundError, UnavailableError
from signal_manager.gateway.dispatcher import Dispatcher
from signal_manager.media.base import MediaBackend
from signal_manager.observe.tracing import Tracing, tracing_from
from signal_manager.protocol.messages import Message, PublishedTrack, RoomCreate, RoomJoin, RoomLeave
from signal_manager.records.registrations import Registrations
from signal_manager.storage.base import Storage
from signal_manager.storage.memory import MemoryStorage
from tests.fakes.media import FakeSfu
from tests.rooms.harness import NODE, ROOM, RoomHarness, YieldingStorage, offer, running


@dataclass
class Traced:
    """A harness whose requests are traced."""

    harness: RoomHarness
    dispatcher: Dispatcher
    tracing: Tracing
    exporter: InMemorySpanExporter

    async def ask(self, name: str, request: Message) -> Message:
        return await self.dispatcher.answer(self.harness.client(name).caller, request)

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def below(self, request: str) -> list[str]:
        """Return the names of what a request led to, in the order of their beginnings."""
        (root,) = (span for span in self.spans() if span.name == request)
        assert root.context is not None
        return [
            span.name
            for span in sorted(self.spans(), key=lambda span: span.start_time or 0)
            if span.parent is not None and span.parent.span_id == root.context.span_id
        ]


@asynccontextmanager
async def opened() -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider.get_tracer("tests"))
    sfu, storage = FakeSfu(), YieldingStorage()
    harness = RoomHarness(
        storage=cast("MemoryStorage", tracing.around(cast("Storage", storage), Storage, "storage")),
        sfu=cast("FakeSfu", tracing.around(cast("MediaBackend", sfu), MediaBackend, "sfu")),
    )
    async with running(harness):
        dispatcher = Dispatcher(
            authenticator=None,  # type: ignore[arg-type]  # nobody brings a token of its own here
            bus=harness.bus,
            registrations=Registrations(storage=harness.storage, node_id=NODE),
            rooms=harness.rooms,
            tracing=tracing,
        )
        yield Traced(harness, dispatcher, tracing, exporter)


def a_create(name: str = ROOM) -> RoomCreate:
    return RoomCreate(
        room_id=name, role="sender", offer_sdp=offer("0"), tracks=[PublishedTrack(mid="0", track_name="camera")]
    )


async def test_a_join_is_a_span_with_its_calls_to_the_sfu_and_to_storage_below() -> None:
    async with opened() as traced:
        await traced.ask("alice", a_create())
        await traced.harness.settled()
        await traced.ask("bob", RoomJoin(room_id=ROOM, role="receiver"))

        names = traced.below("WEBRTC_ROOM_JOIN")
        (root,) = (span for span in traced.spans() if span.name == "WEBRTC_ROOM_JOIN")

    assert [name for name in names if name.startswith("sfu ")] == ["sfu ice_servers", "sfu open_session", "sfu pull"]
    assert {"storage get_room", "storage change_room"} <= set(names), names
    assert root.parent is None
    assert root.attributes == {
        "signal_manager.client_id": "bob",
        "signal_manager.session_id": "session of bob",
        "signal_manager.room_id": ROOM,
    }


async def test_a_refusal_is_an_answer_and_a_failure_is_not() -> None:
    async with opened() as traced:
        with pytest.raises(NotFoundError):
            await traced.ask("bob", RoomJoin(room_id="nowhere", role="receiver"))
        with pytest.raises(UnavailableError), traced.tracing.request("failure"):
            raise UnavailableError("storage is away")

        spans = {span.name: span for span in traced.spans()}

    refused, failed = spans["WEBRTC_ROOM_JOIN"], spans["failure"]
    assert (refused.status.is_ok or refused.status.is_unset, failed.status.is_ok) == (True, False)
    assert refused.attributes is not None
    assert refused.attributes["error.type"] == "404"
    assert failed.status.description == "storage is away"
    assert not failed.events, "no stack is sent"


async def test_a_call_that_waited_for_another_belongs_to_its_own_request() -> None:
    async with opened() as traced:
        alice = traced.harness.client("alice")
        await traced.ask("alice", a_create())
        await traced.harness.settled()

        async def publish(mid: str) -> None:
            with traced.tracing.request(f"publish {mid}"):
                await alice.publish(mid)

        await asyncio.gather(publish("1"), publish("2"))

        assert traced.below("publish 1").count("sfu publish") == 1
        assert traced.below("publish 2").count("sfu publish") == 1


async def test_what_no_request_asked_for_has_no_span() -> None:
    async with opened() as traced:
        await traced.harness.storage.get_room(ROOM)
        await traced.harness.rooms.expire(0)

        assert traced.spans() == ()


async def test_a_leave_is_traced_and_an_unexpected_error_shows_its_name_alone() -> None:
    async with opened() as traced:
        await traced.ask("alice", a_create())
        await traced.ask("alice", RoomLeave(room_id=ROOM))
        assert "storage change_room" in traced.below("WEBRTC_ROOM_LEAVE")
        with pytest.raises(ZeroDivisionError), traced.tracing.request("x"):
            raise ZeroDivisionError("a secret")

    (span,) = (span for span in traced.spans() if span.name == "x")
    assert span.attributes == {"error.type": "ZeroDivisionError"}
    assert not span.status.is_ok
    assert "a secret" not in span.to_json()


# -- where traces go ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Run an OTLP collector that keeps what it is sent, at an address."""
    kept: list[ExportTraceServiceRequest] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length:")[2].split()[0])
        kept.append(ExportTraceServiceRequest.FromString(await reader.readexactly(size)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", kept


async def test_spans_are_sent_where_the_standard_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal_manager.observe.tracing.STOP_TIMEOUT", 30.0)
    async with collector() as (url, kept):
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=tests",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        async with tracing_from(variables, version="1.2.3", node_id="node-1") as tracing:
            assert tracing is not None
            with tracing.request("a request", room_id="lunch", session_id=None):
                pass

    (sent,) = kept
    resource = {each.key: each.value.string_value for each in sent.resource_spans[0].resource.attributes}
    (span,) = sent.resource_spans[0].scope_spans[0].spans
    assert span.name == "a request"
    assert [each.key for each in span.attributes] == ["signal_manager.room_id"]
    assert resource["service.name"] == "signal-manager"
    assert resource["service.instance.id"] == "node-1"
    assert resource["deployment.environment"] == "tests"


@pytest.mark.long
def test_a_service_without_traces_does_not_import_the_sdk() -> None:
    check = "import sys, signal_manager.service.app; sys.exit('opentelemetry.sdk' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", check], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
    ],
)
async def test_nobody_who_does_not_ask_has_traces(variables: dict[str, str]) -> None:
    async with tracing_from(variables, version="1", node_id="n") as tracing:
        assert tracing is None


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"OTEL_TRACES_EXPORTER": "pigeons"}, "pigeons"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
    ],
)
async def test_what_cannot_be_exported_is_a_warning_and_the_service_runs(
    variables: dict[str, str], reason: str
) -> None:
    with capture_logs() as lines:
        async with tracing_from(variables, version="1", node_id="n") as tracing:
            assert tracing is None

    (line,) = lines
    assert line["log_level"] == "warning"
    assert reason in line["reason"]
