"""A room's events, their order and its end, against a service that says what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from aiortc import AudioStreamTrack
from msgspec import structs

from signal_manager.client import (
    ParticipantAway,
    ParticipantBack,
    ParticipantChanged,
    ParticipantJoined,
    ParticipantLeft,
    PublicationEnded,
    RetryPolicy,
    Room,
    RoomChanged,
    RoomClosed,
    RoomHappening,
    RoomReconnected,
    RoomReconnecting,
    SelfChanged,
    SignalClient,
    TrackAdded,
)
from signal_manager.client import media as media_module
from signal_manager.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    SignalManagerError,
    TooLateError,
)
from signal_manager.protocol.messages import (
    ErrorMessage,
    Member,
    Message,
    MetadataUpdate,
    MetadataUpdateAck,
    PublishedTrack,
    Renegotiate,
    RenegotiateAck,
    RoomCreate,
    RoomCreateAck,
    RoomEvent,
    RoomJoin,
    RoomLeave,
    RoomState,
    RoomStateAck,
    TrackResult,
)
from tests.client.fake_service import Client, FakeService, make_client, within
from tests.client.fakes import FakeMedia, Silence
from tests.waiting import until

AT_ONCE = RetryPolicy(attempts=3, random=lambda: 0.0)
ME = Member(client_id="alice", role="receiver")
BOB = Member(client_id="bob", role="sender", session_id="s-1", metadata={"name": "Bob"})


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[SignalClient]:
    async with make_client(service) as client:
        yield client


@pytest.fixture
async def room(client: SignalClient) -> Room:
    return await client.join("demo", retry=AT_ONCE)


async def tell(service: FakeService, event: Any, sequence: int, **fields: Any) -> None:
    await service.clients["alice"].send(RoomEvent(room_id="demo", sequence=sequence, event=event, **fields))


async def following(room: Room, count: int) -> list[RoomHappening]:
    return [await within(anext(room)) for _ in range(count)]


def answer_with(service: FakeService, kind: type[Message], make: Any) -> list[Message]:
    """Answer requests of a kind with what `make` returns, and return the list of them as it grows."""
    asked: list[Message] = []

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, kind):
            asked.append(message)
            await client.send(make(message), message_id)
        else:
            await service.default_answer(client, message_id, message)

    service.answer = answer
    return asked


def keep_waiting(service: FakeService) -> list[Message]:
    """Answer nobody who joins, and return who joins and leaves as the list grows."""
    said: list[Message] = []

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, RoomJoin | RoomLeave):
            said.append(message)
        if not isinstance(message, RoomJoin):
            await service.default_answer(client, message_id, message)

    service.answer = answer
    return said


async def test_giving_up_a_second_join_of_a_room_does_not_end_the_first(
    service: FakeService, client: SignalClient, room: Room
) -> None:
    said = keep_waiting(service)
    second = asyncio.create_task(client.join("demo"))
    await client.heartbeat()

    second.cancel()
    (error,) = await asyncio.gather(second, return_exceptions=True)
    await client.heartbeat()

    assert said == []
    assert isinstance(error, ConflictError)
    assert room.state == "joined"


async def test_a_room_can_be_joined_again_while_a_join_is_being_given_up(
    service: FakeService, client: SignalClient
) -> None:
    said = keep_waiting(service)
    given_up = asyncio.create_task(client.join("demo"))
    await client.heartbeat()
    with pytest.raises(ConflictError, match="is joining it"):
        await client.join("demo")

    given_up.cancel()
    await asyncio.sleep(0)
    service.answer = service.default_answer
    room = await within(client.join("demo"))

    assert given_up.cancelled()
    assert [type(message) for message in said] == [RoomJoin]
    assert room.state == "joined"


async def test_members_come_change_and_go(service: FakeService, room: Room) -> None:
    await tell(service, "participant_joined", 2, participant=BOB)
    changed = Member(client_id="bob", role="sender", session_id="s-1", metadata={"name": "Robert"})
    await tell(service, "metadata_changed", 3, participant=changed)
    await tell(service, "participant_left", 4, participant=changed, reason="enough")

    joined, change, left = await following(room, 3)

    assert isinstance(joined, ParticipantJoined)
    assert isinstance(change, ParticipantChanged)
    assert change.participant.metadata == {"name": "Robert"}
    assert isinstance(left, ParticipantLeft)
    assert (left.participant.client_id, left.participant.role, left.reason) == ("bob", "sender", "enough")
    assert room.participants == {}


async def test_members_are_away_and_back_by_events_and_by_the_whole_state(service: FakeService, room: Room) -> None:
    track = PublishedTrack(mid="0", track_name="video", kind="video")
    bob = Member(client_id="bob", role="sender", session_id="s-1", tracks=[track])
    away = Member(client_id="bob", role="sender", session_id="s-1", tracks=[track], away=True)
    await tell(service, "participant_joined", 2, participant=bob)
    (joined,) = await following(room, 1)
    assert isinstance(joined, ParticipantJoined)
    assert not joined.participant.away
    pulled = joined.participant.tracks["video"]

    await tell(service, "participant_away", 3, participant=away)
    (gone,) = await following(room, 1)
    assert isinstance(gone, ParticipantAway)
    assert gone.participant.away
    assert gone.participant.tracks["video"] is pulled  # what it publishes is as it was

    state = RoomStateAck(room_id="demo", sequence=5, participants=[ME, bob], metadata={}, max_participants=10)
    answer_with(service, RoomState, lambda _: state)
    await tell(service, "metadata_changed", 5)  # 4 is missing
    (back,) = await following(room, 1)
    assert isinstance(back, ParticipantBack)
    assert not back.participant.away
    assert back.participant.tracks["video"] is pulled


async def test_events_of_other_rooms_and_of_the_past_are_ignored(service: FakeService, room: Room) -> None:
    other = RoomEvent(room_id="other", sequence=2, event="participant_joined", participant=BOB)
    await service.clients["alice"].send(other)
    await tell(service, "participant_joined", 1, participant=BOB)
    await tell(service, "participant_joined", 2, participant=Member(client_id="carol", role="receiver"))

    (event,) = await following(room, 1)

    assert isinstance(event, ParticipantJoined)
    assert event.participant.client_id == "carol"


async def test_a_missing_event_is_made_up_for_by_the_whole_state(service: FakeService, room: Room) -> None:
    tracks = [PublishedTrack(mid="0", track_name="video", kind="video")]
    carol = Member(client_id="carol", role="sender", session_id="s-2", tracks=tracks)

    def state(_: Message) -> RoomStateAck:
        return RoomStateAck(
            room_id="demo", sequence=4, participants=[ME, BOB, carol], metadata={}, max_participants=100
        )

    asked = answer_with(service, RoomState, state)
    await tell(service, "participant_joined", 4, participant=carol)

    events = await following(room, 2)

    assert [cast("ParticipantJoined", event).participant.client_id for event in events] == ["bob", "carol"]
    assert len(asked) == 1
    assert room.participants["carol"].tracks["video"].kind == "video"
    await tell(service, "tracks_unpublished", 5, participant=carol, tracks=tracks)
    await tell(service, "participant_left", 6, participant=BOB)
    await following(room, 1)
    assert room.participants["carol"].tracks == {}


async def test_a_client_that_is_removed_is_told_so(service: FakeService, room: Room) -> None:
    await tell(service, "participant_left", 2, participant=ME, reason="removed")

    (event,) = await following(room, 1)

    assert event == RoomClosed("removed")
    assert room.state == "closed"
    with pytest.raises(StopAsyncIteration):
        await within(anext(room))


async def test_a_room_that_expires_is_over(service: FakeService, room: Room) -> None:
    await tell(service, "room_closed", 2, reason="expired")

    assert await following(room, 1) == [RoomClosed("expired")]


async def test_a_room_closed_by_a_restart_is_joined_again(service: FakeService, room: Room) -> None:
    await tell(service, "room_closed", 2, reason="restarting")

    lost, back = await following(room, 2)

    assert isinstance(lost, RoomReconnecting)
    assert isinstance(back, RoomReconnected)
    assert room.state == "joined"


async def test_a_new_session_is_in_no_room_and_joins_again(service: FakeService, room: Room) -> None:
    service.clients["alice"].abort()

    lost, back = await following(room, 2)

    assert isinstance(lost, RoomReconnecting)
    assert isinstance(back, RoomReconnected)


async def test_a_room_that_may_not_be_joined_again_is_over(service: FakeService, room: Room) -> None:
    answer_with(service, RoomJoin, lambda _: ErrorMessage(error_code=403, error_message="no longer"))
    service.clients["alice"].abort()

    _, closed = await following(room, 2)

    assert isinstance(closed, RoomClosed)
    assert isinstance(closed.error, ForbiddenError)


async def test_a_room_that_cannot_be_joined_again_is_given_up(service: FakeService, room: Room) -> None:
    asked = answer_with(service, RoomJoin, lambda _: ErrorMessage(error_code=503, error_message="not now"))
    service.clients["alice"].abort()

    _, closed = await following(room, 2)

    assert isinstance(closed, RoomClosed)
    assert closed.reason == "the room cannot be joined again"
    assert len(asked) == 3


async def test_without_a_media_backend_there_is_nothing_to_publish_with(room: Room) -> None:
    assert not room.has_media
    with pytest.raises(InvalidRequestError, match="no media backend"):
        await room.publish(AudioStreamTrack())


@pytest.mark.parametrize(
    ("tracks", "name", "complaint"),
    [
        ([], None, "expected at least one"),
        ([AudioStreamTrack], "no/name", "name is"),
        ([object], None, "of kind audio or video"),
    ],
)
async def test_what_cannot_be_published_is_refused_at_once(
    room: Room, tracks: list[Any], name: str | None, complaint: str
) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        await room.publish(*(track() for track in tracks), name=name)


async def test_callbacks_get_their_events_and_iteration_the_others(service: FakeService, room: Room) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    room.on("participant_joined", lambda event: heard.put_nowait(event.participant.client_id))
    await tell(service, "participant_joined", 2, participant=BOB)
    await tell(service, "participant_left", 3, participant=BOB)

    assert await within(heard.get()) == "bob"
    assert isinstance((await following(room, 1))[0], ParticipantLeft)
    assert room.dropped_events == 0
    with pytest.raises(InvalidRequestError, match="the event's name"):
        room.on("gone", print)  # type: ignore[call-overload]  # what is tested


async def test_a_callback_may_leave_the_room(service: FakeService, room: Room) -> None:
    left = answer_with(service, RoomLeave, lambda _: ErrorMessage(error_code=404, error_message="not in it"))
    ended: asyncio.Future[RoomClosed] = asyncio.get_running_loop().create_future()
    room.on("participant_joined", lambda _: room.leave("seen enough"))
    room.on("closed", ended.set_result)

    await tell(service, "participant_joined", 2, participant=BOB)

    assert await within(ended) == RoomClosed("left")
    await within(room.end("waits for the callback"))
    async with asyncio.timeout(5):
        while not left:  # noqa: ASYNC110 -- the request is on its way to the service
            await asyncio.sleep(0.01)


async def test_an_answer_that_comes_too_late_leaves_what_may_have_been_joined(
    service: FakeService, client: SignalClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal_manager.client.joining._JOIN_TIMEOUT", 0.05)
    left: list[Message] = []

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, RoomLeave):
            left.append(message)
        if not isinstance(message, RoomJoin):
            await service.default_answer(client, message_id, message)

    service.answer = answer

    with pytest.raises(TooLateError):
        await client.join("demo")

    assert len(left) == 1


async def test_a_room_that_is_missing_is_made_by_the_request_that_joins_it(
    service: FakeService, client: SignalClient
) -> None:
    asked = answer_with(service, RoomJoin, lambda join: service.welcome(join, created=True))

    await client.join("demo", create=True, max_participants=5)
    await client.join("other")

    assert asked == [
        RoomJoin(room_id="demo", role="receiver", create_if_missing=True, max_participants=5),
        RoomJoin(room_id="other", role="receiver"),
    ]


async def test_with_a_service_that_cannot_make_a_room_while_joining_it_is_created(
    service: FakeService, client: SignalClient
) -> None:
    asked: list[Message] = []

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        asked.append(message)
        match message:
            case RoomJoin():
                await client.send(ErrorMessage(error_code=404, error_message="no such room"), message_id)
            case RoomCreate():
                welcome = structs.asdict(service.welcome(RoomJoin(room_id="demo", role="receiver")))
                del welcome["created"]
                await client.send(RoomCreateAck(**welcome), message_id)
            case _:
                await service.default_answer(client, message_id, message)

    service.answer = answer

    room = await client.join("demo", create=True)

    assert room.state == "joined"
    assert [type(each) for each in asked[-2:]] == [RoomJoin, RoomCreate]
    await room.leave()
    with pytest.raises(NotFoundError):
        await client.join("demo")


async def test_metadata_is_changed_by_oneself_and_by_others(service: FakeService, client: SignalClient) -> None:
    joins = []
    asked = []

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, MetadataUpdate):
            asked.append(message)
            await client.send(MetadataUpdateAck(sequence=2), message_id)
            return
        if isinstance(message, RoomJoin):
            joins.append(message.metadata)
        await service.default_answer(client, message_id, message)

    service.answer = answer
    room = await client.join("demo", metadata={"name": "Alice"}, retry=AT_ONCE)
    await room.set_metadata({"name": "Al"})
    await room.set_metadata({"topic": "soup"}, scope="room")
    await tell(service, "metadata_changed", 2, metadata={"topic": "soup"})

    myself, changed = await following(room, 2)
    assert myself == SelfChanged({"name": "Al"})
    assert changed == RoomChanged({"topic": "soup"})
    assert room.metadata == {"topic": "soup"}
    assert [(each.metadata, each.scope) for each in asked] == [
        ({"name": "Al"}, "participant"),
        ({"topic": "soup"}, "room"),
    ]
    await tell(service, "room_closed", 3, reason="restarting")
    await following(room, 2)
    assert joins == [{"name": "Alice"}, {"name": "Al"}], "joining again says what was said last"
    with pytest.raises(InvalidRequestError, match="scope"):
        await room.set_metadata({}, scope="world")  # type: ignore[arg-type]  # what is tested
    await room.leave()
    with pytest.raises(InvalidRequestError, match="is closed"):
        await room.set_metadata({})


async def test_a_later_change_of_ones_own_metadata_outlives_the_answer_to_an_earlier_one(
    service: FakeService, client: SignalClient
) -> None:
    """An operator changes it right after this client: the later change stays, in whichever order the news arrives."""
    me = structs.replace(ME, metadata={"by": "operator"})

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if not isinstance(message, MetadataUpdate):
            await service.default_answer(client, message_id, message)
            return
        mine = structs.replace(ME, metadata=message.metadata)
        await tell(service, "metadata_changed", 2, participant=mine)
        await tell(service, "metadata_changed", 3, participant=me)
        await client.send(MetadataUpdateAck(sequence=2), message_id)

    service.answer = answer
    room = await client.join("demo", metadata={"by": "default"})
    assert room.own_metadata == {"by": "default"}

    await room.set_metadata({"by": "me"})

    assert await following(room, 2) == [SelfChanged({"by": "me"}), SelfChanged({"by": "operator"})]
    assert room.own_metadata == {"by": "operator"}

    # The answer may also come when an event before it is missing: then the whole state has the last word.
    state = RoomStateAck(room_id="demo", sequence=7, participants=[me], metadata={}, max_participants=10)
    answer_with(service, RoomState, lambda _: state)
    mine = structs.replace(ME, metadata={"by": "me again"})
    await tell(service, "metadata_changed", 4, participant=mine)
    await tell(service, "metadata_changed", 6, participant=mine)
    await tell(service, "metadata_changed", 7, participant=me)
    assert await following(room, 2) == [SelfChanged({"by": "me again"}), SelfChanged({"by": "operator"})]


async def test_events_and_kinds_of_a_newer_service_are_ignored_and_count(service: FakeService, room: Room) -> None:
    """No state of the room is asked for, which this fake service would not know to answer."""
    words = PublishedTrack(mid="2", track_name="words", kind="subtitles")
    guest = Member(client_id="guest", role="sender", tracks=[words])
    await tell(service, "participant_joined", 2, participant=structs.replace(BOB, tracks=[words]))
    (joined,) = await following(room, 1)
    assert isinstance(joined, ParticipantJoined)
    assert joined.participant.tracks["words"].kind is None
    await tell(service, "hands_raised", 3)
    await tell(service, "hands_raised", 4, participant=BOB, tracks=[words])
    await tell(service, "hands_raised", 5, participant=guest, tracks=[words])
    await tell(service, "hands_raised", 6, participant=ME)
    await tell(service, "participant_left", 7, participant=BOB, reason="a reason of its own")

    (left,) = await following(room, 1)

    assert left == ParticipantLeft(joined.participant, "a reason of its own")
    assert room.participants == {}
    assert room.state == "joined"


async def test_a_refusal_with_a_code_of_a_newer_service_says_itself_whether_to_try_again(
    service: FakeService, client: SignalClient
) -> None:
    refused = answer_with(service, RoomJoin, lambda _: ErrorMessage(error_code=423, error_message="no"))
    with pytest.raises(SignalManagerError) as final:
        await client.join("demo")

    answer_with(service, RoomJoin, lambda _: ErrorMessage(error_code=423, error_message="not now", retryable=True))
    with pytest.raises(SignalManagerError) as passing:
        await client.join("demo")

    assert len(refused) == 1
    assert [(each.value.code, each.value.may_retry) for each in (final, passing)] == [(423, False), (423, True)]


# With a media backend


@pytest.fixture
async def media(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> FakeMedia:
    """The media session of a room whose service has a media backend."""
    media = FakeMedia()

    def open_media(*_: Any, on_track: Any, **__: Any) -> FakeMedia:
        media.on_track = on_track
        return media

    async def answer(client: Client, message_id: bytes, message: Message) -> None:
        if isinstance(message, RoomJoin):
            await client.send(service.welcome(message, session_id="s"), message_id)
        else:
            await service.default_answer(client, message_id, message)

    monkeypatch.setattr(media_module, "MediaSession", open_media)
    service.answer = answer
    return media


async def test_publishing_returns_what_unpublish_takes(media: FakeMedia, room: Room) -> None:
    sound, picture = await within(room.publish(Silence(), Silence("video"), muted=True))
    assert [each.muted for each in room.publications] == [True, True]

    room.unmute("audio")
    await within(room.unpublish(sound.track, picture))

    assert media.calls[0] == ("publish", ["audio", "video"])
    closed = [name for what, names in media.calls if what == "unpublish" for name in names]
    assert sorted(closed) == ["audio", "video"]
    assert room.publications == []


async def test_when_one_track_is_refused_none_of_the_call_stays_published(media: FakeMedia, room: Room) -> None:
    [before] = await within(room.publish(Silence()))
    media.results["screen-video"] = TrackResult(mid="9", error_code=403, error_message="no screens")

    with pytest.raises(ForbiddenError, match="no screens"):
        await within(room.publish(Silence(), Silence("video"), name="screen"))
    await until(lambda: "unpublish" in media.done, limit=30)

    assert room.publications == [before]
    assert media.calls[-1] == ("unpublish", ["screen-audio"])


async def test_a_track_that_ends_by_itself_is_unpublished_and_told(media: FakeMedia, room: Room) -> None:
    [sound] = await within(room.publish(Silence()))

    sound.track.stop()

    assert await following(room, 1) == [PublicationEnded("audio", sound.track)]
    await until(lambda: media.done == ["publish", "unpublish"], limit=30)


async def test_without_auto_pull_a_track_is_received_when_it_is_asked_for(
    service: FakeService, client: SignalClient, media: FakeMedia
) -> None:
    room = await client.join("demo", auto_pull=False)
    track = PublishedTrack(mid="0", track_name="sound", kind="audio")
    await tell(service, "participant_joined", 2, participant=structs.replace(BOB, tracks=[track]))
    await following(room, 1)
    with pytest.raises(NotFoundError, match="bob publishes no track picture"):
        room.pull("bob", "picture")
    assert media.done == []

    room.pull("bob", "sound")

    [added] = await following(room, 1)
    assert isinstance(added, TrackAdded)
    assert room.participants["bob"].tracks["sound"].track is added.track


async def test_a_media_session_can_be_replaced_on_request(service: FakeService, media: FakeMedia, room: Room) -> None:
    asked = answer_with(service, Renegotiate, lambda _: RenegotiateAck(status=200))

    room.restart_ice()

    assert [event.name for event in await following(room, 2)] == ["reconnecting", "reconnected"]
    assert asked == [Renegotiate(room_id="demo", offer_sdp=None, tracks=[])]
    assert media.is_closed  # the former one, which the fake does not tell from the new one


async def test_a_sender_needs_tracks_to_join(client: SignalClient) -> None:
    with pytest.raises(InvalidRequestError, match="expected tracks"):
        await client.join("demo", role="sender")
