"""Where clients of other nodes are, as far as this node has had to ask, and what waits until it knows.

Pure: it decides, `nats.py` asks and sends. A client is asked for once and then sent to without asking, until its node
says that it is gone. Then everything that is on its way is let come back first, and goes out again in the old order.
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

# Clients of other nodes that are remembered; those with nothing on its way are forgotten first.
MAX_ROUTES = 100_000
# How often a message follows a client that moves on before it is called offline.
_ATTEMPTS = 4

_MOVED = "the client has moved"


class _Stage(Enum):
    KNOWN = "known"  # messages go straight to the node
    RETURNING = "returning"  # the node said that the client is gone, and some of what was sent there is still out
    ASKING = "asking"
    HELD = "held"  # this node is about to become the client's own
    OVER = "over"  # the client is this node's own


# Of a client to whom messages go straight; looking it up costs as much as what it is compared for.
KNOWN = _Stage.KNOWN


class Route:
    """What is known of one client."""

    __slots__ = ("node_id", "out", "returned", "stage", "waiting")

    def __init__(self, stage: _Stage) -> None:
        self.stage = stage
        self.node_id = ""
        self.out = 0  # what was sent there and not answered
        self.returned: list[Envelope] = []
        self.waiting: deque[Envelope] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be missed if it were forgotten."""
        return self.stage is KNOWN and not self.out


class Envelope(msgspec.Struct, eq=False):
    """One message on its way to a client of another node; `size` is what it takes on the way, in bytes."""

    target: str
    entry: Signals | Content
    size: int
    outcome: Outcome | None
    route: Route | None = None  # that it was sent by
    attempts: int = 0
    count: ClassVar[int] = 1


class Ask(NamedTuple):
    """Ask all nodes who holds this client, and call `found`, `absent` or `unknown` with the answer."""

    target: str


class Dispatch(NamedTuple):
    """Send this to a node, and call `delivered`, `refused` or `lost` with what became of it."""

    node_id: str
    envelope: Envelope


class Tell(NamedTuple):
    """Tell the sender what became of its message; nothing is kept of it."""

    envelope: Envelope
    result: Delivery | SignalManagerError


Step = Ask | Dispatch | Tell


class Routes:
    """The clients of other nodes that this node sends to; every method returns what is to be done, in order."""

    def __init__(self, *, max_routes: int = MAX_ROUTES) -> None:
        self._max_routes = max_routes
        self._routes: dict[str, Route] = {}

    def __len__(self) -> int:
        return len(self._routes)

    def straight(self, target: str) -> Route | None:
        """Return the route of a client to whom messages go straight: whoever sends one that way adds it to its `out`.

        Other messages are for `send`.
        """
        route = self._routes.get(target)
        return route if route is not None and route.stage is KNOWN else None

    def send(self, envelope: Envelope) -> Step | None:
        """Take a new message; None when it waits."""
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
        """Take note of where a client is."""
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
        """Take note that nobody holds a client."""
        return self._give_up(target, Delivery.OFFLINE)

    def unknown(self, target: str, error: UnavailableError) -> list[Step]:
        """Take note that nobody said where a client is."""
        return self._give_up(target, error)

    # -- answers to Dispatch -------------------------------------------------------------------------------------

    def delivered(self, envelope: Envelope, result: Delivery | SignalManagerError = Delivery.DELIVERED) -> list[Step]:
        """Take note of what the client's node did with a message."""
        steps: list[Step] = [Tell(envelope, result)]
        route = self._route_of(envelope)
        if route is not None:
            route.out -= 1
            if isinstance(result, Delivery):
                # The client was away and is back: what was refused before must not arrive after this.
                steps += [Tell(overtaken, UnavailableError(_MOVED)) for overtaken in route.returned]
                route.returned = []
            steps += self._all_back(envelope.target, route)
        return steps

    def refused(self, envelope: Envelope) -> list[Step]:
        """Take note that the node does not hold the client, and has not delivered the message."""
        route = self._route_of(envelope)
        if route is None:  # the client has come here meanwhile, and later messages may have reached it already
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
        """Take note that nobody knows what became of a message."""
        route = self._route_of(envelope)
        if route is not None and route.stage is KNOWN:
            route.stage = _Stage.RETURNING
        return self.delivered(envelope, error)

    # -- clients that come here ----------------------------------------------------------------------------------

    def hold(self, target: str) -> None:
        """Let messages to a client wait that is about to become this node's own."""
        route = self._routes.get(target)
        if route is None:
            self._routes[target] = Route(_Stage.HELD)
        else:
            route.stage = _Stage.HELD

    def arrived(self, target: str) -> list[Envelope]:
        """Return what has waited for a client that is this node's own now."""
        route = self._routes.pop(target, None)
        if route is None:
            return []
        route.stage = _Stage.OVER
        return [*route.returned, *route.waiting]

    def stayed_away(self, target: str) -> list[Step]:
        """Go on with what has waited for a client that did not become this node's own after all."""
        route = self._routes.get(target)
        if route is None or route.stage is not _Stage.HELD:
            return []
        route.stage = _Stage.RETURNING
        return self._all_back(target, route)

    def _route_of(self, envelope: Envelope) -> Route | None:
        """Return the route that a message took, if it is still the client's."""
        return envelope.route if self._routes.get(envelope.target) is envelope.route else None

    def _asking(self, target: str) -> Route | None:
        route = self._routes.get(target)
        return route if route is not None and route.stage is _Stage.ASKING else None

    def _all_back(self, target: str, route: Route) -> list[Step]:
        """Ask where the client is once everything has come back from where it was."""
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
