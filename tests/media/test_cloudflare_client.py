"""One request to Cloudflare's interface: repetitions, errors, what is counted, and which secrets are hidden."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from signal_manager.media import cloudflare_wire as wire
from signal_manager.media.cloudflare_client import CloudflareClient, Endpoint
from signal_manager.media.cloudflare_http import Pools
from signal_manager.media.errors import NoAnswerError, UnreachableError
from signal_manager.observe.metrics import Metrics
from tests.media.http_stub import CUT, HttpStub, Reply

SAFE = Endpoint(name="session_get", method="GET", path="", reply=wire.StateReply, is_safe=True)
UNSAFE = Endpoint(name="renegotiate", method="PUT", path="/renegotiate", reply=wire.TracksReply)
DESCRIPTION = wire.SessionDescriptionJson(type="answer", sdp="v=0\r\n")


class Called:
    """A client of a scripted server, and the URL of a session there."""

    def __init__(self, stub: HttpStub, pools: Pools) -> None:
        self.stub = stub
        self.metrics = Metrics()
        self.url = f"{stub.base_url}/apps/app/sessions/s"
        self.client = CloudflareClient(
            pools, secret="s3cret", hidden=("turn-t0ken",), metrics=self.metrics, request_timeout=5.0, retry_wait=0.0
        )

    def count(self, endpoint: str, outcome: str) -> float:
        return self.metrics.media_calls.labelled(endpoint, outcome).value


@pytest.fixture
async def called() -> AsyncIterator[Called]:
    async with HttpStub() as stub:
        pools = Pools(stub.base_url, max_connections=4, timeout=5.0)
        yield Called(stub, pools)
        await pools.aclose()


async def test_a_safe_call_is_repeated_and_each_attempt_is_counted(called: Called) -> None:
    called.stub.will_reply(CUT, Reply(200, {"tracks": []}))

    assert (await called.client.call(SAFE, called.url)).tracks == []

    assert len(called.stub.requests) == 2
    assert called.count("session_get", "ok") == 1


async def test_an_unsafe_call_is_made_once(called: Called) -> None:
    called.stub.will_reply(CUT, Reply(200, {}))

    with pytest.raises((NoAnswerError, UnreachableError)):
        await called.client.call(UNSAFE, called.url, wire.TracksRequest(session_description=DESCRIPTION))

    assert len(called.stub.requests) == 1


async def test_no_secret_comes_back_in_an_error(called: Called) -> None:
    reply = Reply(400, {"errorCode": "invalid_params", "errorDescription": "not s3cret, not turn-t0ken"})
    called.stub.will_reply(reply)

    with pytest.raises(Exception, match="not") as caught:
        await called.client.attempt(UNSAFE, called.url, wire.TracksRequest(session_description=DESCRIPTION))

    assert "s3cret" not in str(caught.value)
    assert "turn-t0ken" not in str(caught.value)


async def test_a_reply_that_is_no_json_is_no_answer(called: Called) -> None:
    called.stub.will_reply(Reply(200, b"<html>"))

    with pytest.raises(NoAnswerError, match="unexpected shape"):
        await called.client.attempt(SAFE, called.url, None)
