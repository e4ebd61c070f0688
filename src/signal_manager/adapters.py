"""Finds adapters by the name that configuration gives, ours and those of other packages alike.

An adapter announces itself as an entry point in the group `signal_manager.storage`, `.bus` or `.media`; its author
reads docs/adapters.md.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict

from signal_manager.errors import ConfigurationError

__all__ = ["OURS", "Options", "load_adapter"]


# Our own entry points, as pyproject.toml has them. A search through all installed packages would take a tenth of the
# start, and a checkout that was updated since it was installed has the entry points of its older self.
OURS = {
    "bus": {"local": "signal_manager.bus.local:LocalBus", "nats": "signal_manager.bus.nats.bus:NatsBus"},
    "media": {"cloudflare": "signal_manager.media.cloudflare:CloudflareBackend"},
    "storage": {
        "memory": "signal_manager.storage.memory:MemoryStorage",
        "sqlite": "signal_manager.storage.sqlite.adapter:SqliteStorage",
        "firestore": "signal_manager.storage.firestore:FirestoreStorage",
    },
}


class Options(BaseModel):
    """What an adapter of another package reads from [storage.options], [bus.options] or [media.options].

    The adapter names its subclass in a class attribute `Options`, and is called with an instance as `options`. A field
    without a default is required, its description is part of the error when it is missing, and a `SecretStr` is never
    printed. Unknown keys are errors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


def load_adapter(wall: str, name: str) -> Any:
    """Return the adapter `name` for "storage", "bus" or "media": a class to call with its settings.

    Raises:
        ConfigurationError: there is none of that name, or what it needs is not installed.
    """
    group = f"signal_manager.{wall}"
    ours = OURS[wall]
    if name in ours:
        found = EntryPoint(name, ours[name], group)
    else:
        others = entry_points(group=group)
        if name not in others.names:
            known = ", ".join(sorted({*ours, *others.names}))
            raise ConfigurationError(f"{wall}.backend is {name!r}, expected one of: {known}")
        found = others[name]
    try:
        return found.load()
    except ImportError as error:
        advice = f'; install it with: pip install "signal-manager[{name}]"' if name in ours else ""
        raise ConfigurationError(
            f"{wall}.backend {name!r} needs a package that is not installed ({error}){advice}"
        ) from error
