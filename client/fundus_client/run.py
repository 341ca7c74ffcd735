"""One scoring run: refs -> rows -> scores.csv, then run.json beside it, then the evaluation."""

import json
import platform
import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fundus_client.batch import Batch, Window
from fundus_client.scorer import Scorer
from fundus_core.ensemble import EnsembleSpec
from fundus_core.files import find_images
from fundus_core.tables import LabelTable, ScoreFormat, join, read_scores, score_writer
from fundus_eval.evaluation import Evaluation, evaluate


@dataclass(frozen=True)
class RunSummary:
    """What came out: `reasons` counts the failed rows by reason code."""

    n_files: int
    n_scored: int
    reasons: dict[str, int]
    wall_s: float
    server_lost: bool

    @property
    def n_failed(self) -> int:
        """Files without a score."""
        return self.n_files - self.n_scored

    @property
    def images_per_s(self) -> float:
        """Scored images per second of wall time, reading and writing included."""
        return self.n_scored / self.wall_s


async def score_files(
    scorer: Scorer, paths: tuple[Path, ...], output: Path, window: Window, tick: Callable[[], object]
) -> RunSummary:
    """Score every image below `paths` into the table `output`; `tick()` after each row."""
    spec, reasons, n_scored = scorer.spec, Counter[str](), 0
    started = time.monotonic()
    batch = Batch(scorer, window)
    table = ScoreFormat(spec.labels, spec.thresholds, len(spec.folds), spec.digest)
    async with aclosing(batch.rows(find_images(paths))) as rows:
        with score_writer(output, table) as write:
            async for row in rows:
                write(row)
                if row.status == "scored":
                    n_scored += 1
                else:
                    reasons[row.reason.partition(":")[0]] += 1
                tick()
    wall_s = time.monotonic() - started
    return RunSummary(n_scored + reasons.total(), n_scored, dict(reasons), wall_s, batch.server_lost)


def evaluate_output(output: Path, labels: LabelTable, spec: EnsembleSpec) -> Evaluation:
    """Evaluate the table as it was written, at the bundle's own thresholds.

    Raises:
        LabelsError: no image_id of the labels is among the scores.
    """
    return evaluate(join(read_scores(output), labels), spec.thresholds)


def run_json_path(output: Path) -> Path:
    """Return where the run that wrote the table `output` says how it was made."""
    return output.with_name("run.json")


def write_run_json(
    output: Path,
    arguments: dict[str, Any],
    spec: EnsembleSpec,
    summary: RunSummary,
    evaluation: Evaluation | None,
) -> None:
    """Write how the table was made: arguments, versions, bundle, counts, speed, and the evaluation."""
    names = ("fundus-triton", "numpy", "grpcio", "tritonclient")
    content = {
        "command": "fundus-client score",
        "arguments": arguments,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": {"name": spec.name, "version": spec.version, "digest": spec.digest},
        "thresholds": dict(zip(spec.labels, spec.thresholds, strict=True)),
        "counts": asdict(summary) | {"n_failed": summary.n_failed},
        "images_per_s": summary.images_per_s,
        "evaluation": evaluation and evaluation.to_json(),
        "versions": {name: version(name) for name in names} | {"python": platform.python_version()},
    }
    path = run_json_path(output)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)
