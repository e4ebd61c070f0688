"""ICE servers: TURN that is slow or gone keeps nobody waiting, and is not asked more often than it must be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from signal_manager.background import BackgroundTasks
from signal_manager.media import errors as media_errors
from signal_manager.media.base import IceServer, IceServers
from signal_manager.model import ClientId
from signal_manager.observe.metrics import Metrics
from signal_manager.rooms import ice_servers
from signal_manager.rooms.ice_servers import IceServerBook, TurnServers, rest_credential
from tests.fakes.media import FakeSfu

ALICE = ClientId("alice")
BOB = ClientId("bob")
STUN = IceServer(urls=("stun:stun.test:3478",))


class Turn(FakeSfu):
    """A backend whose TURN service answers, fails or hangs; credentials live 400 s."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: Exception | None = None

    async def ice_servers(self) -> IceServers:
        self.asked += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        server = IceServer(urls=("turn:turn.test:3478",), username=f"u{self.asked}", credential="c")
        return IceServers(servers=(server,), expires_at=self.now + 400)


class Desk:
    """A book with what it stands on."""

    def __init__(self, own: TurnServers) -> None:
        self.turn = Turn()
        self.background = BackgroundTasks()
        self.metrics = Metrics()
        self.book = IceServerBook(
            self.turn,
            own=own,
            stun_url=STUN.urls[0],
            metrics=self.metrics,
            start=self.background.start,
            clock=lambda: self.turn.now,
        )

    def counted(self) -> dict[str, float]:
        """Return how often each outcome was counted."""
        samples = self.metrics.ice_servers.read().samples
        return {sample.labels["outcome"]: sample.value for sample in samples if sample.name.endswith("_total")}


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk(TurnServers())
    yield made
    await made.background.stop()


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice_servers, "PATIENCE", 0.02)


async def test_a_client_is_asked_for_once_until_shortly_before_its_credentials_end(desk: Desk) -> None:
    first = await desk.book.servers_for(ALICE)
    desk.turn.now += 299
    again = await desk.book.servers_for(ALICE)
    asked = desk.turn.asked
    desk.turn.now += 2
    renewed = await desk.book.servers_for(ALICE)

    assert (first, asked) == (again, 1)
    assert (renewed.servers[0].username, renewed.expires_at) == ("u2", 1701)
    assert desk.counted() == {"asked": 2, "cached": 1}


async def test_clients_do_not_share_credentials(desk: Desk) -> None:
    alice, bob = await desk.book.servers_for(ALICE), await desk.book.servers_for(BOB)

    assert alice.servers[0].username != bob.servers[0].username


async def test_questions_of_one_client_at_one_time_are_one_call(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.book.servers_for(ALICE) for _ in range(20)))

    assert desk.turn.asked == 1
    assert len({answer.servers[0].username for answer in answers}) == 1


async def test_turn_that_fails_is_asked_once_for_all_clients_and_warned_of_once(desk: Desk) -> None:
    desk.turn.error = media_errors.UnreachableError("no route")

    with capture_logs() as logs:
        answers = [await desk.book.servers_for(ClientId(f"c{n}")) for n in range(50)]

    assert desk.turn.asked == 1
    assert all(answer == IceServers(servers=(STUN,), expires_at=1000 + ice_servers.ASK_AGAIN) for answer in answers)
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [
        "no TURN servers from the media backend"
    ]
    assert desk.counted() == {"fallback": 50}


@pytest.mark.usefixtures("short_patience")
async def test_turn_that_hangs_is_waited_for_once_and_its_late_answer_is_kept(desk: Desk) -> None:
    """ICE_SERVERS and the join after it share one wait; `answers` is never set during it."""
    desk.turn.answers.clear()

    first = await desk.book.servers_for(ALICE)
    waits = asyncio.create_task(desk.book.servers_for(ALICE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = await waits
    desk.turn.answers.set()
    await desk.background.done()

    assert (first.servers, second.servers, desk.turn.asked) == ((STUN,), (STUN,), 1)
    assert (await desk.book.servers_for(ALICE)).servers[0].username == "u1"
    assert (await desk.book.servers_for(BOB)).servers[0].username == "u2"  # it works again, for everybody


async def test_turn_that_failed_is_asked_again_after_a_pause(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice_servers, "PAUSE", 0.0)
    desk.turn.error = media_errors.UnreachableError("no route")
    await desk.book.servers_for(ALICE)
    desk.turn.error = None

    assert (await desk.book.servers_for(ALICE)).servers[0].username == "u2"


async def test_a_fault_of_an_adapter_is_a_fallback_too(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    desk.turn.error = RuntimeError("a defect")

    with capture_logs():
        answers = [await desk.book.servers_for(ALICE) for _ in range(3)]

    assert [answer.servers for answer in answers] == [(STUN,)] * 3
    assert desk.turn.asked == 1


async def test_only_so_many_clients_are_remembered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice_servers, "CAPACITY", 2)
    for client_id in (ALICE, BOB, ALICE, ClientId("carol")):
        await desk.book.servers_for(client_id)

    await desk.book.servers_for(ALICE)
    assert desk.turn.asked == 3
    await desk.book.servers_for(BOB)
    assert desk.turn.asked == 4


async def test_own_servers_are_there_beside_the_backends_and_without_any() -> None:
    own = TurnServers(urls=("turn:own.test:3478",), secret="s3cret", ttl=60)
    desk = Desk(own)
    desk.turn.error = media_errors.UnreachableError("no route")
    none = IceServerBook(
        None, own=own, stun_url="", metrics=desk.metrics, start=desk.background.start, clock=lambda: 1000.0
    )

    for book, others in ((desk.book, (STUN,)), (none, ())):
        found = await book.servers_for(ALICE)
        username, password = rest_credential("s3cret", "alice", 1060)
        assert found.servers == (*others, IceServer(urls=own.urls, username=username, credential=password))
        assert found.expires_at in {1030, 1060}


async def test_static_credentials_do_not_expire() -> None:
    own = TurnServers(urls=("turn:own.test:3478",), username="u", password="p")

    found = own.servers_for(ALICE, 1000.0)

    assert found == IceServers(servers=(IceServer(urls=own.urls, username="u", credential="p"),))


def test_credentials_are_those_of_the_draft() -> None:
    """The password is what `echo -n 1000:alice | openssl dgst -sha1 -hmac north -binary | base64` prints."""
    assert rest_credential("north", "alice", 1000) == ("1000:alice", "6ANS2sM+SnH+pQyRUs6nGfTCfYk=")


def test_secrets_are_in_no_representation() -> None:
    assert "s3cret" not in repr(TurnServers(urls=("turn:t",), secret="s3cret", password="s3cret"))
