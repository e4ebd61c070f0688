"""Calls to the SFU in the service's own process."""

from __future__ import annotations

import json

import pytest

from signal_manager.media.errors import NoAnswerError
from signal_manager.service.local_sfu import InThisProcess
from signal_manager.sfu import LocalSfu
from signal_manager.sfu.faults import Fault, Faults


async def test_a_request_reaches_the_sfu_with_its_query() -> None:
    async with LocalSfu() as sfu:
        headers = {"Authorization": f"Bearer {sfu.app_secret}"}
        url = f"http://sfu.invalid/v1/apps/{sfu.app_id}/sessions/new?correlationId=a%20room%2Falice"

        status, body = await InThisProcess(sfu).exchange("POST", url, content=None, headers=headers)

        assert status == 201
        assert sfu.sessions[json.loads(body)["sessionId"]].room == "a room"


async def test_a_fault_that_cuts_the_connection_is_no_answer() -> None:
    async with LocalSfu(faults=Faults([Fault(kind="cut")])) as sfu:
        url = f"http://sfu.invalid/v1/apps/{sfu.app_id}/sessions/new"

        with pytest.raises(NoAnswerError):
            await InThisProcess(sfu).exchange(
                "POST", url, content=None, headers={"Authorization": f"Bearer {sfu.app_secret}"}
            )
