"""`fundus-export deploy` and `rollback`: another bundle behind a running server, without a lost request."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from fundus_core.console import say, stderr
from fundus_core.ensemble import ENSEMBLE_MODEL
from fundus_export import live as module
from fundus_export.live import Live, bundle_digest
from fundus_export.server import Server, connect

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
EXITS = """

\b
Exit codes: 0 done, 1 the bundle or the server refuses, 2 usage, 4 server unreachable."""
DEPLOY = f"""\b
Examples:
  fundus-export deploy model_repository live
  fundus-export deploy better_repository live --canary --url triton:8001
  fundus-export deploy better_repository live --url triton:8001{EXITS}"""
ROLLBACK = f"""\b
Examples:
  fundus-export rollback live --url triton:8001
  fundus-export rollback live --canary --url triton:8001{EXITS}"""


def _server_options(command: Any) -> Any:
    url = click.option("--url", help="host:port of the gRPC of the server that serves LIVE.")
    key = click.option(
        "--admin-key", envvar="FUNDUS_ADMIN_KEY", show_envvar=True, help="The server's, if it has one."
    )
    return url(key(command))


@click.command(epilog=DEPLOY)
@click.argument("bundle", type=FOLDER)
@click.argument("live", type=click.Path(file_okay=False, path_type=Path))
@click.option("--canary", is_flag=True, help="Serve it beside the active bundle, under a name of its own.")
@_server_options
def deploy(bundle: Path, live: Path, canary: bool, url: str | None, admin_key: str | None) -> None:
    """Check the model repository BUNDLE and make it what the folder LIVE serves.

    A tritonserver with --model-control-mode=explicit --load-model=* --strict-readiness=false serves LIVE.
    With --url it is told to load the new bundle and to swap: requests in flight end on the old bundle, no
    answer mixes two, and none is lost. Without, it takes the new bundle at its next start. The bundle before
    stays, for `fundus-export rollback`.
    """
    with _told(url, admin_key) as server:
        _report(live, module.deploy(bundle, live, server, canary))


@click.command(epilog=ROLLBACK)
@click.argument("live", type=FOLDER)
@click.option("--canary", is_flag=True, help="Take the canary away instead.")
@_server_options
def rollback(live: Path, canary: bool, url: str | None, admin_key: str | None) -> None:
    """Make the bundle that LIVE served before the active one active again. Twice is once and back."""
    with _told(url, admin_key) as server:
        _report(live, module.rollback(live, server, canary))


@contextmanager
def _told(url: str | None, admin_key: str | None) -> Iterator[Server | None]:
    if not url:
        yield None
        say("Files only: a server takes them at its next start.")
        return
    with connect(url, admin_key) as server, stderr.status("deploying"):
        yield server


def _report(live: Path, state: Live) -> None:
    click.echo(f"{ENSEMBLE_MODEL} is deployment {state.deployment}")
    for name in ("active", "previous", "canary"):
        model = getattr(state, name)
        click.echo(f"{name:<10}{f'{model} {bundle_digest(live, model)}' if model else 'none'}")
