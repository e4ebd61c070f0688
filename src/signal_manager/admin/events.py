"""Sends samples and errors to the dashboard as server-sent events (WHATWG HTML, section 9.2).

The first event holds the last fifteen minutes. A slow reader gets fewer events, because nothing is queued for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from signal_manager.admin.access import refusal
from signal_manager.admin.statistics import Sample, Statistics
from signal_manager.gateway.live_sessions import LiveSessions, RecentError

__all__ = ["MAX_READERS", "event_stream"]

# The most dashboards that may be open at once.
MAX_READERS = 32


class _News(msgspec.Struct, frozen=True):
    samples: list[Sample]
    errors: list[RecentError]


def event_stream(statistics: Statistics, live_sessions: LiveSessions) -> APIRouter:
    """Return the route /api/v1/events."""
    router = APIRouter()
    readers = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal readers
        readers += 1
        try:
            seen_sample, seen_error = 0.0, 0.0
            while True:
                samples = [sample for sample in statistics.samples if sample.at > seen_sample]
                errors = [error for error in live_sessions.recent_errors if error.at > seen_error]
                yield b"data: " + msgspec.json.encode(_News(samples, errors)) + b"\n\n"
                seen_sample = samples[-1].at if samples else seen_sample
                seen_error = errors[-1].at if errors else seen_error
                if await statistics.next_sample() is None:
                    return
        finally:
            readers -= 1

    @router.get("/api/v1/events", tags=["service"], response_class=StreamingResponse)
    async def events() -> Response:
        """Stream samples and errors as server-sent events, starting with those of the last fifteen minutes."""
        if readers >= MAX_READERS:
            return refusal(503, f"{MAX_READERS} dashboards are open already")
        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return router
