"""What rooms refuse before they ask the SFU or storage."""

from __future__ import annotations

from typing import Any

import pytest

from signal_manager.errors import ForbiddenError, TooLargeError
from signal_manager.model import Caller, ClientId, Grants, Identity, SessionId
from signal_manager.protocol.messages import MAX_METADATA
from signal_manager.rooms.checks import check_may_publish, check_may_subscribe, check_metadata


def caller(**grants: Any) -> Caller:
    return Caller(Identity(client_id=ClientId("a"), grants=Grants(**grants)), SessionId("s"), "hash")


@pytest.mark.parametrize("grants", [{}, {"roles": ("sender",)}, {"subscribe": False}])
def test_a_token_that_says_nothing_against_it_allows_to_publish(grants: dict[str, Any]) -> None:
    check_may_publish(caller(**grants))


@pytest.mark.parametrize("grants", [{"publish": False}, {"roles": ("receiver",)}, {"roles": ()}])
def test_a_token_without_the_grant_or_the_role_publishes_nothing(grants: dict[str, Any]) -> None:
    with pytest.raises(ForbiddenError, match="publish"):
        check_may_publish(caller(**grants))


def test_subscribing_needs_its_own_grant() -> None:
    check_may_subscribe(caller(publish=False))
    with pytest.raises(ForbiddenError, match="subscribe"):
        check_may_subscribe(caller(subscribe=False))


def test_metadata_is_measured_in_bytes_of_json_and_not_in_characters() -> None:
    room = MAX_METADATA - len('{"x":""}')

    check_metadata({"x": "y" * room})
    for too_long in ("y" * (room + 1), "é" * (room // 2 + 1)):
        with pytest.raises(TooLargeError, match=f"expected at most {MAX_METADATA}"):
            check_metadata({"x": too_long})
