"""Where an embedded server listens, and what it answers there."""

import errno
import ipaddress
import socket
from dataclasses import dataclass

from fundus_client.tls import ServerTls
from fundus_core.errors import ServerError, UsageError

LOOPBACK = "127.0.0.1"
_ADMIN = "model-repository,shared-memory,statistics,trace,logging"
# What is closed asks for a header of this name, and no protocol can carry a name with a colon. A secret would
# stand on tritonserver's command line, where every user of the computer reads it.
_NOBODY = "closed:to all=x"


@dataclass(frozen=True)
class Ports:
    """TCP ports; a protocol without a port is not served."""

    grpc: int
    http: int | None = None
    metrics: int | None = None


@dataclass(frozen=True)
class Listener:
    """gRPC at `host`, with TLS if given. HTTP and metrics know no TLS: they stay on 127.0.0.1.

    Raises:
        UsageError: `host` is no IPv4 address, or open to other computers without TLS.
    """

    ports: Ports
    host: str = LOOPBACK
    tls: ServerTls | None = None

    def __post_init__(self) -> None:
        try:
            loopback = ipaddress.IPv4Address(self.host).is_loopback
        except ValueError:
            raise UsageError(f"The host is {self.host!r}. Write an IPv4 address, such as 0.0.0.0.") from None
        if not loopback and self.tls is None:
            hint = f"Give a certificate with --tls-cert and --tls-key, or stay on {LOOPBACK}."
            raise UsageError(f"{self.host} is open to other computers, so it needs TLS. {hint}")

    @property
    def addresses(self) -> dict[str, str]:
        """The "host:port" of each protocol that is served: grpc, http, metrics."""
        places = {
            "grpc": (self.host, self.ports.grpc),
            "http": (LOOPBACK, self.ports.http),
            "metrics": (LOOPBACK, self.ports.metrics),
        }
        return {name: f"{host}:{port}" for name, (host, port) in places.items() if port is not None}

    def flags(self) -> dict[str, object]:
        """Return tritonserver's flags."""
        # gRPC answers health, metadata, model-config and inference; HTTP, which would do so past TLS, health.
        flags: dict[str, object] = {
            "grpc-restricted-protocol": f"{_ADMIN}:{_NOBODY}",
            "http-restricted-api": f"{_ADMIN},metadata,model-config,inference:{_NOBODY}",
        }
        for name in ("grpc", "http", "metrics"):
            host, _, port = self.addresses.get(name, "").partition(":")
            served = {f"{name}-address": host, f"{name}-port": port}
            flags |= served if port else {f"allow-{name}": "false"}
        return flags | (self.tls.flags() if self.tls else {})

    def check_free(self) -> None:
        """Refuse ports that can't be had, before the server takes seconds to find out.

        Raises:
            PortTakenError: another program listens there.
            ServerError: a port needs administrator rights, or `host` is no address of this computer.
        """
        for address in self.addresses.values():
            host, _, port = address.partition(":")
            _check_free(host, int(port))


class PortTakenError(ServerError):
    """Another program listens on a port that the server needs."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"Port {port} on {host} is in use. Choose another, or end the program behind it.")


def free_port() -> int:
    """Return a port on 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an earlier server's closing connections
        try:
            probe.bind((host, port))
        except PermissionError:
            raise ServerError(f"Port {port} needs administrator rights. Choose one from 1024.") from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise ServerError(f"{host} is no address of this computer. Choose another.") from None
            raise PortTakenError(host, port) from None
