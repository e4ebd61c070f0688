"""Issues tokens and explains them to an operator, by the rules of `signed_tokens.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from signal_manager.auth.authenticators import DEFAULT_LEEWAY
from signal_manager.auth.signatures import SignedToken, parse_token, sign, verifying_key
from signal_manager.auth.signed_tokens import grants_in, refusals_of, seconds_in
from signal_manager.errors import AuthenticationError
from signal_manager.model import NAME_RULE, Grants, is_valid_name

__all__ = ["TokenReport", "inspect_token", "issue_token"]

Signature = Literal["valid", "valid by a previous secret", "wrong", "not checked"]


def issue_token(
    *,
    secret: str,
    client_id: str,
    ttl: float,
    grants: Grants | None = None,
    now: float,
    audience: str = "",
    issuer: str = "",
) -> str:
    """Return an HS256 token for `client_id` that lives `ttl` seconds from `now` (seconds since the epoch).

    Raises:
        ValueError: the client id is invalid, or the lifetime is not positive.
        ConfigurationError: the secret cannot sign.
    """
    if not is_valid_name(client_id):
        raise ValueError(f"expected a client id of {NAME_RULE}")
    if not 0 < ttl < math.inf:
        raise ValueError(f"expected a lifetime above 0 s, got {ttl}")
    claims: dict[str, Any] = {"sub": client_id, "iat": int(now), "exp": int(now + ttl)}
    if audience:
        claims["aud"] = audience
    if issuer:
        claims["iss"] = issuer
    everything = Grants()
    for name in Grants.__struct_fields__:
        granted = getattr(grants or everything, name)
        if granted != getattr(everything, name):
            claims[name] = granted
    return sign(claims, secret)


class TokenReport(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a token, and whether the service accepts it; times are seconds since the epoch."""

    signature: Signature
    algorithm: str | None = None
    subject: str | None = None
    issued_at: float | None = None
    expires_at: float | None = None
    audience: Any = None
    issuer: Any = None
    grants: Grants | None = None
    refused_because: list[str] = []


def inspect_token(
    token: str,
    *,
    secret: str,
    previous_secrets: Sequence[str] = (),
    algorithms: Sequence[str] = ("HS256",),
    audience: str = "",
    issuer: str = "",
    leeway: float = DEFAULT_LEEWAY,
    now: float,
) -> TokenReport:
    """Explain a token to an operator; `token` may be any text.

    The arguments are those of `SignedTokens`. Signatures by published keys are not checked.
    """
    parsed = parse_token(token)
    if parsed is None:
        return TokenReport(signature="wrong", refused_because=["it is not a JSON Web Token"])
    algorithm, claims = parsed.algorithm, parsed.claims
    subject = claims.get("sub")
    refusals = [
        refusal.message for refusal in refusals_of(claims, now=now, leeway=leeway, audience=audience, issuer=issuer)
    ]
    signature = _signature(parsed, (secret, *previous_secrets))
    if signature == "wrong":
        refusals.insert(0, "its signature is not of this service's secret")
    if algorithm not in algorithms:
        refusals.insert(0, f"its algorithm is not accepted (only {', '.join(algorithms)})")
    grants = None
    try:
        grants = grants_in(claims)
    except AuthenticationError as error:
        refusals.append(error.message)
    return TokenReport(
        signature=signature,
        algorithm=algorithm,
        subject=subject if isinstance(subject, str) else None,
        issued_at=seconds_in(claims, "iat"),
        expires_at=seconds_in(claims, "exp"),
        audience=claims.get("aud"),
        issuer=claims.get("iss"),
        grants=grants,
        refused_because=refusals,
    )


def _signature(token: SignedToken, secrets: Sequence[str]) -> Signature:
    if token.algorithm in {"RS256", "ES256"}:
        return "not checked"
    position = verifying_key(token, secrets)
    if position is None:
        return "wrong"
    return "valid by a previous secret" if position else "valid"
