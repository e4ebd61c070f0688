"""What an application asked for last holds: cuts, cancellations and closings at every step of joining and leaving.

The client and the service share one event loop here, so that a step is one turn of it: for every turn of joining, and
of leaving, something happens just then, and something else some turns later. Afterwards members and open tracks are
counted at the service and the SFU. Media stays out of it: what the peer connection says is made up.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from signal_manager.client import RetryPolicy, Room, SignalClient
from signal_manager.client.room_membership import RoomMembership
from signal_manager.errors import SignalManagerError
from signal_manager.media.negotiation import Limits
from signal_manager.model import RoomId
from signal_manager.protocol.messages import IceServer, PublishedTrack
from signal_manager.rooms import RoomSettings
from signal_manager.storage.memory import MemoryStorage
from tests.fakes.media import FakeSfu
from tests.integration.serving import serving_rooms

ROOM = "demo"
AT_ONCE = RetryPolicy(random=lambda: 0.0)
OFFER = "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n"


class Camera:
    """As much of a track as the SDK looks at before there is a peer connection."""

    kind = "video"

    def on(self, event: str, listener: Callable[[], None]) -> None:
        pass  # it never ends

    async def recv(self) -> None:
        pass  # the fake media session never asks for a frame

    def stop(self) -> None:
        pass


class FakeMedia:
    """Says what a peer connection would, and takes a turn for each step."""

    is_connected = True

    async def offer(self, publications: Sequence[Any]) -> tuple[str, list[PublishedTrack]]:
        await asyncio.sleep(0)
        return OFFER, [PublishedTrack(mid="0", track_name=publication.name) for publication in publications]

    async def accept(self, _answer_sdp: str, _refused: Sequence[Any]) -> None:
        await asyncio.sleep(0)

    async def suspect(self) -> None:
        await asyncio.sleep(0)

    async def has_lost_path(self, _is_receiving: Callable[[], bool]) -> bool:
        await asyncio.sleep(0)
        return False

    async def close(self) -> None:
        await asyncio.sleep(0)


class Scene:
    """A service, one who stays in the room, and clients that come and go."""

    def __init__(self, url: str, sfu: FakeSfu, storage: MemoryStorage) -> None:
        self.url = url
        self.sfu = sfu
        self.storage = storage
        self._numbers = itertools.count()

    async def client(self, **options: Any) -> SignalClient:
        name = f"guest-{next(self._numbers)}"
        client = SignalClient(self.url, name, "t", retry=AT_ONCE, request_timeout=5.0, **options)
        await client.connect()
        return client

    async def others(self) -> list[str]:
        room = await self.storage.get_room(RoomId(ROOM))
        assert room is not None
        return [member.client_id for member in room.participants if member.client_id != "host"]

    async def expect_nobody(self) -> None:
        """Only the host is in the room, and no track is open: soon, some of it is background work."""
        async with asyncio.timeout(5):
            while await self.others() or self.sfu.open_tracks:  # noqa: ASYNC110 - the store tells nobody
                await asyncio.sleep(0.002)


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    def open_media(_membership: RoomMembership, _ice_servers: list[IceServer], _expires_at: int | None) -> Any:
        return FakeMedia()

    monkeypatch.setattr(RoomMembership, "_open_media", open_media)
    storage, sfu = MemoryStorage(), FakeSfu()
    clients = [("host", "t"), *((f"guest-{number}", "t") for number in range(2000))]
    async with (
        serving_rooms(
            media=sfu,
            clients=clients,
            settings=RoomSettings(limits=Limits(patience=0.2, pauses=(0.005,))),
            storage=storage,
        ) as served,
        SignalClient(served.url, "host", "t") as host,
        await host.join(ROOM, create=True, auto_pull=False),
    ):
        yield Scene(served.url, sfu, storage)


def cut(client: SignalClient) -> None:
    """End the client's socket without a word, as a network does."""
    connection = client._link.connection
    if connection is not None and connection._transport is not None:
        connection._transport.disconnect(graceful=False)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def count_turns(task: asyncio.Task[Any]) -> int:
    for count in range(10_000):
        if task.done():
            return count
        await asyncio.sleep(0)
    raise AssertionError("it never ends")


def join(client: SignalClient) -> asyncio.Task[Room]:
    camera: Any = Camera()
    return asyncio.create_task(client.join(ROOM, tracks=[camera], retry=AT_ONCE))


class Visit:
    """One client's joining or leaving, and what happens to it meanwhile."""

    def __init__(self, client: SignalClient, task: asyncio.Task[Any]) -> None:
        self.client = client
        self.task = task
        self.is_closed = False

    async def do(self, action: str) -> None:
        match action:
            case "cut":
                cut(self.client)
            case "cancel":
                self.task.cancel()
            case "close":
                self.is_closed = True
                await self.client.close()
            case "leave":
                for room in tuple(self.client._rooms):
                    await room.leave()
            case _:
                raise AssertionError(action)

    async def end(self) -> None:
        """Wait for the task; who is in after all, since the cancellation came too late, leaves."""
        with contextlib.suppress(asyncio.CancelledError, SignalManagerError):
            result = await asyncio.wait_for(self.task, 10)
            if isinstance(result, Room):
                await result.leave()


LATER = (0, 1, 3, 7, 15, 40)


@pytest.mark.parametrize("resumable", [True, False], ids=["resumed", "begun anew"])
@pytest.mark.parametrize(
    "actions",
    [
        ("cancel",),
        ("close",),
        ("cut", "cancel"),
        ("cut", "close"),
        ("cancel", "cut"),
        ("close", "cut"),
        ("cut", "leave"),
    ],
    ids="-then-".join,
)
@pytest.mark.parametrize("what", ["joining", pytest.param("leaving", marks=pytest.mark.long)])
async def test_nobody_is_left_in_a_room_that_they_are_not_in(
    scene: Scene, what: str, actions: tuple[str, ...], *, resumable: bool
) -> None:
    """A client that goes on gets into another room at once, however the first join or leave ended."""
    visitor = await scene.client(resumable=resumable)
    task: asyncio.Task[Any] = join(visitor)
    longest = await count_turns(task)
    if what == "leaving":
        task = asyncio.create_task((await task).leave())
        longest = await count_turns(task)
    await visitor.close()
    await scene.expect_nobody()

    for before, between in itertools.product(range(longest + 1), LATER if len(actions) > 1 else (0,)):
        if len(actions) > 1 and (before + between) % 3:  # a third of the pairs: every turn, each with two gaps
            continue
        client = await scene.client(resumable=resumable)
        task = join(client)
        if what == "leaving":
            task = asyncio.create_task((await task).leave())
        visit = Visit(client, task)

        await turns(before)
        doing = asyncio.create_task(visit.do(actions[0]))
        if len(actions) > 1:
            await turns(1 + between)
            await visit.do(actions[1])
        await doing
        await visit.end()

        try:
            if not visit.is_closed:
                async with await client.join("elsewhere", create=True):
                    await scene.expect_nobody()
            await client.close()
            await scene.expect_nobody()
        except Exception as error:
            raise AssertionError(f"{actions} at turn {before}, {between} between: {error!r}") from error
