"""The fault table: each fault of the local SFU, and what a member's negotiator reported and did.

Over real HTTP. After every fault the member leaves, and everything that the fault left at the SFU must be closed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection

from signal_manager.errors import SignalManagerError
from signal_manager.media.base import LocalTrack
from signal_manager.media.closing import Closer, Closings
from signal_manager.media.cloudflare import CloudflareBackend
from signal_manager.media.negotiation import Limits, ReplaceSession
from signal_manager.media.negotiator import Negotiator
from signal_manager.observe.metrics import Metrics
from signal_manager.sfu import LocalSfu
from signal_manager.sfu.faults import Fault, Faults
from signal_manager.testing.media.peers import Camera
from tests.media.book_sfu import ListLedger, within

# How long a call may take where it shall fail for its time; elsewhere a busy machine may take as long as it likes (s).
TIMEOUT = 0.8
PATIENT = 15.0


@dataclass
class Row:
    """A fault of tracks/new (or another endpoint), what publishing reported, and why the session was replaced."""

    fault: Fault
    reported: str
    replaced: str | None = None

    @property
    def timeout(self) -> float:
        """How long a call may take."""
        return TIMEOUT if self.reported == "NoAnswerError" or self.fault.kind == "lost" else PATIENT

    @property
    def patience(self) -> float:
        """How long one is tried again."""
        return 0.2 if self.reported == "SessionNotReadyError" else PATIENT

    def __str__(self) -> str:
        fault = self.fault
        what = {"status": f"{fault.status}", "latency": f"latency {fault.seconds:g} s"}.get(fault.kind, fault.kind)
        times = f" x{fault.times}" if fault.times else ""
        return f"{fault.endpoint} {what}{times} -> {self.reported}" + (f", {self.replaced}" if self.replaced else "")


def status(code: int, *, endpoint: str = "tracks/new", times: int | None = None) -> Fault:
    return Fault(kind="status", endpoint=endpoint, status=code, times=times)


TABLE = [
    Row(status(425, times=3), "ok"),
    Row(status(425), "SessionNotReadyError"),
    Row(status(429, times=2), "ok"),
    Row(status(400), "RequestNotUnderstoodError"),
    Row(status(401), "CredentialsRefusedError"),
    Row(status(406), "InvalidSessionDescriptionError"),
    Row(status(413), "PayloadTooLargeError"),
    Row(status(404), "SessionGoneError", "session_gone"),
    Row(status(410), "SessionGoneError", "session_gone"),
    Row(status(500), "InternalFaultError", "call_lost"),
    Row(status(502), "BackendFaultError", "call_lost"),
    Row(status(503), "TemporarilyUnavailableError", "call_lost"),
    Row(Fault(kind="latency", endpoint="tracks/new", seconds=0.1), "ok"),
    Row(Fault(kind="latency", endpoint="tracks/new", seconds=TIMEOUT * 2), "NoAnswerError", "call_lost"),
    Row(Fault(kind="lost", endpoint="tracks/new"), "NoAnswerError", "call_lost"),
    Row(Fault(kind="cut", endpoint="tracks/new"), "NoAnswerError", "call_lost"),
    Row(Fault(kind="partial", endpoint="tracks/new"), "retryable_transient_error"),
    Row(status(503, endpoint="sessions/new"), "TemporarilyUnavailableError"),
    Row(status(503, endpoint="tracks/close", times=5), "ok"),
    Row(Fault(kind="lost", endpoint="tracks/close", times=4), "ok"),
    Row(Fault(kind="partial", endpoint="tracks/close", times=2), "ok"),
    Row(status(429, endpoint="state", times=4), "ok"),
]


@pytest.mark.parametrize("row", TABLE, ids=str)
async def test_each_fault_is_reported_and_leaves_nothing_behind(row: Row) -> None:
    replaced: list[ReplaceSession] = []
    ledger = ListLedger()
    async with (
        LocalSfu(http_port=0, faults=Faults([row.fault])) as sfu,
        CloudflareBackend(
            app_id=sfu.app_id,
            app_secret=sfu.app_secret,
            base_url=sfu.base_url,
            metrics=Metrics(),
            request_timeout=row.timeout,
            retry_wait=0.001,
        ) as backend,
        Closer(
            backend, ledger=ledger, metrics=Metrics(), closings=Closings(first_pause=0.01, settling_time=TIMEOUT * 1.5)
        ) as closer,
        within(40),
    ):
        negotiator = Negotiator(
            backend,
            ledger=ledger,
            closer=closer,
            metrics=Metrics(),
            on_replaced=replaced.append,
            limits=Limits(pauses=(0.01,), patience=row.patience),
        )

        assert await publish(negotiator) == row.reported
        await asyncio.sleep(0)  # the owner is told in the loop's next turn
        assert [each.reason.value for each in replaced] == ([row.replaced] if row.replaced else [])

        negotiator.close()
        await negotiator.closed()
        await closer.drained()
        assert [session.id for session in sfu.sessions.values() if session.tracks.published] == []
        assert ledger.entries == set()


async def publish(negotiator: Negotiator) -> str:
    """Publish a camera, over a connection that is never made; returns what was reported."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connection.addTrack(Camera())
    await connection.setLocalDescription(await connection.createOffer())
    track = LocalTrack(mid=connection.getTransceivers()[0].mid or "", track_name="camera")
    try:
        await negotiator.open()
        published = await negotiator.publish(connection.localDescription.sdp, [track])
    except SignalManagerError as error:
        return type(error).__name__
    finally:
        await connection.close()
    (result,) = published.tracks
    return result.error.error_code if result.error else "ok"
