"""Clients that came to another node during a cut are let go after it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from signal_manager.bus.nats.questions import Gone, Newer
from signal_manager.bus.nats.reunion import Reunion
from signal_manager.bus.nats.subjects import Subjects
from tests.waiting import until


class Cut:
    """Three clients that are here, of which one left during its comparison, and what the other nodes say."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.subscribers: dict[str, Any] = {
            name: SimpleNamespace(instance_id=name, taken_up_at=1) for name in ("newer", "ours", "left")
        }
        self.asked: list[str] = []
        self.let_go: list[tuple[str, str | None]] = []
        self.reunited: list[float] = []
        self._answers = answers
        peers: Any = SimpleNamespace(reunite=self.reunited.append)
        claims: Any = SimpleNamespace(since=lambda client_id: 1.0)
        questions: Any = SimpleNamespace(insist=self._insist)
        self.reunion = Reunion(
            peers,
            self.subscribers,
            claims,
            questions,
            Subjects("p", "here"),
            let_go=lambda client_id, instance_id: self.let_go.append((client_id, instance_id)),
        )

    async def _insist(self, subject: str, question: object) -> Any:
        name = subject.rpartition(".")[2]
        self.asked.append(name)
        if name == "left":
            del self.subscribers[name]
        await asyncio.sleep(0)
        return self._answers.get(name, Gone())


async def test_only_clients_that_are_newer_elsewhere_and_still_here_are_let_go() -> None:
    cut = Cut({"newer": Newer("i"), "left": Newer("j")})

    cut.reunion.begin()
    await until(lambda: len(cut.asked) == 3 and not cut.reunion._tasks, limit=30)

    assert cut.let_go == [("newer", "i")]
    assert len(cut.reunited) == 1


async def test_a_node_that_stops_compares_nothing_more() -> None:
    cut = Cut({"newer": Newer("i")})

    cut.reunion.begin()
    await cut.reunion.stop()

    assert cut.let_go == []
