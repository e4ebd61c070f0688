"""The order of a room's negotiations, and what a failed one means for its tracks and for the media session."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.client.members import Members, PulledTrack
from signal_manager.client.negotiations import MAX_ATTEMPTS, Entry, Negotiations, is_final
from signal_manager.client.publications import Publication, Publications
from signal_manager.client.room_events import RoomHappening, TrackAdded, TrackFailed
from signal_manager.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    MediaBackendError,
    NotReadyError,
    RateLimitedError,
    SignalManagerError,
    TooLateError,
    UnavailableError,
)
from signal_manager.protocol.messages import MAX_ITEMS, Member, PublishedTrack, RoomEvent, TrackResult
from tests.client.fakes import FakeMedia, Silence


class Scene:
    """A room with a media session, and its negotiations."""

    def __init__(self) -> None:
        self.happened: list[RoomHappening] = []
        self.lost: list[Exception] = []
        self.pauses = 0
        self.entry = Entry(None, None)
        self.members = Members("alice", auto_pull=True, emit=self.happened.append, on_stale=self._note_stale)
        self.publications = Publications(lambda: None, lambda _: None)
        self.media = FakeMedia(self.members.announce)
        self.entry.media = self.media.as_session
        self.negotiations = Negotiations(
            self.members, self.publications, on_lost=self._lose, emit=self.happened.append, pause=self._pause
        )

    def publish(self, count: int = 1) -> list[Publication]:
        """Want so many tracks to be published."""
        return self.publications.add([Silence() for _ in range(count)], "mine")

    def announce(self, *names: str) -> list[PulledTrack]:
        """Let bob publish tracks."""
        tracks = [PublishedTrack(mid="0", track_name=name, kind="audio") for name in names]
        bob = Member(client_id="bob", role="sender", session_id="s-bob")
        event = RoomEvent(room_id="demo", sequence=2, event="tracks_published", participant=bob, tracks=tracks)
        self.members.apply(event)
        return [self.track(name) for name in names]

    def track(self, name: str) -> PulledTrack:
        """Return a track of bob's."""
        track = self.members.find("bob", name)
        assert track is not None
        return track

    @property
    def failed(self) -> list[tuple[str, str]]:
        """The tracks that were given up, and why."""
        return [(event.track_name, str(event.error)) for event in self.happened if isinstance(event, TrackFailed)]

    async def step(self) -> None:
        """Do the next job."""
        job = self.negotiations.next(self.entry)
        assert job is not None
        await job()

    async def work(self) -> None:
        """Do all that is to be done."""
        for _ in range(100):
            job = self.negotiations.next(self.entry)
            if job is None or not self.entry.is_present:
                return
            await job()
        pytest.fail("the negotiations never end")

    def _note_stale(self, mid: str) -> None:
        self.entry.stale.append(mid)

    def _lose(self, entry: Entry, error: Exception) -> None:
        entry.is_present = False
        self.lost.append(error)

    async def _pause(self) -> None:
        self.pauses += 1


@pytest.fixture
async def scene() -> Scene:
    return Scene()


# The order


async def test_an_offer_of_the_sfu_comes_first_and_new_tracks_of_others_last(scene: Scene) -> None:
    leaving, muted = scene.publish(2)
    await scene.work()
    scene.media.calls.clear()
    scene.announce("sound")
    scene.publish()
    leaving.is_wanted = False
    muted.mute()
    scene.entry.stale.append("7")
    scene.entry.offer = "offer", []

    await scene.work()

    assert scene.media.done == ["answer", "unpublish", "publish", "mute", "drop", "pull"]
    assert scene.negotiations.next(scene.entry) is None


async def test_a_track_given_up_before_it_was_published_is_never_offered(scene: Scene) -> None:
    [given_up] = scene.publish()
    given_up.is_wanted = False

    await scene.work()

    assert scene.media.calls == []
    with pytest.raises(InvalidRequestError, match="unpublished meanwhile"):
        given_up.published.result()
    assert given_up.gone.done()


async def test_without_a_media_backend_tracks_are_refused_and_none_is_pulled(scene: Scene) -> None:
    scene.entry.media = None
    scene.announce("sound")
    [mine] = scene.publish()

    await scene.work()

    with pytest.raises(InvalidRequestError, match="no media backend"):
        mine.published.result()
    assert scene.failed == []


async def test_no_request_names_more_tracks_than_the_protocol_allows(scene: Scene) -> None:
    count = MAX_ITEMS + 1
    mine = scene.publish(count)
    scene.announce(*(f"sound-{number}" for number in range(count)))
    await scene.work()
    for each in mine:
        each.mute()
    await scene.work()
    for each in mine:
        each.is_wanted = False
    scene.entry.stale = [f"{number}" for number in range(count)]
    await scene.work()

    negotiations = [(what, len(names)) for what, names in scene.media.calls]
    kinds = ("publish", "pull", "mute", "unpublish", "drop")
    assert negotiations == [(kind, size) for kind in kinds for size in (MAX_ITEMS, 1)]
    assert all(each.gone.done() for each in mine)


# Publishing


async def test_each_track_gets_its_own_result(scene: Scene) -> None:
    taken, refused = scene.publish(2)
    scene.media.results = {refused.name: TrackResult(mid="2", error_code=403, error_message="not this one")}

    await scene.work()

    assert taken.published.done()
    assert taken.published.exception() is None
    with pytest.raises(ForbiddenError, match="not this one"):
        refused.published.result()
    assert scene.publications.wanted == [taken]


async def test_a_refusal_for_good_is_not_tried_again(scene: Scene) -> None:
    [mine] = scene.publish()
    scene.media.failures["publish"] = [ForbiddenError("no")]

    await scene.work()

    assert (scene.media.done, scene.lost, scene.pauses) == (["publish"], [], 0)
    with pytest.raises(ForbiddenError):
        mine.published.result()


async def test_a_refusal_for_now_is_tried_again_after_a_pause_and_not_for_ever(scene: Scene) -> None:
    [mine] = scene.publish()
    scene.media.failures["publish"] = [RateLimitedError("later")] * MAX_ATTEMPTS

    await scene.work()

    assert (scene.media.done, scene.pauses) == (["publish"] * MAX_ATTEMPTS, MAX_ATTEMPTS)
    with pytest.raises(RateLimitedError):
        mine.published.result()


async def test_success_forgets_earlier_failures(scene: Scene) -> None:
    [mine] = scene.publish()
    scene.media.failures["publish"] = [RateLimitedError("later")] * (MAX_ATTEMPTS - 1)

    await scene.work()

    assert mine.published.done()
    assert mine.attempts == 0


@pytest.mark.parametrize(
    "error",
    [TooLateError(""), ConflictError(""), NotReadyError(""), UnavailableError("")],
    ids=lambda error: str(error.code),
)
async def test_a_lost_session_is_replaced_and_says_nothing_about_its_tracks(
    scene: Scene, error: SignalManagerError
) -> None:
    [mine] = scene.publish()
    scene.media.failures["publish"] = [error]

    await scene.work()

    assert scene.lost == [error]
    assert mine.attempts == 0
    assert not mine.published.done()


async def test_a_fault_of_aiortc_replaces_the_session_and_counts_against_the_tracks(scene: Scene) -> None:
    fault = ValueError("no codec in common")
    [mine] = scene.publish()
    for _ in range(MAX_ATTEMPTS):
        scene.entry.is_present = True
        scene.media.failures["publish"] = [fault]
        await scene.work()

    assert scene.lost == [fault] * MAX_ATTEMPTS
    assert mine.published.exception() is fault


async def test_tracks_that_could_not_be_closed_end_with_their_session(scene: Scene) -> None:
    [mine] = scene.publish()
    await scene.work()
    mine.is_wanted = False
    refusal = ForbiddenError("no")
    scene.media.failures["unpublish"] = [refusal]

    await scene.work()

    assert scene.lost == [refusal]
    assert not mine.gone.done()


async def test_a_refused_mute_is_not_said_again(scene: Scene) -> None:
    [mine] = scene.publish()
    await scene.work()
    mine.mute()
    scene.media.failures["mute"] = [ForbiddenError("no")]

    await scene.work()

    assert scene.media.done == ["publish", "mute"]
    assert scene.publications.wanted == [mine]


@pytest.mark.parametrize("outcome", [None, ForbiddenError("no"), UnavailableError("gone")])
async def test_what_comes_after_the_session_was_left_counts_for_nothing(
    scene: Scene, outcome: SignalManagerError | None
) -> None:
    [mine] = scene.publish()
    scene.media.gates["publish"] = asyncio.Event()
    scene.media.failures["publish"] = [outcome] if outcome is not None else []
    job = asyncio.create_task(scene.work())
    await asyncio.sleep(0)

    scene.entry.is_present = False
    scene.media.gates["publish"].set()
    await job

    assert (scene.lost, mine.attempts, mine.published.done()) == ([], 0, False)


# Pulling


async def test_pulled_tracks_are_given_to_the_application(scene: Scene) -> None:
    sound, picture = scene.announce("sound", "picture")

    await scene.work()

    added = [event.track_name for event in scene.happened if isinstance(event, TrackAdded)]
    assert added == ["sound", "picture"]
    assert None not in {sound.mid, picture.mid}


async def test_a_track_that_fails_fails_alone(scene: Scene) -> None:
    sound, picture = scene.announce("sound", "picture")
    scene.media.results = {"picture": TrackResult(error_code=404, error_message="no such track")}

    await scene.work()

    assert sound.mid is not None
    assert (picture.mid, picture.is_wanted) == (None, False)
    assert scene.failed == [("picture", "no such track")]


async def test_a_track_that_is_not_sent_yet_is_asked_for_again_after_a_pause(scene: Scene) -> None:
    scene.announce("sound")
    scene.media.results = {"sound": TrackResult(error_code=425, error_message="not sent yet")}

    await scene.work()

    assert scene.media.done == ["pull"] * MAX_ATTEMPTS
    assert scene.pauses == MAX_ATTEMPTS - 1
    assert scene.failed == [("sound", "not sent yet")]


async def test_a_track_of_which_the_sfu_says_nothing_is_given_up(scene: Scene) -> None:
    scene.announce("sound")
    scene.media.results = {"sound": TrackResult()}

    await scene.work()

    assert [name for name, _ in scene.failed] == ["sound"]


async def test_a_track_that_cannot_be_decoded_is_closed_at_the_sfu_and_given_up(scene: Scene) -> None:
    scene.announce("sound", "picture")
    scene.media.undecodable = frozenset({"2"})

    await scene.work()

    assert ("drop", ["2"]) in scene.media.calls
    assert [name for name, _ in scene.failed] == ["picture"]
    assert scene.track("sound").mid == "1"


async def test_a_track_that_ended_while_it_was_pulled_has_not_failed(scene: Scene) -> None:
    scene.announce("sound")
    scene.media.results = {"sound": TrackResult(error_code=404)}
    scene.media.gates["pull"] = asyncio.Event()
    job = asyncio.create_task(scene.step())
    await asyncio.sleep(0)

    scene.members.show_state([])
    scene.media.gates["pull"].set()
    await job

    assert scene.failed == []


async def test_a_publisher_with_a_new_session_costs_its_tracks_no_attempt(scene: Scene) -> None:
    [sound] = scene.announce("sound")
    scene.media.failures["pull"] = [ForbiddenError("no")]
    scene.media.gates["pull"] = asyncio.Event()
    job = asyncio.create_task(scene.step())
    await asyncio.sleep(0)

    sound.is_paused = True
    scene.media.gates["pull"].set()
    await job

    assert (sound.attempts, sound.is_wanted, scene.failed) == (0, True, [])


# The SFU's offer that comes with the ACK


async def test_the_offer_of_the_welcome_brings_the_tracks_that_are_still_there(scene: Scene) -> None:
    [sound] = scene.announce("sound")
    results = [
        TrackResult(mid="0", client_id="bob", track_name="sound", session_id="s-bob"),
        TrackResult(mid="1", client_id="bob", track_name="gone meanwhile"),
        TrackResult(mid="2", client_id="bob", track_name="sound", error_code=404),
        TrackResult(client_id="bob", track_name="sound"),
    ]
    scene.entry.offer = "offer", results

    await scene.work()

    assert scene.media.calls == [("answer", ["0"]), ("drop", ["1"])]
    assert (sound.mid, sound.source) == ("0", "s-bob")


async def test_what_the_welcome_offers_and_aiortc_cannot_decode_is_given_up(scene: Scene) -> None:
    scene.announce("sound")
    scene.entry.offer = "offer", [TrackResult(mid="0", client_id="bob", track_name="sound")]
    scene.media.undecodable = frozenset({"0"})

    await scene.work()

    assert scene.media.calls == [("answer", ["0"]), ("drop", ["0"])]
    assert [name for name, _ in scene.failed] == ["sound"]


async def test_an_offer_that_fails_is_not_answered_twice(scene: Scene) -> None:
    scene.entry.offer = "offer", []
    scene.media.failures["answer"] = [MediaBackendError("refused")]

    await scene.work()

    assert scene.media.done == ["answer"]
    assert scene.lost == []


# Joining again


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (ForbiddenError(""), True),
        (InvalidRequestError(""), True),
        (ConflictError(""), False),
        (RateLimitedError(""), False),
        (MediaBackendError(""), False),
        (UnavailableError(""), False),
    ],
    ids=lambda value: str(getattr(value, "code", value)),
)
def test_only_a_clear_refusal_ends_a_room(error: SignalManagerError, *, final: bool) -> None:
    assert is_final(error) is final
