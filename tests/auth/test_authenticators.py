"""Credentials: which are accepted, which are refused, and that a refusal helps nobody to guess."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.auth.authenticators import (
    DEFAULT_LEEWAY,
    REFUSED,
    FirstOf,
    SignedTokens,
    StaticKeys,
    inspect_token,
    issue_token,
)
from signal_manager.errors import TOKEN_EXPIRED, AuthenticationError, ConfigurationError, UnavailableError
from signal_manager.model import ClientId, Grants, Identity

SECRET = "the secret of these tests, longer than 32 bytes"
OLD_SECRET = "the secret before it, also longer than 32 bytes"
NOW = 1_800_000_000.0
CLOCK = "this service's clock says 2027-01-15T08:00:00Z"
ALICE = ClientId("alice")


def signed(claims: dict[str, Any] | None = None, *, secret: str = SECRET, **changes: Any) -> str:
    """A token of another signer: any claims, right by default."""
    body = {"sub": "alice", "exp": NOW + 60} if claims is None else claims
    return jwt.encode(body | changes, secret, algorithm="HS256")


def tokens(**settings: Any) -> SignedTokens:
    return SignedTokens(SECRET, clock=lambda: NOW, **settings)


async def refusal(authenticator: SignedTokens | StaticKeys | FirstOf, client_id: str, token: str) -> str:
    with pytest.raises(AuthenticationError) as caught:
        await authenticator.authenticate(ClientId(client_id), token)
    return caught.value.message


# Static keys


async def test_a_static_key_opens_everything_but_administration() -> None:
    identity = await StaticKeys(["alice:wonderland"]).authenticate(ALICE, "wonderland")

    assert identity == Identity(client_id=ALICE)
    assert not identity.grants.admin


async def test_a_token_may_hold_colons() -> None:
    await StaticKeys(["alice:a:b:"]).authenticate(ALICE, "a:b:")


async def test_a_client_named_twice_has_two_tokens() -> None:
    keys = StaticKeys(["alice:old", "bob:other", "alice:new"])

    assert await keys.authenticate(ALICE, "old") == await keys.authenticate(ALICE, "new")


@pytest.mark.parametrize(
    ("client_id", "token"),
    [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody", "wonderland"),
        ("", ""),
        ("alice", "x" * 100_000),
        ("alice", "\ud800"),
    ],
)
async def test_a_wrong_id_and_a_wrong_token_are_refused_alike(client_id: str, token: str) -> None:
    assert await refusal(StaticKeys(["alice:wonderland", "bob:b"]), client_id, token) == REFUSED


@pytest.mark.parametrize("entry", ["alice", "alice:", ":token", "", "no spaces:token", "..:token"])
def test_a_malformed_key_is_told_by_its_position(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=r"static key 2: expected client_id:token"):
        StaticKeys(["bob:b", entry])


# Signed tokens


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


def unsigned(header: dict[str, Any] | bytes, payload: bytes = b'{"sub":"alice","exp":1900000000}') -> str:
    parts = (header if isinstance(header, bytes) else json.dumps(header).encode(), payload, b"signature")
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


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


PRIVATE_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC_KEY = jwt.PyJWK(jwt.algorithms.ECAlgorithm.to_jwk(PRIVATE_KEY.public_key(), as_dict=True) | {"kid": "one"})


def published(**headers: Any) -> str:
    return jwt.encode({"sub": "alice", "exp": NOW + 60}, PRIVATE_KEY, algorithm="ES256", headers=headers)


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


# In order


async def test_the_first_authenticator_that_knows_the_client_wins() -> None:
    both = FirstOf(StaticKeys(["alice:wonderland"]), tokens())

    assert (await both.authenticate(ALICE, "wonderland")).expires_at is None
    assert (await both.authenticate(ALICE, signed())).expires_at == NOW + 60
    assert await refusal(both, "alice", "neither") == REFUSED
    assert (await refusal(both, "alice", signed(exp=1))).startswith("the token has expired")


async def test_nobody_to_ask_refuses_everybody() -> None:
    assert await refusal(FirstOf(), "alice", "wonderland") == REFUSED


# Issuing and explaining


async def test_an_issued_token_is_accepted_with_exactly_its_grants() -> None:
    grants = Grants(rooms=("demo-*",), roles=("receiver",), publish=False, signal_to=(), admin=True)
    token = issue_token(secret=SECRET, client_id="alice", ttl=60, grants=grants, now=NOW, audience="ours", issuer="us")

    identity = await tokens(audience="ours", issuer="us").authenticate(ALICE, token)

    assert identity == Identity(client_id=ALICE, grants=grants, expires_at=NOW + 60)


def test_an_issued_token_says_no_more_than_needed() -> None:
    token = issue_token(secret=SECRET, client_id="alice", ttl=60, now=NOW)

    assert jwt.decode(token, options={"verify_signature": False}) == {
        "sub": "alice",
        "iat": int(NOW),
        "exp": int(NOW) + 60,
    }


@pytest.mark.parametrize(("client_id", "ttl"), [("", 60), ("a b", 60), ("alice", 0), ("alice", float("inf"))])
def test_no_token_is_issued_for_nobody_or_for_no_time(client_id: str, ttl: float) -> None:
    with pytest.raises(ValueError, match="expected a"):
        issue_token(secret=SECRET, client_id=client_id, ttl=ttl, now=NOW)


def test_a_report_tells_what_a_token_says() -> None:
    token = issue_token(
        secret=SECRET, client_id="alice", ttl=60, grants=Grants(rooms=("demo-*",)), now=NOW, audience="a", issuer="i"
    )

    report = inspect_token(token, secret=SECRET, now=NOW, audience="a", issuer="i")

    assert msgspec.to_builtins(report) == {
        "signature": "valid",
        "algorithm": "HS256",
        "subject": "alice",
        "issued_at": NOW,
        "expires_at": NOW + 60,
        "audience": "a",
        "issuer": "i",
        "grants": msgspec.to_builtins(Grants(rooms=("demo-*",))),
        "refused_because": [],
    }


def test_a_report_allows_for_clocks_as_the_service_does() -> None:
    early = signed(nbf=NOW + 45, iat=NOW + 45)

    assert inspect_token(early, secret=SECRET, now=NOW).refused_because == []
    assert inspect_token(early, secret=SECRET, leeway=30, now=NOW).refused_because == [
        f"the token is valid only in 45 s (nbf); {CLOCK}",
        f"the token was issued 45 s in the future (iat); {CLOCK}",
    ]


def test_a_report_knows_previous_secrets() -> None:
    report = inspect_token(signed(secret=OLD_SECRET), secret=SECRET, previous_secrets=[OLD_SECRET], now=NOW)

    assert (report.signature, report.refused_because) == ("valid by a previous secret", [])


def test_a_report_names_every_reason_to_refuse() -> None:
    token = signed({"sub": 5, "rooms": "x"}, secret="another service's, and long enough as well")

    report = inspect_token(token, secret=SECRET, algorithms=["ES256"], now=NOW)

    assert (report.signature, report.subject, report.grants) == ("wrong", None, None)
    assert [reason.split(" (")[0].split(":")[0] for reason in report.refused_because] == [
        "its algorithm is not accepted",
        "its signature is not of this service's secret",
        "the token names no client",
        "the token has no valid expiry",
        "the token's grants are malformed",
    ]


def test_a_report_leaves_published_keys_open() -> None:
    report = inspect_token(published(), secret=SECRET, algorithms=["ES256"], now=NOW)

    assert (report.signature, report.refused_because) == ("not checked", [])


@pytest.mark.parametrize("token", ["", "garbage", "x" * 20_000, unsigned({"alg": "HS256"}, b"[]"), "\x00" * 10])
def test_a_report_on_anything_else_says_that_it_is_no_token(token: str) -> None:
    report = inspect_token(token, secret=SECRET, now=NOW)

    assert report.refused_because == ["it is not a JSON Web Token"]
