"""Joining a room and leaving it: which requests go out, and that a failed attempt leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from signal_manager.client import joining as module
from signal_manager.client.departures import Departures
from signal_manager.client.joining import Joining
from signal_manager.client.media import MediaSession
from signal_manager.client.publications import Publication, Publications
from signal_manager.client.room_metadata import RoomMetadata
from signal_manager.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    MalformedMessageError,
    NotFoundError,
    SignalManagerError,
    TooLateError,
    UnavailableError,
)
from signal_manager.protocol.messages import (
    IceServer,
    IceServers,
    IceServersAck,
    Message,
    Renegotiate,
    RenegotiateAck,
    RoomAck,
    RoomCreate,
    RoomCreateAck,
    RoomJoin,
    RoomLeave,
    TrackResult,
)
from tests.client.fake_service import within
from tests.client.fakes import FakeMedia, FakeRequester, Silence, welcome
from tests.waiting import until

TURN = IceServer(urls=["turn:t.example"])


class Scene:
    """A client that joins a room, and the media sessions that it has opened."""

    def __init__(self, **options: Any) -> None:
        self.client = FakeRequester()
        self.client.answers |= {
            RoomJoin: welcome(answer_sdp="answer"),
            IceServers: IceServersAck(ice_servers=[TURN], expires_at=77),
        }
        self.opened: list[tuple[FakeMedia, list[IceServer], int | None]] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.publications = Publications(lambda: None, lambda _: None)
        self.joined: list[tuple[RoomAck, MediaSession | None]] = []
        given: dict[str, Any] = {"role": None, "max_participants": 9} | options
        self.joining = Joining(
            self.client,
            Departures(self.client),
            "demo",
            metadata=RoomMetadata({"name": "Alice"}, lambda _: None),
            publications=self.publications,
            open_media=self._open,
            **given,
        )

    @property
    def media(self) -> FakeMedia:
        """The only media session."""
        [(media, _, _)] = self.opened
        return media

    @property
    def departures(self) -> list[RoomLeave]:
        """What the service was told about leaving."""
        return self.client.asked_for(RoomLeave)

    def publish(self, count: int = 1) -> list[Publication]:
        """Want tracks to be published."""
        return self.publications.add([Silence() for _ in range(count)])

    async def join(self, *, may_create: bool = True) -> None:
        """Join with what is to be published."""
        await self.joining.join(
            self.publications.fresh, may_create=may_create, on_joined=lambda *joined: self.joined.append(joined)
        )

    async def replace(self, *, is_member: bool = True) -> MediaSession:
        """Replace the media session."""
        return await self.joining.replace(self.publications.fresh, is_member=lambda: is_member)

    def _open(self, servers: list[IceServer], expires_at: int | None) -> MediaSession:
        media = FakeMedia()
        media.gates = self.gates
        self.opened.append((media, servers, expires_at))
        return media.as_session


@pytest.fixture
async def scene() -> Scene:
    return Scene()


# The request


async def test_a_client_without_tracks_joins_as_receiver_with_the_servers_of_the_welcome(scene: Scene) -> None:
    scene.client.answers[RoomJoin] = ack = welcome(ice_servers=[TURN])

    await scene.join()

    [message] = scene.client.asked
    assert message == RoomJoin(
        room_id="demo", metadata={"name": "Alice"}, role="receiver", create_if_missing=True, max_participants=9
    )
    assert scene.opened == [(scene.media, [TURN], None)]
    assert scene.joined == [(ack, scene.media.as_session)]
    assert (scene.joining.has_joined, scene.joining.is_giving_up) == (True, False)


async def test_a_client_with_tracks_brings_its_offer_along(scene: Scene) -> None:
    [mine] = scene.publish()

    await scene.join()

    asked_for_servers, message = scene.client.asked
    assert asked_for_servers == IceServers()
    assert isinstance(message, RoomJoin)
    assert (message.role, message.offer_sdp, len(message.tracks or ())) == ("sender", "offer", 1)
    assert scene.opened == [(scene.media, [TURN], 77)]
    assert scene.media.done == ["offer", "accept"]
    assert mine.is_published


async def test_a_receiver_offers_nothing_although_it_has_tracks() -> None:
    scene = Scene(role="receiver")
    scene.publish()

    await scene.join()

    assert [type(message) for message in scene.client.asked] == [RoomJoin]


async def test_each_offered_track_gets_its_result_and_the_refused_one_is_stopped(scene: Scene) -> None:
    taken, refused, passed_over = scene.publish(3)
    results = [TrackResult(mid="2", error_code=403, error_message="not this one"), TrackResult(mid="1")]
    scene.client.answers[RoomJoin] = welcome(answer_sdp="answer", tracks=results)

    await scene.join()

    assert scene.media.calls[1] == ("accept", [refused.name])
    assert (taken.is_published, passed_over.is_published) == (True, True)
    with pytest.raises(ForbiddenError, match="not this one"):
        refused.published.result()


async def test_an_offer_without_an_answer_is_withdrawn_and_published_later(scene: Scene) -> None:
    [mine] = scene.publish()
    scene.client.answers[RoomJoin] = welcome()

    await scene.join()

    assert scene.media.done == ["offer", "withdraw"]
    assert scene.publications.fresh == [mine]


async def test_without_a_media_backend_there_is_no_media_session(scene: Scene) -> None:
    scene.publish()
    scene.client.answers[RoomJoin] = ack = welcome(session_id="")

    await scene.join()

    assert scene.joined == [(ack, None)]
    assert scene.media.is_closed


# Services that cannot create a room while joining


@pytest.mark.parametrize("refusal", [NotFoundError("no such room"), InvalidRequestError("the room is closed")])
async def test_a_room_that_joining_does_not_create_is_created(scene: Scene, refusal: SignalManagerError) -> None:
    ack = welcome()
    fields = {name: getattr(ack, name) for name in RoomAck.__struct_fields__}
    scene.client.answers |= {RoomJoin: refusal, RoomCreate: RoomCreateAck(**fields)}

    await scene.join()

    assert scene.client.asked[-1] == RoomCreate(
        room_id="demo", metadata={"name": "Alice"}, role="receiver", max_participants=9
    )
    assert scene.joining.has_joined


async def test_a_room_that_another_client_creates_meanwhile_is_joined(scene: Scene) -> None:
    answers: list[Any] = [NotFoundError("no such room"), welcome()]
    scene.client.answers |= {RoomJoin: lambda _: raised(answers.pop(0)), RoomCreate: ConflictError("it exists")}

    await scene.join()

    assert [type(message) for message in scene.client.asked] == [RoomJoin, RoomCreate, RoomJoin]
    assert scene.client.asked_for(RoomJoin)[-1].create_if_missing is None


def raised(answer: Message | BaseException) -> Message:
    """Return an answer, or raise it."""
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def test_a_client_that_may_not_create_a_room_does_not(scene: Scene) -> None:
    scene.client.answers[RoomJoin] = NotFoundError("no such room")

    with pytest.raises(NotFoundError):
        await scene.join(may_create=False)

    assert scene.client.asked == [RoomJoin(room_id="demo", metadata={"name": "Alice"}, role="receiver")]


# Attempts that fail


@pytest.mark.parametrize(
    ("error", "may_be_in"),
    [
        (ForbiddenError("no"), False),
        (NotFoundError("no such room"), False),
        (TooLateError("no answer in time"), True),
        (UnavailableError("the connection was lost"), True),
        (MalformedMessageError("an answer that cannot be read"), True),
        (ZeroDivisionError(), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_an_attempt_that_fails_leaves_neither_media_nor_a_membership(
    scene: Scene, error: Exception, may_be_in: bool
) -> None:
    scene.publish()
    scene.client.answers[RoomJoin] = error

    with pytest.raises(type(error)):
        await scene.join(may_create=False)

    assert scene.media.is_closed
    assert len(scene.departures) == may_be_in
    assert (scene.joined, scene.joining.has_joined, scene.joining.is_giving_up) == ([], False, True)


async def test_giving_up_leaves_neither_media_nor_a_membership(scene: Scene) -> None:
    scene.publish()
    scene.client.answers[RoomJoin] = hang
    joining = asyncio.create_task(scene.join())
    await until(lambda: bool(scene.client.asked_for(RoomJoin)))

    joining.cancel()
    await asyncio.sleep(0)
    assert scene.joining.is_giving_up  # before the service has heard of it, so that the next attempt may begin

    with pytest.raises(asyncio.CancelledError):
        await within(joining)
    assert scene.media.is_closed
    assert len(scene.departures) == 1


async def hang(_: Message) -> Message:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("end", ["another connection", "the room is closed"])
async def test_an_answer_to_an_attempt_that_is_over_does_not_make_a_member(scene: Scene, end: str) -> None:
    scene.publish()
    scene.gates["accept"] = asyncio.Event()
    joining = asyncio.create_task(scene.join())
    await until(lambda: bool(scene.opened) and "accept" in scene.media.done)

    if end == "the room is closed":
        scene.joining.close()
    scene.joining.note_new_connection()
    scene.gates["accept"].set()

    with pytest.raises(UnavailableError, match="lost while joining"):
        await within(joining)
    assert (scene.joined, scene.media.is_closed, len(scene.departures)) == ([], True, 1)


async def test_a_client_that_cannot_reach_the_service_does_not_wait_for_its_departure(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SETTLE_TIMEOUT", 0.0)
    scene.client.answers |= {RoomJoin: UnavailableError("gone"), RoomLeave: hang}
    scene.client.is_connected = False

    with pytest.raises(UnavailableError):
        await within(scene.join())


async def test_joining_waits_until_the_service_knows_what_was_left(scene: Scene) -> None:
    scene.joining.note_departure("bye")

    await scene.join()

    assert [type(message) for message in scene.client.asked] == [RoomLeave, RoomJoin]
    assert scene.departures[0].reason == "bye"


# Another media session in the same membership


async def test_a_replaced_session_publishes_the_tracks_of_the_former_one(scene: Scene) -> None:
    [mine] = scene.publish()
    scene.client.answers[Renegotiate] = RenegotiateAck(status=200, answer_sdp="answer", tracks=[TrackResult(mid="1")])

    media = await scene.replace()

    assert media is scene.media.as_session
    assert scene.opened[0][1:] == ([TURN], 77)
    assert scene.media.done == ["offer", "accept"]
    assert mine.is_published


async def test_a_replaced_session_without_tracks_offers_nothing(scene: Scene) -> None:
    await scene.replace()

    assert scene.client.asked[-1] == Renegotiate(room_id="demo", offer_sdp=None, tracks=[])
    assert scene.media.done == []


@pytest.mark.parametrize("why", ["refused", "no member any more", "cancelled"])
async def test_a_replacement_that_fails_leaves_no_session(scene: Scene, why: str) -> None:
    [mine] = scene.publish()
    answer: Any = {"refused": ForbiddenError("no"), "cancelled": asyncio.CancelledError()}.get(why)
    if answer is not None:
        scene.client.answers[Renegotiate] = lambda _: raised(answer)

    with pytest.raises((ForbiddenError, UnavailableError, asyncio.CancelledError)):
        await scene.replace(is_member=why != "no member any more")

    assert scene.media.is_closed
    assert scene.publications.fresh == [mine]
