"""Addresses of nats-servers, the certificates that this node trusts, and how it signs in."""

from __future__ import annotations

import base64
import ipaddress
import random
import ssl
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from signal_manager.bus.nats.protocol import Info, SignIn, read_credentials
from signal_manager.errors import ConfigurationError

__all__ = ["Cluster", "NatsSecurity", "Server", "learned_server", "servers_of"]

_DEFAULT_PORT = 4222
# Servers that are remembered although the settings do not name them: in some clusters, addresses change for ever.
_MAX_LEARNED = 32


class NatsSecurity(NamedTuple):
    """How this node signs in, and which certificates it trusts; user, password or token may also be in the address."""

    ca_path: str = ""
    cert_path: str = ""
    key_path: str = ""
    credentials_path: str = ""

    @property
    def wants_tls(self) -> bool:
        """Whether these settings make sense with TLS only."""
        return bool(self.ca_path or self.cert_path)

    def tls_context(self) -> ssl.SSLContext:
        """Return the certificates that this node trusts, and its own.

        Raises:
            ConfigurationError: a file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_path or None)
            if self.cert_path:
                context.load_cert_chain(self.cert_path, self.key_path or None)
        except OSError as error:  # also what is wrong inside a file
            raise ConfigurationError(
                f"bus.nats_ca_path, bus.nats_cert_path and bus.nats_key_path: {error.strerror or error}"
            ) from None
        return context

    def sign_in(self, info: Info, address: SignIn) -> SignIn:
        """Return what proves to a nats-server who this node is.

        Args:
            info: what the server has said.
            address: user and password, or a token, as its address has them.

        Raises:
            ConfigurationError: the credentials file cannot be used.
        """
        if not (self.credentials_path and info.nonce):
            return address
        try:
            import nkeys  # noqa: PLC0415 - optional
        except ImportError:
            raise ConfigurationError(
                "bus.nats_credentials_path needs a package that is not installed: pip install 'signal-manager[nats]'"
            ) from None
        try:
            # It is read each time: credentials end, and are replaced.
            credentials = read_credentials(Path(self.credentials_path).read_bytes())
            pair = nkeys.from_seed(credentials.seed)
            signature = base64.urlsafe_b64encode(pair.sign(info.nonce.encode())).rstrip(b"=").decode()
            nkey = "" if credentials.jwt else pair.public_key.decode()
        except (OSError, ValueError, nkeys.NkeysError) as error:
            raise ConfigurationError(
                f"bus.nats_credentials_path: {getattr(error, 'strerror', None) or error or type(error).__name__}"
            ) from None
        return SignIn(token=address.token, jwt=credentials.jwt, nkey=nkey, signature=signature)


class Server(NamedTuple):
    """Where a nats-server is, the name in its certificate, whether it has to use TLS, and what its address proves."""

    host: str
    port: int
    tls_name: str
    wants_tls: bool = False
    sign_in: SignIn = SignIn()


def servers_of(urls: str, security: NatsSecurity) -> list[Server]:
    """Return the servers of `bus.nats_url`; those without user or token have the first one's.

    Raises:
        ConfigurationError: an address is wrong.
    """
    servers = [_server_of(url.strip(), security) for url in urls.split(",")]
    return [
        server._replace(sign_in=server.sign_in if any(server.sign_in) else servers[0].sign_in) for server in servers
    ]


def _server_of(url: str, security: NatsSecurity) -> Server:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORT
    except ValueError:
        parts, host, port = urlsplit(""), "", 0
    if parts.scheme not in {"nats", "tls"} or not host:  # the address itself may hold a password
        raise ConfigurationError("bus.nats_url: expected nats://host:port or tls://host:port, or several with commas")
    sign_in = SignIn()
    if parts.username and parts.password is None:
        sign_in = SignIn(token=unquote(parts.username))
    elif parts.username:
        sign_in = SignIn(user=unquote(parts.username), password=unquote(parts.password or ""))
    return Server(host, port, host, parts.scheme == "tls" or security.wants_tls, sign_in)


def learned_server(address: str, teacher: Server, known: Sequence[Server]) -> Server | None:
    """Return the server that another one has told of (`connect_urls`); None if it is known, or no address.

    The settings say nothing about it, so that it is used as its teacher is. Certificates seldom hold IP addresses: one
    at an IP address shows the name of its teacher.
    """
    try:
        parts = urlsplit(f"nats://{address}")
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORT
    except ValueError:
        return None
    if not host or any((server.host, server.port) == (host, port) for server in known):
        return None
    return teacher._replace(host=host, port=port, tls_name=teacher.tls_name if _is_ip(host) else host)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Cluster:
    """The servers that can be connected to: those of the settings, and those that they told of.

    Args:
        urls: `bus.nats_url`.

    Attributes:
        latest: the server that was tried last.

    Raises:
        ConfigurationError: an address is wrong.
    """

    def __init__(self, urls: str, security: NatsSecurity) -> None:
        self._named = servers_of(urls, security)
        self._learned: list[Server] = []
        self.latest = self._named[0]

    def __len__(self) -> int:
        return len(self._named) + len(self._learned)

    @property
    def wants_tls(self) -> bool:
        """Whether a server of the settings has to use TLS."""
        return any(server.wants_tls for server in self._named)

    def attempts(self) -> Iterator[Server]:
        """Yield all servers, in any order, because nodes spread over them."""
        servers = self._named + self._learned
        for server in random.sample(servers, len(servers)):
            self.latest = server
            yield server

    def learn(self, addresses: Iterable[str]) -> None:
        """Remember the servers that the latest one has told of."""
        for address in addresses:
            server = learned_server(address, self.latest, self._named + self._learned)
            if server is not None:
                self._learned = [*self._learned[1 - _MAX_LEARNED :], server]
