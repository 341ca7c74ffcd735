"""`fundus-client verify`: does a server answer as was answered at export?"""

import asyncio
import sys
from pathlib import Path

import click

from fundus_client.commands.options import FILE, FOLDER, TIMEOUT, URLS, WAIT
from fundus_client.member import Endpoint, Patience
from fundus_client.pool import open_pool
from fundus_client.servers import reference_repository, scoring_servers
from fundus_client.verify import check_same_bundle, replay
from fundus_core.console import stderr, tls_options
from fundus_core.ensemble import ENSEMBLE_MODEL, read_manifest
from fundus_core.reading import read_labels
from fundus_core.tls import Tls
from fundus_eval.golden import check_own
from fundus_eval.parity import Parity, laid_out

EXAMPLE = """\b
Examples:
  fundus-client verify
  fundus-client verify --url triton:8001 --tls-ca ca.pem --repository model_repository

\b
Exit codes: 0 all limits hold, 1 one is broken or the bundles differ, 2 usage, 4 server unreachable."""


@click.command(epilog=EXAMPLE)
@URLS
@click.option(
    "--repository",
    type=FOLDER,
    help="The bundle that is served, or a copy of it. [default: the reference ensemble]",
)
@click.option(
    "--model", default=ENSEMBLE_MODEL, help="The ensemble to ask at --url; a canary has a name of its own."
)
@tls_options
@click.option("--images", type=FOLDER, help="The images that were given at export, to replay them too.")
@click.option("--labels", type=FILE, help="Labels of --images, for the change of the AUC.")
@TIMEOUT
@WAIT
def verify(
    urls: tuple[str, ...],
    repository: Path | None,
    model: str,
    tls: Tls | None,
    images: Path | None,
    labels: Path | None,
    timeout: float,
    wait: float,
) -> None:
    """Replay the golden images of a bundle through a server, and compare with PyTorch's answers at export.

    Through any server: the embedded one, a container, one with TensorRT. Prints the largest and the mean
    difference of a fold's probability, the agreement of answers to one image alone and in batches, the
    decisions that change at the threshold, and with --labels the change of the AUC. The limits are those of
    the bundle's precision. An int8 bundle may differ from PyTorch: so its answers are also held to those that
    its own graphs gave at export.
    """
    check_own(images, labels)
    folder = repository or reference_repository()
    bundle = read_manifest(folder)
    table = read_labels(labels, bundle.labels) if labels else None

    async def run(endpoints: list[Endpoint]) -> list[tuple[str, Parity]]:
        async with open_pool(endpoints, Patience(timeout, wait), model) as pool:
            check_same_bundle(pool.spec.digest, bundle.digest, folder)
            return await replay(pool, folder, images, table)

    with scoring_servers(urls, None if urls else folder, wait, tls) as endpoints, stderr.status("comparing"):
        found = asyncio.run(run(endpoints))
    click.echo(laid_out(found))
    if any(parity.broken for _, parity in found):
        sys.exit(1)
