"""What all connections of one process share."""

from __future__ import annotations

from signal_manager.gateway.live_sessions import Phase
from signal_manager.protocol.messages import ErrorMessage, Register, SignalOffer
from tests.gateway.harness import Gateway


async def test_operators_see_authenticated_clients_and_those_that_are_away(gateway: Gateway) -> None:
    gateway.connect()
    await gateway.client("a")
    away = await gateway.client("b", resumable=True)
    away.lose()

    seen = {session.client_id: session.is_away for session in gateway.registry.sessions()}

    assert seen == {"a": False, "b": True}
    assert gateway.registry.phase is Phase.STARTING


async def test_sessions_may_end_while_somebody_reads_them(gateway: Gateway) -> None:
    clients = [await gateway.client(name, resumable=True) for name in ("a", "b", "c")]
    clients[0].lose()

    for session in gateway.registry.sessions():
        session.evict()
        for client in clients[1:]:
            if client.connection in gateway.registry.connections:
                client.lose()

    assert list(gateway.registry.sessions()) == []


async def test_writes_of_one_batch_go_out_together(gateway: Gateway) -> None:
    receiver, sender = await gateway.client("b"), await gateway.client("a")
    batch = gateway.registry.relay_context.open_batch()
    same = gateway.registry.relay_context.open_batch()
    for number in range(3):
        sender.send(SignalOffer(target_client_id="b", signal_data=number), last=False)
    before = list(receiver.messages)

    gateway.registry.relay_context.close_batch()
    gateway.registry.relay_context.close_batch()  # nothing is open any more

    assert batch is same
    assert before == []
    assert (len(receiver.messages), receiver.socket.writes) == (3, 2)  # the first write was its welcome


async def test_a_sweep_enforces_the_time_limits_of_connections_and_sessions(gateway: Gateway) -> None:
    stranger = gateway.connect()
    away = await gateway.client("a", resumable=True)
    away.lose()
    expires_at = next(gateway.registry.session_store.away()).client_session.expires_at
    assert expires_at is not None

    gateway.registry.sweep(expires_at + 1)

    assert stranger.close_code == 4408
    assert list(gateway.registry.sessions()) == []


async def test_a_session_that_has_ended_is_offline_on_record(gateway: Gateway) -> None:
    client = await gateway.client("a")
    client.send(Register())
    await gateway.settled()

    client.lose()
    await gateway.settled()

    record = await gateway.storage.get_client(client.connection.client_id)
    assert record is not None
    assert record.status == "offline"


async def test_the_dashboard_sees_the_last_errors(gateway: Gateway) -> None:
    client = gateway.connect()

    client.send(Register())

    assert client.last(ErrorMessage).error_code == 401
    (error,) = gateway.registry.recent_errors
    assert (error.code, error.client_id) == (401, None)
