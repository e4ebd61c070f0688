"""The interfaces of a connection: the real parts keep them, and so do the fakes that tests use in their place."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from signal_manager.bus.base import Sender, Subscriber
from signal_manager.gateway import ports
from signal_manager.gateway.connection import Connection
from signal_manager.gateway.conversation import Conversation
from signal_manager.gateway.live_sessions import LiveSession
from signal_manager.gateway.sessions import ResumableSession
from tests.gateway.fakes import FakeConnection, FakeConversation

OF_A_CONVERSATION = (ports.DrainedConversation, ports.FramedConversation, ports.SessionConversation)
OF_A_CONNECTION = tuple(
    port for name in ports.__all__ if name.endswith(("Connection", "Target")) for port in [getattr(ports, name)]
)

KEPT_BY = [
    *((port, kept_by) for port in OF_A_CONNECTION for kept_by in (Connection, FakeConnection)),
    *((port, kept_by) for port in OF_A_CONVERSATION for kept_by in (Conversation, FakeConversation)),
    *((port, kept_by) for port in (Subscriber, ports.RelayTarget) for kept_by in (ResumableSession,)),
    (LiveSession, ResumableSession),
    (Sender, Connection),
]


def members(port: type) -> dict[str, Any]:
    """Return what an interface asks for, with what it inherits."""
    return {
        name: member
        for base in reversed(port.__mro__)
        if getattr(base, "_is_protocol", False)
        for name, member in vars(base).items()
        if not name.startswith("_") and (callable(member) or isinstance(member, property))
    }


def parameters(method: Any) -> list[tuple[str, object, object]]:
    """Return names, kinds and defaults of a method's parameters."""
    return [
        (each.name, each.kind, each.default is not inspect.Parameter.empty)
        for each in inspect.signature(method).parameters.values()
        if each.name != "self"
    ]


@pytest.mark.parametrize(("port", "kept_by"), KEPT_BY, ids=lambda each: each.__name__)
def test_a_method_takes_what_its_interface_says(port: type, kept_by: type) -> None:
    for name, member in members(port).items():
        own = inspect.getattr_static(kept_by, name, None)
        if callable(member) and callable(own):
            asked, taken = parameters(member), parameters(own)
            # Optional parameters of its own are for those who know the class itself.
            assert asked == taken[: len(asked)], name
            assert all(has_default for _, _, has_default in taken[len(asked) :]), name


def test_every_interface_says_who_sees_it() -> None:
    assert ports.__doc__ is not None
    missing = [name for name in ports.__all__ if f"`{name}`" not in ports.__doc__]

    assert missing == []
