"""The SFU as a whole, with aiortc on both ends, and with what the network may throw at it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aioice import stun
from aiortc import AudioStreamTrack, RTCDataChannel

from signal_manager.errors import ConfigurationError
from signal_manager.sfu import LocalSfu, SfuSettings, serve
from signal_manager.sfu.connection import Connection
from signal_manager.sfu.wire import SessionDescription, TracksRequest
from signal_manager.testing.media.peers import Camera
from tests.sfu.clients import Api, Json, Peer, api_of, frames, until
from tests.sfu.sdps import FINGERPRINT, offer, section


async def close(api: Api, peer: Peer, mid: str) -> Json:
    return await api.ok("PUT", f"{peer.path}/tracks/close", {"tracks": [{"mid": mid}], "force": True})


def flowing(sfu: LocalSfu, peer: Peer, mid: str) -> int:
    """How many packets a peer was sent on a mid."""
    return sfu.sessions[peer.session_id].tracks.router.subscriptions[mid].stream.packets


async def test_what_one_peer_publishes_arrives_at_another(sfu: LocalSfu, api: Api) -> None:
    async with await Peer.open(api) as alice, await Peer.open(api) as bob:
        await alice.publish(camera=Camera(), microphone=AudioStreamTrack())
        await alice.connected()
        await bob.pull(alice, "camera", "microphone")
        video = next(track for track in bob.tracks if track.kind == "video")
        audio = next(track for track in bob.tracks if track.kind == "audio")

        pictures = await frames(video, 3)
        sounds = await frames(audio, 3)
        await until(lambda: sfu.sessions[alice.session_id].tracks.published["camera"].is_flowing)
        state = await api.ok("GET", bob.path)
        page = (await api.http.get(sfu.base_url.removesuffix("v1"))).text

        assert {(picture.width, picture.height) for picture in pictures} == {(160, 120)}
        assert all(sound.sample_rate == 48000 for sound in sounds)
        assert [(track["location"], track["trackName"], track["status"]) for track in state["tracks"]] == [
            ("remote", "camera", "active"),
            ("remote", "microphone", "active"),
        ]
        assert "kbit/s" in page
        assert "connected" in page


async def test_one_connection_publishes_and_pulls_in_turn(sfu: LocalSfu, api: Api) -> None:
    async with await Peer.open(api) as alice, await Peer.open(api) as bob:
        await alice.publish(sound=AudioStreamTrack())
        await bob.publish(sound=AudioStreamTrack())
        await alice.connected()
        await bob.connected()

        first = await bob.pull(alice, "sound")
        second = await alice.pull(bob, "sound")
        await bob.publish(another=AudioStreamTrack())
        third = await alice.pull(bob, "another")

        mids = [answer["tracks"][0]["mid"] for answer in (second, third)]
        await until(lambda: flowing(sfu, bob, first["tracks"][0]["mid"]) > 5)
        await until(lambda: all(flowing(sfu, alice, mid) > 5 for mid in mids))
        assert len({"0", *mids}) == 3


async def test_closing_a_publication_ends_its_subscriptions(sfu: LocalSfu, api: Api) -> None:
    async with await Peer.open(api) as alice, await Peer.open(api) as bob:
        published = await alice.publish(sound=AudioStreamTrack())
        await alice.connected()
        pulled = await bob.pull(alice, "sound")
        mid = pulled["tracks"][0]["mid"]
        await until(lambda: flowing(sfu, bob, mid) > 0)

        await close(api, alice, published["tracks"][0]["mid"])

        assert sfu.sessions[bob.session_id].tracks.router.subscriptions[mid].publication is None
        state = await api.ok("GET", bob.path)
        assert state["tracks"][0]["status"] == "inactive"
        assert "errorCode" not in (await close(api, bob, mid))["tracks"][0]
        again = await api.ok(
            "POST",
            f"{bob.path}/tracks/new",
            {"tracks": [{"location": "remote", "sessionId": alice.session_id, "trackName": "sound"}]},
        )
        assert again["tracks"][0]["errorCode"] == "not_found_track_error"


async def test_a_section_that_sends_takes_another_track_without_negotiation(sfu: LocalSfu, api: Api) -> None:
    async with await Peer.open(api) as alice, await Peer.open(api) as bob:
        await alice.publish(one=AudioStreamTrack(), two=AudioStreamTrack(), camera=Camera())
        await alice.connected()
        mid = (await bob.pull(alice, "one"))["tracks"][0]["mid"]
        await bob.connected()

        reused = await bob.pull(alice, "two", mid=mid)
        wrong_codec = await bob.pull(alice, "camera", mid=mid)
        nowhere = await bob.pull(alice, "two", mid="77")

        assert reused["requiresImmediateRenegotiation"] is False
        assert reused["tracks"] == [{"sessionId": alice.session_id, "trackName": "two", "mid": mid}]
        subscription = sfu.sessions[bob.session_id].tracks.router.subscriptions[mid]
        assert subscription.publication is sfu.sessions[alice.session_id].tracks.published["two"]
        codes = [answer["tracks"][0]["errorCode"] for answer in (wrong_codec, nowhere)]
        assert codes == ["invalid_params", "invalid_params"]


async def test_a_bidirectional_section_sends_and_receives_under_the_name_of_its_track(sfu: LocalSfu, api: Api) -> None:
    async with await Peer.open(api) as alice, await Peer.open(api) as bob:
        await alice.publish(sound=AudioStreamTrack())
        await alice.connected()
        asked = {"location": "local", "kind": "audio", "trackName": "own", "bidirectionalMediaStream": True}
        pushed = await api.ok("POST", f"{bob.path}/tracks/new", {"tracks": [asked]})
        await bob.take(pushed["sessionDescription"])
        transceiver = bob.connection.getTransceivers()[0]
        transceiver.sender.replaceTrack(AudioStreamTrack())
        transceiver.direction = "sendrecv"
        await bob.connection.setLocalDescription(await bob.connection.createAnswer())
        await api.ok("PUT", f"{bob.path}/renegotiate", {"sessionDescription": bob.local()})
        await bob.connected()

        pulled = await bob.pull(alice, "sound", mid="#own")

        assert pulled["tracks"][0]["mid"] == pushed["tracks"][0]["mid"]
        await until(lambda: flowing(sfu, bob, pulled["tracks"][0]["mid"]) > 0)
        await until(lambda: sfu.sessions[bob.session_id].tracks.published["own"].has_packets)


async def test_tracks_without_packets_are_collected() -> None:
    limits = SfuSettings(tick=0.05, track_timeout=0.2)
    async with LocalSfu(http_port=0, settings=limits) as sfu, api_of(sfu) as api:
        session = await api.new_session()
        body = {
            "sessionDescription": offer(section("0")),
            "tracks": [{"location": "local", "mid": "0", "trackName": "camera"}],
        }
        await api.ok("POST", f"/sessions/{session}/tracks/new", body)

        await until(lambda: sfu.counters.tracks_collected == 1)

        assert (await api.ok("GET", f"/sessions/{session}"))["tracks"] == []


async def test_a_connection_that_is_lost_is_refused_and_then_gone() -> None:
    limits = SfuSettings(tick=0.05, silence_timeout=0.2, reuse_window=1.0, connect_wait=0.1)
    async with LocalSfu(http_port=0, settings=limits) as sfu, api_of(sfu) as api:
        async with await Peer.open(api) as alice:
            await alice.publish(sound=AudioStreamTrack())
            await alice.connected()
        session = sfu.sessions[alice.session_id]
        await until(lambda: not session.is_connected)

        pull = {"tracks": [{"location": "remote", "sessionId": alice.session_id, "trackName": "sound"}]}
        lost = await api.call("POST", f"{alice.path}/tracks/new", pull)
        elsewhere = await api.ok("POST", f"/sessions/{await api.new_session()}/tracks/new", pull)
        await until(lambda: alice.session_id not in sfu.sessions)
        gone = await api.call("GET", alice.path)

        assert [response.status_code for response in (lost, gone)] == [410, 410]
        assert lost.json()["errorCode"] == "session_error"
        assert elsewhere["tracks"][0]["errorCode"] == "not_found_track_error"


async def test_a_request_that_waited_until_its_session_was_over_is_gone(sfu: LocalSfu, api: Api) -> None:
    publisher, session = [(await api.ok("POST", "/sessions/new"))["sessionId"] for _ in range(2)]
    publishing = {"sessionDescription": offer(section("0")), "autoDiscover": True}
    published = await api.ok("POST", f"/sessions/{publisher}/tracks/new", publishing)
    name = published["tracks"][0]["trackName"]
    pull = {"tracks": [{"location": "remote", "sessionId": publisher, "trackName": name}]}

    opened = {who: sfu.sessions[who].last_request for who in (publisher, session)}
    waiting = [
        asyncio.create_task(api.call("POST", f"/sessions/{who}/tracks/new", pull)) for who in (publisher, session)
    ]
    await until(lambda: all(sfu.sessions[who].last_request > since for who, since in opened.items()))
    for who in (publisher, session):
        await sfu.sessions[who].close()

    responses = [await response for response in waiting]
    assert [(response.status_code, response.json()["errorCode"]) for response in responses] == [
        (410, "session_error"),
        (410, "session_error"),
    ]


async def test_another_fingerprint_in_the_same_session_is_refused(api: Api) -> None:
    async with await Peer.open(api) as alice, await Peer.open(api) as mallory:
        await alice.publish(sound=AudioStreamTrack())
        await alice.connected()
        mallory.connection.addTrack(AudioStreamTrack())

        body = {"sessionDescription": await mallory.offer()}
        response = await api.call("PUT", f"{alice.path}/renegotiate", body)

        assert (response.status_code, response.json()["errorCode"]) == (406, "invalid_session_description")


async def test_offers_that_drop_or_rename_sections_are_refused(api: Api) -> None:
    async with await Peer.open(api) as alice:
        alice.connection.addTrack(AudioStreamTrack())
        await alice.publish(camera=Camera())
        await alice.connected()
        text = alice.local()["sdp"]
        shorter = text[: text.index("m=video")]
        for wrong in (shorter, text.replace("a=mid:0", "a=mid:zero")):
            body = {"sessionDescription": {"type": "offer", "sdp": wrong}}
            response = await api.call("PUT", f"{alice.path}/renegotiate", body)
            assert (response.status_code, response.json()["errorCode"]) == (406, "invalid_session_description")

        again = await api.ok("PUT", f"{alice.path}/renegotiate", {"sessionDescription": await alice.offer()})
        assert again["sessionDescription"]["type"] == "answer"


# -- data channels -----------------------------------------------------------------------------------------------------


class Talker(Peer):
    """A peer with data channels."""

    def __init__(self, api: Api, session_id: str) -> None:
        super().__init__(api, session_id)
        self.heard: list[str | bytes] = []

    async def establish(self) -> None:
        # aiortc describes data channels only when it has one.
        self.connection.createDataChannel("server-events", negotiated=True, id=0)
        body = {"dataChannel": {"location": "remote", "dataChannelName": "server-events"}}
        answer = await self.api.ok(
            "POST", f"{self.path}/datachannels/establish", {**body, "sessionDescription": await self.offer()}
        )
        await self.take(answer["sessionDescription"])
        await self.connected()

    async def channels(self, *items: Json) -> list[Json]:
        answer = await self.api.ok("POST", f"{self.path}/datachannels/new", {"dataChannels": list(items)})
        found: list[Json] = answer["dataChannels"]
        return found

    def join(self, item: Json) -> RTCDataChannel:
        channel = self.connection.createDataChannel(item["dataChannelName"], negotiated=True, id=item["id"])
        channel.on("message", self.heard.append)
        return channel


@asynccontextmanager
async def talkers(api: Api) -> AsyncIterator[tuple[Talker, Talker]]:
    """Two peers with data channels that are up."""
    async with await Talker.open(api) as alice, await Talker.open(api) as bob:
        await alice.establish()
        await bob.establish()
        yield alice, bob


LOCAL = {"location": "local", "dataChannelName": "chat"}


async def test_messages_reach_subscribers_and_only_the_holder_may_reply(sfu: LocalSfu, api: Api) -> None:
    async with talkers(api) as (alice, bob):
        (published,) = await alice.channels(LOCAL)
        remote = {"location": "remote", "dataChannelName": "chat", "sessionId": alice.session_id}
        (subscribed,) = await bob.channels(remote)
        sender, receiver = alice.join(published), bob.join(subscribed)
        await until(lambda: sender.readyState == receiver.readyState == "open")

        sender.send("hello")
        sender.send(b"\x00bytes")
        await until(lambda: bob.heard == ["hello", b"\x00bytes"])
        receiver.send("nobody hears this")
        for may_reply in (True, False, True):
            body = {"dataChannels": [{**remote, "canReply": may_reply}]}
            updated = await api.ok("PUT", f"{bob.path}/datachannels/update", body)
            assert updated["dataChannels"][0]["canReply"] is may_reply
        receiver.send("reply")
        await until(lambda: alice.heard == ["reply"])

        state = await api.ok("GET", bob.path)
        assert state["dataChannels"] == [{**remote, "id": 1, "status": "active"}]
        assert sfu.counters.channel_messages == 3


async def test_a_gate_opens_on_the_first_message_which_nobody_sees(api: Api) -> None:
    async with talkers(api) as (alice, bob):
        (published,) = await alice.channels(LOCAL)
        remote = {"location": "remote", "dataChannelName": "chat", "sessionId": alice.session_id}
        (subscribed,) = await bob.channels({**remote, "waitForAck": True, "canReply": True, "ordered": False})
        sender, receiver = alice.join(published), bob.join(subscribed)
        await until(lambda: sender.readyState == receiver.readyState == "open")
        sender.send("too early")
        state = await api.ok("GET", bob.path)
        assert state["dataChannels"][0]["status"] == "initializing"

        receiver.send("ready")
        receiver.send("hello")
        await until(lambda: alice.heard == ["hello"])
        sender.send("now")

        await until(lambda: bob.heard == ["now"])


async def test_channels_close_and_their_ids_come_back(sfu: LocalSfu, api: Api) -> None:
    async with talkers(api) as (alice, bob):
        (published,) = await alice.channels({**LOCAL, "maxRetransmits": 0})
        remote = {"location": "remote", "dataChannelName": "chat", "sessionId": alice.session_id}
        (subscribed,) = await bob.channels(remote)
        sender, receiver = alice.join(published), bob.join(subscribed)
        await until(lambda: sender.readyState == receiver.readyState == "open")

        closed = await api.ok("PUT", f"{alice.path}/datachannels/close", {"dataChannels": [{"id": 1}, {"id": 1}, {}]})
        await until(lambda: sender.readyState == receiver.readyState == "closed")
        await until(lambda: not sfu.sessions[bob.session_id].channels.channels)
        (again,) = await alice.channels(LOCAL)

        assert closed["dataChannels"][0] == {"id": 1, "location": "local", "dataChannelName": "chat"}
        assert [item.get("errorCode") for item in closed["dataChannels"][1:]] == ["close_track_error"] * 2
        assert again["id"] == 1


async def test_channels_that_cannot_be_opened_fail_alone(api: Api) -> None:
    async with talkers(api) as (alice, bob):
        answers = await alice.channels(LOCAL, LOCAL, {"location": "remote", "dataChannelName": "x"}, {})
        remote = {"location": "remote", "dataChannelName": "chat", "sessionId": alice.session_id}
        updated = await api.ok("PUT", f"{bob.path}/datachannels/update", {"dataChannels": [remote]})
        contradiction = {"dataChannels": [{**LOCAL, "maxRetransmits": 1, "maxPacketLifeTime": 1}]}
        refused = await api.call("POST", f"{bob.path}/datachannels/new", contradiction)
        body = {"dataChannel": {"location": "remote", "dataChannelName": "server-events"}}
        again = await api.call("POST", f"{alice.path}/datachannels/establish", body)

        codes = [answer.get("errorCode") for answer in answers]
        assert codes == [None, "repeated_local_track_error", "not_found_track_error", "invalid_params"]
        assert updated["dataChannels"][0]["errorCode"] == "update_track_error"
        assert (refused.status_code, refused.json()["errorCode"]) == (406, "invalid_params")
        assert (again.status_code, again.json()["errorCode"]) == (400, "decoding_error")


async def test_a_subscriber_that_does_not_acknowledge_or_keep_up_is_closed() -> None:
    limits = SfuSettings(tick=0.05, ack_wait=0.2, max_channel_buffer=1000, max_data_channels=2)
    async with LocalSfu(http_port=0, settings=limits) as sfu, api_of(sfu) as api, talkers(api) as (alice, bob):
        (published,) = await alice.channels(LOCAL)
        remote = {"location": "remote", "dataChannelName": "chat", "sessionId": alice.session_id}
        _, slow = await bob.channels({**remote, "waitForAck": True}, remote)
        (too_many,) = await bob.channels(remote)
        await until(lambda: len(sfu.sessions[bob.session_id].channels.channels) == 1)
        sender, receiver = alice.join(published), bob.join(slow)
        await until(lambda: sender.readyState == receiver.readyState == "open")

        for _ in range(40):
            sender.send(b"x" * 900)
        await until(lambda: sfu.counters.channels_overflowed > 0)

        assert too_many["errorCode"] == "invalid_params"


async def test_a_channel_that_a_client_opens_in_band_is_closed_again(api: Api) -> None:
    async with talkers(api) as (alice, _):
        channel = alice.connection.createDataChannel("uninvited")

        await until(lambda: channel.readyState == "closed")


# -- the media port ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def stranger(sfu: LocalSfu) -> AsyncIterator[socket.socket]:
    """A socket that talks to the media port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as talker:
        talker.setblocking(False)
        talker.connect(("127.0.0.1", sfu.media_port))
        yield talker


def check(ufrag: str, pwd: str, *, nominate: bool = True) -> bytes:
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    message.attributes["USERNAME"] = f"{ufrag}:them"
    if nominate:
        message.attributes["USE-CANDIDATE"] = None
    message.add_message_integrity(pwd.encode())
    return bytes(message)


async def test_garbage_and_wrong_integrity_get_no_answer_and_disturb_nobody(sfu: LocalSfu, api: Api) -> None:
    async with await Peer.open(api) as alice, await Peer.open(api) as bob, stranger(sfu) as mallory:
        await alice.publish(sound=AudioStreamTrack())
        await alice.connected()
        mid = (await bob.pull(alice, "sound"))["tracks"][0]["mid"]
        await until(lambda: flowing(sfu, bob, mid) > 0)
        ufrag = sfu.sessions[alice.session_id]._connection._endpoint.ufrag
        before = flowing(sfu, bob, mid)

        for length in (1, 2, 19, 20, 100, 1500, 1501, 9000):
            for first in (b"\x00", b"\x01", b"\x16", b"\x40", b"\x80", b"\xff"):
                mallory.send(first + os.urandom(length - 1))
        mallory.send(check(ufrag, "wrong password of some length"))
        mallory.send(check("nobody", "x" * 22))
        mallory.send(check(ufrag, "x" * 22)[:-8])
        for cut in range(20, 60, 4):
            data = bytearray(check(ufrag, "x" * 22)[:cut])
            data[2:4] = (cut - 20).to_bytes(2, "big")
            mallory.send(data)
        mallory.send(b"\x00\x01\x00\x06\x21\x12\xa4\x42" + bytes(12) + b"\x00\x24\x00\x01\x00\x00")

        await until(lambda: flowing(sfu, bob, mid) > before + 10)
        with pytest.raises(BlockingIOError):
            mallory.recv(2000)
        assert sfu.counters.refused_stun > 10
        assert sfu.counters.refused_datagrams > 10


async def test_handshakes_start_after_a_valid_check_only_and_are_bounded() -> None:
    limits = SfuSettings(max_pending_handshakes=1, handshake_timeout=2, max_queued_datagrams=2, max_addresses=2)
    async with LocalSfu(http_port=0, settings=limits) as sfu, api_of(sfu) as api, stranger(sfu) as mallory:
        bodies = {"sessionDescription": offer(section("0"))}
        sessions = [(await api.ok("POST", "/sessions/new", bodies))["sessionId"] for _ in range(2)]
        endpoints = [sfu.sessions[session]._connection._endpoint for session in sessions]
        for _ in range(50):
            mallory.send(b"\x16\xfe\xfd" + os.urandom(100))
        await until(lambda: sfu.counters.refused_datagrams == 50)
        assert sfu.gauges().pending_handshakes == 0

        for endpoint in endpoints:
            mallory.send(check(endpoint.ufrag, endpoint.pwd))
        await until(lambda: all(endpoint.address for endpoint in endpoints))
        mallory.send(b"\x80\x60" + os.urandom(100))
        await until(lambda: sfu.counters.early_datagrams == 1)
        for _ in range(50):
            mallory.send(b"\x16\xfe\xfd" + os.urandom(100))
        mallory.send(b"\x80" + os.urandom(50))
        assert sfu.gauges().pending_handshakes == 1
        await until(lambda: sfu.counters.handshakes_failed == 1)
        await until(lambda: sfu.gauges().pending_handshakes == 0)

        async with await Peer.open(api) as alice:
            await alice.publish(sound=AudioStreamTrack())
            await alice.connected()


async def test_addresses_of_one_session_are_bounded(sfu: LocalSfu, api: Api) -> None:
    session = await api.new_session()
    endpoint = sfu.sessions[session]._connection._endpoint
    for _ in range(40):
        async with stranger(sfu) as client:
            client.send(check(endpoint.ufrag, endpoint.pwd, nominate=False))
            with suppress(BlockingIOError):
                await asyncio.get_running_loop().sock_recv(client, 2000)

    assert len(sfu._port.by_address) == sfu.settings.max_addresses


async def test_an_ice_restart_moves_to_new_credentials_with_the_first_check(sfu: LocalSfu, api: Api) -> None:
    created = await api.ok("POST", "/sessions/new", {"sessionDescription": offer(section("0"))})
    connection = sfu.sessions[created["sessionId"]]._connection
    endpoint, before = connection._endpoint, (connection._endpoint.ufrag, connection._endpoint.pwd)
    async with stranger(sfu) as client:
        loop = asyncio.get_running_loop()
        connection.apply_offer(connection.read_offer(_offer(ufrag="other")), receive=(), send={})
        client.send(check(*before))
        await asyncio.wait_for(loop.sock_recv(client, 2000), 5)
        assert set(sfu._port.by_ufrag) == {before[0], endpoint.ufrag}
        client.send(check(endpoint.ufrag, endpoint.pwd))
        await asyncio.wait_for(loop.sock_recv(client, 2000), 5)

        assert set(sfu._port.by_ufrag) == {endpoint.ufrag}
        assert endpoint.ufrag != before[0]


def _offer(*, ufrag: str) -> SessionDescription:
    text = offer(section("0"), ufrag=ufrag)
    return SessionDescription(sdp=text["sdp"], type="offer")


async def test_everything_is_given_back_at_the_end(sfu: LocalSfu, api: Api) -> None:
    async with await Talker.open(api) as alice:
        await alice.establish()
        await alice.channels(LOCAL)
        await sfu.stop()

    assert not sfu.sessions
    assert not sfu._port.by_ufrag
    assert not sfu._port.by_address
    assert sfu.gauges().pending_handshakes == 0


async def test_a_request_that_waits_for_its_transport_is_answered_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Connection] = []
    ready = Connection.ready

    async def note(connection: Connection) -> None:
        begun.append(connection)
        await ready(connection)

    monkeypatch.setattr(Connection, "ready", note)
    async with LocalSfu(http_port=0, settings=SfuSettings(connect_wait=1000.0)) as sfu, api_of(sfu) as api:
        session = await api.new_session()
        body = {
            "sessionDescription": offer(section("0")),
            "tracks": [{"location": "local", "mid": "0", "trackName": "x"}],
        }
        await api.ok("POST", f"/sessions/{session}/tracks/new", body)
        waiting = asyncio.create_task(api.call("POST", f"/sessions/{session}/tracks/new", body))
        await until(lambda: len(begun) == 2)

        await sfu.stop()

        assert (await waiting).status_code == 410


# -- what fails inside -------------------------------------------------------------------------------------------------


def _break(*_: object) -> None:
    raise RuntimeError("broken on purpose")


@pytest.fixture
async def alice_and_bob(sfu: LocalSfu, api: Api) -> AsyncIterator[tuple[Peer, Peer]]:
    """Two publishers that are up."""
    async with await Peer.open(api) as alice, await Peer.open(api) as bob:
        for peer in (alice, bob):
            await peer.publish(sound=AudioStreamTrack())
            await peer.connected()
        yield alice, bob


async def test_a_packet_that_breaks_its_session_ends_no_other(
    sfu: LocalSfu, api: Api, alice_and_bob: tuple[Peer, Peer]
) -> None:
    alice, bob = alice_and_bob
    sfu.sessions[alice.session_id]._connection.transport.on_rtp = _break

    await until(lambda: alice.session_id not in sfu.sessions)

    publication = sfu.sessions[bob.session_id].tracks.published["sound"]
    packets = publication.layers[""].packets
    await until(lambda: publication.layers[""].packets > packets)


@pytest.mark.parametrize("broken", [("tick",), ("tick", "close")])
async def test_a_session_that_fails_in_a_tick_ends_alone(
    sfu: LocalSfu, alice_and_bob: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch, broken: tuple[str, ...]
) -> None:
    alice, bob = alice_and_bob
    session = sfu.sessions[alice.session_id]
    monkeypatch.setattr(session, "tick", _break)
    if "close" in broken:
        monkeypatch.setattr(session.channels, "stop", _break)

    await until(lambda: alice.session_id not in sfu.sessions)

    assert bob.session_id in sfu.sessions
    publication = sfu.sessions[bob.session_id].tracks.published["sound"]
    packets = publication.layers[""].packets
    await until(lambda: publication.layers[""].packets > packets)
    monkeypatch.undo()
    await session.close()


async def test_a_request_that_fails_inside_is_an_internal_error(
    sfu: LocalSfu, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sfu, "open_session", _break)

    response = await api.call("POST", "/sessions/new")

    assert (response.status_code, response.json()["errorCode"]) == (500, "internal_error")


async def test_a_handshake_with_another_certificate_fails_and_may_be_tried_again(sfu: LocalSfu, api: Api) -> None:
    async with await Peer.open(api) as alice:
        alice.connection.addTrack(AudioStreamTrack())
        offered = await alice.offer()
        lines = [
            f"a=fingerprint:sha-256 {FINGERPRINT}" if line.startswith("a=fingerprint:sha-256") else line
            for line in offered["sdp"].split("\r\n")
            if not line.startswith(("a=fingerprint:sha-384", "a=fingerprint:sha-512"))
        ]
        body = {"sessionDescription": {"type": "offer", "sdp": "\r\n".join(lines)}, "autoDiscover": True}
        answer = await api.ok("POST", f"{alice.path}/tracks/new", body)
        await alice.take(answer["sessionDescription"])

        await until(lambda: sfu.counters.handshakes_failed > 0)

        assert sfu.gauges().connected_sessions == 0
        assert sfu.gauges().pending_handshakes <= 1


async def test_sctp_that_aiortc_asserts_against_ends_that_association_only(
    sfu: LocalSfu, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talkers(api) as (alice, bob):
        transport = sfu.sessions[alice.session_id]._connection.transport
        sctp = sfu.sessions[alice.session_id].channels._sctp
        assert sctp is not None
        monkeypatch.setattr(sctp.rtc, "_handle_data", None)

        assert alice.connection.sctp is not None
        await alice.connection.sctp.transport._send_data(b"anything")
        await until(lambda: not transport.is_connected)

        assert sfu.sessions[bob.session_id].is_connected


# -- starting ----------------------------------------------------------------------------------------------------------


async def test_ports_that_are_taken_are_named(sfu: LocalSfu) -> None:
    port = int(sfu.base_url.rsplit(":", 1)[1].removesuffix("/v1"))
    for taken in (LocalSfu(http_port=port), LocalSfu(udp_port=sfu.media_port), LocalSfu(host="192.0.2.77")):
        with pytest.raises(ConfigurationError, match="cannot listen on"):
            await taken.start()


async def test_listening_everywhere_needs_an_address_to_offer() -> None:
    with pytest.raises(ConfigurationError, match="public addresses"):
        await LocalSfu(host="0.0.0.0").start()
    async with LocalSfu(host="0.0.0.0", public_addresses=("127.0.0.1",)) as sfu:
        session = sfu.open_session()
        description = await session.requests.open(_publishing())
        assert description.session_description is not None
        assert f" 127.0.0.1 {sfu.media_port} typ host" in description.session_description.sdp


def _publishing() -> TracksRequest:
    return TracksRequest(session_description=_offer(ufrag="abcd"), auto_discover=True)


async def test_serving_alone_ends_when_it_is_cancelled() -> None:
    serving = asyncio.create_task(serve(port=0))
    await asyncio.sleep(0)
    serving.cancel()

    with pytest.raises(asyncio.CancelledError):
        await serving
