"""The names of all subjects that the nodes of one service use."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Subjects"]


class Subjects(NamedTuple):
    """The subjects of one service, as one of its nodes sees them.

    Attributes:
        prefix: begins every subject; services with different prefixes can share a NATS.
        node_id: this node.
    """

    prefix: str
    node_id: str

    @property
    def all_nodes(self) -> str:
        """What every node listens to."""
        return f"{self.prefix}.all"

    def client(self, client_id: str) -> str:
        """Return what the node of this client listens to."""
        return self._named("c", client_id)

    def batches(self, node_id: str) -> str:
        """Return where a node takes batches."""
        return self._named("n", node_id)

    def identity(self, node_id: str) -> str:
        """Return where a node says that it is running."""
        return self._named("i", node_id)

    def reply_to(self, token: str) -> str:
        """Return where this node takes the replies to what `token` names; "*" is all of them."""
        return f"{self._named('r', self.node_id)}.{token}"

    def _named(self, kind: str, name: str) -> str:
        # A dot would split the name into tokens. No name contains a colon.
        return f"{self.prefix}.{kind}.{name.replace('.', ':')}"
