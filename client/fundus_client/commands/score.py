"""`fundus-client score`: a folder, a list or an object store of photographs -> one table."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from fundus_client.commands.options import FILE, PATH, REPOSITORY, TIMEOUT, URLS, WAIT
from fundus_client.commands.reports import check_reports, report
from fundus_client.commands.summary import print_counts
from fundus_client.dicom.frames import Frames, unknown
from fundus_client.journal import Found, Journal, journal_path, open_journal
from fundus_client.member import Patience
from fundus_client.progress import scoring_progress
from fundus_client.pseudonymous import Pseudonymous
from fundus_client.ray_engine import score_on_ray
from fundus_client.run import (
    Findings,
    Job,
    RunSummary,
    calibrators_of,
    judge_output,
    run_record,
    score_locally,
    summarise,
    write_run_json,
    write_table,
)
from fundus_client.servers import Servers
from fundus_client.sinks import check_output
from fundus_client.sources import Source, open_source
from fundus_client.sources.wanted import SUFFIXES
from fundus_core.console import say, stderr, tls_options
from fundus_core.ensemble import ENSEMBLE_MODEL, EnsembleSpec
from fundus_core.errors import EXIT_SOME_FAILED, FundusError, LabelsError, UsageError
from fundus_core.files import run_json_path
from fundus_core.pseudonyms import Pseudonyms, pseudonymised, read_key
from fundus_core.reading import read_labels
from fundus_core.tables import LabelTable
from fundus_core.tls import Tls
from fundus_eval.shift import shift_warnings
from fundus_eval.text import evaluation_lines

EXAMPLES = """\b
Examples:
  fundus-client score ./images --labels labels.csv
  fundus-client score left right --output night.csv --url a:8001 --url b:8001 --tls-ca ca.pem
  fundus-client score s3://archive/2026/ --output night.parquet
  find /archive -mtime -1 -name '*.jpg' -print0 | fundus-client score --files-from - --output night.csv

\b
Exit codes: 0 all scored, 1 fatal, 2 usage, 3 some files failed, 4 server unreachable."""


@click.command(epilog=EXAMPLES)
@click.argument("inputs", nargs=-1, metavar="[PATHS]...")
@click.option("--files-from", help="File with one path a line, or - for stdin; NULs may separate them too.")
@click.option("--labels", type=FILE, help="Table of image_id and 0/1 labels.")
@click.option("--output", default="scores.csv", type=PATH, help="Table to write: .csv or .parquet.")
@URLS
@REPOSITORY
@click.option(
    "--model", default=ENSEMBLE_MODEL, help="The ensemble to ask at --url; a canary has a name of its own."
)
@tls_options
@click.option(
    "--adaptive",
    is_flag=True,
    help="Ask no more folds of an image than its decision takes; the bundle says when.",
)
@click.option("--engine", default="local", type=click.Choice(["local", "ray"]), help="Who does the work.")
@click.option("--address", envvar="RAY_ADDRESS", help="The Ray cluster. [default: start one here]")
@click.option("--in-flight", default=64, type=click.IntRange(1), help="Images at most at each server.")
@TIMEOUT
@WAIT
@click.option("--fresh", is_flag=True, help="Start over: forget what an earlier run left in the journal.")
@click.option("--retry-failed", is_flag=True, help="Try the files again that an earlier run could not score.")
@click.option("--calibrated", is_flag=True, help="Add a column of calibrated probabilities.")
@click.option(
    "--pseudonymise", "key", type=FILE, help="Write keyed pseudonyms for names; the file is the key."
)
@click.option("--patient-key", type=FILE, help="Key of the pseudonyms of patients, from DICOM headers.")
@click.option(
    "--sr",
    "reports",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write structured reports of DICOM objects into this folder.",
)
@click.option(
    "--pdf", "with_pdf", is_flag=True, help="With --sr: write a page for people beside each report."
)
@click.option("--dry-run", is_flag=True, help="Say what would be scored, and end.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the content of run.json instead of lines.")
def score(
    inputs: tuple[str, ...],
    files_from: str | None,
    labels: Path | None,
    output: Path,
    urls: tuple[str, ...],
    repository: Path | None,
    model: str,
    tls: Tls | None,
    adaptive: bool,
    engine: str,
    address: str | None,
    in_flight: int,
    timeout: float,
    wait: float,
    fresh: bool,
    retry_failed: bool,
    calibrated: bool,
    key: Path | None,
    patient_key: Path | None,
    reports: Path | None,
    with_pdf: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Score every image below PATHS: one row per file, with a probability or the reason why there is none.

    PATHS are files, folders (searched recursively for JPEG, PNG, TIFF, BMP and DICOM files), patterns such as
    'scans/**/*.jpg', and addresses of object stores such as s3://bucket/folder. Writes --output, and
    beside it run.json, which says how it was made, and a journal. After an interruption the same command
    goes on where it was, to the same table. With --labels it also prints the AUC with its 95 % interval.

    A DICOM object has one row per frame, with its UIDs and what its header says of eye, time and camera.
    """
    if quiet:
        logging.getLogger("fundus_client").setLevel(logging.ERROR)
    check_output(output)
    names = Pseudonyms(read_key(key)) if key else None
    patients = Pseudonyms(read_key(patient_key)) if patient_key else names
    plain = Frames(open_source(inputs, files_from), patients.of_patient if patients else unknown)
    source: Source = Pseudonymous(plain, names) if names else plain
    check_reports(reports, inputs, key, with_pdf, adaptive)
    if dry_run:
        if retry_failed:
            raise UsageError("--dry-run and --retry-failed exclude each other: a dry run forgets nothing.")
        _say_what_would_be_scored(source, Path(":memory:") if fresh else journal_path(output))
        return
    if reports:
        reports.mkdir(parents=True, exist_ok=True)  # what cannot be made is said now, not after the night
    started_s = time.monotonic()
    servers = Servers(urls, repository, tls, Patience(timeout, wait, in_flight), model, adaptive)
    table = None

    def begin(spec: EnsembleSpec) -> None:
        nonlocal table
        journal.belongs_to(spec, adaptive=adaptive)
        if calibrated:
            calibrators_of(spec)  # refused now, not after the night's scoring
        table = _read_labels(labels, names, spec, journal) if labels else None

    with open_journal(journal_path(output), fresh=fresh) as journal, _explained(journal):
        if retry_failed:
            journal.forget_failures()
        found = _find(journal, source, quiet)
        with scoring_progress(found, quiet) as tick:
            job = Job(source, journal, begin, tick)
            end = score_on_ray(job, servers, address) if engine == "ray" else score_locally(job, servers)
        outcomes = write_table(journal, output, end, calibrated=calibrated)
        n_reports = report(journal, plain, end, reports, with_pdf) if reports else None
        summary = summarise(outcomes, found, time.monotonic() - started_s)
        findings = judge_output(output, table, end.spec)
        record = run_record(_arguments(), end.spec, summary, findings)
        write_run_json(output, record)
    if as_json:
        click.echo(json.dumps(record, indent=2))
    elif not quiet:
        _print(summary, findings, output)
        if adaptive and findings.folds_per_image:
            click.echo(f"folds  {findings.folds_per_image:.2f} of {len(end.spec.folds)} asked an image")
        if n_reports is not None:
            click.echo(f"sr     {n_reports} in {reports}")
    _exit(end.lost, summary)


def _say_what_would_be_scored(source: Source, path: Path) -> None:
    with open_journal(path if path.exists() else Path(":memory:"), fresh=False) as journal:
        found = _find(journal, source, quiet=True)
    click.echo(f"would score {found.n_files - found.n_known} of {found.n_files} files")


@contextmanager
def _explained(journal: Journal) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        say(f"Interrupted. What was answered is in '{journal.path}'; run the same command again to go on.")
        raise click.Abort from None
    except OSError as error:
        hint = f"What was answered is in '{journal.path}': mend that and run the same command again."
        what = f"'{error.filename}'" if error.filename else "The table cannot be written"
        raise FundusError(f"{what}: {error.strerror or error}. {hint}") from None


def _find(journal: Journal, source: Source, quiet: bool) -> Found:
    with stderr.status("looking for files"):
        found = journal.register(source)
    if found.n_files == 0:
        raise UsageError(f"There is no image in what was given; looked for {' '.join(sorted(SUFFIXES))}.")
    if source.n_repeated and not quiet:
        say(f"{source.n_repeated} names in the list were named before: each file is scored once.")
    if found.n_known and not quiet:
        say(f"{found.n_known} of {found.n_files} files have their row from an earlier run.")
    return found


def _read_labels(path: Path, names: Pseudonyms | None, spec: EnsembleSpec, journal: Journal) -> LabelTable:
    """Read the labels, and refuse those of other images now, not after the night's scoring."""
    plain = read_labels(path, spec.labels)
    table = pseudonymised(plain, names) if names else plain
    if not journal.has_any(table.image_id):
        hint = "Write both relative to the same folder."
        ids = f"the labels name {table.image_id[0]!r}, the images {journal.first_id()!r}"
        raise LabelsError(f"No image has a label: {ids}. {hint}")
    return table


def _arguments() -> dict[str, Any]:
    """Return what the command was called with; with a key the inputs may hold names, and stay away."""
    given = dict(click.get_current_context().params)
    if given["key"]:
        given |= dict.fromkeys(("inputs", "files_from", "labels"), "(pseudonymised)")
    return {name: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _print(summary: RunSummary, findings: Findings, output: Path) -> None:
    print_counts(summary)
    if findings.evaluation:
        click.echo("\n".join(evaluation_lines(findings.evaluation)))
    for line in shift_warnings(findings.shift):
        say(f"Warning: {line}")
    click.echo(f"table  {output}\nrun    {run_json_path(output)}")


def _exit(lost: Exception | None, summary: RunSummary) -> None:
    if lost and "server_unreachable" in summary.reasons:
        code = lost.exit_code if isinstance(lost, FundusError) else 1
        click.echo(f"Error: {lost} Run the same command again to go on: what was scored is kept.", err=True)
        sys.exit(code)
    if summary.n_failed:
        sys.exit(EXIT_SOME_FAILED)
