"""Signed tokens: which are accepted, and what the owner of a refused one learns."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.auth import signed_tokens
from signal_manager.auth.authenticators import DEFAULT_LEEWAY, REFUSED, FirstOf, StaticKeys
from signal_manager.auth.signed_tokens import SignedTokens
from signal_manager.errors import TOKEN_EXPIRED, AuthenticationError, ConfigurationError, UnavailableError
from signal_manager.model import Grants
from tests.auth.signing import (
    ALICE,
    CLOCK,
    NOW,
    OLD_SECRET,
    PRIVATE_KEY,
    PUBLIC_KEY,
    SECRET,
    published,
    refusal,
    signed,
    tokens,
    unsigned,
)


async def test_a_signed_token_carries_its_grants_and_its_end() -> None:
    token = signed(
        rooms=["demo-*"], roles=["sender"], publish=True, subscribe=False, signal_to=["bob"], admin=True, iat=NOW
    )

    identity = await tokens().authenticate(ALICE, token)

    assert identity.expires_at == NOW + 60
    assert identity.grants == Grants(
        rooms=("demo-*",), roles=("sender",), subscribe=False, signal_to=("bob",), admin=True
    )


async def test_a_token_of_the_previous_secret_is_accepted_during_rotation() -> None:
    token = signed(secret=OLD_SECRET)

    await tokens(previous_secrets=[OLD_SECRET]).authenticate(ALICE, token)

    assert await refusal(tokens(), "alice", token) == REFUSED


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"sub": "alice"}, "the token has no valid expiry (exp)"),
        ({"sub": "alice", "exp": "tomorrow"}, "the token has no valid expiry (exp)"),
        ({"sub": "alice", "exp": True}, "the token has no valid expiry (exp)"),
        ({"sub": "alice", "exp": 2**60}, "the token has no valid expiry (exp)"),
        ({"sub": "alice", "exp": NOW - DEFAULT_LEEWAY}, f"the token has expired, 60 s ago (exp); {CLOCK}"),
        ({"sub": "alice", "exp": NOW - 7200}, f"the token has expired, 2 h ago (exp); {CLOCK}"),
        ({"exp": NOW + 60}, "the token names no client (sub)"),
        ({"sub": "bob", "exp": NOW + 60}, "the token belongs to another client"),
        ({"sub": "alice", "exp": NOW + 60, "nbf": NOW + 61}, f"the token is valid only in 61 s (nbf); {CLOCK}"),
        ({"sub": "alice", "exp": NOW + 60, "nbf": "now"}, "the token's nbf is not a time"),
        ({"sub": "alice", "exp": NOW + 60, "iat": NOW + 61}, f"the token was issued 61 s in the future (iat); {CLOCK}"),
        ({"sub": "alice", "exp": NOW + 60, "iat": [NOW]}, "the token's iat is not a time"),
        ({"sub": "alice", "exp": NOW + 60, "aud": "others"}, "the token is meant for another audience (aud)"),
    ],
)
async def test_the_owner_of_a_signed_token_learns_what_is_wrong(claims: dict[str, Any], reason: str) -> None:
    assert await refusal(tokens(), "alice", signed(claims)) == reason


async def test_clocks_may_differ_a_little() -> None:
    await tokens().authenticate(ALICE, signed(exp=NOW - 59, nbf=NOW + 60, iat=NOW + 60))


async def test_how_much_clocks_may_differ_is_a_setting() -> None:
    await tokens(leeway=300).authenticate(ALICE, signed(exp=NOW - 299, nbf=NOW + 300, iat=NOW + 300))

    for late in (signed(exp=NOW), signed(nbf=NOW + 1), signed(iat=NOW + 1)):
        with pytest.raises(AuthenticationError):
            await tokens(leeway=0).authenticate(ALICE, late)


async def test_a_program_can_tell_an_expired_token_from_wrong_credentials() -> None:
    for token, details in ((signed(exp=1), {"reason": TOKEN_EXPIRED}), (signed(nbf=NOW + 90), None), ("guess", None)):
        with pytest.raises(AuthenticationError) as caught:
            await tokens().authenticate(ALICE, token)
        assert caught.value.details == details


@pytest.mark.parametrize(
    "grants",
    [{"rooms": "demo"}, {"rooms": [1]}, {"rooms": None}, {"publish": "no"}, {"admin": 1}, {"signal_to": {"a": 1}}],
)
async def test_malformed_grants_are_refused_rather_than_guessed(grants: dict[str, Any]) -> None:
    assert (await refusal(tokens(), "alice", signed(**grants))).startswith("the token's grants are malformed")


@pytest.mark.parametrize("audience", ["ours", ["others", "ours"]])
async def test_a_token_for_our_audience_and_issuer_is_accepted(audience: str | list[str]) -> None:
    await tokens(audience="ours", issuer="us").authenticate(ALICE, signed(aud=audience, iss="us"))


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "us"}, "the token is meant for another audience (aud)"),
        ({"iss": "us", "aud": ["others"]}, "the token is meant for another audience (aud)"),
        ({"aud": "ours"}, "the token comes from another issuer (iss)"),
        ({"aud": "ours", "iss": "them"}, "the token comes from another issuer (iss)"),
    ],
)
async def test_a_token_for_another_audience_or_of_another_issuer_is_refused(
    claims: dict[str, Any], reason: str
) -> None:
    assert await refusal(tokens(audience="ours", issuer="us"), "alice", signed(**claims)) == reason


@pytest.mark.parametrize(
    "token",
    [
        "",
        "garbage",
        "a.b.c",
        "é.é.é",
        "\ud800",
        "x" * 20_000,
        unsigned({"alg": "none"}),
        unsigned({"alg": "None"}),
        unsigned({"alg": "HS512"}),
        unsigned({"alg": ["HS256"]}),
        unsigned({}),
        unsigned(b"[" * 5000),
        unsigned(b'{"alg": ' + b"1" * 5000 + b"}"),
        unsigned({"alg": "HS256", "kid": 5}),
        unsigned({"alg": "HS256", "crit": ["magic"], "magic": True}),
        unsigned({"alg": "HS256"}),
        unsigned({"alg": "RS256"}),
        jwt.encode({"sub": "alice", "exp": NOW + 60}, "", algorithm="none"),
        jwt.encode({"sub": "alice", "exp": NOW + 60}, SECRET * 2, algorithm="HS512"),
        signed(secret="guessed, and wrong, though long enough"),
    ],
)
async def test_anything_without_a_right_signature_is_refused_alike(token: str) -> None:
    assert await refusal(tokens(), "alice", token) == REFUSED


@pytest.mark.parametrize("payload", [b"[]", b"5", b"not json", b"[" * 5000, b'{"exp": NaN}', b"\xff"])
async def test_a_signed_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    token = jwt.PyJWS().encode(payload, SECRET, algorithm="HS256")

    assert await refusal(tokens(), "alice", token) == REFUSED


@given(st.text())
async def test_any_text_is_refused_without_another_error(text: str) -> None:
    assert await refusal(FirstOf(StaticKeys(["alice:wonderland"]), tokens()), text, text) == REFUSED


class PublishedKey:
    """Published keys without the network: one key, or none ever received."""

    def __init__(self, key: jwt.PyJWK | None) -> None:
        self.key = key
        self.asked: list[tuple[str | None, str]] = []

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        self.asked.append((kid, algorithm))
        if self.key is None:
            raise UnavailableError("no keys")
        return self.key if kid == self.key.key_id else None


async def test_a_published_key_verifies_its_tokens() -> None:
    keys = PublishedKey(PUBLIC_KEY)
    authenticator = tokens(algorithms=["ES256"], keys=keys)

    assert (await authenticator.authenticate(ALICE, published(kid="one"))).client_id == ALICE
    assert await refusal(authenticator, "alice", published(kid="two")) == REFUSED
    assert keys.asked == [("one", "ES256"), ("two", "ES256")]


async def test_keys_that_never_arrived_are_a_reason_to_retry() -> None:
    with pytest.raises(UnavailableError):
        await tokens(algorithms=["ES256"], keys=PublishedKey(None)).authenticate(ALICE, published(kid="one"))


async def test_a_public_key_never_passes_for_a_secret() -> None:
    """RFC 8725, section 2.1: an attacker signs by HMAC with the public key, which everybody knows."""
    pem = PRIVATE_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    forged = _hmac_by(pem)
    keys = PublishedKey(PUBLIC_KEY)

    assert await refusal(tokens(algorithms=["HS256", "ES256"], keys=keys), "alice", forged) == REFUSED
    assert await refusal(tokens(algorithms=["ES256"], keys=keys), "alice", forged) == REFUSED
    assert keys.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"jwk": PUBLIC_KEY._jwk_data},
        {"jku": "https://evil.example/keys.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"x5c": ["TUlJ"]},
        {"kid": "../../../../dev/null"},
        {"kid": "one' OR '1'='1"},
    ],
    ids=lambda headers: next(iter(headers)),
)
async def test_a_token_does_not_choose_the_key_that_verifies_it(headers: dict[str, Any]) -> None:
    """RFC 8725, section 3.10: a key, or where to fetch one, in the header is the attacker's."""
    token = jwt.encode(
        {"sub": "alice", "exp": NOW + 60},
        ec.generate_private_key(ec.SECP256R1()),
        algorithm="ES256",
        headers={"kid": "one"} | headers,
    )

    assert await refusal(tokens(algorithms=["ES256"], keys=PublishedKey(PUBLIC_KEY)), "alice", token) == REFUSED


def _hmac_by(key: bytes) -> str:
    head = unsigned({"alg": "HS256", "kid": "one"}).rpartition(".")[0]
    return f"{head}.{base64.urlsafe_b64encode(hmac.digest(key, head.encode(), hashlib.sha256)).rstrip(b'=').decode()}"


async def test_an_algorithm_that_is_not_allowed_is_refused_with_a_right_signature() -> None:
    assert await refusal(tokens(algorithms=["ES256"], keys=PublishedKey(PUBLIC_KEY)), "alice", signed()) == REFUSED


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithms": ["none"]}, "expected signature algorithms out of HS256, RS256, ES256"),
        ({"algorithms": []}, "expected signature algorithms"),
        ({"algorithms": ["HS256", "RS256"]}, "need the address of the keys"),
        ({"previous_secrets": [""]}, "the token secret is empty"),
        ({"previous_secrets": ["-----BEGIN PUBLIC KEY-----\nMII\n-----END PUBLIC KEY-----"]}, "or a public key"),
    ],
)
def test_what_could_verify_nothing_is_refused_at_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        tokens(**settings)


# Tokens that come again

OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


async def test_a_token_that_comes_again_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = tokens()
    first = await authenticator.authenticate(ALICE, token := signed())
    monkeypatch.setattr(signed_tokens, "parse_token", lambda token: None)

    assert await authenticator.authenticate(ALICE, token) is first


async def test_a_token_that_comes_again_is_still_its_clients_alone() -> None:
    authenticator = tokens()
    await authenticator.authenticate(ALICE, token := signed())

    assert await refusal(authenticator, "bob", token) == "the token belongs to another client"


@pytest.mark.parametrize("later", [121.0, -1000.0])
async def test_a_token_that_comes_again_out_of_its_time_is_refused(later: float) -> None:
    clock = Clock()
    authenticator = SignedTokens(SECRET, clock=clock)
    token = signed(nbf=NOW - 10)
    await authenticator.authenticate(ALICE, token)
    clock.now += later

    assert "the token" in await refusal(authenticator, "alice", token)


async def test_a_token_of_a_key_that_is_published_no_longer_is_refused() -> None:
    keys = PublishedKey(PUBLIC_KEY)
    authenticator = tokens(algorithms=["ES256"], keys=keys)
    await authenticator.authenticate(ALICE, token := published(kid="one"))
    keys.key = jwt.PyJWK(jwt.algorithms.ECAlgorithm.to_jwk(OTHER_KEY.public_key(), as_dict=True) | {"kid": "one"})

    assert await refusal(authenticator, "alice", token) == REFUSED


async def test_only_so_many_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_tokens, "MAX_ACCEPTED", 2)
    authenticator = tokens()
    several = [signed(iat=NOW - each) for each in range(3)]
    identities = [await authenticator.authenticate(ALICE, token) for token in several]

    assert await authenticator.authenticate(ALICE, several[2]) is identities[2]
    assert await authenticator.authenticate(ALICE, several[0]) is not identities[0]
