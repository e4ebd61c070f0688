"""Questions to other nodes: each ends with an answer, with no responders, or with an error in time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from signal_manager.bus.nats import questions as module
from signal_manager.bus.nats.link import Arrival, NatsLink
from signal_manager.bus.nats.questions import ASKED, Gone, Here, Late, Query, Questions, Response, Where
from signal_manager.errors import UnavailableError
from tests.bus.nats.link_double import KeptLink, arrival

UNHEARD = Arrival(b"1", "r", "", b"", is_unheard=True)


class Scene:
    """The questions of a node, and the answers that they got."""

    def __init__(self, timeout: float = 30.0) -> None:
        self.link = KeptLink()
        self.questions = Questions(
            cast("NatsLink", self.link), lambda token: f"r.{token}", timeout=timeout, away="out of reach"
        )
        self.answers: list[Any] = []

    def ask(self) -> str:
        """Ask where a client is, and return the token of the question."""
        self.questions.ask("c.a", Where(), self.answers.append)
        return self.token()

    def token(self) -> str:
        """Return the token of the last question."""
        return self.link.replies[-1].removeprefix("r.")

    def messages(self) -> list[str]:
        """Return the answers, errors as their texts."""
        return [str(answer) for answer in self.answers]


async def until_asked(scene: Scene, count: int) -> None:
    """Wait for so many questions."""
    async with asyncio.timeout(30):
        while len(scene.link.replies) < count:  # noqa: ASYNC110 - the link tells nobody
            await asyncio.sleep(0)


async def test_each_answer_reaches_the_one_who_asked_and_once() -> None:
    scene = Scene()
    first, second = scene.ask(), scene.ask()

    scene.questions.on_reply(second, arrival(Here("n2")))
    scene.questions.on_reply(first, arrival(Here("n1")))
    scene.questions.on_reply(first, arrival(Here("late")))

    assert scene.answers == [Here("n2"), Here("n1")]
    assert scene.link.published == [("c.a", Where())] * 2


async def test_no_responders_is_an_answer_and_noise_is_none() -> None:
    scene = Scene()
    token = scene.ask()

    scene.questions.on_reply(token, Arrival(b"1", "r", "", b"noise"))
    scene.questions.on_reply("of another node", arrival(Here("n")))
    assert scene.answers == []

    scene.questions.on_reply(token, UNHEARD)
    assert scene.answers == [None]


async def test_a_question_without_an_answer_is_an_error_in_time() -> None:
    scene = Scene(timeout=0.01)

    with pytest.raises(UnavailableError, match="another node does not answer"):
        raise await scene.questions.answer_to("c.a", Where())


async def test_a_link_that_is_down_answers_at_once_and_never_inside_the_call() -> None:
    scene = Scene()
    scene.link.is_up = False

    scene.ask()

    assert scene.answers == []
    await asyncio.sleep(0)
    assert scene.messages() == ["out of reach"]


async def test_a_cut_answers_all_open_questions() -> None:
    scene = Scene()
    tokens = [scene.ask(), scene.ask()]

    scene.questions.cut_off()
    scene.questions.on_reply(tokens[0], arrival(Here("late")))

    assert scene.messages() == ["out of reach"] * 2


async def test_a_caller_that_gave_up_disturbs_no_answer() -> None:
    scene = Scene()
    asking = asyncio.create_task(scene.questions.answer_to("c.a", Where()))
    await until_asked(scene, 1)
    asking.cancel()
    await asyncio.wait([asking])

    scene.questions.on_reply(scene.token(), arrival(Here("n")))

    assert asking.cancelled()


async def test_a_node_that_has_just_lost_the_client_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_AGAIN", 0.0)
    scene = Scene()
    asking = asyncio.create_task(scene.questions.insist("c.a", Where()))
    for count in (1, 2):
        await until_asked(scene, count)
        scene.questions.on_reply(scene.token(), arrival(Late()))
    await until_asked(scene, 3)
    scene.questions.on_reply(scene.token(), arrival(Gone(b"session")))

    assert await asking == Gone(b"session")


async def test_a_node_that_is_late_for_ever_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_AGAIN", 0.0)
    scene = Scene()
    asking = asyncio.create_task(scene.questions.insist("c.a", Where()))
    for count in range(1, ASKED + 1):
        await until_asked(scene, count)
        scene.questions.on_reply(scene.token(), arrival(Late()))

    assert await asking == Late()
    assert len(scene.link.replies) == ASKED


# Questions to all nodes


async def test_a_question_to_all_ends_with_the_last_answer() -> None:
    scene = Scene()
    asking = asyncio.create_task(scene.questions.collect("all", b"who?", {"n1", "n2"}))
    await until_asked(scene, 1)
    token = scene.token()

    scene.questions.on_reply(token, arrival(Response("n1", b"one")))
    scene.questions.on_reply(token, Arrival(b"1", "r", "", b"noise"))
    scene.questions.on_reply(token, arrival(Response("n2", b"two")))

    assert await asking == [b"one", b"two"]
    assert scene.link.published == [("all", Query(b"who?"))]
    scene.questions.on_reply(token, arrival(Response("n3", b"late")))


async def test_a_node_that_does_not_answer_costs_no_more_than_the_time_limit() -> None:
    scene = Scene(timeout=0.02)
    asking = asyncio.create_task(scene.questions.collect("all", b"who?", {"n1", "n2"}))
    await until_asked(scene, 1)
    scene.questions.on_reply(scene.token(), arrival(Response("n1", b"one")))

    assert await asking == [b"one"]


async def test_without_other_nodes_or_a_link_there_is_nothing_to_wait_for() -> None:
    scene = Scene()
    assert await scene.questions.collect("all", b"who?", set()) == []
    assert scene.link.published == []

    scene.link.is_up = False
    assert await scene.questions.collect("all", b"who?", {"n1"}) == []
