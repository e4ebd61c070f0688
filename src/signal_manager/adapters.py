"""Finds adapters of this and other packages by their name in the configuration.

An adapter is an entry point in the group `signal_manager.storage`, `.bus` or `.media` (docs/adapters.md).
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict

from signal_manager.errors import ConfigurationError

__all__ = ["OURS", "Options", "load_adapter"]


# The entry points of this package, as in pyproject.toml. A search through all installed packages takes a tenth of the
# start, and finds old entry points in a checkout that was updated after its installation.
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
    """The base of an adapter's settings in [storage.options], [bus.options] or [media.options].

    An adapter names its subclass in the class attribute `Options`, and gets an instance as the argument `options`. A
    field without a default is required; its description is part of the error if it is missing. A `SecretStr` is never
    printed. Unknown keys are errors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


def load_adapter(wall: str, name: str) -> Any:
    """Return the adapter `name` for "storage", "bus" or "media": a class to call with its settings.

    Raises:
        ConfigurationError: there is no adapter of that name, or a package that it needs is not installed.
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
