"""What a room uses of its client: the client offers it, and nothing of it has another form there."""

from __future__ import annotations

import inspect

import pytest

from signal_manager.client import SignalClient
from signal_manager.client.ports import Requester
from tests.client.fakes import FakeRequester


def test_the_client_and_the_fake_of_the_tests_are_requesters() -> None:
    requesters: list[Requester] = [SignalClient("ws://127.0.0.1:1", "alice", "t"), FakeRequester()]

    assert [(each.client_id, each.is_connected) for each in requesters] == [("alice", False), ("alice", True)]


@pytest.mark.parametrize("kind", [SignalClient, FakeRequester])
def test_a_request_takes_the_same_arguments_everywhere(kind: type[Requester]) -> None:
    expected, actual = inspect.signature(Requester.request), inspect.signature(kind.request)

    assert list(actual.parameters.values()) == list(expected.parameters.values())
