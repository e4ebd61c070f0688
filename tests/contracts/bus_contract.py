"""The bus contract that every adapter's tests subclass; it lives in the package so that others can run it too."""

from signal_manager.testing.bus import BusContract, NodesContract

__all__ = ["BusContract", "NodesContract"]
