"""The probes /health and /ready, and the metrics for Prometheus.

They need no token, because they contain counts and no names.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from signal_manager.admin.exposition import MetricsExposition
from signal_manager.errors import SignalManagerError
from signal_manager.gateway.live_sessions import LiveSessions, Phase
from signal_manager.model import RoomId
from signal_manager.observe.metrics import Metrics
from signal_manager.storage.base import Storage

__all__ = ["Readiness", "probes"]

log = structlog.get_logger(__name__)

# Seconds that storage may take before the service is not ready; orchestrators allow about as long for a probe.
STORAGE_PATIENCE = 1.0
# Seconds for which storage's last answer is reused: a probe needs no token, and cloud stores charge for reads.
STORAGE_ANSWER_KEPT = 1.0
_NO_STORE = {"Cache-Control": "no-store"}


class Readiness:
    """Decides whether the service is ready for clients.

    Args:
        timer: seconds, monotonic.
    """

    def __init__(
        self, *, live_sessions: LiveSessions, storage: Storage, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._live_sessions = live_sessions
        self._storage = storage
        self._timer = timer
        self._asked_at: float | None = None
        self._storage_fault: str | None = None
        self._asking = asyncio.Lock()

    async def faults(self) -> list[str]:
        """Return why the service is not ready, as short phrases; none if it is ready."""
        phase = self._live_sessions.phase
        faults = [] if phase is Phase.SERVING else [phase.value]
        async with self._asking:
            if self._asked_at is None or self._timer() - self._asked_at >= STORAGE_ANSWER_KEPT:
                self._storage_fault = await self._ask_storage()
                self._asked_at = self._timer()
        return faults if self._storage_fault is None else [*faults, self._storage_fault]

    async def _ask_storage(self) -> str | None:
        try:
            async with asyncio.timeout(STORAGE_PATIENCE):
                await self._storage.get_room(RoomId("readiness"))
        except TimeoutError:
            return "storage does not answer"
        except SignalManagerError as error:
            log.warning("storage failed", reason=error.message)
            return "storage fails"
        return None


def probes(
    *,
    live_sessions: LiveSessions,
    storage: Storage,
    degradations: Callable[[], list[str]] = list,
    metrics: Metrics,
    exposition: MetricsExposition,
    version: str,
) -> APIRouter:
    """Return the routes /health, /ready and /metrics."""
    router = APIRouter(tags=["probes"])
    readiness = Readiness(live_sessions=live_sessions, storage=storage)
    started_at = time.monotonic()

    @router.get("/health")
    async def health() -> JSONResponse:
        """Tell that the process is alive: 200 whenever it answers."""
        body: dict[str, Any] = {
            "status": "healthy",
            "version": version,
            "uptime": round(time.monotonic() - started_at, 3),
            "connections": int(metrics.connections.value()),
        }
        return JSONResponse(body, headers=_NO_STORE)

    @router.get("/ready")
    async def ready() -> JSONResponse:
        """Tell whether the service is ready for clients: 200, or 503 with the reasons.

        A degraded service reports its faults and stays ready; otherwise no node would be left if all are degraded.
        """
        faults, degraded = await readiness.faults(), degradations()
        status = "not ready" if faults else "degraded" if degraded else "ready"
        body = {"status": status, "reasons": [*faults, *degraded]}
        return JSONResponse(body, status_code=503 if faults else 200, headers=_NO_STORE)

    @router.get("/metrics")
    async def read_metrics() -> Response:
        """Return all metrics in Prometheus's text format."""
        return Response(await exposition.text(), media_type=CONTENT_TYPE_LATEST, headers=_NO_STORE)

    return router
