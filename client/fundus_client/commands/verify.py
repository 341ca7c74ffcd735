"""`fundus-client verify`: does a server answer as PyTorch did at export?"""

import asyncio
import sys
from pathlib import Path

import click

from fundus_client.scorer import connect
from fundus_client.servers import reference_repository, scoring_server
from fundus_client.tls import Tls, tls_options
from fundus_client.verify import check_same_bundle, replay
from fundus_core.console import stderr
from fundus_core.ensemble import read_manifest
from fundus_core.tables import read_labels
from fundus_eval.parity import Parity

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
EXAMPLE = """\b
Examples:
  fundus-client verify
  fundus-client verify --url triton:8001 --tls-ca ca.pem --repository model_repository

\b
Exit codes: 0 all limits hold, 1 one is broken or the bundles differ, 2 usage, 4 server unreachable."""


@click.command(epilog=EXAMPLE)
@click.option("--url", help="host:port of a Triton gRPC server. [default: start the embedded one]")
@click.option(
    "--repository",
    type=FOLDER,
    help="The bundle that is served, or a copy of it. [default: the reference ensemble]",
)
@tls_options
@click.option("--images", type=FOLDER, help="The images that were given at export, to replay them too.")
@click.option("--labels", type=FILE, help="Labels of --images, for the change of the AUC.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait for one answer.")
@click.option("--wait", default=120.0, show_default=True, help="Seconds to wait for a ready server.")
def verify(
    url: str | None,
    repository: Path | None,
    tls: Tls | None,
    images: Path | None,
    labels: Path | None,
    timeout: float,
    wait: float,
) -> None:
    """Replay the golden images of a bundle through a server, and compare with PyTorch's answers at export.

    Through any server: the embedded one, a container, one with TensorRT. Prints the largest and the mean
    difference of a fold's probability, the agreement of answers to one image alone and in batches, the
    decisions that change at the threshold, and the change of the AUC. The limits are those of the bundle's
    precision.
    """
    folder = repository or reference_repository()
    bundle = read_manifest(folder)
    table = read_labels(labels, bundle.labels) if labels else None

    async def run(address: str) -> Parity:
        async with connect(address, ready_timeout_s=wait, timeout_s=timeout, tls=tls) as scorer:
            check_same_bundle(scorer.spec.digest, bundle.digest, folder)
            return await replay(scorer, folder, images, table)

    with scoring_server(url, None if url else folder, wait, tls) as address, stderr.status("comparing"):
        parity = asyncio.run(run(address))
    click.echo("\n".join(parity.lines()))
    if parity.broken:
        sys.exit(1)
