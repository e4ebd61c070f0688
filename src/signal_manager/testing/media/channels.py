"""The contract of data channels."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.errors import InvalidRequestError
from signal_manager.media.base import ChannelUpdate, DataChannel, MediaBackend
from signal_manager.media.errors import MediaFault, RepeatedTrackError
from signal_manager.testing.media.fixtures import MediaFixtures
from signal_manager.testing.media.peers import Peer, within

CHAT = DataChannel(location="local", data_channel_name="chat")


class ChannelsContract(MediaFixtures):
    """Data channels between sessions."""

    async def subscribe(
        self, backend: MediaBackend, publisher: Peer, subscriber: Peer
    ) -> tuple[int | None, int | None]:
        """Publish "chat" and subscribe to it; returns the two ids."""
        (published,) = await backend.open_channels(publisher.session_id, [CHAT])
        chat = DataChannel(location="remote", session_id=publisher.session_id, data_channel_name="chat")
        (subscribed,) = await backend.open_channels(subscriber.session_id, [chat])
        assert (published.error, subscribed.error) == (None, None)
        return published.id, subscribed.id

    async def test_the_transport_is_established_by_an_offer_of_the_sfu(self, backend: MediaBackend, bob: Peer) -> None:
        established = await backend.establish_channels(bob.session_id)
        await bob.answer(established.offer_sdp)

        assert established.requires_renegotiation
        assert established.answer_sdp is None
        assert (established.channel.id, established.channel.error) == (0, None)

    async def test_the_transport_is_established_by_an_offer_of_the_client(
        self, backend: MediaBackend, bob: Peer
    ) -> None:
        bob.connection.createDataChannel("server-events", negotiated=True, id=0)
        offer, _ = await bob.offer()

        established = await backend.establish_channels(bob.session_id, offer_sdp=offer)
        await bob.accept(established.answer_sdp)
        await bob.connected()

        assert not established.requires_renegotiation
        assert established.offer_sdp is None

    async def test_it_is_established_once(self, backend: MediaBackend, bob: Peer) -> None:
        await bob.establish_channels()

        with pytest.raises(MediaFault):
            await backend.establish_channels(bob.session_id)

    async def test_a_message_reaches_the_subscriber(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        await alice.establish_channels()
        await bob.establish_channels()
        published, subscribed = await self.subscribe(backend, alice, bob)
        received: asyncio.Queue[object] = asyncio.Queue()
        inbound = await bob.open_channel("chat", subscribed)
        inbound.on("message", received.put_nowait)
        outbound = await alice.open_channel("chat", published)

        outbound.send("hello")
        outbound.send(b"\x00\x01")

        async with within():
            assert [await received.get(), await received.get()] == ["hello", b"\x00\x01"]

    async def test_ids_of_one_session_differ(self, backend: MediaBackend, bob: Peer) -> None:
        await bob.establish_channels()
        other = DataChannel(location="local", data_channel_name="files", ordered=False, max_retransmits=0)

        opened = await backend.open_channels(bob.session_id, [CHAT, other])

        assert [channel.error for channel in opened] == [None, None]
        assert len({0, *(channel.id for channel in opened)}) == 3

    async def test_a_taken_name_fails_alone(self, backend: MediaBackend, bob: Peer) -> None:
        await bob.establish_channels()
        await backend.open_channels(bob.session_id, [CHAT])

        (repeated,) = await backend.open_channels(bob.session_id, [CHAT])

        assert repeated.error is not None
        assert isinstance(repeated.error.as_fault(), RepeatedTrackError)

    async def test_a_channel_that_is_not_there_fails_alone(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        await bob.establish_channels()
        missing = DataChannel(location="remote", session_id=alice.session_id, data_channel_name="chat")

        (subscribed,) = await backend.open_channels(bob.session_id, [missing])

        assert subscribed.error is not None

    async def test_a_subscriber_may_reply_when_it_is_granted(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        await alice.establish_channels()
        await bob.establish_channels()
        published, subscribed = await self.subscribe(backend, alice, bob)
        received: asyncio.Queue[object] = asyncio.Queue()
        (await alice.open_channel("chat", published)).on("message", received.put_nowait)
        channel = await bob.open_channel("chat", subscribed)
        grant = ChannelUpdate(session_id=alice.session_id, data_channel_name="chat", can_reply=True)

        (updated,) = await backend.update_channels(bob.session_id, [grant])
        channel.send("back")

        assert updated.error is None
        async with within():
            assert await received.get() == "back"

    async def test_a_closed_channel_is_no_longer_active(self, backend: MediaBackend, bob: Peer) -> None:
        await bob.establish_channels()
        (opened,) = await backend.open_channels(bob.session_id, [CHAT])
        assert opened.id is not None

        (closed,) = await backend.close_channels(bob.session_id, [opened.id])

        state = await backend.session_state(bob.session_id)
        assert closed.error is None
        assert not [channel for channel in state.channels if channel.id == opened.id and channel.status == "active"]

    async def test_opening_nothing_is_not_even_sent(self, backend: MediaBackend, bob: Peer) -> None:
        with pytest.raises(InvalidRequestError):
            await backend.open_channels(bob.session_id, [])
