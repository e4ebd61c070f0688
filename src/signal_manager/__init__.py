"""WebRTC signaling: a service, its protocol, and the Python SDK in `signal_manager.client`."""

__version__ = "0.2.0"
