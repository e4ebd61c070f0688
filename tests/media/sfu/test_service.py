"""The SFU as a whole, with aiortc on both ends."""

from __future__ import annotations

from aiortc import AudioStreamTrack

from signal_manager.media.sfu import LocalSfu
from tests.media.sfu.clients import Api, MovingPicture, Peer, frames


async def test_what_one_peer_publishes_arrives_at_another(sfu: LocalSfu, api: Api) -> None:
    async with await Peer.open(api) as alice, await Peer.open(api) as bob:
        await alice.publish(camera=MovingPicture(), microphone=AudioStreamTrack())
        await alice.connected()
        await bob.pull(alice, "camera", "microphone")
        video = next(track for track in bob.tracks if track.kind == "video")
        audio = next(track for track in bob.tracks if track.kind == "audio")

        pictures = await frames(video, 3)
        sounds = await frames(audio, 3)

        assert {(picture.width, picture.height) for picture in pictures} == {(160, 120)}
        assert all(sound.sample_rate == 48000 for sound in sounds)
