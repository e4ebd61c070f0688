"""A link that keeps what is published, for tests without nats-server."""

from __future__ import annotations

from typing import Any

from signal_manager.bus.nats.link import Arrival
from signal_manager.bus.nats.questions import decode, encode

__all__ = ["KeptLink", "arrival"]


class KeptLink:
    """Takes every message while it is up."""

    def __init__(self) -> None:
        self.is_up = True
        self.max_payload = 1_000_000
        self.published: list[tuple[str, Any]] = []

    def publish(self, subject: str, payload: bytes, reply: str = "") -> bool:
        self.published.append((subject, decode(Arrival(b"1", subject, reply, payload))))
        return self.is_up


def arrival(question: object, reply: str = "reply") -> Arrival:
    """Return a question as it arrives."""
    return Arrival(b"1", "subject", reply, encode(question))
