"""The fixtures that the author of a media adapter provides."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from signal_manager.media.base import MediaBackend, MediaSessionId
from signal_manager.testing.media.peers import Camera, Microphone, Peer, open_peer

__all__ = ["NO_SDP", "UNKNOWN", "MediaFixtures"]

# A session that no SFU ever opened.
UNKNOWN = MediaSessionId("0" * 32)
NO_SDP = "this is no SDP"


class MediaFixtures:
    """The two fixtures that differ between adapters, and the peers that most tests need."""

    @pytest.fixture
    async def backend(self) -> MediaBackend:
        """Return an open backend for an SFU that forwards media; close it after the test."""
        raise NotImplementedError

    @pytest.fixture
    async def intruder(self) -> MediaBackend:
        """Return an open backend for the same SFU whose secret is wrong; close it after the test."""
        raise NotImplementedError

    @pytest.fixture
    async def alice(self, backend: MediaBackend) -> AsyncIterator[Peer]:
        """Publish "camera" and "microphone" and send."""
        async with open_peer(backend) as peer:
            await peer.publish(camera=Camera(), microphone=Microphone())
            yield peer

    @pytest.fixture
    async def bob(self, backend: MediaBackend) -> AsyncIterator[Peer]:
        """Return a peer with an empty session."""
        async with open_peer(backend) as peer:
            yield peer
