"""A relayed offer passes few modules, and none of storage, rooms or authentication."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long


def test_an_offer_passes_the_gateway_and_the_protocol_alone() -> None:
    told = subprocess.run([sys.executable, "-m", "tools.walk", "--json"], capture_output=True, text=True, check=True)
    walks = json.loads(told.stdout)

    assert {each.partition(".")[0] for each in walks["offer"]} <= {"gateway", "observe", "protocol"}
    assert {each.partition(".")[0] for each in walks.get("offer to another node", [])} <= {
        *("bus", "gateway", "observe", "protocol")
    }
    assert {"rooms.entry_requests", "rooms.joining"} <= set(walks["join"])
    assert "gateway.sessions" in walks["resume"]
