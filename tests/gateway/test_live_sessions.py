"""The sessions of a process as an operator sees them: the same client, connected or away, looks the same."""

from __future__ import annotations

from signal_manager.gateway.live_sessions import LiveSession, LiveSessions, Phase
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.messages import Register
from tests.gateway.harness import Gateway


def shown(session: LiveSession) -> dict[str, object]:
    """Return what does not change when a client loses its connection."""
    names = ("client_id", "session_id", "instance_id", "address", "framing", "encoding")
    return {name: getattr(session, name) for name in names}


async def test_a_client_that_loses_its_connection_stays_the_same_session(gateway: Gateway) -> None:
    live_sessions: LiveSessions = gateway.registry
    client = await gateway.client("a", Framing.V2, instance_id="phone", resumable=True)
    client.send(Register())
    await gateway.settled()

    (connected,) = live_sessions.sessions()
    before, was_away = shown(connected), connected.is_away
    counts = (connected.received, connected.sent)
    client.lose()
    (away,) = live_sessions.sessions()

    assert before == shown(away)
    assert before["instance_id"] == "phone"
    assert (was_away, away.is_away) == (False, True)
    assert counts == (2, 2)
    assert (away.received, away.sent) == (1, 1)  # without CONNECT and its answer, which no resume repeats
    assert 0 <= away.age < 60


async def test_a_stranger_is_no_session(gateway: Gateway) -> None:
    gateway.connect()

    assert list(gateway.registry.sessions()) == []


async def test_evicting_a_session_that_is_away_ends_it(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)
    client.lose()

    for session in gateway.registry.sessions():
        session.evict()

    assert list(gateway.registry.sessions()) == []
    assert gateway.bus.subscribers == {}


def test_the_phases_are_words_that_operators_read() -> None:
    assert [str(phase) for phase in Phase] == ["starting", "serving", "draining"]
