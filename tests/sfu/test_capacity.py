"""Who comes when there is no room is refused, and told why; who is inside keeps what it has."""

from __future__ import annotations

import pytest

from signal_manager.sfu import LocalSfu, SfuSettings
from signal_manager.sfu.capacity import Load
from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.metrics import Counters
from tests.sfu.clients import Api
from tests.sfu.test_http import camera_of, publish_flowing


def loaded(*, packets: int = 0, cpu: float = 0.0) -> tuple[Load, Counters]:
    """A load that has been measured for ten seconds, with so many packets and CPU in each."""
    counters = Counters()
    load = Load(SfuSettings(max_packets_per_second=1000, max_busy=0.8), counters)
    for second in range(11):
        counters.packets_forwarded = packets * second
        load.measure(100.0 + second, cpu=7 + cpu * second)
    return load, counters


def test_there_is_room_while_there_is_room() -> None:
    load, counters = loaded(packets=800, cpu=0.7)

    load.check_join()
    load.check_pull(150)

    assert counters.refused_for_load == 0


def test_a_pull_that_is_too_much_is_refused_with_the_figures() -> None:
    load, counters = loaded(packets=800)

    with pytest.raises(RefusedError, match=r"forwards 799 packets/s and would have to forward 1099, of 1000") as raised:
        load.check_pull(300)

    assert (raised.value.status, raised.value.error_code) == (503, "temporarily_unavailable_error")
    assert counters.refused_for_load == 1


def test_pulls_that_were_granted_count_before_their_packets_do() -> None:
    load, _ = loaded()
    for _ in range(10):
        load.check_pull(100)

    with pytest.raises(RefusedError):
        load.check_pull(100)
    load.measure(111.0, cpu=7)
    with pytest.raises(RefusedError):
        load.check_pull(100)
    load.measure(112.0, cpu=7)
    load.check_pull(100)


def test_joins_are_refused_before_the_pulls_of_those_inside() -> None:
    load, _ = loaded(packets=950)

    with pytest.raises(RefusedError):
        load.check_join()
    load.check_pull(40)


def test_a_core_that_is_used_up_lets_nobody_in() -> None:
    load, _ = loaded(cpu=0.95)

    with pytest.raises(RefusedError, match=r"uses 95 % of its core, of 80 %"):
        load.check_join()
    with pytest.raises(RefusedError):
        load.check_pull(1)


async def test_requests_are_refused_with_503_and_the_reason(
    sfu: LocalSfu, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await publish_flowing(sfu, api)
    other = await api.new_session()
    monkeypatch.setattr(sfu.load, "tick", lambda now: None)
    sfu.load.packets_per_second = 14_990.0

    pull = await api.call("POST", f"/sessions/{other}/tracks/new", {"tracks": [camera_of(session)]})
    join = await api.call("POST", "/sessions/new")

    assert (pull.status_code, join.status_code) == (503, 503)
    assert pull.json()["errorCode"] == "temporarily_unavailable_error"
    assert "media.sfu_max_packets_per_second" in join.json()["errorDescription"]
    assert sfu.sessions[other].tracks.router.subscriptions == {}
