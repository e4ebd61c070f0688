"""Signed tokens for clients, as an operator or the demo page asks for them.

`service/app.py` makes one issuer where the configuration accepts such tokens; elsewhere there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from signal_manager.auth.token_report import issue_token
from signal_manager.errors import InvalidRequestError
from signal_manager.model import ClientId, Grants

__all__ = ["IssuedToken", "TokenIssuer", "require_issuer"]


class IssuedToken(NamedTuple):
    """A token and when it ends (seconds since the epoch)."""

    token: str
    expires_at: float


class TokenIssuer:
    """Sign tokens (docs/protocol.md, "Tokens").

    Args:
        secret: signs them.
        default_ttl: seconds that a token lives unless asked otherwise.
        audience, issuer: their `aud` and `iss`, unless empty.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        secret: str,
        *,
        default_ttl: float,
        audience: str = "",
        issuer: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._secret = secret
        self._default_ttl = default_ttl
        self._audience = audience
        self._issuer = issuer
        self._clock = clock

    def issue(self, client_id: ClientId, *, ttl: float | None = None, grants: Grants | None = None) -> IssuedToken:
        """Return a new token.

        Raises:
            InvalidRequestError: the client id is not one, or the lifetime is not positive.
        """
        now = self._clock()
        lifetime = self._default_ttl if ttl is None else ttl
        try:
            token = issue_token(
                secret=self._secret,
                client_id=client_id,
                ttl=lifetime,
                grants=grants,
                now=now,
                audience=self._audience,
                issuer=self._issuer,
            )
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None
        return IssuedToken(token, float(int(now + lifetime)))


def require_issuer(issuer: TokenIssuer | None) -> TokenIssuer:
    """Return the issuer; InvalidRequestError where the service would not accept its tokens."""
    if issuer is None:
        raise InvalidRequestError("this service does not accept tokens that it signs itself: see auth.auth_method")
    return issuer
