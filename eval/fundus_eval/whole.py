"""A joined table -> a `Study`: every label's evaluation, the flow of images, and the shift."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.ensemble import CutOff, EnsembleSpec
from fundus_core.tables import Joined, ScoreTable
from fundus_eval.auc import OneClassError
from fundus_eval.origin import label_index
from fundus_eval.shift import shifts
from fundus_eval.study import Flow, LabelStudy, Rule, Sample, Study, Unit
from fundus_eval.studying import auc_macro, study_label
from fundus_eval.units import failed_units, sample_of

Floats = NDArray[np.float64]


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
    labels = tuple(_study_label(joined, spec, plan, label, sample) for label, sample in enumerate(samples))
    macro = auc_macro(samples, plan.resamples, plan.seed) if len(samples) > 1 else None
    shift = shifts(spec.training, table, spec.labels) if spec else ()
    return Study(_flow(joined, samples[0]), labels, macro, shift, made, notes)


def _study_label(
    joined: Joined, spec: EnsembleSpec | None, plan: Plan, label: int, sample: Sample
) -> LabelStudy:
    name = joined.labels[label]
    try:
        return study_label(
            sample,
            name,
            plan.unit,
            plan.rule,
            [(each.rule, each.thresholds[label]) for each in plan.cut_offs],
            failed_units(joined, label, plan.unit),
            _calibrator(name, spec),
            plan.prevalences,
            plan.subgroups,
            plan.resamples,
            plan.seed,
        )
    except OneClassError as error:
        raise OneClassError(f"{name}: {error}") from None


def _calibrator(
    label: str, spec: EnsembleSpec | None
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]] | None:
    if spec is None or not spec.calibrators:
        return None
    return spec.calibrators[label_index(spec, label)].of


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
