"""The contract of `bus.base.Bus`: what every bus is held to, with one node or several."""

from signal_manager.testing.bus.delivery import DeliveryContract
from signal_manager.testing.bus.fixtures import BusFixtures, Phone, come, result_of
from signal_manager.testing.bus.nodes import NodesContract
from signal_manager.testing.bus.presence import PresenceContract

__all__ = ["BusContract", "BusFixtures", "NodesContract", "Phone", "come", "result_of"]


class BusContract(PresenceContract, DeliveryContract):
    """Every behaviour of the bus contract that one node can show; a subclass brings the fixtures of `BusFixtures`."""
