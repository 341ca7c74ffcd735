"""A joined table -> a `Study`: every label's evaluation, the flow of images, and the shift."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fundus_core.ensemble import CutOff, EnsembleSpec
from fundus_core.tables import Joined, ScoreTable
from fundus_eval.auc import OneClassError, auc_delong
from fundus_eval.shift import shifts
from fundus_eval.study import Flow, Rule, Sample, Study, Unit
from fundus_eval.studying import auc_macro, study_label
from fundus_eval.units import failed_units, sample_of


@dataclass(frozen=True)
class Plan:
    """How to evaluate.

    Args:
        cut_offs: the thresholds of the joined labels, the one that decides first.
        prevalences: above 0 and below 1, at which decisions are judged.
        subgroups: columns of the labels.
        resamples: of the bootstrap; `seed`: of its draws.
    """

    unit: Unit
    rule: Rule
    cut_offs: tuple[CutOff, ...]
    prevalences: tuple[float, ...]
    subgroups: tuple[str, ...]
    resamples: int
    seed: int


def study(
    joined: Joined,
    table: ScoreTable,
    spec: EnsembleSpec | None,
    plan: Plan,
    made: dict[str, Any],
    notes: tuple[str, ...],
) -> Study:
    """Evaluate every label of a joined table.

    Args:
        joined: `table` and its labels.
        table: the scores.
        spec: the ensemble that made them, for its calibrators and its training; None where it is not known.
        plan: how to evaluate.
        made: how the tables were made, for people.
        notes: sentences about what could not be found out.

    Raises:
        OneClassError: a label has only positives, or only negatives.
        UsageError: eyes, patients or a subgroup are asked for that the labels do not name.
        LabelsError: labels contradict each other within an eye.
    """
    samples = [sample_of(joined, label, plan.unit, plan.rule) for label in range(len(joined.labels))]
    _check_classes(joined.labels, samples)
    labels = tuple(
        study_label(
            sample,
            joined.labels[label],
            plan.unit,
            plan.rule,
            [(each.rule, each.thresholds[label]) for each in plan.cut_offs],
            failed_units(joined, label, plan.unit),
            _calibrator(joined, spec, label),
            plan.prevalences,
            plan.subgroups,
            plan.resamples,
            plan.seed,
        )
        for label, sample in enumerate(samples)
    )
    macro = auc_macro(samples, plan.resamples, plan.seed) if len(samples) > 1 else None
    shift = shifts(spec.training, table, spec.labels) if spec else ()
    return Study(_flow(joined, samples[0]), labels, macro, shift, made, notes)


def _check_classes(labels: Sequence[str], samples: Sequence[Sample]) -> None:
    for label, sample in zip(labels, samples, strict=True):
        try:
            auc_delong(sample.truth, sample.score)
        except OneClassError as error:
            raise OneClassError(f"{label}: {error}") from None


def _calibrator(joined: Joined, spec: EnsembleSpec | None, label: int) -> Any:
    if spec is None or not spec.calibrators:
        return None
    return spec.calibrators[spec.labels.index(joined.labels[label])].of


def _flow(joined: Joined, sample: Sample) -> Flow:
    """Count the images of the first label, from found to evaluated."""
    known = joined.truth[:, 0] >= 0
    n_positive, n_negative = failed_units(joined, 0)
    return Flow(
        n_files=joined.n_files,
        failed=joined.failed,
        n_scored=joined.n_scored,
        n_unlabelled=joined.n_scored - int(known.sum()),
        n_labels_without_image=joined.n_labels_without_image,
        n_failed_positive=n_positive,
        n_failed_negative=n_negative,
        n_evaluated=int(known.sum()),
        n_ungradable=int(joined.ungradable[known].sum()),
        n_units=len(sample.truth),
    )
