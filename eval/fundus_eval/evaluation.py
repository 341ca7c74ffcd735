"""What a joined table says about an ensemble: one function for the client, the evaluator and the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.tables import Joined
from fundus_eval.auc import Interval, OneClassError, auc_delong
from fundus_eval.operating import confusion


@dataclass(frozen=True)
class OperatingPoint:
    """What deciding at `threshold` gives; None where the class that it is about is absent."""

    threshold: float
    sensitivity: Interval | None
    specificity: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values: each interval as its value, `_low` and `_high`."""
        return {
            "threshold": self.threshold,
            **_interval_json("sensitivity", self.sensitivity),
            **_interval_json("specificity", self.specificity),
        }


@dataclass(frozen=True)
class Gradable:
    """The AUC without the images that are flagged ungradable; None where it would have one class only."""

    n_ungradable: int
    auc: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"n_ungradable": self.n_ungradable, **_interval_json("auc_gradable", self.auc)}


@dataclass(frozen=True)
class LabelEvaluation:
    """How well one label is told apart, over the images that have a score and this label."""

    label: str
    n: int
    n_positive: int
    auc: Interval | None
    auc_missing_reason: str | None
    fold_auc: tuple[float, ...]  # (F,); empty where the AUC is missing or the folds are not known
    operating_point: OperatingPoint | None
    gradable: Gradable | None = None  # None where no image is flagged

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the keys of operating point and gradable images are there if these are."""
        return {
            "label": self.label,
            "n": self.n,
            "n_positive": self.n_positive,
            **_interval_json("auc", self.auc),
            "auc_missing_reason": self.auc_missing_reason,
            "fold_auc": list(self.fold_auc),
            **(self.operating_point.to_json() if self.operating_point else {}),
            **(self.gradable.to_json() if self.gradable else {}),
        }


@dataclass(frozen=True)
class Evaluation:
    """Every label's evaluation, and which files and labels it leaves out."""

    labels: tuple[LabelEvaluation, ...]  # (K,)
    n_files: int
    n_scored: int
    n_failed: int  # files without a score
    n_unlabelled: int  # files without a label
    n_labels_without_image: int

    @property
    def auc_macro(self) -> float | None:
        """The labels' mean AUC; None where one of them is missing."""
        aucs = [label.auc.value for label in self.labels if label.auc]
        return float(np.mean(aucs)) if len(aucs) == len(self.labels) else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values. One label's keys lie flat; several lie in `labels`, beside `auc_macro`."""
        counts = {
            "n_files": self.n_files,
            "n_scored": self.n_scored,
            "n_failed": self.n_failed,
            "n_unlabelled": self.n_unlabelled,
            "n_labels_without_image": self.n_labels_without_image,
        }
        if len(self.labels) == 1:
            return self.labels[0].to_json() | counts
        return {"auc_macro": self.auc_macro, "labels": [label.to_json() for label in self.labels]} | counts


def evaluate(joined: Joined, thresholds: Sequence[float] | None) -> Evaluation:
    """Evaluate each label (K,); without `thresholds` there are no operating points."""
    of_label = thresholds if thresholds is not None else [None] * len(joined.labels)
    return Evaluation(
        labels=tuple(_evaluate_label(joined, label, of_label[label]) for label in range(len(joined.labels))),
        n_files=joined.n_files,
        n_scored=joined.n_scored,
        n_failed=joined.n_failed,
        n_unlabelled=joined.n_unlabelled,
        n_labels_without_image=joined.n_labels_without_image,
    )


def _evaluate_label(joined: Joined, label: int, threshold: float | None) -> LabelEvaluation:
    known = joined.truth[:, label] >= 0
    truth, score = joined.truth[known, label], joined.probability[known, label]
    try:
        auc, reason = auc_delong(truth, score), None
        fold_auc = tuple(auc_delong(truth, fold).value for fold in joined.fold_probability[known, :, label].T)
    except OneClassError as error:
        auc, reason, fold_auc = None, f"{joined.labels[label]}: {error}", ()
    return LabelEvaluation(
        label=joined.labels[label],
        n=len(truth),
        n_positive=int((truth == 1).sum()),
        auc=auc,
        auc_missing_reason=reason,
        fold_auc=fold_auc,
        operating_point=None if threshold is None else _operating_point(truth, score, threshold),
        gradable=_gradable(truth, score, joined.ungradable[known]),
    )


def _gradable(
    truth: NDArray[np.int8], score: NDArray[np.float64], ungradable: NDArray[np.bool_]
) -> Gradable | None:
    if not ungradable.any():
        return None
    try:
        auc = auc_delong(truth[~ungradable], score[~ungradable])
    except OneClassError:
        auc = None
    return Gradable(int(ungradable.sum()), auc)


def _operating_point(truth: NDArray[np.int8], score: NDArray[np.float64], threshold: float) -> OperatingPoint:
    counts = confusion(truth, score, threshold)
    return OperatingPoint(threshold, counts.sensitivity, counts.specificity)


def _interval_json(name: str, interval: Interval | None) -> dict[str, float | None]:
    values = (interval.value, interval.low, interval.high) if interval else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
