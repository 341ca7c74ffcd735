"""What a run writes: one row for every input file, and the columns of `scores.csv`.

Letters in shapes: F folds, K labels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from math import isnan
from pathlib import Path
from typing import Literal

import numpy as np

from fundus_core.acquisition import COLUMNS, Acquisition
from fundus_core.calibrator import Calibrator
from fundus_core.files import whole_file
from fundus_core.quality import MEASURES, Quality, ungradable
from fundus_core.sheet import csv_line, float32_text


@dataclass(frozen=True)
class ScoreRow:
    """One input file's line in `scores.csv`: a score, or the reason why there is none."""

    image_id: str
    sha256: str
    status: Literal["scored", "failed"]
    reason: str  # "" where scored, else "code: sentence"
    probability: tuple[float, ...] | None  # (K,)
    fold_probability: tuple[tuple[float, ...], ...] | None  # (F, K), NaN of a fold that was not asked
    quality: Quality | None = None  # None where failed, or not measured
    acquisition: Acquisition | None = None  # of a frame of a DICOM object

    def __post_init__(self) -> None:
        scored = self.status == "scored"
        has_scores = (self.probability is not None, self.fold_probability is not None)
        if has_scores != (scored, scored) or bool(self.reason) == scored or (self.quality and not scored):
            raise ValueError(f"{self.image_id!r}: a scored row has probabilities, a failed row has a reason")
        answered = (number for fold in self.fold_probability or () for number in fold if not isnan(number))
        if not all(0 <= number <= 1 for number in chain(self.probability or (), answered)):
            raise ValueError(f"{self.image_id!r}: a probability is outside 0-1 or NaN")

    @property
    def ungradable(self) -> str:
        """Why this is no good photograph: "code measure; code measure", or "" where it is, or failed."""
        return ungradable(self.quality) if self.quality else ""

    @property
    def spread(self) -> tuple[float, ...] | None:
        """How far the folds disagree on each label: highest minus lowest probability (K,).

        NaN where not all of them were asked.
        """
        if self.fold_probability is None:
            return None
        return tuple(np.ptp(self.fold_probability, axis=0).tolist())


@dataclass(frozen=True)
class ScoreFormat:
    """The columns of `scores.csv`. With several labels, a label's columns end in `:<label>`.

    Args:
        labels: K names.
        thresholds: (K,) the decision is 1 from here upwards, on the probability itself.
        calibrators: (K,) what turns each probability into a calibrated one; none: there is no such column.
        with_acquisitions: whether there are the columns of `Acquisition`.
    """

    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    n_folds: int
    bundle_digest: str
    calibrators: tuple[Calibrator, ...] = ()
    with_acquisitions: bool = False

    @property
    def header(self) -> tuple[str, ...]:
        """The column names, in order."""
        folds = (f"fold_{fold}" for fold in range(self.n_folds))
        names = ("probability", *folds, "spread", "decision", *(["calibrated"] if self.calibrators else []))
        suffixes = ("",) if len(self.labels) == 1 else tuple(f":{label}" for label in self.labels)
        per_label = (name + suffix for suffix in suffixes for name in names)
        said = ("image_id", "sha256", "status", "reason", "ungradable")
        acquisition = COLUMNS if self.with_acquisitions else ()
        return (*said, *per_label, *MEASURES, *acquisition, "bundle_digest")

    def cells(self, row: ScoreRow) -> tuple[str, ...]:
        """Return the row's texts, one per column of `header`."""
        per_label = (cell for label in range(len(self.labels)) for cell in self._label_cells(row, label))
        said = (row.status, row.reason, row.ungradable)
        measures = map(float32_text, row.quality.vector) if row.quality else [""] * len(MEASURES)
        acquisition = row.acquisition.cells if row.acquisition else ("",) * len(COLUMNS)
        taken = acquisition if self.with_acquisitions else ()
        return (row.image_id, row.sha256, *said, *per_label, *measures, *taken, self.bundle_digest)

    def _label_cells(self, row: ScoreRow, label: int) -> tuple[str, ...]:
        if row.probability is None or row.fold_probability is None or row.spread is None:
            return ("",) * (self.n_folds + 3 + bool(self.calibrators))
        numbers = np.array([row.probability, *row.fold_probability])
        expected = (1 + self.n_folds, len(self.labels))
        if numbers.shape != expected:
            raise ValueError(f"probability and folds: expected shape {expected}, got {numbers.shape}")
        probability = float32_text(row.probability[label])
        folds = (_cell(fold[label]) for fold in row.fold_probability)
        # on the number as written, so that whoever reads the table reaches the same decision
        decision = str(int(float(probability) >= self.thresholds[label]))
        calibrated = [float32_text(self.calibrators[label](float(probability)))] if self.calibrators else []
        return (probability, *folds, _cell(row.spread[label]), decision, *calibrated)


def _cell(number: float) -> str:
    return "" if isnan(number) else float32_text(number)


@contextmanager
def score_writer(path: Path, score_format: ScoreFormat) -> Iterator[Callable[[ScoreRow], None]]:
    """Give a function that appends one row; `path` appears complete at the end, or not at all."""
    with (
        whole_file(path) as unfinished,
        unfinished.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        file.write(csv_line(score_format.header))

        def write(row: ScoreRow) -> None:
            file.write(csv_line(score_format.cells(row)))

        yield write
