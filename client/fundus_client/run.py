"""One scoring run: inputs -> journal -> table, then run.json beside it, then the evaluation."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fundus_client.batch import Batch
from fundus_client.journal import Found, Journal
from fundus_client.member import Endpoint
from fundus_client.pool import Pool, open_pool
from fundus_client.servers import Servers
from fundus_client.sinks import table_writer
from fundus_client.sources import Source
from fundus_core.calibrator import Calibrator
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import FundusError, UsageError
from fundus_core.files import run_json_path, whole_file
from fundus_core.provenance import versions_of
from fundus_core.reading import read_scores
from fundus_core.rows import ScoreFormat, ScoreRow
from fundus_core.tables import LabelTable, join
from fundus_eval.evaluation import Evaluation, evaluate
from fundus_eval.shift import shifts
from fundus_eval.study import Shift

_GONE = "vanished: The file was listed but is gone."
_NOT_SENT = "server_unreachable: Not scored: no server was ready any more. Run the command again."


@dataclass(frozen=True)
class RunSummary:
    """What came out: `reasons` counts the failed rows by reason code."""

    n_files: int
    n_scored: int
    n_ungradable: int  # scored, but with a doubt about the photograph
    n_earlier: int  # rows that an earlier run had left in the journal
    reasons: dict[str, int]
    wall_s: float

    @property
    def n_failed(self) -> int:
        """Files without a score."""
        return self.n_files - self.n_scored

    @property
    def images_per_s(self) -> float:
        """Files answered or refused by this run per second of wall time, reading and writing included."""
        unsent = self.reasons.get("server_unreachable", 0)
        return (self.n_files - self.n_earlier - unsent) / self.wall_s


@dataclass(frozen=True)
class _Ticking:
    """A journal that tells a progress bar of every row."""

    journal: Journal
    tick: Callable[[ScoreRow], object]

    def knows(self, image_id: str, stamp: bytes) -> bool:
        return self.journal.knows(image_id, stamp)

    def answer(self, sha256: str) -> ScoreRow | None:
        return self.journal.answer(sha256)

    def record(self, image_id: str, stamp: bytes, row: ScoreRow) -> None:
        self.journal.record(image_id, stamp, row)
        self.tick(row)


@dataclass(frozen=True)
class Job:
    """What an engine has to do: score what of `source` has no row in the journal yet.

    Args:
        begin: is told the bundle before anything is scored, and may refuse it.
        tick: is told of every new row.
    """

    source: Source
    journal: Journal
    begin: Callable[[EnsembleSpec], object]
    tick: Callable[[ScoreRow], object]


@dataclass(frozen=True)
class End:
    """How an engine ended: `lost` says why nobody answers any more."""

    spec: EnsembleSpec
    lost: Exception | None

    @property
    def missing(self) -> str:
        """The reason of what has no row yet."""
        return _NOT_SENT if self.lost else _GONE


def score_locally(job: Job, servers: Servers) -> End:
    """Do a job from this process. What was answered is in the journal on every way out.

    Raises:
        FundusError: no server got ready, `begin` refused its bundle, or the journal cannot be written.
    """

    async def run(endpoints: Sequence[Endpoint]) -> End:
        with sigterm_cancels():
            opened = open_pool(endpoints, servers.patience, servers.model, adaptive=servers.adaptive)
            async with opened as pool:
                job.begin(pool.spec)
                await score_missing(pool, job)
                return End(pool.spec, pool.lost)

    with servers.running() as endpoints:
        return asyncio.run(run(endpoints))


@contextmanager
def sigterm_cancels() -> Iterator[None]:
    """SIGTERM then ends the scoring as Ctrl-C does: after the answers in flight."""
    task, before = asyncio.current_task(), signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(task.cancel) if task else None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def score_missing(pool: Pool, job: Job) -> None:
    """Score what has no row yet, and commit it to the journal, also where this is cancelled."""
    journal = job.journal
    scoring = asyncio.create_task(Batch(pool, _Ticking(journal, job.tick)).run(job.source))
    committing = asyncio.create_task(journal.commit_regularly())
    try:
        await asyncio.wait({scoring, committing}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        committing.cancel()
        scoring.cancel()
        await asyncio.wait({scoring, committing})
        if committing.cancelled():
            journal.commit()
    for task in (committing, scoring):
        if not task.cancelled():
            task.result()


def write_table(journal: Journal, output: Path, end: End, *, calibrated: bool = False) -> Counter[str]:
    """Write the row of every input and count the outcomes: reason codes, "scored" and "ungradable".

    Raises:
        UsageError: calibrated probabilities were asked for, and the bundle has no calibrator.
    """
    outcomes, spec = Counter[str](), end.spec
    calibrators = calibrators_of(spec) if calibrated else ()
    form = ScoreFormat(
        spec.labels, spec.thresholds, len(spec.folds), spec.digest, calibrators, journal.has_acquisitions
    )
    with table_writer(output, form) as write:
        for row in journal.rows(end.missing):
            write(row)
            outcomes[row.reason.partition(":")[0] or "scored"] += 1
            outcomes["ungradable"] += bool(row.ungradable)
    return outcomes


def summarise(outcomes: Counter[str], found: Found, wall_s: float) -> RunSummary:
    """Return what came out of a run; the rows are as many as the inputs.

    Raises:
        FundusError: they are not.
    """
    reasons = dict(outcomes)
    n_scored, n_ungradable = reasons.pop("scored", 0), reasons.pop("ungradable", 0)
    summary = RunSummary(
        n_scored + sum(reasons.values()), n_scored, n_ungradable, found.n_known, reasons, wall_s
    )
    if summary.n_files != found.n_files:
        raise FundusError(f"{found.n_files} inputs gave {summary.n_files} rows. Please report this.")
    return summary


def calibrators_of(spec: EnsembleSpec) -> tuple[Calibrator, ...]:
    """Return the bundle's calibrators.

    Raises:
        UsageError: it has none.
    """
    if not spec.calibrators:
        hint = "Leave --calibrated out, or export the ensemble again."
        raise UsageError(f"{spec.title} holds no calibrator. {hint}")
    return spec.calibrators


@dataclass(frozen=True)
class Findings:
    """What the table says as a whole: how its images differ from the training's, and how right it is.

    Args:
        folds_per_image: how many folds answered a scored image, on average; None where none was scored.
    """

    folds_per_image: float | None
    shift: tuple[Shift, ...]
    evaluation: Evaluation | None  # None without labels


def judge_output(output: Path, labels: LabelTable | None, spec: EnsembleSpec) -> Findings:
    """Judge the table as it was written, at the bundle's own thresholds.

    Raises:
        LabelsError: no image_id of the labels is among the scores.
    """
    table = read_scores(output)
    evaluation = evaluate(join(table, labels), spec.thresholds) if labels else None
    n_answers = (~np.isnan(table.fold_probability[table.scored, :, 0])).sum(axis=1)
    folds_per_image = float(n_answers.mean()) if len(n_answers) else None
    return Findings(folds_per_image, shifts(spec.training, table, spec.labels), evaluation)


def run_record(
    arguments: dict[str, Any], spec: EnsembleSpec, summary: RunSummary, findings: Findings
) -> dict[str, Any]:
    """Return how a table was made: arguments, versions, bundle, counts, speed, and what it says."""
    return {
        "command": "fundus-client score",
        "arguments": arguments,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": {"name": spec.name, "version": spec.version, "digest": spec.digest},
        "thresholds": dict(zip(spec.labels, spec.thresholds, strict=True)),
        "counts": asdict(summary) | {"n_failed": summary.n_failed},
        "images_per_s": summary.images_per_s,
        "folds_per_image": findings.folds_per_image,
        "shift": [asdict(each) for each in findings.shift],
        "evaluation": findings.evaluation and findings.evaluation.to_json(),
        "versions": versions_of("fundus-triton", "numpy", "grpcio", "tritonclient"),
        "manifest": json.loads(spec.to_json()),
    }


def write_run_json(output: Path, record: dict[str, Any]) -> None:
    """Write it beside the table, complete or not at all."""
    with whole_file(run_json_path(output)) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n")
