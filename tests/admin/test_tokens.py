"""Tokens that the service signs: what is in them, how long they live, and where there are none."""

from __future__ import annotations

import jwt
import pytest

from signal_manager.admin.tokens import TokenIssuer, require_issuer
from signal_manager.errors import InvalidRequestError
from signal_manager.model import ClientId, Grants
from tests.admin.harness import SECRET

NOW = 1000.5
A = ClientId("a")


def issuer(**options: str) -> TokenIssuer:
    return TokenIssuer(SECRET, default_ttl=600, clock=lambda: NOW, **options)


def claims(token: str, *, audience: str | None = None) -> dict[str, object]:
    read: dict[str, object] = jwt.decode(
        token, SECRET, algorithms=["HS256"], audience=audience, options={"verify_exp": False, "verify_iat": False}
    )
    return read


def test_a_token_names_its_client_and_its_end() -> None:
    issued = issuer().issue(A)

    read = claims(issued.token)
    assert (read["sub"], read["exp"]) == ("a", issued.expires_at)
    assert issued.expires_at == 1600.0


def test_a_token_lives_as_long_as_asked_and_allows_what_is_granted() -> None:
    everything = issuer().issue(A, ttl=5)
    little = issuer().issue(A, grants=Grants(rooms=("r*",), publish=False))

    assert everything.expires_at == 1005.0
    assert claims(everything.token).keys() != claims(little.token).keys()
    assert "r*" in str(claims(little.token))


def test_audience_and_issuer_are_those_that_the_service_asks_for() -> None:
    read = claims(issuer(audience="app", issuer="us").issue(A).token, audience="app")

    assert (read["aud"], read["iss"]) == ("app", "us")
    assert not {"aud", "iss"} & claims(issuer().issue(A).token).keys()


@pytest.mark.parametrize(("client_id", "ttl"), [("", 5.0), ("no name", 5.0), ("..", 5.0), ("a", 0.0), ("a", -1.0)])
def test_a_wrong_client_id_or_lifetime_is_refused(client_id: str, ttl: float) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        issuer().issue(ClientId(client_id), ttl=ttl)

    assert SECRET not in str(raised.value)


def test_a_service_that_would_not_accept_its_own_tokens_signs_none() -> None:
    own = issuer()

    assert require_issuer(own) is own
    with pytest.raises(InvalidRequestError, match="auth_method"):
        require_issuer(None)
