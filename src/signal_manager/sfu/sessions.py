"""One session: a client's PeerConnection with its transport, its tracks and its data channels.

Neighbours: `http` calls it, `connection` is its transport, `tracks` and `datachannels` are what flows, and
`track_requests` changes the tracks as the client asks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from signal_manager.sfu.connection import Connection, Resources
from signal_manager.sfu.datachannels import SERVER_EVENTS, DataChannels
from signal_manager.sfu.errors import RefusedError, invalid_params, not_ready
from signal_manager.sfu.track_requests import TrackRequests
from signal_manager.sfu.tracks import Tracks
from signal_manager.sfu.wire import (
    DataChannelObject,
    EstablishRequest,
    EstablishResponse,
    StateResponse,
    TrackObject,
)

__all__ = ["Session"]


class Session:
    """One client of the SFU, with its tracks and data channels."""

    def __init__(
        self, session_id: str, *, resources: Resources, sessions: Mapping[str, Session], room: str = ""
    ) -> None:
        settings = resources.settings
        self.id = session_id
        self.room = room
        self.last_request = time.monotonic()
        self._settings = settings
        self._asked: dict[str, str] = {}  # mid -> name of a track that the SFU's pending offer asks the client to send
        self._allowance = float(settings.requests_per_second)
        self._connection = Connection(resources, on_connected=self._connected)
        self.channels = DataChannels(self._connection.transport, settings=settings, counters=resources.counters)
        self.tracks = Tracks(
            session_id,
            connection=self._connection,
            channels=self.channels,
            settings=settings,
            counters=resources.counters,
        )
        self.requests = TrackRequests(session_id, resources, self._connection, self.tracks, sessions)

    @property
    def is_connected(self) -> bool:
        """Whether packets can flow now."""
        return self._connection.is_connected

    async def is_back(self) -> bool:
        """Return whether the client is usable; wait for one that has lost its connection to come back."""
        if self._connection.is_lost:
            try:
                await self._connection.ready()
            except RefusedError:
                return False
        return True

    def is_expired(self, now: float) -> bool:
        """Return whether the session is over."""
        return self._connection.is_expired(now, last_request=self.last_request)

    def admit(self, now: float) -> None:
        """Count a request against the session's rate.

        Raises:
            RefusedError: the session exceeds its rate.
        """
        rate = float(self._settings.requests_per_second)
        self._allowance = min(rate, self._allowance + (now - self.last_request) * rate)
        self.last_request = now
        if self._allowance < 1:
            raise RefusedError(
                429,
                "rate_limited",
                f"expected at most {self._settings.requests_per_second} requests per second in a session",
            )
        self._allowance -= 1

    def tick(self, now: float) -> None:
        """Send RTCP reports; close publications without packets and channels that the client did not acknowledge."""
        self.tracks.tick(now)
        self.channels.tick(now)

    async def close(self) -> None:
        """Close all tracks and channels and the connection; the client is told."""
        self.tracks.close()
        await self.channels.stop()
        self._connection.close()

    def _connected(self) -> None:
        self.channels.begin()
        self.tracks.open_subscriptions()

    async def establish(self, request: EstablishRequest) -> EstablishResponse:
        """Negotiate the data channels' transport."""
        await self._connection.ready()
        if self._connection.negotiation.data_section is not None:
            raise RefusedError(400, "decoding_error", "the data channel transport is established already")
        channel = request.data_channel
        if channel.location not in (None, "remote") or channel.data_channel_name not in (None, SERVER_EVENTS):
            raise invalid_params(f"expected the remote data channel {SERVER_EVENTS}")
        answered = DataChannelObject(location="remote", data_channel_name=SERVER_EVENTS, id=0)
        if request.session_description is None:
            self._connection.check_stable()
            self._connection.negotiation.open_data()
            description = self._connection.offer()
        else:
            offer = self._connection.read_offer(request.session_description)
            if not any(s.kind == "application" and not s.is_rejected for s in offer.sections):
                raise RefusedError(400, "decoding_error", "the offer has no m-section for data channels")
            self.tracks.apply_offer(offer)
            description = self._connection.answer()
        return EstablishResponse(
            requires_immediate_renegotiation=description.type == "offer",
            data_channel=answered,
            session_description=description,
        )

    async def ready_for_channels(self) -> None:
        """Wait until data channels can be opened.

        Raises:
            RefusedError: 425 or 410 as for tracks; 406 if no m-section for data channels was negotiated.
        """
        await self._connection.ready()
        if not self.channels.is_accepted:
            raise invalid_params("the session has no data channel transport: establish it first")
        if not self.is_connected:
            raise not_ready()

    def state(self) -> StateResponse:
        """Return all tracks and data channels with their status."""
        tracks = [
            TrackObject(
                location="local",
                mid=publication.mid,
                track_name=name,
                status="active" if publication.is_flowing else "inactive",
            )
            for name, publication in self.tracks.published.items()
        ]
        for mid, subscription in self.tracks.router.subscriptions.items():
            session_id, name = self.tracks.sources.get(mid, ("", ""))
            source = subscription.publication
            status = "active" if source is not None and source.is_flowing else "inactive"
            tracks.append(
                TrackObject(
                    location="remote",
                    mid=mid,
                    session_id=session_id,
                    track_name=name,
                    status=status,  # type: ignore[arg-type]  # one of the two words above
                )
            )
        return StateResponse(tracks=tracks, data_channels=self.channels.state())
