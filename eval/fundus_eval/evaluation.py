"""What a joined table says about an ensemble: one function for the client, the evaluator and the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fundus_core.tables import Joined
from fundus_eval.auc import OneClassError, auc_delong, auc_or_none
from fundus_eval.intervals import Interval
from fundus_eval.operating import confusion
from fundus_eval.study import Rule, Sample, Unit
from fundus_eval.units import failed_units, sample_of


@dataclass(frozen=True)
class OperatingPoint:
    """What deciding at `threshold` gives; None where the class that it is about is absent.

    Args:
        sensitivity_all: with every failed file of a known label counted as a wrong decision;
            `specificity_all` likewise. None where there is no such file.
    """

    threshold: float
    sensitivity: Interval | None
    specificity: Interval | None
    sensitivity_all: Interval | None
    specificity_all: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values: each interval as its value, `_low` and `_high`."""
        return {
            "threshold": self.threshold,
            **_interval_json("sensitivity", self.sensitivity),
            **_interval_json("specificity", self.specificity),
            **(_interval_json("sensitivity_all", self.sensitivity_all) if self.sensitivity_all else {}),
            **(_interval_json("specificity_all", self.specificity_all) if self.specificity_all else {}),
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
    """How well one label is told apart, over the units that have a score and this label.

    Args:
        n: images, eyes or patients, as `unit` says; `n_positive` of them have it.
        n_patients: whose units they are; None where the labels name no patients.
        auc_missing_reason: a sentence where there is no AUC.
        fold_auc: (F,); empty where the AUC is missing or the folds are not known.
        gradable: None where no unit is flagged.
    """

    label: str
    unit: Unit
    n: int
    n_positive: int
    n_patients: int | None
    auc: Interval | None
    auc_missing_reason: str | None
    fold_auc: tuple[float, ...]
    operating_point: OperatingPoint | None
    gradable: Gradable | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the keys of operating point and gradable images are there if these are."""
        return {
            "label": self.label,
            "unit": self.unit,
            "n": self.n,
            "n_positive": self.n_positive,
            "n_patients": self.n_patients,
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


def evaluate(
    joined: Joined, thresholds: Sequence[float] | None, unit: Unit = "image", rule: Rule = "mean"
) -> Evaluation:
    """Evaluate each label (K,); without `thresholds` there are no operating points.

    Where the labels name patients, intervals allow for several rows of one patient.

    Raises:
        UsageError: the labels do not name the eyes or patients that are asked for.
        LabelsError: they contradict each other within one of these.
    """
    of_label = thresholds if thresholds is not None else [None] * len(joined.labels)
    return Evaluation(
        labels=tuple(
            _evaluate_label(joined, label, of_label[label], unit, rule) for label in range(len(joined.labels))
        ),
        n_files=joined.n_files,
        n_scored=joined.n_scored,
        n_failed=joined.n_failed,
        n_unlabelled=joined.n_unlabelled,
        n_labels_without_image=joined.n_labels_without_image,
    )


def _evaluate_label(
    joined: Joined, label: int, threshold: float | None, unit: Unit, rule: Rule
) -> LabelEvaluation:
    sample = sample_of(joined, label, unit, rule)
    truth, cluster = sample.truth, sample.cluster
    try:
        auc, reason = auc_delong(truth, sample.score, cluster=cluster), None
        fold_auc = tuple(auc_delong(truth, fold).value for fold in sample.fold_score.T)
    except OneClassError as error:
        auc, reason, fold_auc = None, f"{joined.labels[label]}: {error}", ()
    failed = failed_units(joined, label, unit)
    return LabelEvaluation(
        label=joined.labels[label],
        unit=unit,
        n=len(truth),
        n_positive=int((truth == 1).sum()),
        n_patients=sample.n_patients,
        auc=auc,
        auc_missing_reason=reason,
        fold_auc=fold_auc,
        operating_point=None if threshold is None else _operating_point(sample, threshold, failed),
        gradable=_gradable(sample),
    )


def _gradable(sample: Sample) -> Gradable | None:
    good = ~sample.ungradable
    if good.all():
        return None
    cluster = None if sample.cluster is None else sample.cluster[good]
    auc = auc_or_none(sample.truth[good], sample.score[good], cluster)
    return Gradable(int(sample.ungradable.sum()), auc)


def _operating_point(sample: Sample, threshold: float, failed: tuple[int, int]) -> OperatingPoint:
    counts = confusion(sample.truth, sample.score, threshold, sample.cluster)
    every = counts.with_failures(*failed)
    return OperatingPoint(
        threshold,
        counts.sensitivity,
        counts.specificity,
        every.sensitivity if failed[0] else None,
        every.specificity if failed[1] else None,
    )


def _interval_json(name: str, interval: Interval | None) -> dict[str, float | None]:
    values = (interval.value, interval.low, interval.high) if interval else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
