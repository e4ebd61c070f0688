"""Which form of the modules that every message passes runs: compiled, or the pure Python that it is made from."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["form", "is_compiled"]


def is_compiled() -> bool:
    """Return whether the compiled form runs. It was made as one: a connection brings all the others."""
    found = find_spec("signal_manager.gateway.connection")
    return found is not None and found.origin is not None and not found.origin.endswith(".py")


def form() -> str:
    """Return the form's name, as `signal-manager --version` prints it."""
    return "compiled" if is_compiled() else "pure Python"
