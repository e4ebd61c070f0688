"""Finding adapters by name, and what item errors say."""

from __future__ import annotations

import pytest

from signal_manager.adapters import load_adapter
from signal_manager.media.base import IceServer, IceServers, ItemError
from signal_manager.media.cloudflare import CloudflareBackend


def test_our_own_backend_is_found_like_any_other() -> None:
    assert load_adapter("media", "cloudflare") is CloudflareBackend


def test_a_credential_is_not_in_its_representation() -> None:
    assert "secret" not in repr(IceServers(servers=(IceServer(urls=("turn:a",), username="u", credential="secret"),)))


@pytest.mark.parametrize(
    ("error_code", "is_too_early", "is_already_closed"),
    [
        ("not_found_track_error", True, False),
        ("empty_track_error", True, False),
        ("session_error", True, False),
        ("close_track_error", False, True),
        ("invalid_params", False, False),
        ("brand_new_error", False, False),
    ],
)
def test_an_item_error_says_what_may_be_done_about_it(
    error_code: str, is_too_early: bool, is_already_closed: bool
) -> None:
    error = ItemError(error_code=error_code, message="")

    assert (error.is_too_early, error.is_already_closed) == (is_too_early, is_already_closed)
