"""The interface of a bus: the adapters keep it, method by method, and every promise of it has words."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from signal_manager.bus import base
from signal_manager.bus.base import Bus, Claimed, Delivery, Forwarder, Messaging, Presence, Sender, Subscriber
from signal_manager.bus.local import LocalBus
from signal_manager.bus.nats.bus import NatsBus
from signal_manager.testing.bus import Phone
from tests.bus.queue_bus import QueueBus

INTERFACES = (Bus, Forwarder, Messaging, Presence, Sender, Subscriber)


def methods(interface: type) -> dict[str, Any]:
    """Return the methods of an interface, with those that it inherits."""
    return {
        name: member
        for each in reversed(interface.__mro__)
        if getattr(each, "_is_protocol", False)
        for name, member in vars(each).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


def parameters(method: Any) -> list[tuple[str, object, bool]]:
    """Return names and kinds of a method's parameters, and whether each may be left out."""
    taken = list(inspect.signature(method).parameters.values())[1:]
    return [(each.name, each.kind, each.default is not inspect.Parameter.empty) for each in taken]


@pytest.mark.parametrize(
    ("kept_by", "interface"),
    [(LocalBus, Bus), (NatsBus, Bus), (QueueBus, Bus), (QueueBus, Forwarder), (Phone, Subscriber)],
)
def test_an_adapter_takes_what_the_interface_says(kept_by: type, interface: type) -> None:
    for name, method in methods(interface).items():
        assert parameters(getattr(kept_by, name)) == parameters(method), name


@pytest.mark.parametrize("interface", INTERFACES)
def test_every_method_says_what_it_promises(interface: type) -> None:
    assert [name for name, method in methods(interface).items() if not (method.__doc__ or "").strip()] == []


def test_only_what_the_interface_names_is_exported() -> None:
    assert {each.__name__ for each in INTERFACES} <= set(base.__all__)
    assert all(hasattr(base, name) for name in base.__all__)


def test_a_delivery_is_the_word_that_a_client_reads() -> None:
    assert [str(each) for each in Delivery] == ["delivered", "queued", "offline", "pending"]


def test_a_claim_brings_no_session_unless_its_former_node_says_so() -> None:
    assert Claimed(is_won=True) == (True, None)
