"""TLS of the gRPC protocol, the server's side; the client's is in `fundus_core.tls`."""

import functools
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fundus_core.console import FILE
from fundus_core.errors import UsageError
from fundus_core.tls import check_pair, tls_context


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
        tls_context(ssl.PROTOCOL_TLS_SERVER, self.client_ca, self.cert, self.key)

    def flags(self) -> dict[str, object]:
        """Return tritonserver's flags."""
        flags: dict[str, object] = {"grpc-use-ssl": "true"}
        flags |= {"grpc-server-cert": self.cert.resolve(), "grpc-server-key": self.key.resolve()}
        if self.client_ca:
            flags |= {"grpc-use-ssl-mutual": "true", "grpc-root-cert": self.client_ca.resolve()}
        return flags


def server_tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a server's command the options of TLS; it gets them as `tls: ServerTls | None`."""

    @click.option("--tls-cert", type=FILE, help="PEM of the server's certificate: turns TLS on for gRPC.")
    @click.option("--tls-key", type=FILE, help="PEM of the private key to --tls-cert.")
    @click.option("--tls-client-ca", type=FILE, help="PEM of an authority: clients need its certificate.")
    @functools.wraps(command)
    def with_tls(
        *args: Any, tls_cert: Path | None, tls_key: Path | None, tls_client_ca: Path | None, **kwargs: Any
    ) -> Any:
        check_pair(tls_cert, tls_key)
        if tls_client_ca and not tls_cert:
            raise UsageError("--tls-client-ca needs --tls-cert and --tls-key: the server's own.")
        tls = ServerTls(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
        return command(*args, tls=tls, **kwargs)

    return with_tls
