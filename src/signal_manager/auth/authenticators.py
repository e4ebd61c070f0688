"""Authenticates clients by static keys or client records, or by several ways in order.

Signed tokens are in `signed_tokens.py`. Every class implements `Authenticator`. The service calls it at CONNECT and for
each request with a token. Tokens never appear in errors or log lines.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, Iterable
from hashlib import sha256
from typing import Protocol

from signal_manager.errors import AuthenticationError, ConfigurationError
from signal_manager.model import (
    NAME_RULE,
    ClientId,
    ClientRecord,
    Identity,
    hash_token,
    is_token_hash,
    is_valid_name,
    token_matches,
)

__all__ = ["Authenticator", "Clock", "FirstOf", "OnThisMachineAlone", "StaticKeys", "StoredClients", "is_immediate"]

MAX_TOKEN_BYTES = 16_384  # a real token is below 4 KiB; hashing and parsing a larger one costs time before it fails
# Seconds by which the clocks of signer and service may differ. RFC 7519, section 4.1.4, allows a few minutes.
DEFAULT_LEEWAY = 60.0
REFUSED = "the client id or the token is wrong"

Clock = Callable[[], float]


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


def is_immediate(authenticator: Authenticator) -> bool:
    """Tell whether an authenticator says of itself that it waits for nothing: no storage, no network."""
    return bool(getattr(authenticator, "is_immediate", False))


class FirstOf:
    """Ask several authenticators in order; return the first identity, or raise the last error."""

    def __init__(self, *authenticators: Authenticator) -> None:
        self._authenticators = authenticators
        self.is_immediate = all(map(is_immediate, authenticators))

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

    is_immediate = True

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

    is_immediate = True

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
