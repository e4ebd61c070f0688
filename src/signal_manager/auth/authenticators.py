"""Authenticates clients by static keys, signed tokens (JWT) or client records.

Shared secrets or published keys (`jwks.py`) verify signed tokens. Every class here implements `Authenticator`. The
service calls it at CONNECT and for each request with a token. Tokens never appear in errors or log lines.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple, Protocol

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm
from jwt.api_jws import PyJWS

from signal_manager.errors import TOKEN_EXPIRED, AuthenticationError, ConfigurationError
from signal_manager.model import (
    NAME_RULE,
    ClientId,
    ClientRecord,
    Grants,
    Identity,
    hash_token,
    is_token_hash,
    is_valid_name,
    token_matches,
)

__all__ = [
    "DEFAULT_LEEWAY",
    "Authenticator",
    "FirstOf",
    "OnThisMachineAlone",
    "PublicKeys",
    "SignedTokens",
    "StaticKeys",
    "StoredClients",
    "TokenReport",
    "inspect_token",
    "issue_token",
]

# Seconds by which the clocks of signer and service may differ. RFC 7519, section 4.1.4, allows a few minutes.
DEFAULT_LEEWAY = 60.0
MAX_TOKEN_BYTES = 16_384  # a real token is below 4 KiB; hashing and parsing a larger one costs time before it fails
MAX_EXPIRY = 2**53  # beyond it, a float cannot hold whole seconds, and there are no such dates
REFUSED = "the client id or the token is wrong"

Clock = Callable[[], float]
Signature = Literal["valid", "valid by a previous secret", "wrong", "not checked"]


class Authenticator(Protocol):
    """Checks one client's credentials."""

    async def authenticate(self, client_id: ClientId, token: str) -> Identity:
        """Return the client's identity and what it may do.

        The call may be cancelled at any time.

        Raises:
            AuthenticationError: the credentials are wrong. The message says which part only if the token's signature is
                valid.
            UnavailableError: the credentials cannot be checked now; a later attempt may succeed.
        """
        ...


class FirstOf:
    """Ask several authenticators in order; return the first identity, or raise the last error."""

    def __init__(self, *authenticators: Authenticator) -> None:
        self._authenticators = authenticators

    async def authenticate(self, client_id: ClientId, token: str) -> Identity:
        """Return the identity from the first authenticator that accepts the client."""
        refusal = AuthenticationError(REFUSED)
        for authenticator in self._authenticators:
            try:
                return await authenticator.authenticate(client_id, token)
            except AuthenticationError as error:
                refusal = error
        raise refusal


class OnThisMachineAlone:
    """Refuse every client from other machines, for a service with only the published default credentials."""

    async def authenticate(self, client_id: ClientId, token: str) -> Identity:
        """Raise AuthenticationError, with the setting to change."""
        raise AuthenticationError(
            "the credentials that come with the service are good on its machine alone: set auth.token_secret"
        )


class StaticKeys:
    """Accept fixed pairs of client id and token, which never expire and allow everything except administration.

    Args:
        keys: entries "client_id:token"; the token may contain colons. A client with two entries has two valid tokens.

    Raises:
        ConfigurationError: an entry is malformed. The message gives only its position.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests: dict[str, list[bytes]] = {}
        for position, entry in enumerate(keys, 1):
            client_id, _, token = entry.partition(":")
            if not is_valid_name(client_id) or not token:
                raise ConfigurationError(f"static key {position}: expected client_id:token; a client id is {NAME_RULE}")
            self._digests.setdefault(client_id, []).append(_digest(token))

    async def authenticate(self, client_id: ClientId, token: str) -> Identity:
        """Return the client's identity, in equal time for an unknown client and for a wrong token."""
        if len(token) > MAX_TOKEN_BYTES:
            raise AuthenticationError(REFUSED)
        digest = _digest(token)
        matches = False
        for known in self._digests.get(client_id, _NOBODY):
            matches |= hmac.compare_digest(digest, known)
        if not matches:
            raise AuthenticationError(REFUSED)
        return Identity(client_id=client_id)


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


_NO_TOKEN = "sha256:" + "0" * 64
_NOBODY = [b"\0" * sha256().digest_size]  # a digest that no known token has


FindClient = Callable[[ClientId], Awaitable[ClientRecord | None]]


class RewriteToken(Protocol):
    """Replaces the token of a client's record. Storage stores its hash."""

    async def __call__(self, client_id: ClientId, *, auth_token: str) -> object:
        """Write the token."""
        ...


class StoredClients:
    """Accept clients that have a record in storage, by the token of that record.

    Args:
        find: returns a client's record, or None.
        rewrite: replaces a token in clear, which an operator provisioned, by its hash.
        clock: seconds since the epoch.
    """

    def __init__(self, *, find: FindClient, rewrite: RewriteToken, clock: Clock = time.time) -> None:
        self._find = find
        self._rewrite = rewrite
        self._clock = clock

    async def authenticate(self, client_id: ClientId, token: str) -> Identity:
        """Return the client's identity; raise UnavailableError if storage does not answer."""
        record = await self._find(client_id) if is_valid_name(client_id) else None
        expected = record.auth_token if record is not None else ""
        # An unknown client takes the same comparison as a known one.
        if not token_matches(expected or _NO_TOKEN, token) or record is None or not expected:
            raise AuthenticationError(REFUSED)
        if record.expires_at is not None and record.expires_at <= self._clock():
            raise AuthenticationError(REFUSED)
        if not is_token_hash(expected):
            await self._rewrite(client_id, auth_token=hash_token(expected))
        return Identity(client_id=client_id)


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
        self._secrets = [_checked_secret(each) for each in (secret, *previous_secrets)]
        self._algorithms = frozenset(algorithms)
        self._audience = audience
        self._issuer = issuer
        self._keys = keys
        self._leeway = leeway
        self._clock = clock

    async def authenticate(self, client_id: ClientId, token: str) -> Identity:
        """Return the identity in a token with a valid signature and valid claims."""
        claims = await self._verify(token)
        refusals = _refusals(
            claims, now=self._clock(), leeway=self._leeway, audience=self._audience, issuer=self._issuer
        )
        if refusals:
            raise refusals[0]
        if claims["sub"] != client_id:
            raise AuthenticationError("the token belongs to another client")
        return Identity(client_id=client_id, grants=_grants(claims), expires_at=float(claims["exp"]))

    async def _verify(self, token: str) -> dict[str, Any]:
        header = _header(token)
        algorithm = header.get("alg") if header else None
        if header is None or not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise AuthenticationError(REFUSED)
        candidates: list[str | jwt.PyJWK] = []
        if algorithm == "HS256":
            candidates += self._secrets
        elif self._keys and (key := await self._keys.find(header.get("kid"), algorithm)):
            candidates.append(key)
        return _verified(token, algorithm, candidates).claims


class _AnyLengthHmac(HMACAlgorithm):
    """HS256 without PyJWT's warning about short secrets at each call; the service warns once at its start."""

    def check_key_length(self, key: bytes) -> str | None:
        return None


ALGORITHMS = ("HS256", "RS256", "ES256")

_JWS = PyJWS(algorithms=ALGORITHMS)
_JWS.unregister_algorithm("HS256")
_JWS.register_algorithm("HS256", _AnyLengthHmac(HMACAlgorithm.SHA256))


def _checked_secret(secret: str) -> str:
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ConfigurationError("the token secret is empty or a public key; HS256 needs a secret of its own") from None
    return secret


def _header(token: str) -> dict[str, Any] | None:
    """Return the token's unverified header, or None if the text is no token."""
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        return None
    # A deeply nested header raises RecursionError, a very long number a plain ValueError.
    with suppress(jwt.PyJWTError, RecursionError, ValueError):
        return _JWS.get_unverified_header(token)
    return None


class _Verified(NamedTuple):
    position: int  # of the key that verifies the token
    claims: dict[str, Any]


def _verified(token: str, algorithm: str, keys: Sequence[str | jwt.PyJWK]) -> _Verified:
    for position, key in enumerate(keys):
        with suppress(jwt.PyJWTError, RecursionError, ValueError, msgspec.DecodeError):
            payload = _JWS.decode_complete(token, key, algorithms=[algorithm])["payload"]
            return _Verified(position, msgspec.json.decode(payload, type=dict[str, Any]))
    raise AuthenticationError(REFUSED)


def _refusals(
    claims: Mapping[str, Any], *, now: float, leeway: float, audience: str, issuer: str
) -> list[AuthenticationError]:
    """Return why a token with a valid signature is refused, the most important reason first; [] accepts it."""
    expires_at, not_before, issued_at = (_seconds(claims, name) for name in ("exp", "nbf", "iat"))
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


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_EXPIRY:
        return None
    return float(value)


def _is_meant_for(claim: Any, audience: str) -> bool:
    if not audience:
        return claim is None
    return claim == audience or (isinstance(claim, list) and audience in claim)


def _grants(claims: Mapping[str, Any]) -> Grants:
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
    return _JWS.encode(msgspec.json.encode(claims), _checked_secret(secret), algorithm="HS256", headers={"typ": "JWT"})


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
    header = _header(token)
    claims = _unverified_claims(token) if header else None
    if header is None or claims is None:
        return TokenReport(signature="wrong", refused_because=["it is not a JSON Web Token"])
    algorithm, subject = header.get("alg"), claims.get("sub")
    refusals = [
        refusal.message for refusal in _refusals(claims, now=now, leeway=leeway, audience=audience, issuer=issuer)
    ]
    signature = _signature(token, algorithm, (secret, *previous_secrets))
    if signature == "wrong":
        refusals.insert(0, "its signature is not of this service's secret")
    if algorithm not in algorithms:
        refusals.insert(0, f"its algorithm is not accepted (only {', '.join(algorithms)})")
    grants = None
    try:
        grants = _grants(claims)
    except AuthenticationError as error:
        refusals.append(error.message)
    return TokenReport(
        signature=signature,
        algorithm=algorithm if isinstance(algorithm, str) else None,
        subject=subject if isinstance(subject, str) else None,
        issued_at=_seconds(claims, "iat"),
        expires_at=_seconds(claims, "exp"),
        audience=claims.get("aud"),
        issuer=claims.get("iss"),
        grants=grants,
        refused_because=refusals,
    )


def _signature(token: str, algorithm: Any, secrets: Sequence[str]) -> Signature:
    if algorithm in {"RS256", "ES256"}:
        return "not checked"
    try:
        position = _verified(token, "HS256", secrets).position
    except AuthenticationError:
        return "wrong"
    return "valid by a previous secret" if position else "valid"


def _unverified_claims(token: str) -> dict[str, Any] | None:
    with suppress(jwt.PyJWTError, RecursionError, ValueError, msgspec.DecodeError):
        payload = _JWS.decode_complete(token, options={"verify_signature": False})["payload"]
        return msgspec.json.decode(payload, type=dict[str, Any])
    return None
