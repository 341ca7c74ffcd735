"""`fundus-export deploy` and `rollback`: another bundle behind running servers, without a lost request."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from fundus_core.console import FOLDER, say, stderr, tls_options
from fundus_core.errors import UsageError
from fundus_core.tls import Tls
from fundus_export import live
from fundus_export.server import Server, connect

EXITS = """

\b
Exit codes: 0 done, 1 the bundle or a server refuses, 2 usage, 4 server unreachable."""
DEPLOY = f"""\b
Examples:
  fundus-export deploy model_repository live
  fundus-export deploy better_repository live --canary --url triton:8001
  fundus-export deploy better_repository live --url triton:8001 --tls-ca ca.pem{EXITS}"""
ROLLBACK = f"""\b
Examples:
  fundus-export rollback live --url triton:8001
  fundus-export rollback live --canary --url triton:8001{EXITS}"""


def _server_options(command: Any) -> Any:
    url = click.option(
        "--url", "urls", multiple=True, help="host:port of the gRPC of a server of LIVE; repeatable."
    )
    key = click.option(
        "--admin-key", envvar="FUNDUS_ADMIN_KEY", show_envvar=True, help="The server's, if it has one."
    )
    return url(key(tls_options(command)))


@click.command(epilog=DEPLOY)
@click.argument("bundle", type=FOLDER)
@click.argument("folder", metavar="LIVE", type=click.Path(file_okay=False, path_type=Path))
@click.option("--canary", is_flag=True, help="Serve it beside the active bundle, under a name of its own.")
@_server_options
def deploy(
    bundle: Path, folder: Path, canary: bool, urls: tuple[str, ...], admin_key: str | None, tls: Tls | None
) -> None:
    """Check the model repository BUNDLE and make it what the folder LIVE serves.

    LIVE is served by the container of docker/server, or by a tritonserver with --model-control-mode=explicit
    --load-model=* --strict-readiness=false. With --url it is told to load the new bundle and to swap:
    requests in flight end on the old bundle, no answer mixes two, and none is lost. Without, it takes the new
    bundle at its next start. The bundle before stays, for `fundus-export rollback`.
    """
    with _told(urls, admin_key, tls) as servers:
        click.echo(live.described(folder, live.deploy(bundle, folder, servers, canary)))


@click.command(epilog=ROLLBACK)
@click.argument("folder", metavar="LIVE", type=FOLDER)
@click.option("--canary", is_flag=True, help="Take the canary away instead.")
@_server_options
def rollback(
    folder: Path, canary: bool, urls: tuple[str, ...], admin_key: str | None, tls: Tls | None
) -> None:
    """Make the bundle that LIVE served before the active one active again. Twice is once and back."""
    with _told(urls, admin_key, tls) as servers:
        click.echo(live.described(folder, live.rollback(folder, servers, canary)))


@contextmanager
def _told(urls: Sequence[str], admin_key: str | None, tls: Tls | None) -> Iterator[list[Server]]:
    if tls and not urls:
        raise UsageError("--tls-ca needs --url: without a server only files change.")
    with ExitStack() as connected:
        servers = [connected.enter_context(connect(url, admin_key, tls)) for url in urls]
        with stderr.status("deploying"):
            yield servers
    if not servers:
        say("Files only: a server takes them at its next start.")
