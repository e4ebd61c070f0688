"""`signal-manager try`: two peers through the service, and what a person is told when they cannot."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from signal_manager.cli.test_call import run_test_call, split_candidates
from signal_manager.errors import ConfigurationError
from signal_manager.protocol.messages import (
    Connect,
    ErrorMessage,
    Message,
    Signal,
    SignalAck,
    SignalAnswer,
    SignalIceCandidate,
    SignalMessage,
    SignalOffer,
)
from signal_manager.service.app import running
from signal_manager.service.config import Config
from tests.client.fake_service import TOKEN, Client, FakeService

STEPS = [
    "connect a",
    "connect b",
    "offer",
    "answer",
    "candidates",
    "ice connected",
    "data channel open",
    "messages a to b",
    "messages b to a",
    "join room",
]
CALL = ["publish", "track received", "frames a to b"]
A, B = ("a", TOKEN), ("b", TOKEN)


async def trial_report(capsys: pytest.CaptureFixture[str], **arguments: Any) -> tuple[int, dict[str, Any]]:
    status = await run_test_call(json_output=True, **arguments)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(report, dict)
    return status, report


async def test_a_trial_starts_its_own_service_and_everything_arrives(capsys: pytest.CaptureFixture[str]) -> None:
    status, report = await trial_report(capsys, messages=20)

    assert status == 0
    assert report["ok"] is True
    assert report["error"] is None
    assert [step["step"] for step in report["steps"]] == STEPS + CALL
    assert all(step["ms"] > 0 for step in report["steps"])
    details = {step["step"]: step["detail"] for step in report["steps"]}
    assert details["messages a to b"] == details["messages b to a"] == "20 of 20"
    assert details["track received"] == "video of test_client_1"
    assert details["frames a to b"] == "30 of 30"


async def test_a_trial_of_a_running_service_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "server": {"port": 0},
        "storage": {"backend": "memory"},
        "media": {"backend": "none"},
        "metrics": {"enabled": False},
    }
    async with running(Config.model_validate(settings)) as service:
        status = await run_test_call(url=f"ws://127.0.0.1:{service.port}", messages=5)

    printed = capsys.readouterr().out
    assert status == 0
    assert all(step in printed for step in STEPS)
    assert f"Two peers through ws://127.0.0.1:{service.port}" in printed
    assert "Everything arrived: 5 messages each way." in printed
    assert "There was no room call: the service has no media backend." in printed
    assert "\x1b" not in printed


async def test_nobody_listening_is_one_line_that_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{probe.getsockname()[1]}"

    status = await run_test_call(url=url)

    printed = capsys.readouterr()
    assert status == 1
    assert printed.out == ""
    assert printed.err == (
        "error: connect a: cannot connect: no service listens at that address; "
        f"is a service running at {url}? `signal-manager serve` starts one\n"
    )


async def test_a_wrong_token_is_told_from_an_unreachable_service(capsys: pytest.CaptureFixture[str]) -> None:
    async with FakeService() as service:
        status = await run_test_call(url=service.url, sender=A, receiver=("b", "wrong"))

    printed = capsys.readouterr()
    assert status == 1
    assert "connect a" in printed.out
    assert printed.err == (
        "error: connect b: authentication failed; name a client id and a token that this service accepts\n"
    )


async def test_a_service_that_swallows_signals_runs_into_the_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    async with FakeService() as service:

        async def answer(client: Client, message_id: bytes, message: Message) -> None:
            if isinstance(message, SignalOffer):
                await client.send(SignalAck(status="delivered"), message_id)
            else:
                await service.default_answer(client, message_id, message)

        service.answer = answer
        status, report = await trial_report(capsys, url=service.url, sender=A, receiver=B, timeout=0.5)

    assert status == 1
    assert report["error"] == "offer did not finish within 0.5 s"
    assert [step["ms"] is None for step in report["steps"]] == [False, False, True]


async def relay_wrongly(client: Client, message_id: bytes, message: Message, service: FakeService) -> None:
    wrong = SignalMessage(sender_client_id="a", signal_data="not what was sent")
    await service.clients["b"].send(wrong)
    await client.send(SignalAck(status="delivered"), message_id)


async def end_the_other(client: Client, message_id: bytes, message: Message, service: FakeService) -> None:
    await client.send(SignalAck(status="delivered"), message_id)
    await service.clients["b"].close(4429, "too many messages")


async def refuse(client: Client, message_id: bytes, message: Message, service: FakeService) -> None:
    await client.send(ErrorMessage(error_code=403, error_message="a may not signal to b"), message_id)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (relay_wrongly, "offer: expected the offer that was sent, got another signal: message"),
        (end_the_other, "offer: the service ended the connection: too many messages"),
        (refuse, "offer: a may not signal to b"),
    ],
)
async def test_a_service_that_does_something_else_is_told(
    capsys: pytest.CaptureFixture[str], fault: Any, complaint: str
) -> None:
    async with FakeService() as service:

        async def answer(client: Client, message_id: bytes, message: Message) -> None:
            if isinstance(message, SignalOffer):
                await fault(client, message_id, message, service)
            else:
                await service.default_answer(client, message_id, message)

        service.answer = answer
        status, report = await trial_report(capsys, url=service.url, sender=A, receiver=B)

    assert status == 1
    assert report["error"] == complaint


async def test_a_candidate_that_is_refused_ends_the_trial(capsys: pytest.CaptureFixture[str]) -> None:
    """Candidates are sent without `ack`: the refusal comes as an event to a, while b waits for candidates."""
    async with FakeService() as service:

        async def answer(client: Client, message_id: bytes, message: Message) -> None:
            if isinstance(message, SignalIceCandidate):
                error = ErrorMessage(error_code=429, error_message="too many signals")
                await client.send(error, message_id)
                await service.clients["b"].send(error)
            else:
                await service.default_answer(client, message_id, message)

        service.answer = answer
        status, report = await trial_report(capsys, url=service.url, sender=A, receiver=B)

    assert status == 1
    assert report["error"] == "candidates: too many signals"


async def test_signals_of_others_do_not_disturb(capsys: pytest.CaptureFixture[str]) -> None:
    async with FakeService() as service:

        async def answer(client: Client, message_id: bytes, message: Message) -> None:
            if isinstance(message, SignalOffer | SignalAnswer):
                stray = SignalMessage(sender_client_id="someone", signal_data={"type": "offer"})
                await service.clients[str(message.target_client_id)].send(stray)
            await service.default_answer(client, message_id, message)

        service.answer = answer
        status, _ = await trial_report(capsys, url=service.url, sender=A, receiver=B, messages=1)

    assert status == 0


async def test_candidates_travel_alone_and_not_in_the_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    signals: list[Signal] = []
    async with FakeService() as service:

        async def answer(client: Client, message_id: bytes, message: Message) -> None:
            if isinstance(message, Signal):
                signals.append(message)
            await service.default_answer(client, message_id, message)

        service.answer = answer
        status, _ = await trial_report(capsys, url=service.url, sender=A, receiver=B, messages=1)

    assert status == 0
    assert [type(signal) for signal in signals[:2]] == [SignalOffer, SignalAnswer]
    assert all("candidate" not in signal.signal_data["sdp"] for signal in signals[:2])
    candidates = [signal.signal_data for signal in signals[2:]]
    assert len(candidates) >= 4
    assert all(data.keys() == {"candidate", "sdpMid", "sdpMLineIndex"} for data in candidates)
    assert [data["candidate"] for data in candidates].count("") == 2


async def test_a_machine_without_a_network_is_told_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: [])

    status, report = await trial_report(capsys)

    assert status == 1
    assert report["error"] == (
        "candidates: this machine has no network address beside loopback, so ICE has no candidates"
    )


async def test_peers_that_cannot_reach_each_other_are_told_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ConnectionError("ICE negotiation failed")

    monkeypatch.setattr("aioice.ice.Connection.connect", fail)

    status, report = await trial_report(capsys)

    assert status == 1
    assert report["error"] == "ice connected: the peers cannot reach each other; does a firewall drop local UDP?"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"sender": A, "receiver": A}, "sender and receiver are both 'a'"),
        ({"url": "http://127.0.0.1"}, "expected a URL such as ws://"),
    ],
)
async def test_arguments_that_cannot_work_are_a_configuration_error(arguments: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        await run_test_call(**arguments)


async def test_cancelling_leaves_nothing_running() -> None:
    async with FakeService() as service:
        connected = asyncio.Event()

        async def answer(client: Client, message_id: bytes, message: Message) -> None:
            if isinstance(message, Connect) and message.client_id == "b":
                connected.set()
            else:
                await service.default_answer(client, message_id, message)

        service.answer = answer
        before = asyncio.all_tasks()
        trial = asyncio.create_task(run_test_call(url=service.url, sender=A, receiver=B))
        await asyncio.wait_for(connected.wait(), 5)
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial

        left = {task for task in asyncio.all_tasks() - before if "signal-client" in task.get_name()}
        assert left == set()


def test_candidates_are_split_from_their_description() -> None:
    sdp = "v=0\r\nm=audio 9\r\na=candidate:1 1 udp 1 192.0.2.1 1 typ host\r\na=mid:first\r\nm=video 9\r\na=mid:1\r\n"
    sdp += "a=candidate:2 1 udp 1 192.0.2.1 2 typ host\r\na=end-of-candidates\r\n"

    without, candidates = split_candidates(sdp)

    assert without == "v=0\r\nm=audio 9\r\na=mid:first\r\nm=video 9\r\na=mid:1\r\n"
    assert candidates == [
        {"candidate": "candidate:1 1 udp 1 192.0.2.1 1 typ host", "sdpMLineIndex": 0, "sdpMid": "first"},
        {"candidate": "candidate:2 1 udp 1 192.0.2.1 2 typ host", "sdpMLineIndex": 1, "sdpMid": "1"},
    ]
