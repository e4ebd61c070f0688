"""Finds adapters by the name that configuration gives, ours and those of other packages alike.

An adapter announces itself as an entry point in the group `signal_manager.storage`, `.bus` or `.media`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from signal_manager.errors import ConfigurationError

__all__ = ["load_adapter"]


def load_adapter(wall: str, name: str) -> Any:
    """Return the adapter `name` of a wall ("storage", "bus" or "media"): something to call with its settings.

    Raises:
        ConfigurationError: there is none of that name, or what it needs is not installed.
    """
    known = entry_points(group=f"signal_manager.{wall}")
    if name not in known.names:
        raise ConfigurationError(f"{wall}.backend is {name!r}, expected one of: {', '.join(sorted(known.names))}")
    try:
        return known[name].load()
    except ImportError as error:
        raise ConfigurationError(
            f"{wall}.backend {name!r} needs a package that is not installed ({error}); "
            f'for our own adapters: pip install "signal-manager[{name}]"'
        ) from error
