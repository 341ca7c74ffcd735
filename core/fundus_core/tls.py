"""TLS of the gRPC protocol: a side's files, checked before use, and why a handshake is refused.

Nothing here skips the check of a certificate. Whoever has no authority gives the server's own as `--tls-ca`.
"""

import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc

from fundus_core.errors import UsageError

_Outcome = Literal["open", "closed", "untrusted", "plain", "silent"]
_PROBE_TIMEOUT_S = 5.0
_TRUST = "Give the authority that issued it as --tls-ca, and a host that it is made for."
_RENEW = "Renew the server's certificate."


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
        context = tls_context(ssl.PROTOCOL_TLS_CLIENT, self.ca, self.cert, self.key)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: `ca` may be the server's own
        return context


def tls_context(
    protocol: ssl._SSLMethod, ca: Path | None, cert: Path | None, key: Path | None
) -> ssl.SSLContext:
    """Return a side's context: the authority of the other side, and its own certificate, if there are any.

    Raises:
        UsageError: a file that is no PEM, or a certificate with another one's key.
    """
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


def check_pair(cert: Path | None, key: Path | None) -> None:
    """Refuse --tls-cert without --tls-key, and the other way round.

    Raises:
        UsageError: one is given alone.
    """
    if bool(cert) != bool(key):
        given, missing = ("--tls-cert", "--tls-key") if cert else ("--tls-key", "--tls-cert")
        raise UsageError(f"{given} needs {missing}: the private key and the certificate go together.")


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
        + (_RENEW if "expired" in detail else _TRUST),
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
    except (OSError, ValueError):  # no such host, or no port
        return "silent", ""


def _outcome(reason: str) -> _Outcome:
    if reason == "WRONG_VERSION_NUMBER":
        return "plain"
    return "closed" if re.search("ALERT.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)", reason) else "silent"
