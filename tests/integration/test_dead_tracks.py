"""Tracks that the local SFU has collected, through the whole service: nobody is shown them any longer."""

from __future__ import annotations

import asyncio
from typing import Any

from av import VideoFrame

from signal_manager.media.cloudflare import CloudflareBackend
from signal_manager.media.negotiation import Limits
from signal_manager.observe.metrics import Metrics
from signal_manager.rooms import RoomSettings
from signal_manager.rooms.probes import ProbeSettings
from signal_manager.sfu import LocalSfu, SfuSettings
from signal_manager.testing.media.peers import Camera, Microphone
from tests.integration.serving import serving_rooms
from tests.integration.test_room_faults import ask, peer
from tests.integration.v1_client import ALICE, BOB, Client, connect
from tests.waiting import until

COLLECTED_AFTER = 2.0


class FrozenCamera(Camera):
    """A camera that delivers nothing any more once it is frozen, and does not end."""

    def __init__(self) -> None:
        super().__init__()
        self.is_frozen = False

    async def recv(self) -> VideoFrame:
        if self.is_frozen:
            await asyncio.Event().wait()
        return await super().recv()


async def hear(client: Client, event: str) -> dict[str, Any]:
    """Return the next event of that name."""
    while (news := (await client.expect("ROOM_EVENT")).fields)["event"] != event:
        pass
    return news


async def test_a_track_that_the_sfu_has_collected_is_unpublished_when_somebody_fails_to_pull_it() -> None:
    sfu_settings = SfuSettings(track_timeout=COLLECTED_AFTER, tick=0.2, first_packet_wait=0.2)
    rooms = RoomSettings(
        limits=Limits(pauses=(0.01,), patience=0.3),
        probing=ProbeSettings(first_pause=0.01, longest_pause=0.05, check=1000.0, second_look=0.01),
    )
    async with (
        LocalSfu(http_port=0, settings=sfu_settings) as sfu,
        CloudflareBackend(
            app_id=sfu.app_id, app_secret=sfu.app_secret, base_url=sfu.base_url, metrics=Metrics()
        ) as backend,
        serving_rooms(media=backend, clients=(ALICE, BOB), settings=rooms) as served,
        connect(served.url, "signal-manager.v2") as alice,
        connect(served.url, "signal-manager.v2") as bob,
        peer(backend) as sender,
    ):
        await alice.log_in(ALICE)
        await bob.log_in(BOB)
        await ask(bob, "WEBRTC_ROOM_CREATE", {"room_id": "r", "role": "receiver"})
        camera = FrozenCamera()
        offer, tracks = await sender.offer(microphone=Microphone(), camera=camera)
        named = [{"mid": track.mid, "track_name": track.track_name} for track in tracks]
        joined = await ask(
            alice, "WEBRTC_ROOM_JOIN", {"room_id": "r", "role": "sender", "offer_sdp": offer, "tracks": named}
        )
        await sender.accept(joined.fields["answer_sdp"])
        announced: set[str] = set()
        while "camera" not in announced:
            announced |= {track["track_name"] for track in (await hear(bob, "tracks_published"))["tracks"]}

        camera.is_frozen = True
        await until(lambda: sfu.counters.tracks_collected > 0, limit=30.0)
        await bob.send("TRACKS_NEW", {"room_id": "r", "tracks": [{"client_id": ALICE[0], "track_name": "camera"}]})

        while (reply := await bob.receive()).type == "ROOM_EVENT" and reply.fields["event"] != "tracks_unpublished":
            pass
        if reply.type == "TRACKS_NEW_ACK":
            assert reply.fields["tracks"][0]["error_code"] in {404, 425}
            reply = await bob.receive()
        assert reply.fields["event"] == "tracks_unpublished"
        assert reply.fields["reason"] == "media lost"
        assert [track["track_name"] for track in reply.fields["tracks"]] == ["camera"]
