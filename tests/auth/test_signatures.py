"""Reading and verifying tokens, compared with PyJWT, whose work this module does faster."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.auth.signatures import parse_token, sign, verifying_key
from signal_manager.errors import ConfigurationError
from tests.auth.signing import PUBLIC_KEY, SECRET, published

CLAIMS: dict[str, Any] = {"sub": "alice", "exp": 1_900_000_000, "name": "Ä", "rooms": ["a", "b"]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def by_pyjwt(token: str) -> dict[str, Any] | None:
    """What PyJWT reads in a token whose signature is right."""
    try:
        payload = jwt.PyJWS().decode(token, SECRET, algorithms=["HS256"])
        claims = json.loads(payload)
    except (jwt.PyJWTError, ValueError):
        return None
    return claims if isinstance(claims, dict) else None


def by_us(token: str) -> dict[str, Any] | None:
    parsed = parse_token(token)
    return parsed.claims if parsed is not None and verifying_key(parsed, [SECRET]) == 0 else None


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4))
def test_a_token_of_pyjwt_reads_the_same(claims: dict[str, Any]) -> None:
    token = jwt.PyJWS().encode(json.dumps(claims).encode(), SECRET, algorithm="HS256")

    assert by_us(token) == claims


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4))
def test_pyjwt_reads_our_tokens(claims: dict[str, Any]) -> None:
    assert by_pyjwt(sign(claims, SECRET)) == claims


@given(st.data())
def test_a_damaged_token_is_accepted_only_where_pyjwt_accepts_it(data: st.DataObject) -> None:
    token = list(sign(CLAIMS, SECRET))
    position = data.draw(st.integers(0, len(token) - 1))
    change = data.draw(st.sampled_from(["", ".", "=", "+", "/", "-", "A", "B", "Z", " ", "é", "\n"]))
    token[position : position + data.draw(st.integers(0, 1))] = [change]
    damaged = "".join(token)

    assert by_us(damaged) is None or by_us(damaged) == by_pyjwt(damaged)


@pytest.mark.parametrize("header", [{"alg": "HS256", "crit": ["exp"], "exp": 1}, {"alg": "HS256", "crit": []}])
def test_critical_extensions_are_refused(header: dict[str, Any]) -> None:
    text = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, CLAIMS)
    )

    assert parse_token(f"{text}.AAAA") is None


@pytest.mark.parametrize("depth", [500, 100_000])
def test_a_deeply_nested_claim_is_no_reason_to_fail(depth: int) -> None:
    nested = base64.urlsafe_b64encode(b'{"a":' + b"[" * depth + b"]" * depth + b"}").rstrip(b"=").decode()

    parse_token(f"eyJhbGciOiJIUzI1NiJ9.{nested}.AAAA")


def test_a_published_key_verifies_only_its_own_algorithm() -> None:
    token = parse_token(published())
    assert token is not None

    assert verifying_key(token, [PUBLIC_KEY]) == 0
    assert verifying_key(token._replace(algorithm="RS256"), [PUBLIC_KEY]) is None
    assert verifying_key(token._replace(signature=b"short"), [PUBLIC_KEY]) is None
    assert verifying_key(token, [SECRET]) is None


@pytest.mark.parametrize("secret", ["", "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----"])
def test_no_token_is_signed_with_what_is_no_secret(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="a secret of its own"):
        sign(CLAIMS, secret)
