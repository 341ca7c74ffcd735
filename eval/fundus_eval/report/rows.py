"""Rows of the tables that differ from study to study."""

from collections.abc import Iterator
from itertools import groupby

from fundus_eval.intervals import Interval
from fundus_eval.report.formats import estimate, share, short_percent
from fundus_eval.study import Decision, LabelStudy, Subgroup


def decision_rows(decision: Decision) -> list[tuple[str, str]]:
    """Return what the decisions at one threshold are worth."""
    rows = [
        ("Sensitivity", share(decision.sensitivity)),
        *_with_failures(decision.sensitivity_all),
        ("Specificity", share(decision.specificity)),
        *_with_failures(decision.specificity_all),
        ("Likelihood ratio of a positive", estimate(decision.lr_positive, 2)),
        ("Likelihood ratio of a negative", estimate(decision.lr_negative, 2)),
    ]
    for at in decision.predictive:
        rows.append((f"PPV where {short_percent(at.prevalence)} have it", share(at.ppv)))
        rows.append((f"NPV where {short_percent(at.prevalence)} have it", share(at.npv)))
    return rows


def _with_failures(interval: Interval | None) -> list[tuple[str, str]]:
    return [("… failed files counted as wrong", share(interval))] if interval else []


def fold_rows(label: LabelStudy) -> list[tuple[str, str]]:
    """Return the AUC of each fold and of the ensemble."""
    folds = [(f"Fold {index}", estimate(auc)) for index, auc in enumerate(label.fold_auc)]
    return [*folds, ("Ensemble", estimate(label.auc))]


def by_column(subgroups: tuple[Subgroup, ...]) -> Iterator[tuple[str, tuple[Subgroup, ...]]]:
    """Group subgroups by their column, in their order."""
    for column, groups in groupby(subgroups, key=lambda group: group.column):
        yield column, tuple(groups)
