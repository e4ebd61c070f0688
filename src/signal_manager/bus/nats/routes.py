"""Routes to clients of other nodes, and the messages that wait until a route is known.

Pure: it decides, and `bus.py` asks and sends. This node asks once for a client's node and then sends there directly,
until that node answers that the client is gone. Then it waits for the answers to all open messages, asks again, and
sends the refused messages in their original order.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import ClassVar, NamedTuple

import msgspec

from signal_manager.bus.base import Delivery, Outcome
from signal_manager.bus.nats.wire import Content, Signals
from signal_manager.errors import SignalManagerError, UnavailableError

__all__ = ["KNOWN", "MAX_ROUTES", "Ask", "Dispatch", "Envelope", "Route", "Routes", "Step", "Tell"]

# The most routes to keep. Routes without open messages are dropped first.
MAX_ROUTES = 100_000
# How often a message follows a client that moves before the client counts as offline.
_ATTEMPTS = 4

_MOVED = "the client has moved"


class _Stage(Enum):
    KNOWN = "known"  # messages go straight to the node
    RETURNING = "returning"  # the node said that the client is gone, and some messages to it are still open
    ASKING = "asking"
    HELD = "held"  # this node is about to become the client's own
    OVER = "over"  # the client is this node's own


# A module constant, because looking up the enumeration's member costs as much as the comparison.
KNOWN = _Stage.KNOWN


class Route:
    """The state of the route to one client."""

    __slots__ = ("node_id", "out", "returned", "stage", "waiting")

    def __init__(self, stage: _Stage) -> None:
        self.stage = stage
        self.node_id = ""
        self.out = 0  # messages sent there and not answered
        self.returned: list[Envelope] = []
        self.waiting: deque[Envelope] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether the route can be dropped without a loss."""
        return self.stage is KNOWN and not self.out


class Envelope(msgspec.Struct, eq=False):
    """One message to a client of another node; `size` is its size on the wire in bytes."""

    target: str
    entry: Signals | Content
    size: int
    outcome: Outcome | None
    route: Route | None = None  # the route that it took
    attempts: int = 0
    count: ClassVar[int] = 1


class Ask(NamedTuple):
    """Ask all nodes for this client, and call `found`, `absent` or `unknown` with the answer."""

    target: str


class Dispatch(NamedTuple):
    """Send this message to a node, and call `delivered`, `refused` or `lost` with the result."""

    node_id: str
    envelope: Envelope


class Tell(NamedTuple):
    """Tell the sender the result of its message, which is then dropped."""

    envelope: Envelope
    result: Delivery | SignalManagerError


Step = Ask | Dispatch | Tell


class Routes:
    """The routes to clients of other nodes; every method returns the steps to perform, in order."""

    def __init__(self, *, max_routes: int = MAX_ROUTES) -> None:
        self._max_routes = max_routes
        self._routes: dict[str, Route] = {}

    def __len__(self) -> int:
        return len(self._routes)

    def straight(self, target: str) -> Route | None:
        """Return the route of a client whose node is known, or None; then use `send`.

        A caller that sends along the route adds the message to its `out`.
        """
        route = self._routes.get(target)
        return route if route is not None and route.stage is KNOWN else None

    def send(self, envelope: Envelope) -> Step | None:
        """Return the step for a new message, or None if it must wait."""
        route = self._routes.get(envelope.target)
        if route is None:
            self._make_room()
            route = self._routes[envelope.target] = Route(_Stage.ASKING)
            route.waiting.append(envelope)
            return Ask(envelope.target)
        if route.stage is KNOWN:
            route.out += 1
            envelope.route = route
            return Dispatch(route.node_id, envelope)
        route.waiting.append(envelope)
        return None

    # -- answers to Ask ------------------------------------------------------------------------------------------

    def found(self, target: str, node_id: str) -> list[Step]:
        """Handle the answer that a node has the client."""
        route = self._asking(target)
        if route is None:
            return []
        route.stage, route.node_id = _Stage.KNOWN, node_id
        envelopes, route.waiting = route.waiting, deque()
        route.out += len(envelopes)
        for envelope in envelopes:
            envelope.route = route
        return [Dispatch(node_id, envelope) for envelope in envelopes]

    def absent(self, target: str) -> list[Step]:
        """Handle the answer that no node has the client."""
        return self._give_up(target, Delivery.OFFLINE)

    def unknown(self, target: str, error: UnavailableError) -> list[Step]:
        """Handle a question for a client that got no answer."""
        return self._give_up(target, error)

    # -- answers to Dispatch -------------------------------------------------------------------------------------

    def delivered(self, envelope: Envelope, result: Delivery | SignalManagerError = Delivery.DELIVERED) -> list[Step]:
        """Handle the result of a message at the client's node."""
        steps: list[Step] = [Tell(envelope, result)]
        route = self._route_of(envelope)
        if route is not None:
            route.out -= 1
            if isinstance(result, Delivery):
                # The client was away and is back. Messages refused earlier must not arrive after this one.
                steps += [Tell(overtaken, UnavailableError(_MOVED)) for overtaken in route.returned]
                route.returned = []
            steps += self._all_back(envelope.target, route)
        return steps

    def refused(self, envelope: Envelope) -> list[Step]:
        """Handle a message that its node did not deliver, because the client is not there."""
        route = self._route_of(envelope)
        if route is None:  # the client has come to this node, and later messages may have reached it already
            return [Tell(envelope, UnavailableError(_MOVED))]
        steps: list[Step] = []
        envelope.attempts += 1
        if envelope.attempts >= _ATTEMPTS:
            steps.append(Tell(envelope, Delivery.OFFLINE))
        else:
            route.returned.append(envelope)
        route.out -= 1
        if route.stage is KNOWN:
            route.stage = _Stage.RETURNING
        return steps + self._all_back(envelope.target, route)

    def lost(self, envelope: Envelope, error: UnavailableError) -> list[Step]:
        """Handle a message whose result is unknown."""
        route = self._route_of(envelope)
        if route is not None and route.stage is KNOWN:
            route.stage = _Stage.RETURNING
        return self.delivered(envelope, error)

    # -- clients that come here ----------------------------------------------------------------------------------

    def hold(self, target: str) -> None:
        """Hold messages to a client that is about to be attached to this node."""
        route = self._routes.get(target)
        if route is None:
            self._routes[target] = Route(_Stage.HELD)
        else:
            route.stage = _Stage.HELD

    def arrived(self, target: str) -> list[Envelope]:
        """Return the held messages for a client that is attached to this node now."""
        route = self._routes.pop(target, None)
        if route is None:
            return []
        route.stage = _Stage.OVER
        return [*route.returned, *route.waiting]

    def stayed_away(self, target: str) -> list[Step]:
        """Send the held messages for a client that was not attached to this node after all."""
        route = self._routes.get(target)
        if route is None or route.stage is not _Stage.HELD:
            return []
        route.stage = _Stage.RETURNING
        return self._all_back(target, route)

    def _route_of(self, envelope: Envelope) -> Route | None:
        """Return the route that a message took, if it is still the client's route."""
        return envelope.route if self._routes.get(envelope.target) is envelope.route else None

    def _asking(self, target: str) -> Route | None:
        route = self._routes.get(target)
        return route if route is not None and route.stage is _Stage.ASKING else None

    def _all_back(self, target: str, route: Route) -> list[Step]:
        """Ask for the client's node once all messages to its former node are answered."""
        if route.stage is not _Stage.RETURNING or route.out:
            return []
        route.waiting.extendleft(reversed(route.returned))
        route.returned = []
        if not route.waiting:
            del self._routes[target]
            return []
        route.stage = _Stage.ASKING
        return [Ask(target)]

    def _give_up(self, target: str, result: Delivery | SignalManagerError) -> list[Step]:
        route = self._asking(target)
        if route is None:
            return []
        del self._routes[target]
        return [Tell(envelope, result) for envelope in route.waiting]

    def _make_room(self) -> None:
        if len(self._routes) < self._max_routes:
            return
        idle = [target for target, route in self._routes.items() if route.is_idle]
        for target in idle[: max(1, self._max_routes // 10)]:
            del self._routes[target]
