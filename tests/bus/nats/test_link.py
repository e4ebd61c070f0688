"""A link with real nats-servers, and with others that are none."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import nkeys
import pytest
import uvloop
from structlog.testing import capture_logs

from signal_manager.bus.nats import connection as nats_connection
from signal_manager.bus.nats import link as nats_link
from signal_manager.bus.nats.link import Arrival, NatsLink, NatsSecurity
from signal_manager.errors import ConfigurationError, UnavailableError
from tests.certificates import Authority
from tests.nats_server import NatsServer, free_port
from tests.waiting import until

LIMIT = 30.0
PLAIN_INFO = b'INFO {"max_payload": 1048576, "headers": true}\r\n'
TLS_INFO = b'INFO {"max_payload": 1048576, "headers": true, "tls_required": true}\r\n'


@asynccontextmanager
async def server(*arguments: str) -> AsyncIterator[NatsServer]:
    started = NatsServer(arguments)
    await started.start()
    try:
        yield started
    finally:
        await started.kill()


@contextmanager
def stopped(server: NatsServer) -> Iterator[None]:
    """Let a nats-server hang."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGCONT)


@asynccontextmanager
async def pretended(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Listen as a nats-server, answer as the test says, and yield the address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        await listener.wait_closed()


async def round_trip(link: NatsLink, payload: bytes) -> bytes:
    """Return what comes back of a message over another link to the same nats-server."""
    taken: asyncio.Future[Arrival] = asyncio.get_running_loop().create_future()
    link.subscribe("back", taken.set_result)
    await link.flush()
    assert link.publish("there", payload, "back")
    return (await asyncio.wait_for(taken, LIMIT)).data


@asynccontextmanager
async def echo(url: str, security: NatsSecurity | None = None) -> AsyncIterator[NatsLink]:
    """Send everything back that comes to the subject `there`."""
    async with NatsLink(url, name="echo", security=security) as link:

        def answer(message: Arrival) -> None:
            link.publish(message.reply, message.data)

        link.subscribe("there", answer)
        await link.flush()
        yield link


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("is_secret", [False, True], ids=["tcp", "tls"])
def test_messages_of_any_length_travel_on_both_event_loops(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop], is_secret: bool
) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("server")

    async def scene() -> None:
        arguments = ("--tls", "--tlscert", str(own.certificate), "--tlskey", str(own.key)) if is_secret else ()
        security = NatsSecurity(ca_path=str(authority.path)) if is_secret else None
        async with (
            server(*arguments) as nats,
            echo(nats.url, security),
            NatsLink(nats.url, name="n", security=security) as link,
        ):
            for size in (0, 1, 70_000, link.max_payload):
                payload = os.urandom(size)
                assert await round_trip(link, payload) == payload
                link.unsubscribe("back")

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scene())


async def test_nats_may_ask_for_certificates_of_nodes(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own, node = authority.issue("server"), authority.issue("node")
    options = ("--tlsverify", "--tlscert", own.certificate, "--tlskey", own.key, "--tlscacert", authority.path)
    believing = NatsSecurity(ca_path=str(authority.path))
    async with server(*map(str, options)) as nats:
        known = believing._replace(cert_path=str(node.certificate), key_path=str(node.key))
        async with NatsLink(nats.url, name="n", security=known) as link:
            assert link.is_up
        with pytest.raises(ConfigurationError, match="no TLS"):
            await NatsLink(nats.url, name="n", security=believing).__aenter__()


async def test_tls_begins_where_nats_server_asks_for_it_also_without_a_setting(tmp_path: Path) -> None:
    own = Authority(tmp_path).issue("server")
    async with server("--tls", "--tlscert", str(own.certificate), "--tlskey", str(own.key)) as nats:
        with pytest.raises(ConfigurationError, match=r"no TLS .*bus\.nats_ca_path"):  # nobody here knows the authority
            await NatsLink(nats.url, name="n").__aenter__()


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_nothing_is_said_in_the_clear_where_tls_is_wanted(tmp_path: Path, scheme: str) -> None:
    """A server without TLS, or someone on the way who takes it out of INFO, gets no password."""
    security = NatsSecurity(ca_path=str(Authority(tmp_path).path)) if scheme == "nats" else None
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN_INFO)
        heard.append(await reader.read())

    async with pretended(answer) as address:
        with pytest.raises(ConfigurationError, match=r"no TLS .*it offers none"):
            await NatsLink(f"{scheme}://user:secret@{address}", name="n", security=security).__aenter__()
        await until(lambda: bool(heard))

    assert heard == [b""]


async def test_what_comes_in_the_clear_before_tls_is_not_read(tmp_path: Path) -> None:
    """Someone on the way may have put it there."""
    authority = Authority(tmp_path)
    own = authority.issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own.certificate, own.key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(TLS_INFO + b'PONG\r\nINFO {"max_payload": 1}\r\nMSG a 1 9')
        await writer.start_tls(context)
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")

    security = NatsSecurity(ca_path=str(authority.path))
    async with pretended(answer) as address, NatsLink(f"tls://{address}", name="n", security=security) as link:
        assert link.is_up
        assert link.max_payload == 1048576


async def test_a_server_that_speaks_another_protocol_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.read()

    async with pretended(answer) as address:
        with pytest.raises(UnavailableError, match="expected a line of NATS, got 'SSH-2"):
            await NatsLink(f"nats://{address}", name="n").__aenter__()


async def test_a_key_alone_signs_in(tmp_path: Path) -> None:
    seeds = [nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER) for _ in range(2)]
    public = nkeys.from_seed(seeds[0]).public_key.decode()
    for number, seed in enumerate(seeds):
        (tmp_path / f"{number}.nk").write_bytes(seed + b"\n")
    text = f"authorization {{ users = [ {{ nkey: {public} }} ] }}"
    async with server(*NatsServer.config(tmp_path, text)) as nats:
        async with NatsLink(nats.url, name="n", security=NatsSecurity(credentials_path=f"{tmp_path}/0.nk")) as link:
            assert link.is_up
        with pytest.raises(ConfigurationError, match="refuses this node"):
            await NatsLink(nats.url, name="n", security=NatsSecurity(credentials_path=f"{tmp_path}/1.nk")).__aenter__()


async def test_wrong_credentials_keep_a_node_from_starting(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("nothing")
    public = nkeys.from_seed(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)).public_key.decode()
    text = f"authorization {{ users = [ {{ nkey: {public} }} ] }}"
    async with server(*NatsServer.config(tmp_path, text)) as nats:
        with pytest.raises(ConfigurationError, match=r"bus\.nats_credentials_path: expected a credentials file"):
            await NatsLink(nats.url, name="n", security=NatsSecurity(credentials_path=f"{tmp_path}/a")).__aenter__()


async def test_a_server_that_is_full_is_away_and_not_misconfigured() -> None:
    """A real one says so too, but its reset may overtake the reason."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO {\"auth_required\": true}\r\n-ERR 'maximum connections exceeded'\r\n")
        await reader.read()

    async with pretended(answer) as address:
        with pytest.raises(UnavailableError, match="maximum connections exceeded"):
            await NatsLink(f"nats://t@{address}", name="n").__aenter__()


async def test_another_server_of_the_cluster_is_found_when_the_only_one_of_the_settings_dies() -> None:
    routes = [f"nats://127.0.0.1:{free_port()}" for _ in range(2)]
    first = ("--cluster_name", "c", "--cluster", routes[0])
    second = ("--cluster_name", "c", "--cluster", routes[1], "--routes", routes[0])
    async with server(*first) as one, server(*second) as other, NatsLink(one.url, name="n") as link:
        await until(lambda: other.port in {each.port for each in link._cluster._learned}, limit=LIMIT)

        await one.kill()

        await until(lambda: link.is_up and link._cluster.latest.port == other.port, limit=LIMIT)
        async with echo(other.url):
            assert await round_trip(link, b"still there") == b"still there"


async def test_only_so_many_servers_are_learned() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN_INFO)
        while line := await reader.readline():
            if line == b"PING\r\n":
                for number in range(1, 100):
                    writer.write(b'INFO {"connect_urls": ["10.0.0.%d:4222"]}\r\n' % number)
                writer.write(b"PONG\r\n")

    async with pretended(answer) as address, NatsLink(f"nats://{address}", name="n") as link:
        await link.flush()

        assert [server.host for server in link._cluster._learned] == [f"10.0.0.{number}" for number in range(68, 100)]


async def test_a_server_that_hangs_is_given_up_and_its_return_is_noticed(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_connection, "_PING_INTERVAL", 0.5)
    monkeypatch.setattr(nats_link, "CONNECT_TIMEOUT", 0.5)
    async with NatsLink(nats.url, name="n") as link:
        with capture_logs() as lines, stopped(nats):
            await until(lambda: not link.is_up and bool(lines), limit=LIMIT)
        assert lines[0]["reason"] == "nats-server does not answer"

        await until(lambda: link.is_up, limit=LIMIT)


async def test_who_waits_for_a_confirmation_is_not_kept_when_the_connection_is_lost(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_link, "_FLUSH_TIMEOUT", 10 * LIMIT)
    async with NatsLink(nats.url, name="n") as link:
        with stopped(nats):
            waiting = asyncio.create_task(link.flush())
            await asyncio.sleep(0)
            await nats.kill()
            await asyncio.wait_for(waiting, LIMIT)


async def test_a_subject_that_this_user_may_not_use_is_logged_and_ends_nothing(tmp_path: Path) -> None:
    text = 'authorization { users = [ { user: u, password: p, permissions: { publish: "there" } } ] }'
    async with (
        server(*NatsServer.config(tmp_path, text)) as nats,
        NatsLink(nats.url.replace("://", "://u:p@"), name="n") as link,
    ):
        with capture_logs() as lines:
            assert link.publish("elsewhere", b"")
            await link.flush()

        assert link.is_up
        assert [line["event"] for line in lines] == ["nats-server complains"]
        assert "elsewhere" in lines[0]["reason"].lower()


async def test_why_nats_server_ended_the_connection_is_logged(nats: NatsServer) -> None:
    seen: list[str] = []
    link = NatsLink(nats.url, name="n", on_up=lambda: seen.append("up"), on_down=lambda: seen.append("down"))
    async with link:
        with capture_logs() as lines:
            link._write(b"NONSENSE\r\n")
            await until(lambda: seen == ["down", "up"], limit=LIMIT)

    assert [line["reason"] for line in lines if "reason" in line] == ["Unknown Protocol Operation"]


async def test_a_link_sends_no_more_at_once_than_nats_server_takes(tmp_path: Path) -> None:
    arguments = NatsServer.config(tmp_path, "max_payload: 1000")
    async with server(*arguments) as nats, echo(nats.url), NatsLink(nats.url, name="n") as link:
        assert link.max_payload == 1000
        assert not link.publish("there", bytes(1001))
        assert await round_trip(link, bytes(1000)) == bytes(1000)


async def test_a_handler_that_fails_ends_nothing(nats: NatsServer) -> None:
    async with echo(nats.url), NatsLink(nats.url, name="n") as link:

        def fail(message: Arrival) -> None:
            raise ValueError("of the test")

        link.subscribe("fails", fail)
        with capture_logs() as lines:
            link.publish("there", b"", "fails")
            await until(lambda: bool(lines), limit=LIMIT)

        assert [line["event"] for line in lines] == ["message from another node failed"]
        assert await round_trip(link, b"x") == b"x"


async def test_a_request_that_no_subscription_takes_is_answered_by_nats_server(nats: NatsServer) -> None:
    async with NatsLink(nats.url, name="n") as link:
        taken: asyncio.Future[Arrival] = asyncio.get_running_loop().create_future()
        link.subscribe("back", taken.set_result)
        link.publish("nowhere", b"", "back")

        assert (await asyncio.wait_for(taken, LIMIT)).is_unheard


async def test_subscriptions_survive_a_nats_server_that_is_started_again(nats: NatsServer) -> None:
    seen: list[str] = []
    link = NatsLink(nats.url, name="n", on_up=lambda: seen.append("up"), on_down=lambda: seen.append("down"))
    async with link:
        taken: list[bytes] = []
        link.subscribe("a", lambda message: taken.append(message.data))
        link.subscribe("b", lambda message: taken.append(message.data))
        link.unsubscribe("b")
        await nats.kill()
        await until(lambda: seen == ["down"], limit=LIMIT)
        assert not link.publish("a", b"is not kept for later")

        await nats.start()
        await until(lambda: seen == ["down", "up"], limit=LIMIT)
        async with NatsLink(nats.url, name="m") as other:
            other.publish("b", b"b")
            other.publish("a", b"a")
            await until(lambda: bool(taken), limit=LIMIT)

        assert taken == [b"a"]


async def test_a_link_ends_while_nats_server_hangs(nats: NatsServer) -> None:
    link = NatsLink(nats.url, name="n")
    await link.__aenter__()
    with stopped(nats):
        await asyncio.wait_for(link.__aexit__(None, None, None), LIMIT)
    assert not link.is_up
    assert not link.publish("a", b"")


async def test_a_link_ends_while_it_connects_again(nats: NatsServer) -> None:
    async with NatsLink(nats.url, name="n") as link:
        await nats.kill()
        await until(lambda: not link.is_up, limit=LIMIT)
