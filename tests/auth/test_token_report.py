"""Tokens that the service issues, and what it tells an operator about any."""

from __future__ import annotations

import jwt
import msgspec
import pytest

from signal_manager.auth.token_report import inspect_token, issue_token
from signal_manager.model import Grants, Identity
from tests.auth.signing import ALICE, CLOCK, NOW, OLD_SECRET, SECRET, published, signed, tokens, unsigned


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
