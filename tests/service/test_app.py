"""What the composition root works out from the configuration; whole services are in integration/."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from signal_manager.service import app


class Listening(NamedTuple):
    host: str
    port: int
    is_secure: bool = False


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "ws://127.0.0.1:8080"),
        ("0.0.0.0", "ws://127.0.0.1:8080"),
        ("::", "ws://[::1]:8080"),
        ("10.1.2.3", "ws://10.1.2.3:8080"),
    ],
)
def test_a_browser_on_this_machine_is_told_an_address_that_it_can_reach(host: str, url: str) -> None:
    assert app.local_url(Listening(host, 8080)) == url  # type: ignore[arg-type]  # nothing else is read
    secure = app.local_url(Listening(host, 8080, is_secure=True))  # type: ignore[arg-type]  # the same
    assert secure == url.replace("ws:", "wss:")
