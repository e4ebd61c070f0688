"""The contract of `bus.base.Bus`, for one node and for several."""

from signal_manager.testing.bus.delivery import DeliveryContract
from signal_manager.testing.bus.fixtures import BusFixtures, NodesFixtures, Phone, come, result_of
from signal_manager.testing.bus.forwarding import ForwardingContract
from signal_manager.testing.bus.handing_over import HandingOverContract
from signal_manager.testing.bus.nodes import ManyNodesContract
from signal_manager.testing.bus.presence import PresenceContract

__all__ = ["BusContract", "BusFixtures", "NodesContract", "NodesFixtures", "Phone", "come", "result_of"]


class BusContract(PresenceContract, DeliveryContract):
    """Every behaviour of the bus contract that one node can show; a subclass brings the fixtures of `BusFixtures`."""


class NodesContract(ManyNodesContract, HandingOverContract, ForwardingContract):
    """Every behaviour that only several nodes can show; a subclass brings what `NodesFixtures` names."""
