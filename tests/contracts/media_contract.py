"""The media contract that every adapter's tests subclass; it lives in the package so that others can run it too."""

from signal_manager.testing.media import MediaContract

__all__ = ["MediaContract"]
