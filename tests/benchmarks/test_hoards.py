"""The benchmark of hoards counts who gave way, was closed and could go on; what memory it takes, no test says."""

from __future__ import annotations

import sys

import pytest

from benchmarks.hoards import INNOCENT, TOKEN, Socket, hoarder, measure_halves, measure_ids, measure_sessions
from benchmarks.processes import MeasurementError, free_port
from benchmarks.servers import service

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"), pytest.mark.long]


def test_every_hoard_is_measured_on_a_service_that_has_room_for_it() -> None:
    said: list[str] = []
    metrics_port = free_port()
    tokens = dict.fromkeys((*INNOCENT, *(hoarder(number) for number in range(4))), TOKEN)

    with service(tokens, metrics_port=metrics_port) as server:
        sessions = measure_sessions(server, metrics_port, 4, report=said.append)
        strangers, clients = (
            measure_halves(server, 2, of_clients=of_clients, report=said.append) for of_clients in (False, True)
        )
        ids = measure_ids(server, metrics_port, 2, report=said.append)
        stranger = Socket(server.port)
        with pytest.raises(MeasurementError, match="did not accept nobody"):
            stranger.log_in("nobody")
        stranger.drop()

    assert (sessions.gave_way, sessions.went_on) == (0, 4)
    assert (sessions.innocent_resumed, sessions.innocent_got, sessions.present_resumed) == (True, 3, True)
    assert sessions.wanted_bytes * 0.9 < sessions.kept_at_most < sessions.wanted_bytes * 1.2
    assert (strangers.closed, clients.closed) == (0, 0)
    assert ids.refused == 2
    assert said[0] == "connecting 4 clients that confirm nothing"
