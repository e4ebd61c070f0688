"""Published keys: fetched over real HTTP on loopback, kept when the URL fails, asked for no more than needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from structlog.testing import capture_logs

from signal_manager.auth.jwks import MAX_JWKS_BYTES, JwksKeys
from signal_manager.errors import UnavailableError


def ec_key(kid: str | None = None, **more: Any) -> dict[str, Any]:
    entry = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
    return dict(entry) | ({} if kid is None else {"kid": kid}) | more


def rsa_key(kid: str, bits: int = 2048) -> dict[str, Any]:
    public = rsa.generate_private_key(65537, bits).public_key()
    return dict(jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)) | {"kid": kid}


class Provider:
    """An identity provider on loopback whose answer can be changed and held back."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.body = b""
        self.requests = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.url = ""

    def publish(self, *entries: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": entries}).encode()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        self.asked.set()
        await self.may_answer.wait()
        head = f"HTTP/1.1 {self.status}\r\ncontent-length: {len(self.body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + self.body)
        writer.close()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    async with await asyncio.start_server(provider.answer, "127.0.0.1", 0) as server:
        provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
        yield provider
        provider.may_answer.set()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_keys_are_found_by_name_and_algorithm(provider: Provider) -> None:
    provider.publish(ec_key("one"), rsa_key("two"))

    async with JwksKeys(provider.url) as keys:
        one, two = await keys.find("one", "ES256"), await keys.find("two", "RS256")
        assert one is not None
        assert two is not None
        assert (one.algorithm_name, two.algorithm_name) == ("ES256", "RS256")
        assert await keys.find("one", "RS256") is None


async def test_a_token_without_a_key_name_fits_the_only_key(provider: Provider) -> None:
    provider.publish(ec_key())

    async with JwksKeys(provider.url) as keys:
        assert await keys.find(None, "ES256") is not None


async def test_a_token_without_a_key_name_fits_none_of_several(provider: Provider) -> None:
    provider.publish(ec_key("one"), ec_key("two"))

    async with JwksKeys(provider.url) as keys:
        assert await keys.find(None, "ES256") is None


async def test_an_unknown_key_is_asked_for_once_per_cooldown(provider: Provider) -> None:
    clock = Clock()
    provider.publish(ec_key("one"))

    async with JwksKeys(provider.url, cooldown=5, clock=clock) as keys:
        provider.publish(ec_key("one"), ec_key("two"))
        assert await keys.find("two", "ES256") is None
        assert provider.requests == 1

        clock.now += 5
        assert await keys.find("two", "ES256") is not None
        assert await keys.find("three", "ES256") is None
        assert provider.requests == 2


async def test_many_that_wait_share_one_request_which_none_can_cancel(provider: Provider) -> None:
    clock = Clock()
    provider.publish(ec_key("one"))

    async with JwksKeys(provider.url, cooldown=5, clock=clock) as keys:
        clock.now += 5
        provider.publish(ec_key("two"))
        provider.asked.clear()
        provider.may_answer.clear()
        waiting = [asyncio.create_task(keys.find("two", "ES256")) for _ in range(10)]
        await asyncio.wait_for(provider.asked.wait(), 5)
        waiting[0].cancel()
        provider.may_answer.set()
        found = await asyncio.gather(*waiting[1:])

    assert all(found)
    assert provider.requests == 2


async def test_keys_are_fetched_again_regularly(provider: Provider) -> None:
    provider.publish(ec_key("one"))

    async with JwksKeys(provider.url, refresh_interval=0.01):
        for _ in range(3):
            provider.asked.clear()
            await asyncio.wait_for(provider.asked.wait(), 5)


def broken(provider: Provider, how: str) -> None:
    match how:
        case "status":
            provider.status = "500 Internal Server Error"
        case "redirect":
            provider.status = "302 Found\r\nlocation: http://127.0.0.1:1/"
        case "not JSON":
            provider.body = b"<html>"
        case "deep":
            provider.body = b'{"keys": [' + b"[" * 100_000
        case "no keys":
            provider.publish()
        case "too large":
            provider.body = b" " * (MAX_JWKS_BYTES + 1)
        case "silent":
            provider.may_answer.clear()


HOWS = ["status", "redirect", "not JSON", "deep", "no keys", "too large", "silent"]


@pytest.mark.parametrize("how", HOWS)
async def test_the_last_good_keys_stay_while_the_url_fails(provider: Provider, how: str) -> None:
    provider.publish(ec_key("one"))

    async with JwksKeys(provider.url, cooldown=0, timeout=0.5) as keys:
        broken(provider, how)
        with capture_logs() as logs:
            assert await keys.find("two", "ES256") is None
        assert await keys.find("one", "ES256") is not None

    assert [(entry["event"], entry["keys_kept"]) for entry in logs] == [("jwks_refresh_failed", 1)]


async def test_the_service_starts_without_keys_and_says_that_they_are_missing(provider: Provider) -> None:
    broken(provider, "status")

    with capture_logs():
        async with JwksKeys(provider.url, cooldown=0) as keys:
            with pytest.raises(UnavailableError):
                await keys.find("one", "ES256")

            provider.status = "200 OK"
            provider.publish(ec_key("one"))
            assert await keys.find("one", "ES256") is not None


async def test_nothing_listens_at_the_url() -> None:
    with capture_logs() as logs:
        async with JwksKeys("http://127.0.0.1:1/keys"):
            pass

    assert logs[0]["reason"] == "ConnectError"


async def test_leaving_ends_a_request_under_way(provider: Provider) -> None:
    provider.publish(ec_key("one"))
    keys = JwksKeys(provider.url, refresh_interval=0.01)

    async with keys:
        provider.may_answer.clear()
        provider.asked.clear()
        await asyncio.wait_for(provider.asked.wait(), 5)

    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("jwks")] == []


async def test_one_bad_entry_does_not_spoil_the_others(provider: Provider) -> None:
    provider.publish(
        {},
        {"kty": "RSA"},
        {"kty": "RSA", "n": 5, "e": []},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "!", "kid": "garbled"},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"},
        ec_key("encrypts", use="enc"),
        ec_key("other algorithm", alg="ES384"),
        rsa_key("weak", bits=1024),
        ec_key("good", use="sig"),
    )

    async with JwksKeys(provider.url) as keys:
        assert await keys.find("good", "ES256") is not None
        for kid, algorithm in (("secret", "HS256"), ("encrypts", "ES256"), ("weak", "RS256"), ("garbled", "ES256")):
            assert await keys.find(kid, algorithm) is None
