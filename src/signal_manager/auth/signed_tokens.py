"""Authenticates clients by signed tokens: JSON Web Tokens, verified by shared secrets or published keys (`jwks.py`).

`signatures.py` verifies signatures, and this module judges the claims. `token_report.py` issues and explains tokens by
the same rules.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import jwt
import msgspec

from signal_manager.auth.authenticators import DEFAULT_LEEWAY, MAX_TOKEN_BYTES, REFUSED, Clock
from signal_manager.auth.signatures import ALGORITHMS, checked_secret, parse_token, verifying_key
from signal_manager.errors import TOKEN_EXPIRED, AuthenticationError, ConfigurationError
from signal_manager.model import ClientId, Grants, Identity

__all__ = ["PublicKeys", "SignedTokens", "grants_in", "refusals_of", "seconds_in"]

MAX_EXPIRY = 2**53  # beyond it, a float cannot hold whole seconds, and there are no such dates
# Tokens to remember; one takes about 1 KB. The oldest makes room.
MAX_ACCEPTED = 20_000


class PublicKeys(Protocol):
    """Finds the public key that verifies a token."""

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key called `kid` for `algorithm` (without a `kid`: the only key for it), or None.

        Raises:
            UnavailableError: no keys have been received since the start.
        """
        ...


class SignedTokens:
    """Accept JSON Web Tokens (RFC 7519): `sub` is the client's id, `exp` is required, the grants are claims.

    Only secrets verify HS256, and only published keys verify RS256 and ES256, so a public key cannot pass for a secret
    (RFC 8725, section 3.1).

    Args:
        secret: verifies HS256 tokens.
        previous_secrets: also accepted, while clients move to tokens of the new secret.
        algorithms: the accepted ones of HS256, RS256 and ES256.
        audience: must be in `aud`. When empty, a token with an `aud` is refused (section 4.1.3).
        issuer: must equal `iss`. When empty, every issuer is accepted.
        keys: verifies RS256 and ES256 tokens.
        leeway: seconds by which `exp`, `nbf` and `iat` may be off.
        clock: seconds since the epoch.

    Raises:
        ConfigurationError: there is no key or secret for one of the algorithms.
    """

    def __init__(
        self,
        secret: str,
        *,
        previous_secrets: Sequence[str] = (),
        algorithms: Sequence[str] = ("HS256",),
        audience: str = "",
        issuer: str = "",
        keys: PublicKeys | None = None,
        leeway: float = DEFAULT_LEEWAY,
        clock: Clock = time.time,
    ) -> None:
        if not algorithms or not set(algorithms) <= set(ALGORITHMS):
            raise ConfigurationError(f"expected signature algorithms out of {', '.join(ALGORITHMS)}, got {algorithms}")
        if keys is None and set(algorithms) != {"HS256"}:
            raise ConfigurationError("RS256 and ES256 need the address of the keys that verify them (JWKS)")
        self._secrets = [checked_secret(each) for each in (secret, *previous_secrets)]
        self._algorithms = frozenset(algorithms)
        self._audience = audience
        self._issuer = issuer
        self._keys = keys
        self.is_immediate = keys is None
        self._leeway = leeway
        self._clock = clock
        # By the SHA-256 of a token. A client that returns pays for its signature and its claims once.
        self._accepted: dict[bytes, _Accepted] = {}

    async def authenticate(self, client_id: ClientId, token: str) -> Identity:
        """Return the identity in a token with a valid signature and valid claims."""
        if len(token) > MAX_TOKEN_BYTES:
            raise AuthenticationError(REFUSED)
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        accepted = self._accepted.get(digest)
        if accepted is None or not await self._still_holds(accepted):
            accepted = await self._verify(token)
            self._remember(digest, accepted)
        identity = accepted.identity
        if identity.client_id != client_id:
            raise AuthenticationError("the token belongs to another client")
        return identity

    async def _still_holds(self, accepted: _Accepted) -> bool:
        """Tell whether a token would be accepted again: its times and its published key may have changed since."""
        now = self._clock()
        if not accepted.not_before - self._leeway <= now < accepted.expires_at + self._leeway:
            return False
        if accepted.key is None or self._keys is None:
            return True
        return await self._keys.find(accepted.key_id, accepted.key.algorithm_name) is accepted.key

    async def _verify(self, token: str) -> _Accepted:
        parsed = parse_token(token)
        if parsed is None or parsed.algorithm not in self._algorithms:
            raise AuthenticationError(REFUSED)
        key: jwt.PyJWK | None = None
        keys: list[str] | list[jwt.PyJWK] = self._secrets
        if parsed.algorithm != "HS256":
            key = await self._keys.find(parsed.key_id, parsed.algorithm) if self._keys is not None else None
            keys = [] if key is None else [key]
        if verifying_key(parsed, keys) is None:
            raise AuthenticationError(REFUSED)
        claims = parsed.claims
        refusals = refusals_of(
            claims, now=self._clock(), leeway=self._leeway, audience=self._audience, issuer=self._issuer
        )
        if refusals:
            raise refusals[0]
        expires_at = float(claims["exp"])
        identity = Identity(client_id=claims["sub"], grants=grants_in(claims), expires_at=expires_at)
        # `refusals_of` has seen that they are times.
        not_before = max(float(claims.get("nbf", 0)), float(claims.get("iat", 0)))
        return _Accepted(identity, not_before, expires_at, parsed.key_id, key)

    def _remember(self, digest: bytes, accepted: _Accepted) -> None:
        while len(self._accepted) >= MAX_ACCEPTED:
            del self._accepted[next(iter(self._accepted))]
        self._accepted[digest] = accepted


class _Accepted(NamedTuple):
    """What a token gave, and on what it depends; times are seconds since the epoch."""

    identity: Identity
    not_before: float
    expires_at: float
    key_id: str | None
    key: jwt.PyJWK | None


def refusals_of(
    claims: Mapping[str, Any], *, now: float, leeway: float, audience: str, issuer: str
) -> list[AuthenticationError]:
    """Return why a token with a valid signature is refused, the most important reason first; [] accepts it."""
    expires_at, not_before, issued_at = (seconds_in(claims, name) for name in ("exp", "nbf", "iat"))
    refusals = []
    if not isinstance(claims.get("sub"), str):
        refusals.append(AuthenticationError("the token names no client (sub)"))
    if expires_at is None:
        refusals.append(AuthenticationError("the token has no valid expiry (exp)"))
    elif expires_at + leeway <= now:
        ended = f"the token has expired, {_span(now - expires_at)} ago (exp)"
        refusals.append(AuthenticationError(ended + _clock_says(now), details={"reason": TOKEN_EXPIRED}))
    if "nbf" in claims and not_before is None:
        refusals.append(AuthenticationError("the token's nbf is not a time"))
    elif not_before is not None and not_before - leeway > now:
        refusals.append(
            AuthenticationError(f"the token is valid only in {_span(not_before - now)} (nbf){_clock_says(now)}")
        )
    if "iat" in claims and issued_at is None:
        refusals.append(AuthenticationError("the token's iat is not a time"))
    elif issued_at is not None and issued_at - leeway > now:
        refusals.append(
            AuthenticationError(f"the token was issued {_span(issued_at - now)} in the future (iat){_clock_says(now)}")
        )
    if not _is_meant_for(claims.get("aud"), audience):
        refusals.append(AuthenticationError("the token is meant for another audience (aud)"))
    if issuer and claims.get("iss") != issuer:
        refusals.append(AuthenticationError("the token comes from another issuer (iss)"))
    return refusals


def _span(seconds: float) -> str:
    """Return a length of time in words, such as "3 min"."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _clock_says(now: float) -> str:
    """Return the service's time as text, so that a token's owner can see which clock is wrong."""
    return f"; this service's clock says {datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}"


def seconds_in(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a time in the claims, in seconds since the epoch, or None if there is no valid one."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_EXPIRY:
        return None
    return float(value)


def _is_meant_for(claim: Any, audience: str) -> bool:
    if not audience:
        return claim is None
    return claim == audience or (isinstance(claim, list) and audience in claim)


def grants_in(claims: Mapping[str, Any]) -> Grants:
    """Return the grants in the claims; raise AuthenticationError if they are malformed."""
    given = {name: claims[name] for name in Grants.__struct_fields__ if name in claims}
    try:
        if None in given.values():
            # In Grants None allows everything. A claim of null must not grant more than its signer meant.
            raise msgspec.ValidationError("a grant is null")
        return msgspec.convert(given, Grants)
    except msgspec.ValidationError:
        raise AuthenticationError(
            "the token's grants are malformed: rooms, roles and signal_to are lists of strings, "
            "publish, subscribe and admin are true or false"
        ) from None
