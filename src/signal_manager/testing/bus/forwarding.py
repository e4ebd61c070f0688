"""The contract of the fast path between nodes. A bus without a forwarder skips these tests."""

from __future__ import annotations

import msgspec
import pytest

from signal_manager.bus.base import Bus, Delivery, Forwarder
from signal_manager.errors import InvalidRequestError, SignalManagerError, TooLargeError, UnavailableError
from signal_manager.model import ClientId
from signal_manager.protocol.framing import HEAD
from signal_manager.testing.bus.fixtures import NodesFixtures, Phone, come, message, result_of, until

__all__ = ["ForwardingContract"]

A = ClientId("a")


class Caller:
    """A sender that records the results of its signals."""

    def __init__(self) -> None:
        self.client_id = ClientId("s")
        self.results: dict[int, Delivery | SignalManagerError] = {}

    def told(self, head: bytes, target: str, wants_ack: bool, result: Delivery | SignalManagerError) -> None:
        """Record the result of a signal by its number."""
        assert (target, head) == (A, _head(head[0]))
        assert head[0] not in self.results
        self.results[head[0]] = result


class ForwardingContract(NodesFixtures):
    """A signal is forwarded once and in order, or its sender is told."""

    async def test_signals_travel_as_the_bytes_that_they_came_in(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        phone, caller = await come(there, A, Phone()), Caller()

        for number in range(1, 4):
            _forward(here, caller, number)

        await until(lambda: len(caller.results) == 3)
        assert phone.relayed == [(_head(number), "s", b"[%d]" % number) for number in range(1, 4)]
        assert set(caller.results.values()) == {Delivery.DELIVERED}
        await until(lambda: not here.is_waiting)

    async def test_a_sender_that_wants_no_answer_hears_at_most_that_all_is_well(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        phone, caller = await come(there, A, Phone()), Caller()

        for number in range(1, 4):
            _forward(here, caller, number, wants_ack=False)
        assert here.is_waiting

        await until(lambda: not here.is_waiting)
        assert len(phone.relayed) == 3
        assert set(caller.results.values()) <= {Delivery.DELIVERED}

    async def test_forwarded_signals_and_messages_keep_one_order(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        arrived: list[object] = []
        phone, caller = await come(there, A, _Logging(arrived)), Caller()
        assert await result_of(here, A, message(0)) is Delivery.DELIVERED

        _forward(here, caller, 1)
        here.send(A, message(2))
        _forward(here, caller, 3)

        await until(lambda: not here.is_waiting)
        assert arrived == [0, 1, 2, 3]
        assert len(phone.relayed) == 2

    @pytest.mark.parametrize("fate", [TooLargeError("too large"), Delivery.QUEUED])
    async def test_a_sender_is_told_what_became_of_its_signal(
        self, here: Bus[Phone], there: Bus[Phone], fate: Delivery | SignalManagerError
    ) -> None:
        refusal = fate if isinstance(fate, SignalManagerError) else None
        caller = Caller()
        await come(there, A, Phone(result=Delivery.QUEUED, refusal=refusal))

        _forward(here, caller, 1, wants_ack=False)

        await until(lambda: len(caller.results) == 1)
        assert type(caller.results[1]) is type(fate)

    async def test_a_signal_to_nobody_is_told_so(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        caller = Caller()

        _forward(here, caller, 1)

        await until(lambda: caller.results == {1: Delivery.OFFLINE})
        with pytest.raises(InvalidRequestError):
            _forwarder(here).forward(caller, "no name", _head(2), b"2", wants_ack=True)
        assert not here.is_waiting

    async def test_a_cut_off_node_refuses_signals(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        caller = Caller()
        await come(there, A, Phone())

        await self.cut()

        with pytest.raises(UnavailableError):
            _forward(here, caller, 1)
        assert caller.results == {}


class _Logging(Phone):
    """Records the numbers of messages and signals in their common order."""

    def __init__(self, arrived: list[object]) -> None:
        super().__init__()
        self._arrived = arrived

    def deliver(self, message, message_id=None):  # type: ignore[no-untyped-def]  # as Phone's
        self._arrived.append(message.signal_data)
        return super().deliver(message, message_id)

    def relay(self, sender, signals):  # type: ignore[no-untyped-def]  # as Phone's
        self._arrived += [head[0] for head, _ in signals]
        return super().relay(sender, signals)


def _head(number: int) -> bytes:
    return bytes((number, *range(1, HEAD)))


def _forward(bus: Bus[Phone], caller: Caller, number: int, *, wants_ack: bool = True) -> None:
    # As the relay path has it: the whole frame, and a view of a part of it.
    frame, body = _head(number) + b"the rest", msgspec.Raw(b"[%d]" % number)
    _forwarder(bus).forward(caller, A, frame, body, wants_ack=wants_ack)


def _forwarder(bus: Bus[Phone]) -> Forwarder:
    if bus.forwarder is None:
        pytest.skip("this bus sends signals by `send`")
    return bus.forwarder
