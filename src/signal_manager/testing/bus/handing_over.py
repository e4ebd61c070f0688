"""How a session moves between nodes with its client, and which of two devices keeps a client."""

from __future__ import annotations

from signal_manager.bus.base import Bus, HandOver
from signal_manager.model import ClientId
from signal_manager.testing.bus.fixtures import NodesFixtures, Phone, come

__all__ = ["HandingOverContract"]

A = ClientId("a")


class HandingOverContract(NodesFixtures):
    """Claims that ask for a session, and claims that yield to another instance on another node."""

    async def test_a_claim_brings_the_session_from_the_former_node(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        old = await come(there, A, Phone("i"))
        _serve(there, _handing_over(there, old))

        claimed = await here.claim(A, "i", wants=b"session 7")
        here.attach(A, Phone("i"))

        assert claimed == (True, b"state of session 7")
        assert not old.is_replaced
        assert A not in there.subscribers

    async def test_a_session_that_cannot_go_on_ends_where_it_was(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        old = await come(there, A, Phone("i"))
        _serve(there, lambda client_id, wants: None)

        claimed = await here.claim(A, "i", wants=b"session 7")

        assert claimed == (True, None)
        assert old.replaced_by_same_instance is True
        here.release(A)

    async def test_a_session_stays_where_nobody_asks_for_it(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        old = await come(there, A, Phone("i"))
        asked: list[bytes] = []
        _serve(there, lambda client_id, wants: asked.append(wants))

        await come(here, A, Phone("j"))

        assert asked == []
        assert old.replaced_by_same_instance is False


def _serve(bus: Bus[Phone], hand_over: HandOver) -> None:
    bus.serve_others(hand_over=hand_over, join=lambda: None, flush=lambda: None)


def _handing_over(bus: Bus[Phone], phone: Phone) -> HandOver:
    def hand_over(client_id: ClientId, wants: bytes) -> bytes:
        bus.detach(client_id, phone)
        return b"state of " + wants

    return hand_over
