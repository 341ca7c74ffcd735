"""`fundus-client explain`: which places of a photograph its probability depends on."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from fundus_client.commands.options import PATH, REPOSITORY, TIMEOUT, URLS, WAIT
from fundus_client.dicom.frames import Frames, unknown
from fundus_client.explaining.explain import IN_FLIGHT, Explainer, Tick
from fundus_client.explaining.run import Begin, explain_all, label_index
from fundus_client.explaining.table import TABLE, ExplainRow
from fundus_client.member import Endpoint, Patience
from fundus_client.pool import open_pool
from fundus_client.servers import scoring_servers
from fundus_client.sources.disk import DiskSource
from fundus_core.console import progress_bar, say, tls_options
from fundus_core.ensemble import ENSEMBLE_MODEL
from fundus_core.errors import EXIT_SOME_FAILED, FundusError, UsageError
from fundus_core.tls import Tls

EXAMPLES = """\b
Examples:
  fundus-client explain eye.jpg --output maps
  fundus-client explain left right --output maps --label glaucoma --url triton:8001

\b
Exit codes: 0 all explained, 1 fatal, 2 usage, 3 some files failed, 4 server unreachable."""


@click.command(epilog=EXAMPLES)
@click.argument("images", nargs=-1, required=True)
@click.option("--output", required=True, type=PATH, help="Folder to write to: a new one, or an empty one.")
@click.option("--label", help="The label to explain. [default: the bundle's first]")
@click.option(
    "--masks", default=400, type=click.IntRange(50, 10_000), help="Masked copies of each photograph."
)
@URLS
@REPOSITORY
@click.option(
    "--model", default=ENSEMBLE_MODEL, help="The ensemble to ask at --url; a canary has a name of its own."
)
@tls_options
@TIMEOUT
@WAIT
def explain(
    images: tuple[str, ...],
    output: Path,
    label: str | None,
    masks: int,
    urls: tuple[str, ...],
    repository: Path | None,
    model: str,
    tls: Tls | None,
    timeout: float,
    wait: float,
) -> None:
    """Draw which places of photographs the probability depends on.

    IMAGES are files, folders and patterns. Each photograph is scored again and again with other places
    blurred (RISE). Writes to --output a picture and a map of each, and explain.csv with one row per file. A
    map shows what the ensemble answers to, not what is wrong with an eye. That of a DICOM object is written
    as a Secondary Capture in its study too, which `pacs send` gives to the archive.
    """
    refs = list(Frames(DiskSource(images), unknown))
    if not refs:
        raise UsageError("There is no image in what was given. Name photographs, or folders of them.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"'{output}' exists and is not an empty folder. Name a new one, or empty it.")

    async def run(endpoints: Sequence[Endpoint]) -> tuple[list[ExplainRow], Exception | None]:
        async with open_pool(endpoints, Patience(timeout, wait, IN_FLIGHT), model) as pool:
            explainer = Explainer(pool, label_index(pool.spec.labels, label), masks)
            output.mkdir(parents=True, exist_ok=True)
            with _progress(len(refs), masks) as begin:
                rows = await explain_all(explainer, refs, output, begin)
            return rows, pool.lost

    with _explained(), scoring_servers(urls, repository, wait, tls) as endpoints:
        rows, lost = asyncio.run(run(endpoints))
    _print(rows, output)
    _exit(rows, lost)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        say(f"Interrupted. What was drawn is there, and {TABLE} says what was not.")
        raise click.Abort from None
    except OSError as error:
        raise FundusError(
            f"The maps cannot be written: {error.strerror}. Mend that and start anew."
        ) from None


@contextmanager
def _progress(n_images: int, n_masks: int) -> Iterator[Begin]:
    with progress_bar() as progress:
        task = progress.add_task("", total=n_images * n_masks)
        n_begun = 0

        def begin() -> Tick:
            nonlocal n_begun
            progress.update(task, completed=n_begun * n_masks, description=f"{n_begun + 1} of {n_images}")
            n_begun += 1
            return lambda: progress.advance(task)

        yield begin


def _print(rows: Sequence[ExplainRow], output: Path) -> None:
    n_explained = sum(not row.reason for row in rows)
    click.echo(f"explained {n_explained} of {len(rows)} files")
    for row in rows:
        if row.reason:
            click.echo(f"failed {row.image_id}: {row.reason}")
    click.echo(f"table  {output / TABLE}")


def _exit(rows: Sequence[ExplainRow], lost: Exception | None) -> None:
    if lost:
        click.echo(f"Error: {lost}", err=True)
        sys.exit(lost.exit_code if isinstance(lost, FundusError) else 1)
    if any(row.reason for row in rows):
        sys.exit(EXIT_SOME_FAILED)
