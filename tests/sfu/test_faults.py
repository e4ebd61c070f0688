"""What goes wrong on purpose: planned by file and by header, and what a client then sees."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from signal_manager.errors import ConfigurationError
from signal_manager.sfu import LocalSfu, SfuSettings
from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.faults import Fault, Faults, load_faults
from tests.sfu.clients import Api, api_of
from tests.sfu.sdps import offer, section

PUBLISH = {
    "sessionDescription": offer(section("0")),
    "tracks": [{"location": "local", "mid": "0", "trackName": "camera"}],
}


def test_a_fault_happens_as_often_as_it_says_and_to_its_endpoint_only() -> None:
    faults = Faults([Fault(kind="status", endpoint="tracks/new", status=425, times=2)])

    plans = [faults.plan(endpoint) for endpoint in ("sessions/new", "tracks/new", "tracks/new", "tracks/new")]

    assert [plan.refusal and plan.refusal.status for plan in plans] == [None, 425, 425, None]


def test_probability_zero_never_happens() -> None:
    assert Faults([Fault(kind="cut", probability=0)]).plan("tracks/new").is_harmless


def test_a_header_comes_before_the_file_and_lists_several() -> None:
    plan = Faults([Fault(kind="cut")]).plan("tracks/new", "latency=0.25, lost,partial")

    assert (plan.latency, plan.is_lost, plan.is_partial, plan.is_cut) == (0.25, True, True, False)


@pytest.mark.parametrize("header", ["42", "700", "latency", "latency=x", "latency=-1", "explode", "latency=nan", ","])
def test_a_header_that_says_nothing_is_refused(header: str) -> None:
    with pytest.raises(RefusedError, match="X-Fault"):
        Faults().plan("tracks/new", header)


def test_latency_follows_its_median_and_never_passes_its_bound() -> None:
    fault = Fault(kind="latency", p50=0.25, p95=0.8)

    drawn = sorted(fault.latency() for _ in range(2001))

    assert 0.15 < drawn[1000] < 0.4
    assert drawn[-1] <= 60
    assert Fault(kind="latency", seconds=2).latency() == 2


def test_a_file_is_read_with_what_happens_to_packets(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text('[media]\ndrop = 0.1\n[[faults]]\nkind = "status"\nstatus = 503\n')

    faults = load_faults(path)
    refusal = faults.plan("renegotiate").refusal

    assert faults.drop_rate == 0.1
    assert refusal is not None
    assert (refusal.status, refusal.error_code) == (503, "temporarily_unavailable_error")


@pytest.mark.parametrize("content", ["[[faults]]\nkind = 'boom'", "nonsense", "[media]\ndrop = 2", "[other]", "\xff"])
def test_a_file_that_cannot_be_understood_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "faults.toml"
    path.write_bytes(content.encode("latin-1"))

    with pytest.raises(ConfigurationError, match="faults file is wrong"):
        load_faults(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_faults(tmp_path / "none")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "unauthorized"),
        (406, "invalid_session_description"),
        (410, "session_error"),
        (413, "payload_too_large"),
        (425, "session_error"),
        (429, "rate_limited"),
        (500, "internal_error"),
        (502, "backend_error"),
        (503, "temporarily_unavailable_error"),
        (504, "internal_error"),
    ],
)
async def test_a_status_is_answered_in_cloudflares_shape_and_nothing_happens(api: Api, status: int, code: str) -> None:
    session = await api.new_session()

    response = await api.call("POST", f"/sessions/{session}/tracks/new", PUBLISH, x_fault=str(status))

    assert (response.status_code, response.json()["errorCode"]) == (status, code)
    assert await api.ok("GET", f"/sessions/{session}") == {"tracks": [], "dataChannels": []}


async def test_a_lost_response_leaves_the_change_behind(api: Api) -> None:
    session = await api.new_session()

    with pytest.raises(httpx.RemoteProtocolError):
        await api.call("POST", f"/sessions/{session}/tracks/new", PUBLISH, x_fault="lost")

    state = await api.ok("GET", f"/sessions/{session}")
    assert [track["trackName"] for track in state["tracks"]] == ["camera"]


async def test_a_cut_connection_leaves_nothing_behind(api: Api) -> None:
    session = await api.new_session()

    with pytest.raises(httpx.RemoteProtocolError):
        await api.call("POST", f"/sessions/{session}/tracks/new", PUBLISH, x_fault="cut")

    assert (await api.ok("GET", f"/sessions/{session}"))["tracks"] == []


async def test_a_partial_failure_is_inside_a_success(api: Api) -> None:
    session = await api.new_session()
    body = {
        "sessionDescription": offer(section("0"), section("1", "audio")),
        "tracks": [
            {"location": "local", "mid": "0", "trackName": "camera"},
            {"location": "local", "mid": "1", "trackName": "microphone"},
        ],
    }

    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", body, x_fault="partial")

    assert [track.get("errorCode") for track in answer["tracks"]] == ["retryable_transient_error", None]
    assert "sessionDescription" in answer
    state = await api.ok("GET", f"/sessions/{session}")
    assert [track["trackName"] for track in state["tracks"]] == ["microphone"]


async def test_a_partial_failure_of_the_only_item_changes_nothing(api: Api) -> None:
    session = await api.new_session()

    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", PUBLISH, x_fault="partial")

    assert "sessionDescription" not in answer
    assert (await api.ok("GET", f"/sessions/{session}"))["tracks"] == []


async def test_latency_delays_the_answer(api: Api) -> None:
    response = await api.call("POST", "/sessions/new", x_fault="latency=0.01")

    assert response.status_code == 201


async def test_faults_of_the_file_happen_without_a_header() -> None:
    faults = Faults([Fault(kind="status", status=503, times=1)], drop_rate=0.5)
    async with LocalSfu(http_port=0, settings=SfuSettings(), faults=faults) as sfu, api_of(sfu) as api:
        first, second = [(await api.call("POST", "/sessions/new")).status_code for _ in range(2)]

        assert (first, second) == (503, 201)
        assert sfu.settings.drop_rate == 0.5
        assert sfu.counters.faults == 1
