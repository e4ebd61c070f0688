"""Which publications an application means."""

from __future__ import annotations

from aiortc.mediastreams import AudioStreamTrack

from signal_manager.client.publications import Publications


async def test_a_publication_is_meant_by_itself_or_by_its_track() -> None:
    publications = Publications(lambda: None, lambda _: None)
    first, second = publications.add([AudioStreamTrack(), AudioStreamTrack()])

    assert publications.of([first]) == [first]
    assert publications.of([second.track, first]) == [first, second]
    assert publications.of([AudioStreamTrack()]) == []
