"""Every limit and time limit of the local SFU, in one frozen object that tests can shorten.

Neighbours: all modules of this package read it, and none has limits of its own. The defaults are Cloudflare's if those
are known.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SfuSettings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SfuSettings:
    """Limits of one local SFU; times in seconds, sizes in bytes.

    Large because it is a list: one field for each limit.
    """

    # How long an operation waits for its session's transport before it fails with 425.
    connect_wait: float = 5.0
    # How long a pull waits for the publisher's first packet before it fails with empty_track_error.
    first_packet_wait: float = 8.0
    # A published track without packets for this long is collected.
    track_timeout: float = 30.0
    # A session that never connected lives this long after its last request.
    unconnected_timeout: float = 60.0
    # Without a valid STUN check for this long a session counts as disconnected: browsers send one every 2-5 s.
    silence_timeout: float = 10.0
    # A disconnected session may reconnect for this long; then it answers 410.
    reuse_window: float = 30.0
    # A DTLS handshake that takes longer has failed.
    handshake_timeout: float = 10.0
    # The first message of a waitForAck subscriber must come within this time.
    ack_wait: float = 30.0
    # The time between two reports, and between two checks for expired sessions.
    tick: float = 1.0

    # At most one PLI per layer is sent in this time, for all receivers together.
    key_frame_interval: float = 0.3
    # A receiver's first PLI is passed on at once; later ones once in this time for each receiver of a track,
    key_frame_period: float = 2.0
    # and once in this time for all receivers of a layer together.
    shared_key_frame_interval: float = 1.0

    # The packets of each layer kept for retransmission: payload bytes, and seconds. A second of 3 Mbit/s is 375 kB.
    max_cache: int = 512 * 1024
    cache_age: float = 1.0
    # The time between two retransmissions of, or requests for, the same packet.
    resend_interval: float = 0.1
    # The most requests to a publisher for one missing packet.
    max_requests_for_lost_packet: int = 8
    # Bytes of retransmissions for one receiver: at once, per second, and as a share of its media.
    resend_burst: int = 64 * 1024
    resend_floor: int = 4 * 1024
    resend_share: float = 0.25
    # The maximum bit rate that every publisher is told; one machine needs no bandwidth estimation.
    max_bitrate: int = 3_000_000
    # The share of forwarded media packets to drop on purpose, 0 to 1.
    drop_rate: float = 0.0

    # The time between two evaluations of a receiver, from a failure to its next attempt with more bandwidth, and the
    # longest such time after repeated failures.
    evaluation_interval: float = 0.5
    first_attempt: float = 4.0
    last_attempt: float = 60.0

    requests_per_second: int = 50
    max_tracks_per_request: int = 64
    max_body: int = 512 * 1024
    max_sdp: int = 256 * 1024
    max_sessions: int = 1000
    # The packets per second that one process may forward; a core of the measured machine carries over twice as many.
    max_packets_per_second: int = 15_000
    # The share of its core that the SFU's thread may use before new sessions are refused.
    max_busy: float = 0.85
    # m-sections of one session, with closed ones; beyond this the session must be replaced (410).
    max_sections: int = 256
    max_pending_handshakes: int = 64
    # The most packets of one session's data channels that may wait.
    max_queued_datagrams: int = 256
    # The most validated addresses of one session; a browser has a handful of candidates.
    max_addresses: int = 16
    # The most SSRCs of one publisher: its layers, their retransmissions, and those after changes.
    max_ssrcs: int = 512
    max_data_channels: int = 256
    # The most bytes that may wait for a data channel subscriber before its channel is closed.
    max_channel_buffer: int = 1024 * 1024
    max_http_connections: int = 4096
