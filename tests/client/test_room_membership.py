"""One membership from joining to its end: what a loss costs, and that each loss and each end is told once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from signal_manager.client import media as media_module
from signal_manager.client.callbacks import EventStream
from signal_manager.client.departures import Departures
from signal_manager.client.events import Disconnected, Reconnected
from signal_manager.client.members import Members
from signal_manager.client.publications import Publication, Publications
from signal_manager.client.room_events import RoomClosed, RoomHappening
from signal_manager.client.room_membership import RoomMembership
from signal_manager.client.room_metadata import RoomMetadata
from signal_manager.client.room_tasks import RoomTasks
from signal_manager.client.timing import Backoff, RetryPolicy
from signal_manager.errors import ForbiddenError, InvalidRequestError, NotFoundError, UnavailableError
from signal_manager.protocol.messages import (
    IceServer,
    IceServers,
    Message,
    Renegotiate,
    RoomEvent,
    RoomJoin,
    RoomLeave,
)
from tests.client.fake_service import within
from tests.client.fakes import FakeMedia, FakeRequester, Silence, welcome
from tests.waiting import until

RESUMED, NEW = Reconnected("s", resumed=True), Reconnected("s", resumed=False)


class Scene:
    """A membership over fakes, and its media sessions."""

    def __init__(self, attempts: int = 3) -> None:
        self.client = FakeRequester()
        self.client.answers[RoomJoin] = welcome(answer_sdp="answer")
        self.opened: list[FakeMedia] = []
        self.lose: list[Callable[[UnavailableError], None]] = []
        self.flows = True  # whether media flows in the sessions to come
        self.closed = 0
        self.stream: EventStream[RoomHappening] = EventStream()
        self.publications = Publications(self._wake, lambda _: None)
        self.members = Members("alice", auto_pull=True, emit=self.stream.emit, on_stale=self._note_stale)
        self.tasks = RoomTasks()
        self.membership = RoomMembership(
            self.client,
            Departures(self.client),
            "demo",
            role=None,
            max_participants=None,
            metadata=RoomMetadata(None, self.stream.emit),
            publications=self.publications,
            members=self.members,
            backoff=Backoff(RetryPolicy(attempts=attempts, random=lambda: 0.0)),
            tasks=self.tasks,
            stream=self.stream,
            on_closed=self._note_end,
        )

    @property
    def media(self) -> FakeMedia:
        """The newest media session."""
        return self.opened[-1]

    def open_media(
        self,
        client: object,
        room_id: str,
        ice_servers: list[IceServer],
        *,
        on_track: Any,
        on_lost: Callable[[UnavailableError], None],
        **_: Any,
    ) -> FakeMedia:
        """Open one in place of the real one."""
        self.opened.append(FakeMedia(on_track))
        self.media.is_connected = self.flows
        self.lose.append(on_lost)
        return self.media

    async def join(self) -> None:
        """Join for the first time."""
        await within(self.membership.join(may_create=True))
        self.membership.worker.wake()
        await self.rest()

    async def publish(self) -> Publication:
        """Publish a track."""
        [publication] = self.publications.add([Silence()])
        self.membership.worker.wake()
        await self.rest()
        return publication

    async def rest(self) -> None:
        """Wait until nothing is left to do."""
        await until(lambda: not self.membership.worker.is_busy, limit=30)

    async def names(self) -> list[str]:
        """Return the names of what has happened since the last call."""
        await self.rest()
        self.stream.emit(RoomClosed("end of the list"))
        names = []
        while (
            not isinstance(event := await within(self.stream.next()), RoomClosed) or event.reason != "end of the list"
        ):
            names.append(event.name)
        return names

    def hear(self, event: str, **fields: Any) -> None:
        """Hear of an event of the room."""
        happening = RoomEvent(room_id="demo", sequence=2, event=event, **fields)
        self.membership.news.hear(happening, self.membership.entry)

    def _wake(self) -> None:
        self.membership.worker.wake()

    def _note_stale(self, mid: str) -> None:
        return

    def _note_end(self) -> None:
        self.closed += 1


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    scene = Scene()
    monkeypatch.setattr(media_module, "MediaSession", scene.open_media)
    yield scene
    await within(scene.membership.end("end of the test"))


@pytest.fixture
async def joined(scene: Scene) -> Scene:
    await scene.join()
    return scene


# The connection to the service


async def test_a_resumed_session_goes_on_in_its_room(joined: Scene) -> None:
    joined.membership.note_link(RESUMED)
    await until(lambda: "has_lost_path" in joined.media.done)

    assert await joined.names() == []
    assert len(joined.opened) == 1


async def test_media_whose_path_was_lost_with_the_connection_is_replaced(joined: Scene) -> None:
    mine = await joined.publish()
    joined.media.has_lost = True

    joined.membership.note_link(Disconnected(1006, "", will_reconnect=True))
    joined.membership.note_link(RESUMED)
    await until(lambda: len(joined.opened) == 2)

    assert await joined.names() == ["reconnecting", "reconnected"]
    assert [media.done for media in joined.opened] == [["publish", "suspect", "has_lost_path"], ["offer", "accept"]]
    assert [media.is_closed for media in joined.opened] == [True, False]
    assert mine.is_published
    assert len(joined.client.asked_for(Renegotiate)) == 1  # the membership stays


async def test_a_new_session_of_the_client_joins_again(joined: Scene) -> None:
    mine = await joined.publish()

    joined.membership.note_link(NEW)

    assert await joined.names() == ["reconnecting", "reconnected"]
    assert [type(message) for message in joined.client.asked][-3:] == [RoomLeave, IceServers, RoomJoin]
    assert joined.opened[0].is_closed
    assert mine.is_published


async def test_a_client_that_never_comes_back_ends_its_rooms(joined: Scene) -> None:
    joined.membership.note_link(Disconnected(4409, "replaced", will_reconnect=False))

    assert joined.membership.is_closed
    assert await closed_with(joined) == ("the client is closed", "replaced")


async def closed_with(scene: Scene) -> tuple[str, str]:
    """Return the reason and the error's message of the last event."""
    assert scene.membership.is_closed
    while not isinstance(event := await within(scene.stream.next()), RoomClosed):
        pass
    with pytest.raises(StopAsyncIteration):
        await within(scene.stream.next())
    return event.reason, "" if event.error is None else event.error.message


async def test_nothing_is_tried_without_a_connection(joined: Scene) -> None:
    joined.client.is_connected = False
    before = len(joined.client.asked)
    joined.membership.replace_media()

    assert await joined.names() == ["reconnecting"]
    assert len(joined.client.asked) == before

    joined.client.is_connected = True
    joined.membership.note_link(RESUMED)
    assert await joined.names() == ["reconnected"]


# Media


async def test_a_lost_media_session_is_told_and_replaced_once(joined: Scene) -> None:
    for _ in range(2):
        joined.lose[0](UnavailableError("the peer connection failed"))

    assert await joined.names() == ["reconnecting", "reconnected"]
    joined.lose[0](UnavailableError("and again, late"))
    assert await joined.names() == []
    assert [media.is_closed for media in joined.opened] == [True, False]


async def test_a_media_session_that_cannot_be_replaced_costs_the_membership_and_then_the_room_is_joined_again(
    joined: Scene,
) -> None:
    joined.client.answers[Renegotiate] = NotFoundError("an older service")

    joined.membership.replace_media()

    assert await joined.names() == ["reconnecting", "reconnected"]
    kinds = [type(message) for message in joined.client.asked]
    assert kinds[-2:] == [RoomLeave, RoomJoin]
    assert joined.client.asked_for(RoomLeave)[0].reason == "media lost"


async def test_media_that_never_flows_ends_the_room(scene: Scene) -> None:
    scene.flows = False
    await scene.join()
    for _ in range(3):
        assert not scene.membership.is_closed
        scene.lose[-1](UnavailableError("the peer connection failed"))
        await scene.rest()

    assert await closed_with(scene) == ("the room cannot be joined again", "the peer connection failed")
    assert all(media.is_closed for media in scene.opened)


async def test_media_that_flows_in_between_never_ends_the_room(joined: Scene) -> None:
    for _ in range(10):
        joined.lose[-1](UnavailableError("the peer connection failed"))
        await joined.rest()

    assert not joined.membership.is_closed


async def test_without_media_there_is_none_to_replace(scene: Scene) -> None:
    scene.client.answers[RoomJoin] = welcome(session_id="")
    await scene.join()

    scene.membership.replace_media()

    assert await scene.names() == []
    assert not scene.membership.has_media


async def test_without_aiortc_joining_says_what_to_install(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "signal_manager.client.media", None)

    with pytest.raises(InvalidRequestError, match=r"signal-manager-client\[rtc\]"):
        await scene.membership.join(may_create=True)


# Ends by the service


async def test_a_room_that_restarts_is_joined_again(joined: Scene) -> None:
    joined.hear("room_closed", reason="restarting")

    assert await joined.names() == ["reconnecting", "reconnected"]


async def test_a_room_that_the_service_closes_is_over(joined: Scene) -> None:
    mine = await joined.publish()

    joined.hear("room_closed", reason="expired")

    assert (joined.membership.is_closed, joined.membership.is_taken, joined.closed) == (True, False, 1)
    assert await closed_with(joined) == ("expired", "")
    assert mine.gone.done()


async def test_a_refusal_for_good_ends_the_room_and_one_for_now_does_not(joined: Scene) -> None:
    answers: list[Message | Exception] = [UnavailableError("not now"), welcome(), ForbiddenError("banned")]

    def answer(_: RoomJoin) -> Message:
        reply = answers.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    joined.client.answers[RoomJoin] = answer
    joined.membership.note_link(NEW)
    assert await joined.names() == ["reconnecting", "reconnected"]

    joined.membership.note_link(NEW)
    await joined.rest()
    assert await closed_with(joined) == ("the room cannot be joined again", "banned")


async def test_attempts_to_join_again_run_out(joined: Scene) -> None:
    joined.client.answers[RoomJoin] = UnavailableError("not now")

    joined.membership.note_link(NEW)
    await joined.rest()

    assert len(joined.client.asked_for(RoomJoin)) == 1 + 3
    assert await closed_with(joined) == ("the room cannot be joined again", "not now")


async def test_a_fault_of_the_sdk_ends_the_room_loudly(joined: Scene, caplog: pytest.LogCaptureFixture) -> None:
    joined.membership._negotiations.next = lambda _: 1 / 0  # type: ignore[method-assign,assignment,return-value]

    joined.membership.worker.wake()
    await joined.rest()

    assert await closed_with(joined) == ("a fault of the SDK itself", "ZeroDivisionError: division by zero")
    assert "ends by an internal error" in caplog.text


# Leaving


async def test_leaving_tells_the_service_and_ends_what_runs(joined: Scene) -> None:
    mine = await joined.publish()
    track = mine.track

    await within(joined.membership.leave("bye"))
    await within(joined.membership.leave("again"))

    assert [message.reason for message in joined.client.asked_for(RoomLeave)] == ["bye"]
    assert joined.media.is_closed
    assert (joined.closed, mine.gone.done(), track.readyState) == (1, True, "live")  # the application's track
    assert await closed_with(joined) == ("left", "")


async def test_leaving_while_joining_again_ends_the_attempt(joined: Scene) -> None:
    async def hang(_: RoomJoin) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    joined.client.answers[RoomJoin] = hang
    joined.membership.note_link(NEW)
    await until(lambda: len(joined.client.asked_for(RoomJoin)) == 2)

    await within(joined.membership.leave(None))

    assert not joined.membership.is_taken
    assert await closed_with(joined) == ("left", "")


async def test_a_first_attempt_that_failed_does_not_hold_the_room(scene: Scene) -> None:
    assert scene.membership.is_taken
    scene.client.answers[RoomJoin] = ForbiddenError("no")

    with pytest.raises(ForbiddenError):
        await scene.membership.join(may_create=False)

    assert not scene.membership.is_taken
