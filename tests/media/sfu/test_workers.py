"""Several processes as one SFU: real workers behind a real front."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
import pytest_asyncio
from aiortc import AudioStreamTrack

from signal_manager.errors import ConfigurationError
from signal_manager.media.sfu import LocalSfu
from signal_manager.media.sfu.workers import Workers
from tests.media.sfu.clients import Api, Peer, api_of, frames, until
from tests.media.sfu.sdps import offer, section

WORK = [sys.executable, "-c", "from signal_manager.sfu_command import work; work()"]
CAMERA = {"location": "local", "mid": "0", "trackName": "camera"}


def order(**more: Any) -> dict[str, Any]:
    return {
        "host": "127.0.0.1",
        "public_addresses": [],
        "app_id": "a" * 32,
        "app_secret": "secret",
        "faults": None,
        "max_packets_per_second": 15000,
        **more,
    }


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def workers() -> AsyncIterator[Workers]:
    """Two workers behind a front."""
    async with Workers(WORK, count=2, order=order()) as workers:
        yield workers


pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def client_of(workers: Workers) -> AsyncIterator[Api]:
    async with api_of(cast("LocalSfu", workers)) as api:  # both have the three attributes that it needs
        yield api


async def open_in(api: Api, room: str) -> str:
    answer = await api.ok("POST", f"/sessions/new?correlationId={room}")
    return str(answer["sessionId"])


async def homes_of(api: Api, name: str) -> dict[str, tuple[str, str]]:
    """Open rooms until each worker has one, and return room and session by what the session begins with."""
    homes: dict[str, tuple[str, str]] = {}
    for number in range(100):
        room = f"{name}-{number}"
        session = await open_in(api, f"{room}/x")
        homes.setdefault(session[:2], (room, session))
        if len(homes) == 2:
            break
    assert set(homes) == {"00", "01"}
    return homes


async def test_sessions_of_one_room_share_a_worker_and_rooms_are_spread(workers: Workers) -> None:
    async with client_of(workers) as api:
        homes = await homes_of(api, "room")
        for room, session in homes.values():
            again = {(await open_in(api, f"{room}%2Fclient-{n}"))[:2] for n in range(3)}
            assert again == {session[:2]}


async def test_media_flows_within_a_room_whatever_its_worker(workers: Workers) -> None:
    async with client_of(workers) as api:
        for room in ("one", "two"):
            sessions = [await open_in(api, f"{room}/{n}") for n in range(2)]
            async with Peer(api, sessions[0]) as alice, Peer(api, sessions[1]) as bob:
                await alice.publish(sound=AudioStreamTrack())
                await alice.connected()
                await bob.pull(alice, "sound")

                assert len(await frames(bob.tracks[0], 3)) == 3


async def test_a_pull_from_another_worker_fails_with_the_reason(workers: Workers) -> None:
    async with client_of(workers) as api:
        (_, publisher), (_, subscriber) = [(await homes_of(api, "far"))[home] for home in ("00", "01")]
        body = {"sessionDescription": offer(section("0")), "tracks": [CAMERA]}
        await api.ok("POST", f"/sessions/{publisher}/tracks/new", body)

        item = {"location": "remote", "sessionId": publisher, "trackName": "camera"}
        answer = await api.ok("POST", f"/sessions/{subscriber}/tracks/new", {"tracks": [item]})

        assert answer["tracks"][0]["errorCode"] == "not_found_track_error"
        assert "correlationId" in answer["tracks"][0]["errorDescription"]


async def test_sessions_without_a_room_are_together(workers: Workers) -> None:
    async with client_of(workers) as api:
        assert {(await api.new_session())[:2] for _ in range(6)} == {"00"}


async def test_the_front_answers_as_the_sfu_does(workers: Workers) -> None:
    async with client_of(workers) as api:
        session = await open_in(api, "answers/x")
        state = await api.ok("GET", f"/sessions/{session}")
        unknown = [await api.call("GET", f"/sessions/{name}") for name in ("ff" * 16, "zz", "01" + "0" * 30)]
        faulty = await api.call("GET", f"/sessions/{session}", x_fault="425")
        large = await api.http.post(f"{api.root}/sessions/new", content=bytes(600_000), headers=api.headers)
        refused = await api.http.post(f"{api.root}/sessions/new")
        root = workers.base_url.removesuffix("/v1")
        metrics = (await api.http.get(f"{root}/metrics")).text
        pages = [(await api.http.get(root + path)).status_code for path in ("/", "/workers/1", "/workers/7")]

        assert (state.get("tracks", []), [answer.status_code for answer in unknown]) == ([], [410, 410, 410])
        assert (faulty.status_code, large.status_code, refused.status_code) == (425, 413, 401)
        assert len(re.findall(r'^sfu_sessions\{worker="[01]"\} ', metrics, re.MULTILINE)) == 2
        assert 'status="425",worker=' in metrics
        assert pages == [200, 200, 404]


async def test_a_worker_that_is_killed_comes_back_and_the_others_go_on(workers: Workers) -> None:
    async with client_of(workers) as api:
        homes = await homes_of(api, "mortal")
        worker = workers._workers[1]
        pid = worker.process.pid if worker.process is not None else 0

        os.kill(pid, signal.SIGKILL)
        await until(lambda: worker.base_url == "")
        gone = await api.call("GET", f"/sessions/{homes['01'][1]}")
        moved = await open_in(api, f"{homes['01'][0]}/y")
        await api.ok("GET", f"/sessions/{homes['00'][1]}")
        await until(lambda: worker.base_url != "")
        back = await api.call("GET", f"/sessions/{homes['01'][1]}")

        assert (gone.status_code, gone.json()["errorCode"]) == (503, "temporarily_unavailable_error")
        assert moved.startswith("00")
        assert back.status_code == 410


async def test_workers_end_when_their_front_is_killed() -> None:
    options = ["sfu", "--port", "0", "--workers", "2", "--app-secret", "secret"]
    front = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "signal_manager", *options), stdout=asyncio.subprocess.PIPE
    )
    assert front.stdout is not None
    assert b"base_url" in await asyncio.wait_for(front.stdout.readline(), 60)
    with open(f"/proc/{front.pid}/task/{front.pid}/children") as file:  # noqa: ASYNC230 -- not a disk's
        children = [int(pid) for pid in file.read().split()]

    front.kill()
    await front.wait()

    def is_gone(pid: int) -> bool:
        with suppress(OSError), open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] == "Z"
        return True

    assert len(children) == 2
    await until(lambda: all(map(is_gone, children)))


async def test_workers_that_cannot_start_are_a_wrong_configuration() -> None:
    front = Workers([sys.executable, "-c", "raise SystemExit(2)"], count=2, order=order())
    with pytest.raises(ConfigurationError, match="worker"):
        await front.start()
