"""Whether a runtime answers as another did, in units that mean something to a clinic.

Letters in shapes: N images, F folds, K labels.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.ensemble import EnsembleSpec, Precision
from fundus_core.tables import UNLABELLED, LabelTable
from fundus_eval.auc import OneClassError, delong_test
from fundus_eval.intervals import Interval
from fundus_eval.units import clusters, patients_of

Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Limit:
    """What a precision may change; None where nothing is asked.

    Args:
        max_dp: of a fold's probability of any image.
        repeat_dp: between answers to one image, alone and in batches.
        flipped: decisions at the bundle's thresholds.
        auc_fall: that the AUC's difference may reach with its 95 % interval, where labels are known.
    """

    max_dp: float | None
    repeat_dp: float
    flipped: int | None
    auc_fall: float | None


LIMITS: dict[Precision, Limit] = {  # against PyTorch
    "fp32": Limit(max_dp=1e-4, repeat_dp=1e-4, flipped=0, auc_fall=None),
    "fp16": Limit(max_dp=5e-3, repeat_dp=5e-3, flipped=0, auc_fall=None),
    "int8": Limit(max_dp=None, repeat_dp=5e-3, flipped=None, auc_fall=0.01),
}
# Int8 graphs against what they answered at export. In onnxruntime no number of threads and no batch changes a
# bit. Other kernels round otherwise: between its levels of optimisation the reference folds move by 1e-2.
SAME_GRAPHS = Limit(max_dp=2e-2, repeat_dp=5e-3, flipped=0, auc_fall=None)


@dataclass(frozen=True)
class Answers:
    """What one runtime answered: `probability` (N, K) is the mean of `folds` (N, F, K)."""

    probability: Scores
    folds: Scores

    def __post_init__(self) -> None:
        n, _, k = self.folds.shape
        if self.probability.shape != (n, k):
            raise ValueError(f"expected probability of shape {(n, k)}, got {self.probability.shape}")

    def __getitem__(self, rows: slice) -> "Answers":
        return Answers(self.probability[rows], self.folds[rows])


@dataclass(frozen=True)
class Truth:
    """What is known of N images.

    Args:
        values: (N, K) of 0 and 1, -1 where a label is not known.
        patient: (N,) a number for each patient.
    """

    values: NDArray[np.int8]
    patient: NDArray[np.int64]

    def __add__(self, other: "Truth") -> "Truth":
        patient = np.concatenate([self.patient, other.patient + self.patient.max(initial=-1) + 1])
        return Truth(np.concatenate([self.values, other.values]), patient)

    @classmethod
    def of(cls, labels: LabelTable, image_ids: Sequence[str]) -> "Truth":
        """Return what a table says of these images; one that it doesn't have is a patient of its own."""
        row_of, n = {image_id: row for row, image_id in enumerate(labels.image_id)}, len(labels.image_id)
        row = np.array([row_of.get(image_id, n) for image_id in image_ids], np.int64)
        values = np.vstack([labels.values, np.full(len(labels.labels), UNLABELLED, np.int8)])[row]
        known = patients_of(labels)
        alone = n + np.arange(len(row))
        patient = alone if known is None else np.where(row < n, np.append(known, 0)[row], alone)
        return cls(values, patient)

    @classmethod
    def unknown(cls, n_images: int, n_labels: int) -> "Truth":
        """Return that nothing is known."""
        return cls(np.full((n_images, n_labels), UNLABELLED, np.int8), np.arange(n_images))


@dataclass(frozen=True)
class Parity:
    """How far the answers of a runtime are from those that it should give to the same images.

    Args:
        limit: what is asked of it.
        max_dp: the largest difference of a fold's probability; `mean_dp`: the mean one.
        repeat_dp: the largest difference between answers to one image; None where it was not repeated.
        n_flipped: decisions that differ, of `n_decisions`.
        auc: change of each label's AUC (K,), with DeLong's paired interval; None where a class is missing.
    """

    precision: Precision
    limit: Limit
    n_images: int
    max_dp: float
    mean_dp: float
    repeat_dp: float | None
    n_flipped: int
    n_decisions: int
    auc: tuple[Interval | None, ...]

    @property
    def broken(self) -> tuple[str, ...]:
        """Which limits are broken, as words; none where all hold."""
        return tuple(name for name, _, limit, holds in self._checks() if limit is not None and not holds)

    def lines(self) -> Iterator[str]:
        """Lay the figures out with their limits: the same on a terminal and in a pipe."""
        yield f"{'images':<12}{self.n_images}"
        yield f"{'precision':<12}{self.precision}"
        yield f"{'mean |dp|':<12}{self.mean_dp:.1e}"
        for name, value, limit, holds in self._checks():
            asked = "" if limit is None else f"  limit {limit:g}  {'ok' if holds else 'BROKEN'}"
            yield f"{name:<12}{value}{asked}"

    def _checks(self) -> Iterator[tuple[str, str, float | None, bool]]:
        """Yield (name, value, limit, whether it holds); a NaN holds no limit."""
        limit = self.limit
        yield "max |dp|", f"{self.max_dp:.1e}", limit.max_dp, self.max_dp <= (limit.max_dp or np.inf)
        if self.repeat_dp is not None:
            yield "repeats", f"{self.repeat_dp:.1e}", limit.repeat_dp, self.repeat_dp <= limit.repeat_dp
        flipped = f"{self.n_flipped} of {self.n_decisions}"
        yield "flipped", flipped, limit.flipped, self.n_flipped <= (limit.flipped or 0)
        for change in filter(None, self.auc):
            text = f"{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
            yield "AUC change", text, limit.auc_fall, change.low >= -(limit.auc_fall or 0)


def compare(
    spec: EnsembleSpec,
    expected: Answers,
    found: Answers,
    truth: Truth | None = None,
    repeats: Sequence[Answers] = (),
    limit: Limit | None = None,
) -> Parity:
    """Return the parity of `found` with `expected`.

    Args:
        spec: gives precision and thresholds.
        expected: of N images.
        found: of the same images, in the same order.
        truth: of the images.
        repeats: of the same images once more, in other batches.
        limit: what is asked; without it what the precision may change of PyTorch's answers.
    """
    apart = np.abs(expected.folds.astype(np.float64) - found.folds)
    again = [np.abs(found.folds - each.folds).max() for each in repeats]
    decided = [answers.probability >= np.array(spec.thresholds) for answers in (expected, found)]
    return Parity(
        precision=spec.precision,
        limit=limit or LIMITS[spec.precision],
        n_images=len(expected.folds),
        max_dp=float(apart.max()),
        mean_dp=float(apart.mean()),
        repeat_dp=float(np.max(again)) if again else None,  # Python's max may pass over a NaN
        n_flipped=int((decided[0] != decided[1]).sum()),
        n_decisions=decided[0].size,
        auc=tuple(_auc_changes(truth, expected.probability, found.probability)) if truth is not None else (),
    )


def laid_out(parities: Iterable[tuple[str, Parity]]) -> str:
    """Return the lines of several comparisons, each behind the name of its own."""
    return "\n".join(f"{name:<12}{line}" for name, parity in parities for line in parity.lines())


def _auc_changes(truth: Truth, expected: Scores, found: Scores) -> Iterator[Interval | None]:
    for label, values in enumerate(truth.values.T):
        known = (values >= 0) & ~np.isnan(found[:, label])
        scores, cluster = (expected[known, label], found[known, label]), clusters(truth.patient[known])
        try:
            yield delong_test(values[known], *scores, cluster=cluster).difference
        except OneClassError:
            yield None
