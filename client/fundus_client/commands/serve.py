"""`fundus-client serve`: keep the embedded server up for other clients."""

import time
from contextlib import suppress
from pathlib import Path

import click

from fundus_client.commands.options import PORT, REPOSITORY
from fundus_client.embedded import embedded_server
from fundus_client.listener import LOOPBACK, Listener, Ports
from fundus_client.servers import reference_repository
from fundus_client.tls import ServerTls, server_tls_options
from fundus_core.console import say
from fundus_core.errors import ServerError
from fundus_core.repository import check_repository

EXAMPLES = """\b
Examples:
  fundus-client serve --grpc-port 8001
  fundus-client serve --host 0.0.0.0 --tls-cert server.pem --tls-key server.key --tls-client-ca ca.pem"""


@click.command(epilog=EXAMPLES)
@REPOSITORY
@click.option("--host", default=LOOPBACK, show_default=True, help="IPv4 address for gRPC; others need TLS.")
@server_tls_options
@click.option("--grpc-port", default=8001, show_default=True, type=PORT, help="gRPC, for `score --url`.")
@click.option("--http-port", default=8000, show_default=True, type=PORT, help="HTTP, for health checks.")
@click.option("--metrics-port", default=8002, show_default=True, type=PORT, help="Prometheus metrics.")
def serve(
    repository: Path | None,
    host: str,
    tls: ServerTls | None,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
) -> None:
    """Keep the embedded server up for other clients until Ctrl-C, on this computer or with --host for others.

    gRPC answers health, metadata and images; everything that would change the server is closed. HTTP answers
    health only, and like the metrics stays on 127.0.0.1: neither speaks TLS.
    """
    folder = repository or reference_repository()
    spec = check_repository(folder)
    listener = Listener(Ports(grpc_port, http_port, metrics_port), host, tls)
    with embedded_server(folder, listener=listener, adaptive=True) as server:
        say(f"Serving {spec.title} at {server.grpc_address}. End: Ctrl-C")
        with suppress(KeyboardInterrupt):
            while server.is_alive():
                time.sleep(1)
            raise ServerError(f"The server ended by itself. Its log says:\n{server.complaints()}")
