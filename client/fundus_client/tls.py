"""TLS of the gRPC protocol: the two sides' files, checked before use, and why a handshake is refused.

No option skips the check of a certificate. Whoever has no authority gives the server's own as `--tls-ca`.
"""

import functools
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import grpc

from fundus_core.errors import UsageError

_Outcome = Literal["open", "closed", "untrusted", "plain", "silent"]
_PROBE_TIMEOUT_S = 5.0
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Tls:
    """A client's side: the authority `ca` that it trusts, and its own certificate if the server asks for one.

    Raises:
        UsageError: a file that is no PEM, or a certificate with another one's key.
    """

    ca: Path
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        self.context()

    def credentials(self) -> grpc.ChannelCredentials:
        """Return what gRPC takes."""
        ca, key, cert = (path and path.read_bytes() for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)

    def context(self) -> ssl.SSLContext:
        """Return what Python's own TLS takes."""
        context = _context(ssl.PROTOCOL_TLS_CLIENT, self.ca, self.cert, self.key)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: `ca` may be the server's own
        return context


@dataclass(frozen=True)
class ServerTls:
    """A server's side: its certificate, and the authority that its clients need a certificate of, if any.

    Raises:
        UsageError: a file that is no PEM, or a certificate with another one's key.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        _context(ssl.PROTOCOL_TLS_SERVER, self.client_ca, self.cert, self.key)

    def flags(self) -> dict[str, object]:
        """Return tritonserver's flags."""
        flags: dict[str, object] = {"grpc-use-ssl": "true"}
        flags |= {"grpc-server-cert": self.cert.resolve(), "grpc-server-key": self.key.resolve()}
        if self.client_ca:
            flags |= {"grpc-use-ssl-mutual": "true", "grpc-root-cert": self.client_ca.resolve()}
        return flags


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a client's command the options of a TLS connection; it gets them as `tls: Tls | None`."""

    @click.option("--tls-ca", type=_FILE, help="PEM of the authority that --url is trusted by: turns TLS on.")
    @click.option("--tls-cert", type=_FILE, help="PEM of this client's certificate, if the server wants one.")
    @click.option("--tls-key", type=_FILE, help="PEM of the private key to --tls-cert.")
    @functools.wraps(command)
    def with_tls(
        *args: Any, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None, **kwargs: Any
    ) -> Any:
        _check_pair(tls_cert, tls_key)
        if tls_cert and not tls_ca:
            raise UsageError("--tls-cert needs --tls-ca: the authority that the server is trusted by.")
        return command(*args, tls=Tls(tls_ca, tls_cert, tls_key) if tls_ca else None, **kwargs)

    return with_tls


def server_tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a server's command the options of TLS; it gets them as `tls: ServerTls | None`."""

    @click.option("--tls-cert", type=_FILE, help="PEM of the server's certificate: turns TLS on for gRPC.")
    @click.option("--tls-key", type=_FILE, help="PEM of the private key to --tls-cert.")
    @click.option("--tls-client-ca", type=_FILE, help="PEM of an authority: clients need its certificate.")
    @functools.wraps(command)
    def with_tls(
        *args: Any, tls_cert: Path | None, tls_key: Path | None, tls_client_ca: Path | None, **kwargs: Any
    ) -> Any:
        _check_pair(tls_cert, tls_key)
        if tls_client_ca and not tls_cert:
            raise UsageError("--tls-client-ca needs --tls-cert and --tls-key: the server's own.")
        tls = ServerTls(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
        return command(*args, tls=tls, **kwargs)

    return with_tls


def refusal(address: str, tls: Tls | None) -> str | None:
    """Say why TLS can't work with the server at "host:port"; None where that isn't certain.

    Of most of this gRPC says no more than "Socket closed".
    """
    kind, detail = _handshake(address, tls.context() if tls else ssl.create_default_context())
    if tls is None:
        speaks_tls = kind in ("open", "closed", "untrusted")
        return f"The server at {address} wants TLS. Give --tls-ca." if speaks_tls else None
    sentences = {
        "plain": f"The server at {address} doesn't speak TLS. Leave out --tls-ca, or correct the port.",
        "closed": f"The server at {address} asks for a certificate. Give --tls-cert and --tls-key.",
        "untrusted": f"The certificate of the server at {address} is not accepted ({detail.rstrip('.')}). "
        "Give the authority that issued it as --tls-ca, and in --url a host that it is made for.",
    }
    if kind == "closed" and tls.cert:
        return f"The server at {address} refuses '{tls.cert}'. Give one of an authority that it trusts."
    return sentences.get(kind)


def _handshake(address: str, context: ssl.SSLContext) -> tuple[_Outcome, str]:
    """Return how a handshake ends, and what OpenSSL says of it."""
    host, _, port = address.rpartition(":")
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, int(port)), _PROBE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            # Under TLS 1.3 a server looks at the client's certificate only after the handshake.
            return ("open" if secure.recv(1) else "closed"), ""
    except ssl.SSLCertVerificationError as error:
        return "untrusted", error.verify_message
    except ssl.SSLError as error:
        return _outcome(error.reason or ""), ""
    except OSError:
        return "silent", ""


def _outcome(reason: str) -> _Outcome:
    if reason == "WRONG_VERSION_NUMBER":
        return "plain"
    return "closed" if re.search("ALERT.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)", reason) else "silent"


def _context(
    protocol: ssl._SSLMethod, ca: Path | None, cert: Path | None, key: Path | None
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    try:
        if ca:
            context.load_verify_locations(ca)
    except OSError:
        raise UsageError(f"'{ca}' holds no certificate. Give the authority's, in PEM.") from None
    try:
        if cert:
            context.load_cert_chain(cert, key, password=lambda: "")  # else OpenSSL asks at the terminal
    except OSError:
        hint = "Give both in PEM, the key without a password."
        raise UsageError(f"'{cert}' and '{key}' are no certificate and its private key. {hint}") from None
    return context


def _check_pair(cert: Path | None, key: Path | None) -> None:
    if bool(cert) != bool(key):
        given, missing = ("--tls-cert", "--tls-key") if cert else ("--tls-key", "--tls-cert")
        raise UsageError(f"{given} needs {missing}: the private key and the certificate go together.")
