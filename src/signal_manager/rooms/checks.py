"""What rooms refuse before they ask the SFU or storage: a missing grant, and too much metadata."""

from __future__ import annotations

from typing import Any

import msgspec

from signal_manager.errors import ForbiddenError, TooLargeError
from signal_manager.model import Caller
from signal_manager.protocol.messages import MAX_METADATA

__all__ = ["check_may_publish", "check_may_subscribe", "check_metadata"]


def check_may_publish(caller: Caller) -> None:
    """Raise ForbiddenError unless the caller's token allows to publish."""
    grants = caller.identity.grants
    if not grants.publish or (grants.roles is not None and "sender" not in grants.roles):
        raise ForbiddenError("the token does not allow to publish")


def check_may_subscribe(caller: Caller) -> None:
    """Raise ForbiddenError unless the caller's token allows to subscribe."""
    if not caller.identity.grants.subscribe:
        raise ForbiddenError("the token does not allow to subscribe")


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raise TooLargeError when metadata exceeds `MAX_METADATA` bytes of JSON."""
    size = len(msgspec.json.encode(metadata))
    if size > MAX_METADATA:
        raise TooLargeError(f"metadata is {size} bytes of JSON, expected at most {MAX_METADATA}")
