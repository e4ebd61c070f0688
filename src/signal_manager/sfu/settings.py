"""Every limit and time limit of the local SFU, in one frozen object that tests can shorten.

Neighbours: all modules of this package read it, none keeps limits of its own. Defaults are Cloudflare's where those
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
    # A disconnected session may come back for this long; then it answers 410.
    reuse_window: float = 30.0
    # A DTLS handshake that takes longer has failed.
    handshake_timeout: float = 10.0
    # The first message of a waitForAck subscriber must come within this time.
    ack_wait: float = 30.0
    # How often reports are sent and expiry is looked at.
    tick: float = 1.0

    # At most one PLI per layer in this time, from all receivers together.
    key_frame_interval: float = 0.3
    # What receivers' own PLIs get: the first at once, and then one in this time for each receiver of a track,
    key_frame_period: float = 2.0
    # and one in this time for all receivers of a layer together.
    shared_key_frame_interval: float = 1.0

    # What is kept of each layer to be sent again: payload bytes, and seconds. A second of 3 Mbit/s is 375 kB.
    max_cache: int = 512 * 1024
    cache_age: float = 1.0
    # One packet is not sent again, nor asked for again, within this time.
    resend_interval: float = 0.1
    # How often the publisher is asked for one packet that the SFU lacks.
    max_requests_for_lost_packet: int = 8
    # What one receiver may be sent again (bytes): this at once, this a second, and this share of what it is sent.
    resend_burst: int = 64 * 1024
    resend_floor: int = 4 * 1024
    resend_share: float = 0.25
    # What every publisher is told it may send: there is no bandwidth estimation on one machine.
    max_bitrate: int = 3_000_000
    # The share of forwarded media packets that is lost on purpose, 0 to 1.
    drop_rate: float = 0.0

    # How often it is looked at whether a receiver keeps up, how long after a failure it is first given more again, and
    # how long at most when that fails again and again.
    evaluation_interval: float = 0.5
    first_attempt: float = 4.0
    last_attempt: float = 60.0

    requests_per_second: int = 50
    max_tracks_per_request: int = 64
    max_body: int = 512 * 1024
    max_sdp: int = 256 * 1024
    max_sessions: int = 1000
    # What one process may forward; a core of the machine that this was measured on carries over twice as much.
    max_packets_per_second: int = 15_000
    # The share of its core that the SFU's thread may use before nobody else is let in.
    max_busy: float = 0.85
    # m-sections of one session, closed ones included: beyond it the session has to be replaced (410).
    max_sections: int = 256
    max_pending_handshakes: int = 64
    # Packets of one session's data channels that wait to be handled.
    max_queued_datagrams: int = 256
    # Addresses that one session may have validated: a browser has a handful of candidates.
    max_addresses: int = 16
    # SSRCs one publisher may use: layers, their retransmissions, and what it changed them to.
    max_ssrcs: int = 512
    max_data_channels: int = 256
    # What may wait for one data channel subscriber before its channel is closed.
    max_channel_buffer: int = 1024 * 1024
    max_http_connections: int = 4096
