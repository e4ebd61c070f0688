"""Whether the path to the SFU is lost, told from what comes in; the rest of a media session needs an SFU."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from av import AudioFrame

from signal_manager.client import media
from signal_manager.client.media import MediaSession
from signal_manager.client.publications import Publications
from signal_manager.protocol.messages import IceServers, IceServersAck, Message
from tests.client.fake_service import within
from tests.client.test_tracks import Source


class Session(MediaSession):
    """A session that is connected, as long as the test has counts of what has come in."""

    counts: Sequence[int] = ()
    looks = 0
    is_fed = True
    expires_at: int | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lost: list[str] = []

    @property
    def is_connected(self) -> bool:
        return True

    async def _ask(self, message: Message, expected: type[Any]) -> Any:
        assert isinstance(message, IceServers)
        return IceServersAck(ice_servers=[], expires_at=self.expires_at)

    async def _count_received(self) -> int:
        self.looks += 1
        return self.counts[min(self.looks, len(self.counts)) - 1]


@pytest.fixture
async def session(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    monkeypatch.setattr(media, "_LOOK", 0.01)
    made: Session = Session(
        cast("Any", None),
        "demo",
        [],
        is_receiving=lambda: made.is_fed,
        on_connected=lambda: None,
        on_lost=lambda error: made.lost.append(error.message),
        on_track=lambda *_: None,
    )
    made._connected_at = time.monotonic() - 60
    yield made
    await made._peer.close()


async def test_silence_counts_from_when_the_loss_was_suspected(session: Session) -> None:
    session.counts = [6000]
    session._suspicion = (time.monotonic() - 2.0, 6000)

    assert await session.has_lost_path()
    assert session.looks == 1


async def test_silence_is_longer_where_packets_are_rare(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "SILENCE", (0.01, 2.5))
    session.counts = [12]
    session._suspicion = (time.monotonic() - 2.0, 12)

    assert await session.has_lost_path()
    assert session.looks > 1


async def test_a_path_on_which_something_comes_is_not_lost(session: Session) -> None:
    session.counts = [6000, 6001, 6001]
    session._suspicion = (time.monotonic() - 2.0, 5000)

    assert not await session.has_lost_path()
    assert session.looks == 2


async def test_a_path_on_which_nothing_need_come_is_not_looked_at(session: Session) -> None:
    session.is_fed = False

    assert not await session.has_lost_path()
    assert session.looks == 0


async def test_what_had_come_is_noted_when_the_path_may_be_lost(session: Session) -> None:
    session.counts = [6000]

    await session.suspect()

    assert session._suspicion is not None
    assert session._suspicion[1] == 6000


async def test_replacing_a_track_that_hangs_reaches_what_sends_it(session: Session) -> None:
    hanging, fresh = Source(), Source()
    [publication] = Publications(lambda: None, lambda _: None).add([hanging])
    await session.offer([publication])
    outgoing = session._senders[publication].sender.track
    receiving = asyncio.create_task(outgoing.recv())
    await within(hanging.is_asked.wait())

    publication.replace_track(fresh)
    fresh.put(960)

    assert isinstance(frame := await within(receiving), AudioFrame)
    assert frame.samples == 960


async def test_a_silent_relay_is_lost_once_its_credentials_have_ended(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "_RELAY_SILENCE", 0.01)
    monkeypatch.setattr(media, "SILENCE", (0.01, 0.01))
    session.counts = [6000]
    session.expires_at = int(time.time() * 1000) - 1000

    await within(session._watch_relay())

    assert session.lost == ["the relay is lost"]


async def test_a_relay_whose_credentials_never_end_is_not_looked_at(session: Session) -> None:
    await within(session._watch_relay())

    assert session.looks == 0
    assert session.lost == []
