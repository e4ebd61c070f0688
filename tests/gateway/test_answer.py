"""The answer to one request: where it goes, and what an error of the handler becomes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from signal_manager.errors import AuthenticationError, ForbiddenError, RateLimitedError, SignalManagerError
from signal_manager.gateway.answer import RequestAnswer
from signal_manager.gateway.limits import Limits, Usage, address_of
from signal_manager.protocol.messages import IceServers, Message, PayloadType, Register, Shape, Unregister
from signal_manager.protocol.state_machine import Received

CALLER: Any = SimpleNamespace(identity=SimpleNamespace(client_id="alice"))
ADDRESS = address_of("192.0.2.1")


class Dispatcher:
    """Answers with what it is given, or raises it."""

    def __init__(self, answer: Message | Exception) -> None:
        self._answer = answer
        self.asked: list[Message] = []
        self.left_because: list[str] = []

    async def answer(self, caller: object, message: Message) -> Message:
        self.asked.append(message)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def left(self, caller: object, reason: str) -> None:
        self.left_because.append(reason)


class Conversation:
    """Keeps the answers; what it says in place of a frame is the reply or the error."""

    connection = SimpleNamespace(source=ADDRESS)
    session = SimpleNamespace(reply=lambda message, request: message, error=lambda error, request: error)
    encoder = SimpleNamespace(reply=lambda action: action)

    def __init__(self, *, is_established: bool = True) -> None:
        self.is_established = is_established
        self.answers: list[tuple[Any, bool]] = []

    def answered(self, request: Received, reply: Any, *, exclusive: bool) -> None:
        self.answers.append((reply, exclusive))


def received(message: Message) -> Received:
    return Received(message, bytes(16), PayloadType.JSON, Shape.PLAIN)


def answer(
    dispatcher: Dispatcher,
    conversation: Conversation,
    message: Message,
    *,
    usage: Usage | None = None,
    resumable: Any = None,
) -> RequestAnswer:
    occupancy = SimpleNamespace(usage=usage or Usage(Limits()))
    registry: Any = SimpleNamespace(dispatcher=dispatcher, occupancy=occupancy)
    on: Any = conversation
    return RequestAnswer(registry, on, received(message), CALLER, resumable)


ASK = IceServers()


async def test_the_dispatchers_answer_goes_to_the_conversation() -> None:
    dispatcher, conversation = Dispatcher(Unregister(version="1")), Conversation()

    await answer(dispatcher, conversation, ASK).run()

    assert conversation.answers == [(Unregister(version="1"), False)]
    assert dispatcher.left_because == []


async def test_an_exclusive_request_lets_later_messages_go_on() -> None:
    conversation = Conversation()

    await answer(Dispatcher(ASK), conversation, Unregister(version="1")).run()

    assert conversation.answers == [(ASK, True)]


async def test_an_error_of_the_handler_is_the_answer() -> None:
    error, conversation = ForbiddenError("no"), Conversation()

    await answer(Dispatcher(error), conversation, ASK).run()

    assert conversation.answers == [(error, False)]


async def test_a_fault_of_the_handler_is_logged_and_answered_without_its_text() -> None:
    conversation = Conversation()

    with capture_logs() as lines:
        await answer(Dispatcher(ValueError("secret")), conversation, ASK).run()

    (reply, _), *_ = conversation.answers
    assert isinstance(reply, SignalManagerError)
    assert reply.message == "internal error"
    assert [line["event"] for line in lines] == ["request failed"]


async def test_a_session_that_ended_meanwhile_leaves_what_the_request_let_it_join() -> None:
    dispatcher = Dispatcher(ASK)

    await answer(dispatcher, Conversation(is_established=False), ASK).run()

    assert dispatcher.left_because == ["connection lost"]


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_session_that_can_be_resumed_gets_the_answer_in_the_connections_place(is_there: bool) -> None:
    dispatcher, conversation = Dispatcher(ASK), Conversation(is_established=False)
    given: list[Any] = []

    def answered(request: Received, reply: Any, *, exclusive: bool) -> bool:
        given.append(reply)
        return is_there

    await answer(dispatcher, conversation, ASK, resumable=SimpleNamespace(answered=answered)).run()

    assert given == [ASK]
    assert conversation.answers == []
    assert dispatcher.left_because == ([] if is_there else ["connection lost"])


async def test_a_request_with_a_wrong_token_counts_as_a_failed_attempt() -> None:
    usage = Usage(Limits(failed_auth_per_minute=1))
    message = Register(version="1", auth_token="wrong")
    dispatcher = Dispatcher(AuthenticationError("no"))

    for _ in range(2):
        conversation = Conversation()
        await answer(dispatcher, conversation, message, usage=usage).run()

    ((reply, _),) = conversation.answers
    assert isinstance(reply, RateLimitedError)
    assert dispatcher.asked == [message]
