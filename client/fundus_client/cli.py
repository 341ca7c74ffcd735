"""`fundus-client`: score folders of fundus photographs through a Triton server."""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from fundus_client.batch import Window
from fundus_client.commands.verify import verify
from fundus_client.embedded import embedded_server
from fundus_client.listener import LOOPBACK, Listener, Ports
from fundus_client.run import (
    RunSummary,
    evaluate_output,
    run_json_path,
    score_files,
    write_run_json,
)
from fundus_client.scorer import connect
from fundus_client.servers import reference_repository, scoring_server
from fundus_client.tls import ServerTls, Tls, server_tls_options, tls_options
from fundus_core.console import FundusGroup, progress_bar, say
from fundus_core.ensemble import ENSEMBLE_MODEL, EnsembleSpec
from fundus_core.errors import (
    EXIT_SOME_FAILED,
    FundusError,
    LabelsError,
    ServerError,
    ServerUnreachableError,
    UsageError,
)
from fundus_core.files import IMAGE_SUFFIXES, find_images
from fundus_core.phantoms import write_samples
from fundus_core.repository import check_repository
from fundus_core.tables import LabelTable, read_labels
from fundus_eval.evaluation import Evaluation
from fundus_eval.text import evaluation_lines

PATH = click.Path(path_type=Path)
SECONDS = click.FloatRange(0, min_open=True)
PORT = click.IntRange(1, 65535)
REPOSITORY = click.option(
    "--repository", type=PATH, help="Model repository to serve. [default: the reference ensemble]"
)

SCORE_EXAMPLES = """\b
Examples:
  fundus-client score ./images --labels labels.csv
  fundus-client score left right --output night.csv --url triton:8001 --tls-ca ca.pem

\b
Exit codes: 0 all scored, 1 fatal, 2 usage, 3 some files failed, 4 server unreachable."""


@click.group(cls=FundusGroup)
@click.version_option(package_name="fundus-triton", prog_name="fundus-client")
def main() -> None:
    """Detect glaucoma on colour fundus photographs, in batches."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # unwinds: the server ends too


main.add_command(verify)


@main.command(epilog=SCORE_EXAMPLES)
@click.argument("paths", nargs=-1, required=True, type=PATH)
@click.option(
    "--labels", type=click.Path(exists=True, path_type=Path), help="Table of image_id and 0/1 labels."
)
@click.option("--output", default="scores.csv", show_default=True, type=PATH, help="Table to write.")
@click.option("--url", help="host:port of a Triton gRPC server. [default: start the embedded one]")
@REPOSITORY
@click.option(
    "--model",
    default=ENSEMBLE_MODEL,
    show_default=True,
    help="The ensemble to ask at --url; a canary has a name of its own.",
)
@tls_options
@click.option(
    "--in-flight", default=64, show_default=True, type=click.IntRange(1), help="Images sent at once."
)
@click.option(
    "--timeout", default=600.0, show_default=True, type=SECONDS, help="Seconds to wait for one answer."
)
@click.option(
    "--wait", default=120.0, show_default=True, type=SECONDS, help="Seconds to wait for a ready server."
)
def score(
    paths: tuple[Path, ...],
    labels: Path | None,
    output: Path,
    url: str | None,
    repository: Path | None,
    model: str,
    tls: Tls | None,
    in_flight: int,
    timeout: float,
    wait: float,
) -> None:
    """Score every image below PATHS: one row per file, with a probability or the reason why there is none.

    Folders are searched recursively for JPEG, PNG, TIFF and BMP files. Writes the table --output, and beside
    it run.json, which says how it was made. With --labels it also prints the AUC with its 95 % interval.
    """
    n_files = _count(paths)
    _check_writable(output)

    async def run(address: str) -> tuple[EnsembleSpec, LabelTable | None, RunSummary]:
        with _sigterm_cancels():
            return await scored(address)

    async def scored(address: str) -> tuple[EnsembleSpec, LabelTable | None, RunSummary]:
        async with connect(address, ready_timeout_s=wait, timeout_s=timeout, tls=tls, model=model) as scorer:
            table = read_labels(labels, scorer.spec.labels) if labels else None
            if table:
                _check_overlap(table, paths)
            with progress_bar() as progress:
                task = progress.add_task("scoring", total=n_files)
                window = Window(in_flight)
                summary = await score_files(scorer, paths, output, window, lambda: progress.advance(task))
            return scorer.spec, table, summary

    with scoring_server(url, repository, wait, tls) as address, _explained(output):
        spec, table, summary = asyncio.run(run(address))
    if summary.n_files != n_files:
        say(f"The files changed during the run: {n_files} at its start, {summary.n_files} rows in the table.")
    evaluation = evaluate_output(output, table, spec) if table else None
    write_run_json(output, _arguments(), spec, summary, evaluation)
    _print(summary, evaluation, output)
    if summary.server_lost:
        raise ServerUnreachableError(
            "The server went away during the run. Start it and score the failed rows again."
        )
    if summary.n_failed:
        sys.exit(EXIT_SOME_FAILED)


@contextmanager
def _sigterm_cancels() -> Iterator[None]:
    """SIGTERM then ends the scoring as Ctrl-C does: after the answers in flight."""
    task, before = asyncio.current_task(), signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(task.cancel) if task else None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _explained(output: Path) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        say(f"Interrupted: '{output}' was not written. Run the command again.")
        raise click.Abort from None
    except OSError as error:
        raise FundusError(f"'{output}' cannot be written: {error.strerror}. Choose another place.") from None


def _count(paths: tuple[Path, ...]) -> int:
    n_files = sum(1 for _ in find_images(paths))
    if n_files == 0:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"There is no image below {', '.join(map(str, paths))}; looked for {suffixes}.")
    return n_files


def _check_overlap(table: LabelTable, paths: tuple[Path, ...]) -> None:
    """Refuse labels of other images now, not after the night's scoring."""
    known = set(table.image_id)
    refs = find_images(paths)
    first = next(refs).image_id
    if first not in known and not any(ref.image_id in known for ref in refs):
        hint = "Write both relative to the same folder."
        raise LabelsError(
            f"No image has a label: the labels name {table.image_id[0]!r}, the images {first!r}. {hint}"
        )


def _check_writable(output: Path) -> None:
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise UsageError(f"'{output}' cannot be written: give a file name in a folder that exists.")


def _arguments() -> dict[str, Any]:
    context = click.get_current_context()
    return {name: _plain(value) for name, value in context.params.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _print(summary: RunSummary, evaluation: Evaluation | None, output: Path) -> None:
    speed = f"{summary.wall_s:.1f} s, {summary.images_per_s:.1f} images/s"
    click.echo(f"scored {summary.n_scored} of {summary.n_files} files in {speed}")
    for reason, count in sorted(summary.reasons.items()):
        click.echo(f"failed {count}: {reason}")
    if evaluation:
        click.echo("\n".join(evaluation_lines(evaluation)))
    click.echo(f"table  {output}\nrun    {run_json_path(output)}")


SERVE_EXAMPLES = """\b
Examples:
  fundus-client serve --grpc-port 8001
  fundus-client serve --host 0.0.0.0 --tls-cert server.pem --tls-key server.key --tls-client-ca ca.pem"""


@main.command(epilog=SERVE_EXAMPLES)
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
    with embedded_server(folder, listener=listener) as server:
        say(f"Serving {spec.name} {spec.version} ({spec.digest[:12]}) at {server.grpc_address}. End: Ctrl-C")
        with suppress(KeyboardInterrupt):
            while server.is_alive():
                time.sleep(1)
            raise ServerError(f"The server ended by itself. Its log says:\n{server.complaints()}")


@main.command(epilog="Example:\n\n\b\n  fundus-client sample demo -n 64")
@click.argument("folder", type=PATH)
@click.option("-n", "--count", default=64, show_default=True, help="How many images.")
@click.option("--seed", default=0, show_default=True, help="Seed of the first image.")
def sample(folder: Path, count: int, seed: int) -> None:
    """Write synthetic fundus phantoms and their labels.csv into FOLDER.

    They are drawings, no photographs: the label is the cup-to-disc ratio that was drawn. Good for trying the
    tool without patient data; a score on them says nothing about an eye.
    """
    with progress_bar() as progress:
        for _ in progress.track(write_samples(folder, count, seed), total=count, description="drawing"):
            pass
    click.echo(f"{count} synthetic phantoms and labels.csv in {folder}")
