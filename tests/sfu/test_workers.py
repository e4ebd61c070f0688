"""Several processes as one SFU: `signal-manager sfu --workers 2`, with the front and the workers that it starts.

Processes take long to start, so that the first tests share one front. Killing it is how the module ends: what that
shows is an assertion of the fixture, because a test in the midst of the others would cost them a second front.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio
from aiortc import AudioStreamTrack

from signal_manager.errors import ConfigurationError
from signal_manager.sfu import LocalSfu, SfuSettings
from signal_manager.sfu import workers as workers_module
from signal_manager.sfu.workers import Workers, prefix_of
from tests.sfu.clients import Api, Peer, api_of, frames, until
from tests.sfu.sdps import offer, section

COMMAND = [sys.executable, "-m", "signal_manager", "sfu", "--port", "0", "--workers", "2", "--json"]
START_LIMIT = 60.0
CAMERA = {"location": "local", "mid": "0", "trackName": "camera"}


class Front:
    """A front with two workers that runs."""

    def __init__(self, process: asyncio.subprocess.Process, where: dict[str, str]) -> None:
        self.process = process
        self.base_url = where["base_url"]
        self.app_id = where["app_id"]
        self.app_secret = where["app_secret"]

    @classmethod
    async def start(cls) -> Front:
        """Start one."""
        process = await asyncio.create_subprocess_exec(*COMMAND, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        text = b""
        async with asyncio.timeout(START_LIMIT):
            while not text.endswith(b"}\n"):
                line = await process.stdout.readline()
                assert line, "the front ended"
                text += line
        return cls(process, json.loads(text))

    def workers(self) -> list[int]:
        """Return the processes of its workers, in the order in which they were started."""
        return children_of(self.process.pid)


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process in the order in which they were started, as Linux lists them."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]  # unsorted: the numbers of processes begin anew


def is_gone(pid: int) -> bool:
    """Return whether a process has ended."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().split()[2] == "Z"
    return True


async def assert_that_workers_end_with(front: Front) -> None:
    """Kill a front, which then has no time to stop its workers."""
    workers = front.workers()
    front.process.kill()
    await front.process.wait()
    assert len(workers) == 2
    await until(lambda: all(map(is_gone, workers)))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def front() -> AsyncIterator[Front]:
    """A front with two workers, which end when it is killed."""
    front = await Front.start()
    yield front
    await assert_that_workers_end_with(front)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def client_of(front: Front) -> AsyncIterator[Api]:
    async with api_of(cast("LocalSfu", front)) as api:  # both have the three attributes that it needs
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


@pytest.mark.long
async def test_sessions_of_one_room_share_a_worker_and_rooms_are_spread(front: Front) -> None:
    async with client_of(front) as api:
        homes = await homes_of(api, "room")
        for room, session in homes.values():
            again = {(await open_in(api, f"{room}%2Fclient-{n}"))[:2] for n in range(3)}
            assert again == {session[:2]}


async def test_media_flows_within_a_room_whatever_its_worker(front: Front) -> None:
    async with client_of(front) as api:
        for room in ("one", "two"):
            sessions = [await open_in(api, f"{room}/{n}") for n in range(2)]
            async with Peer(api, sessions[0]) as alice, Peer(api, sessions[1]) as bob:
                await alice.publish(sound=AudioStreamTrack())
                await alice.connected()
                await bob.pull(alice, "sound")

                assert len(await frames(bob.tracks[0], 3)) == 3


async def test_a_pull_from_another_worker_fails_with_the_reason(front: Front) -> None:
    async with client_of(front) as api:
        (_, publisher), (_, subscriber) = [(await homes_of(api, "far"))[home] for home in ("00", "01")]
        body = {"sessionDescription": offer(section("0")), "tracks": [CAMERA]}
        await api.ok("POST", f"/sessions/{publisher}/tracks/new", body)

        item = {"location": "remote", "sessionId": publisher, "trackName": "camera"}
        answer = await api.ok("POST", f"/sessions/{subscriber}/tracks/new", {"tracks": [item]})

        assert answer["tracks"][0]["errorCode"] == "not_found_track_error"
        assert "correlationId" in answer["tracks"][0]["errorDescription"]


async def test_sessions_without_a_room_are_together(front: Front) -> None:
    async with client_of(front) as api:
        assert {(await api.new_session())[:2] for _ in range(6)} == {"00"}


async def test_the_front_answers_as_the_sfu_does(front: Front) -> None:
    async with client_of(front) as api:
        session = await open_in(api, "answers/x")
        state = await api.ok("GET", f"/sessions/{session}")
        unknown = [await api.call("GET", f"/sessions/{name}") for name in ("ff" * 16, "zz", "01" + "0" * 30)]
        faulty = await api.call("GET", f"/sessions/{session}", x_fault="425")
        large = await api.http.post(f"{api.root}/sessions/new", content=bytes(600_000), headers=api.headers)
        refused = await api.http.post(f"{api.root}/sessions/new")
        root = front.base_url.removesuffix("/v1")
        metrics = (await api.http.get(f"{root}/metrics")).text
        pages = [(await api.http.get(root + path)).status_code for path in ("/", "/workers/1", "/workers/7")]

        assert (state.get("tracks", []), [answer.status_code for answer in unknown]) == ([], [410, 410, 410])
        assert (faulty.status_code, large.status_code, refused.status_code) == (425, 413, 401)
        assert len(re.findall(r'^sfu_sessions\{worker="[01]"\} ', metrics, re.MULTILINE)) == 2
        assert 'status="425",worker=' in metrics
        assert pages == [200, 200, 404]


async def answer_with(status: int, api: Api, session: str) -> httpx.Response:
    """Ask for a session's state until the answer has this status; one that gets lost is no answer."""
    async with asyncio.timeout(START_LIMIT):
        while True:
            with suppress(httpx.HTTPError):
                answer = await api.call("GET", f"/sessions/{session}")
                if answer.status_code == status:
                    return answer
            await asyncio.sleep(0.02)


async def test_a_worker_that_is_killed_comes_back_and_the_others_go_on(front: Front) -> None:
    async with client_of(front) as api:
        homes = await homes_of(api, "mortal")
        before = front.workers()

        os.kill(before[1], signal.SIGKILL)
        gone = await answer_with(503, api, homes["01"][1])
        moved = await open_in(api, f"{homes['01'][0]}/y")
        await api.ok("GET", f"/sessions/{homes['00'][1]}")
        await answer_with(410, api, homes["01"][1])
        back = await homes_of(api, "again")

        assert gone.json()["errorCode"] == "temporarily_unavailable_error"
        assert moved.startswith("00")
        assert set(back) == {"00", "01"}
        assert (len(front.workers()), front.workers()[0]) == (2, before[0])


async def test_workers_that_cannot_start_are_a_wrong_configuration() -> None:
    order = {"app_id": "a" * 32, "app_secret": "secret"}
    front = Workers([sys.executable, "-S", "-c", "raise SystemExit(2)"], count=2, order=order)
    with pytest.raises(ConfigurationError, match="worker"):
        await front.start()


# Inside this process: a front over workers that are SFUs of this process. A shell stands for each worker's process.


SETTINGS = SfuSettings(max_body=1000)
# A worker keeps its order, says where it is, and lives until its standard input ends.
SHELL = """
read -r order; i=${order#*\'"index": \'}; i=${i%%,*}
echo "$order" >order-$i; [ -s url-$i ] || exit 1; cat url-$i; exec cat
"""


class Shells:
    """A front and its two workers.

    Attributes:
        sfus: the SFUs behind the workers.
        urls: where a worker says it is; the SFU's, until the test says otherwise.
    """

    def __init__(self, sfus: list[LocalSfu], folder: Path) -> None:
        self.sfus = sfus
        self.folder = folder
        for index, sfu in enumerate(sfus):
            self.tell(index, sfu.base_url)
        order = {"app_id": sfus[0].app_id, "app_secret": sfus[0].app_secret}
        script = f"cd '{folder}' && {SHELL}"
        self.front = Workers(["sh", "-c", script], count=2, order=order, udp_port=7000, settings=SETTINGS)

    def tell(self, index: int, url: str) -> None:
        """Let a worker say that it is there."""
        (self.folder / f"url-{index}").write_text(f"{url}\n" if url else "")

    def order(self, index: int) -> dict[str, Any]:
        """Return what a worker was told."""
        order: dict[str, Any] = json.loads((self.folder / f"order-{index}").read_text())
        return order


@pytest_asyncio.fixture(loop_scope="module")
async def shells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shells]:
    """A running front, which asks its workers often."""
    monkeypatch.setattr(workers_module, "_POLL", 0.01)
    monkeypatch.setattr(workers_module, "_PAUSE", 0.01)
    async with AsyncExitStack() as stack:
        common: dict[str, Any] = {"http_port": 0, "app_id": "a" * 32, "app_secret": "secret"}
        sfus = [await stack.enter_async_context(LocalSfu(**common, prefix=prefix_of(index))) for index in range(2)]
        shells = Shells(sfus, tmp_path)
        await stack.enter_async_context(shells.front)
        yield shells


@asynccontextmanager
async def api_of_shells(shells: Shells) -> AsyncIterator[Api]:
    async with api_of(cast("LocalSfu", shells.front)) as api:
        yield api


async def test_each_worker_is_told_its_number_and_a_media_port_of_its_own(shells: Shells) -> None:
    orders = [shells.order(index) for index in range(2)]

    assert [(order["index"], order["udp_port"]) for order in orders] == [(0, 7000), (1, 7001)]
    assert {order["app_secret"] for order in orders} == {"secret"}
    assert len(shells.front.pids) == 2


async def test_a_room_stays_with_its_worker_and_the_next_one_goes_where_least_is_expected(shells: Shells) -> None:
    async with api_of_shells(shells) as api:
        homes = [(await open_in(api, room))[:2] for room in ("one/a", "two/a", "one/b", "two/b")]
        nowhere = await api.new_session()

    assert homes == ["00", "01", "00", "01"]
    assert nowhere.startswith("00")


async def test_requests_reach_the_worker_that_has_the_session(shells: Shells) -> None:
    async with api_of_shells(shells) as api:
        await open_in(api, "one/a")
        session = await open_in(api, "two/a")
        found = await api.call("GET", f"/sessions/{session}")
        lost = [(await api.call("GET", f"/sessions/{name}")).status_code for name in ("ff" * 16, "zz", "00" * 16)]

    assert (found.status_code, lost) == (200, [410, 410, 410])


async def test_a_body_that_is_too_large_reaches_no_worker(shells: Shells) -> None:
    async with api_of_shells(shells) as api:
        answer = await api.http.post(f"{api.root}/sessions/new", content=bytes(1001), headers=api.headers)

    assert (answer.status_code, answer.json()["errorCode"]) == (413, "payload_too_large")


async def test_the_front_shows_its_workers_and_their_metrics(shells: Shells) -> None:
    async with api_of_shells(shells) as api:
        await open_in(api, "one/a")
        root = shells.front.base_url.removesuffix("/v1")
        await until(lambda: any(worker.rooms for worker in shells.front._workers))
        status = await api.http.get(root)
        pages = [(await api.http.get(f"{root}/workers/{index}")).status_code for index in range(3)]
        metrics = (await api.http.get(f"{root}/metrics")).text

    assert "worker 0</a>: 0 packets/s, 1 rooms" in status.text
    assert pages == [200, 200, 404]
    assert re.findall(r'^sfu_sessions\{worker="(\d)"\} (\S+)$', metrics, re.MULTILINE) == [("0", "1.0"), ("1", "0.0")]
    assert metrics.count("# TYPE sfu_sessions ") == 1


async def test_a_worker_that_dies_is_refused_until_it_is_back(shells: Shells) -> None:
    async with api_of_shells(shells) as api:
        await open_in(api, "one/a")
        session = await open_in(api, "two/a")
        shells.tell(1, "")  # it dies again and again
        os.kill(shells.front.pids[1], signal.SIGKILL)
        refused = await answer_with(503, api, session)
        moved = [await open_in(api, f"more-{number}/a") for number in range(3)]
        page = (await api.http.get(shells.front.base_url.removesuffix("/v1"))).text

        shells.tell(1, shells.sfus[1].base_url)
        await answer_with(200, api, session)

    assert refused.json()["errorCode"] == "temporarily_unavailable_error"
    assert [each[:2] for each in moved] == ["00"] * 3
    assert "worker 1</a>: is started again" in page


async def test_a_worker_whose_port_is_closed_is_refused_and_one_that_hangs_up_loses_the_answer(shells: Shells) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with api_of_shells(shells) as api, await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        worker = shells.front._workers[0]
        worker.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(httpx.HTTPError):
            await api.call("GET", "/sessions/00")
        server.close()
        await server.wait_closed()
        refused = await api.call("GET", "/sessions/00")

    assert refused.status_code == 503


async def test_a_room_is_kept_until_its_worker_has_it_no_more(shells: Shells, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = shells.front._workers[0]
    async with api_of_shells(shells) as api:
        await open_in(api, "one/a")
    await until(lambda: "one" in worker.rooms)
    monkeypatch.setattr(workers_module, "_ROOM_KEPT", 0.0)
    worker.expected = 1.0
    await until(lambda: worker.expected < 0.1)  # it is asked for its load
    assert "one" in shells.front._rooms

    await shells.sfus[0].stop()
    worker.rooms = set()

    await until(lambda: "one" not in shells.front._rooms)


async def test_workers_that_do_not_end_by_themselves_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_STOP_LIMIT", 0.05)
    order = {"app_id": "a" * 32, "app_secret": "secret"}
    command = ["sh", "-c", "read -r order; echo http://127.0.0.1:9/v1; exec sleep 600"]
    async with Workers(command, count=2, order=order) as front:
        pids = front.pids

    assert all(map(is_gone, pids))


async def test_a_port_that_is_taken_ends_the_workers_that_have_started(tmp_path: Path) -> None:
    order = {"app_id": "a" * 32, "app_secret": "secret"}
    command = ["sh", "-c", "read -r order; echo http://127.0.0.1:9/v1; exec cat"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        front = Workers(command, count=2, order=order, port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="cannot listen"):
            await front.start()

    assert front.pids == []
