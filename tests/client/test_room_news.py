"""Room events in order: a missing one is made good by the whole state, and none counts twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from signal_manager.client.members import Members
from signal_manager.client.negotiations import Entry
from signal_manager.client.room_events import RoomHappening
from signal_manager.client.room_news import RoomNews
from signal_manager.client.room_tasks import RoomTasks
from signal_manager.errors import RateLimitedError, UnavailableError
from signal_manager.protocol.messages import Member, Message, RoomEvent, RoomState, RoomStateAck
from tests.client.fake_service import within
from tests.client.fakes import FakeRequester, welcome

ME = Member(client_id="alice", role="receiver", metadata={"name": "Alice"})
BOB = Member(client_id="bob", role="sender")


class Scene:
    """The news of a room that was joined at sequence 1."""

    def __init__(self) -> None:
        self.client = FakeRequester()
        self.happened: list[RoomHappening] = []
        self.ended: list[str] = []
        self.lost: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.own: list[dict[str, Any]] = []
        self.changes = 0
        self.tasks = RoomTasks()
        self.entry = Entry(None, None)
        self.members = Members("alice", auto_pull=True, emit=self.happened.append, on_stale=lambda _: None)
        self.news = RoomNews(
            self.client,
            "demo",
            self.members,
            on_change=self._note_change,
            on_end=lambda _, reason: self.ended.append(reason),
            on_lost=lambda _, error: self.lost.append(str(error)),
            on_metadata=self.metadata.append,
            on_own_metadata=self.own.append,
            start=self.tasks.start,
        )

    def begin(self) -> None:
        """Be a member from now on."""
        self.news.begin_with(welcome(participants=[ME]), self.entry)

    def hear(self, event: str, sequence: int, participant: Member | None = BOB, **fields: Any) -> None:
        """Hear of an event."""
        happening = RoomEvent(room_id="demo", sequence=sequence, event=event, participant=participant, **fields)
        self.news.hear(happening, self.entry)

    def answer_state(self, sequence: int, *members: Member) -> None:
        """Say what the service answers when it is asked for the whole state."""
        self.client.answers[RoomState] = RoomStateAck(
            room_id="demo", sequence=sequence, participants=[ME, *members], metadata={"topic": "x"}, max_participants=9
        )

    def _note_change(self) -> None:
        self.changes += 1


@pytest.fixture
async def scene() -> Scene:
    scene = Scene()
    scene.begin()
    return scene


async def test_the_welcome_shows_the_room_and_oneself(scene: Scene) -> None:
    assert (scene.metadata, scene.own, [*scene.members.all]) == ([{}], [{"name": "Alice"}], [])
    assert scene.news.shows(1)
    assert not scene.news.shows(2)
    assert scene.client.asked == []


async def test_events_count_in_their_order_and_once(scene: Scene) -> None:
    scene.hear("participant_joined", 2)
    scene.hear("participant_left", 2)
    scene.hear("participant_left", 1)

    assert [*scene.members.all] == ["bob"]
    assert (scene.changes, scene.news.shows(2)) == (1, True)


async def test_a_missing_event_is_made_good_by_the_whole_state_asked_for_once(scene: Scene) -> None:
    scene.answer_state(5, BOB)

    scene.hear("participant_joined", 4, Member(client_id="carol", role="sender"))
    await asyncio.sleep(0)
    scene.hear("participant_left", 5, Member(client_id="carol", role="sender"))
    await within(scene.tasks.wait())

    assert scene.client.asked == [RoomState(room_id="demo")]
    assert ([*scene.members.all], scene.metadata[-1]) == (["bob"], {"topic": "x"})


async def test_a_state_older_than_the_newest_event_is_asked_for_again(scene: Scene) -> None:
    states = [3, 6]

    def answer(_: RoomState) -> Message:
        scene.answer_state(states.pop(0), BOB)
        reply = scene.client.answers[RoomState]
        scene.client.answers[RoomState] = answer
        assert isinstance(reply, RoomStateAck)
        return reply

    scene.client.answers[RoomState] = answer
    scene.hear("tracks_published", 6)
    await within(scene.tasks.wait())

    assert states == []
    assert scene.news.shows(6)


async def test_events_that_come_while_joining_are_not_lost() -> None:
    scene = Scene()
    scene.answer_state(3, BOB)
    scene.news.hear(RoomEvent(room_id="demo", sequence=3, event="participant_joined", participant=BOB), None)

    scene.begin()
    await within(scene.tasks.wait())

    assert [*scene.members.all] == ["bob"]


async def test_events_of_an_earlier_membership_ask_for_nothing(scene: Scene) -> None:
    scene.news.hear(RoomEvent(room_id="demo", sequence=9, event="room_closed"), None)

    scene.news.begin()
    scene.begin()

    assert scene.client.asked == []


async def test_a_state_that_cannot_be_had_loses_the_membership(scene: Scene) -> None:
    scene.client.answers[RoomState] = RateLimitedError("slow down")

    scene.hear("tracks_published", 3)
    await within(scene.tasks.wait())

    assert scene.lost == ["slow down"]
    scene.hear("participant_joined", 2)
    assert [*scene.members.all] == ["bob"]  # it does not wait for the state any more


async def test_a_state_that_comes_after_the_end_changes_nothing(scene: Scene) -> None:
    def answer(_: RoomState) -> Message:
        scene.entry.is_present = False
        return RoomStateAck(room_id="demo", sequence=3, participants=[BOB], metadata={}, max_participants=9)

    scene.client.answers[RoomState] = answer
    scene.hear("tracks_published", 3)
    await within(scene.tasks.wait())

    assert scene.members.all == {}


@pytest.mark.parametrize(
    ("event", "participant", "reason", "ended"),
    [
        ("room_closed", None, "expired", "expired"),
        ("room_closed", None, None, "the room was closed"),
        ("participant_left", ME, "banned", "banned"),
        ("participant_left", ME, None, "removed from the room"),
    ],
)
async def test_an_end_is_told_with_its_reason(
    scene: Scene, event: str, participant: Member | None, reason: str | None, ended: str
) -> None:
    scene.hear(event, 2, participant, reason=reason)

    assert scene.ended == [ended]


async def test_a_media_session_that_the_sfu_lost_is_replaced_and_unpublishing_is_not_that(scene: Scene) -> None:
    scene.hear("tracks_unpublished", 2, ME, reason="ended")
    assert scene.lost == []

    scene.hear("tracks_unpublished", 3, ME, reason="media session lost")
    assert scene.lost == ["the SFU has lost the media session"]


async def test_metadata_is_the_rooms_ones_own_or_another_members(scene: Scene) -> None:
    scene.hear("participant_joined", 2)
    scene.hear("metadata_changed", 3, None, metadata={"topic": "y"})
    scene.hear("metadata_changed", 4, None)
    scene.hear("metadata_changed", 5, Member(client_id="alice", role="receiver", metadata={"name": "Al"}))
    scene.hear("metadata_changed", 6, Member(client_id="bob", role="sender", metadata={"name": "Bob"}))

    assert scene.metadata == [{}, {"topic": "y"}, {}]
    assert scene.own == [{"name": "Alice"}, {"name": "Al"}]
    assert scene.members.all["bob"].metadata == {"name": "Bob"}


async def test_an_unknown_event_about_oneself_counts_and_changes_nothing(scene: Scene) -> None:
    scene.hear("something_new", 2, ME)

    assert scene.news.shows(2)
    assert (scene.ended, scene.lost, scene.happened) == ([], [], [])


async def test_a_loss_of_the_connection_while_asking_is_told(scene: Scene) -> None:
    scene.client.answers[RoomState] = UnavailableError("the connection was lost")

    scene.hear("tracks_published", 3)
    await within(scene.tasks.wait())

    assert scene.lost == ["the connection was lost"]
    assert scene.changes == 1
