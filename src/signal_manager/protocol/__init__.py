"""The wire protocol, pure: bytes to messages and back, and what a connection may do when (docs/protocol.md)."""
