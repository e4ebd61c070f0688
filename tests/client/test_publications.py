"""The publications of one room: their names, which are meant, what is to be done next, and how each ends."""

from __future__ import annotations

import pytest
from aiortc.mediastreams import AudioStreamTrack

from signal_manager.client.publications import Publication, Publications, error_of
from signal_manager.errors import ForbiddenError, InvalidRequestError, MediaBackendError, UnavailableError
from signal_manager.protocol.messages import MAX_ITEMS, TrackResult
from tests.client.fakes import Silence


class Listener:
    """Counts changes, and keeps the publications whose track has ended."""

    def __init__(self) -> None:
        self.changes = 0
        self.ended: list[Publication] = []
        self.publications = Publications(self._note_change, self.ended.append)

    def _note_change(self) -> None:
        self.changes += 1


@pytest.fixture
async def listener() -> Listener:
    return Listener()


@pytest.fixture
def publications(listener: Listener) -> Publications:
    return listener.publications


async def test_a_publication_is_meant_by_itself_or_by_its_track() -> None:
    publications = Publications(lambda: None, lambda _: None)
    first, second = publications.add([AudioStreamTrack(), AudioStreamTrack()])

    assert publications.of([first]) == [first]
    assert publications.of([second.track, first]) == [first, second]
    assert publications.of([AudioStreamTrack()]) == []


# Names


async def test_a_name_that_is_taken_gets_a_number(publications: Publications) -> None:
    added = publications.add([Silence(), Silence("video"), Silence()])
    added += publications.add([Silence()], "screen")
    publications.remove(added[0])
    added += publications.add([Silence(), Silence()])

    assert [each.name for each in added] == ["audio", "video", "audio-2", "screen-audio", "audio", "audio-3"]


@pytest.mark.parametrize("prefix", ["", "x" * 300, "a/b\n"])
async def test_a_name_that_cannot_be_adds_nothing(publications: Publications, prefix: str) -> None:
    with pytest.raises(InvalidRequestError, match="name"):
        publications.add([Silence()], prefix)

    assert publications.wanted == []


async def test_a_track_is_published_once(publications: Publications) -> None:
    track = Silence()
    for tracks in ([], [track, track]):
        with pytest.raises(InvalidRequestError, match="expected"):
            publications.add(tracks)
    publications.add([track])

    with pytest.raises(InvalidRequestError, match="published already"):
        publications.add([Silence(), track])
    assert len(publications.wanted) == 1


# What is next


async def test_a_publication_passes_from_fresh_to_leaving(publications: Publications) -> None:
    [each] = publications.add([Silence()])
    assert (publications.fresh, publications.leaving, publications.abandoned) == ([each], [], [])

    publications.settle(each, None)
    assert (publications.fresh, publications.wanted) == ([], [each])
    assert each.published.done()

    publications.forget_session()
    assert publications.fresh == [each]

    publications.settle(each, TrackResult(mid="0"))
    each.is_wanted = False
    assert (publications.leaving, publications.wanted) == ([each], [])

    publications.forget_session()
    assert publications.abandoned == [each]

    publications.remove(each)
    assert publications.of([each]) == []
    assert each.gone.done()


async def test_tracks_that_ended_by_themselves_leave_before_the_others(publications: Publications) -> None:
    """A request to close tracks has one reason for all of them."""
    unwanted, ended = publications.add([Silence(), Silence()])
    for each in (unwanted, ended):
        publications.settle(each, None)
        each.is_wanted = False
    ended.has_ended = True

    assert publications.leaving == [ended]
    publications.remove(ended)
    assert publications.leaving == [unwanted]


async def test_no_more_is_next_than_one_request_carries(publications: Publications) -> None:
    added = publications.add([Silence() for _ in range(MAX_ITEMS + 1)])
    assert publications.fresh == added[:MAX_ITEMS]
    for each in added:
        publications.settle(each, None)
        each.mute()
    assert publications.unsaid == added[:MAX_ITEMS]
    for each in added:
        each.is_wanted = False
    assert publications.leaving == added[:MAX_ITEMS]


# Results


async def test_a_refused_publication_raises_at_the_caller_and_is_forgotten(publications: Publications) -> None:
    [each] = publications.add([Silence()])

    publications.settle(each, TrackResult(mid="0", error_code=403, error_message="no"))

    with pytest.raises(ForbiddenError, match="no"):
        await each.published
    assert publications.wanted == []


async def test_ending_the_room_ends_every_publication_once(publications: Publications) -> None:
    fresh, published = publications.add([Silence(), Silence()])
    publications.settle(published, None)

    publications.remove_all(UnavailableError("the room is closed"))
    publications.remove(fresh)

    with pytest.raises(UnavailableError, match="the room is closed"):
        await fresh.published
    await published.published
    assert all(each.gone.done() for each in (fresh, published))


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (TrackResult(mid="0", error_code=403, error_message="no"), ForbiddenError("no")),
        (TrackResult(mid="0"), UnavailableError("the SFU took no notice of the track")),
        (TrackResult(), MediaBackendError("the SFU took no notice of the track")),
    ],
)
def test_a_track_without_a_clear_result_has_failed(result: TrackResult, error: Exception) -> None:
    """A track with a mid is one of a replaced session, which comes again."""
    assert repr(error_of(result)) == repr(error)


# Muting and replacing


async def test_muting_is_to_be_told_until_the_service_knows(listener: Listener, publications: Publications) -> None:
    [each] = publications.add([Silence()])
    each.mute()
    assert publications.unsaid == []  # it is published as muted

    publications.settle(each, None)
    assert publications.unsaid == [each]
    each.unmute()
    assert publications.unsaid == []
    assert listener.changes == 2


@pytest.mark.parametrize(("kind", "muted"), [(None, ["audio", "video"]), ("audio", ["audio"]), ("video", ["video"])])
async def test_muting_all_means_camera_and_microphone_and_no_named_track(
    listener: Listener, publications: Publications, kind: str | None, muted: list[str]
) -> None:
    added = publications.add([Silence(), Silence("video")]) + publications.add([Silence("video")], "screen")

    publications.mute(kind, muted=True)
    assert [each.name for each in added if each.muted] == muted

    publications.mute(None, muted=False)
    assert not any(each.muted for each in added)
    assert listener.changes == 2


async def test_a_track_of_another_kind_replaces_none(publications: Publications) -> None:
    [each] = publications.add([track := Silence()])

    with pytest.raises(InvalidRequestError, match="of kind video, expected audio"):
        each.replace_track(Silence("video"))
    assert each.track is track


async def test_the_end_of_a_replaced_track_ends_no_publication(listener: Listener, publications: Publications) -> None:
    before, after = Silence(), Silence()
    [each] = publications.add([before])
    told: list[None] = []
    each.on_replaced = lambda: told.append(None)

    each.replace_track(after)
    before.stop()
    assert (listener.ended, len(told)) == ([], 1)

    after.stop()
    assert listener.ended == [each]
