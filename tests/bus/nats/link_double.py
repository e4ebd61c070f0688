"""A link that keeps what is published, for tests without nats-server."""

from __future__ import annotations

from typing import Any

from signal_manager.bus.nats.link import Arrival
from signal_manager.bus.nats.questions import decode, encode
from signal_manager.bus.nats.wire import Batch, read_batch

__all__ = ["KeptLink", "arrival"]


class KeptLink:
    """Takes every message while it is up.

    Attributes:
        published: questions and answers, each with its subject.
        replies: where each of them wants its answer.
        batches: each batch with its subject and where it wants nats-server's answer.
        written: how often what was put was written out.
    """

    def __init__(self) -> None:
        self.is_up = True
        self.max_payload = 1_000_000
        self.published: list[tuple[str, Any]] = []
        self.replies: list[str] = []
        self.batches: list[tuple[str, str, Batch]] = []
        self.written = 0

    def put(self, subject: bytes, reply: bytes, payload: bytes) -> bool:
        if self.is_up:
            self.batches.append((subject.decode(), reply.decode(), read_batch(payload)))
        return self.is_up

    def write_out(self) -> None:
        self.written += 1

    def publish(self, subject: str, payload: bytes, reply: str = "") -> bool:
        self.published.append((subject, decode(Arrival(b"1", subject, reply, payload))))
        self.replies.append(reply)
        return self.is_up


def arrival(question: object, reply: str = "reply") -> Arrival:
    """Return a question as it arrives."""
    return Arrival(b"1", "subject", reply, encode(question))
