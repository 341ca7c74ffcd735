"""Pseudo-labelling: what the folds are sure of in the pool becomes a label of the next round's training.

The pool is the inner-test images, as in the report, and the images without any label. From the split on,
training works on `blind` cases, in which inner-test labels do not exist; scores are all that reaches
`hard_labels`. (The report adds pseudo-labels to train and validation; here they are only trained on.)

From round 1 on, AUC(inner_test) is transductive: these images were trained on, with labels that the ensemble
made up. AUC(CV) leaks a little too: the folds that make the labels were trained on each other's validation
parts.

Letters in shapes: N real cases, K labels.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.reading import read_labels, read_scores
from fundus_eval.evaluation import Evaluation
from fundus_train.cases import Cases
from fundus_train.folds import TEST
from fundus_train.recipe import PseudoLabels, Recipe
from fundus_train.results import INNER_TEST, UNLABELLED, Fitted, write_table

PSEUDO_LABELS, ROUNDS = "pseudo_labels.csv", "rounds.csv"
ENDS = ("", "_low", "_high")
Part = NDArray[np.int64]
Hard = NDArray[np.int8]  # (N, K) of 0 and 1, -1 where there is no pseudo-label


def blind(cases: Cases, part: Part) -> Cases:
    """Return the cases with the labels of the inner test erased."""
    targets = cases.targets.copy()
    targets[: cases.n_real][part == TEST] = -1
    return replace(cases, targets=targets)


def hard_labels(scores: NDArray[np.floating[Any]], spec: PseudoLabels) -> Hard:
    """Return 1 where a score is at least `spec.positive`, 0 where it is at most `spec.negative`, else -1."""
    return np.select([scores >= spec.positive, scores <= spec.negative], [1, 0], -1).astype(np.int8)


def no_labels(recipe: Recipe, cases: Cases) -> Hard:
    """Return no pseudo-label at all: those of the plain round."""
    return np.full((cases.n_real, len(recipe.labels)), -1, np.int8)


def with_pseudo_labels(blinded: Cases, hard: Hard) -> Cases:
    """Return the cases with the pseudo-labels in place of labels that are not there."""
    targets = blinded.targets.copy()
    real = targets[: blinded.n_real]
    real[hard >= 0] = hard[hard >= 0]
    return replace(blinded, targets=targets)


def training_part(cases: Cases, part: Part, fold: int) -> Part:
    """Return which of the blind cases train the model that validates on `fold`.

    These are the other folds, the phantoms, and the pool's images with a pseudo-label; of the pool, no image
    of a patient who is in `fold`.
    """
    patient, targets = cases.patient[: cases.n_real], cases.targets[: cases.n_real]
    in_fold = np.isin(patient, patient[part == fold])
    from_pool = (part < 0) & (targets >= 0).any(axis=1) & ~in_fold
    chosen = np.flatnonzero((part >= 0) & (part != fold) | from_pool)
    return np.concatenate([chosen, np.arange(cases.n_real, len(cases.image_id))])


def pseudo_labels(run: Path, recipe: Recipe, cases: Cases) -> Hard:
    """Return what the finished round in the folder `run` makes of its scores of the pool."""
    hard = no_labels(recipe, cases)
    row = {image_id: i for i, image_id in enumerate(cases.image_id)}
    for path in (run / INNER_TEST, run / UNLABELLED):
        if path.exists():
            scores = read_scores(path)
            rows = [row[image_id] for image_id in scores.image_id]
            hard[rows] = hard_labels(scores.probability, recipe.pseudo_labels)
    return hard


def write_pseudo_labels(run: Path, recipe: Recipe, cases: Cases, hard: Hard) -> None:
    """Write a round's pseudo_labels.csv: a labels table of the pool's images that have one."""
    given = np.flatnonzero((hard >= 0).any(axis=1))
    rows = ([cases.image_id[i], *("" if value < 0 else value for value in hard[i].tolist())] for i in given)
    write_table(run / PSEUDO_LABELS, ["image_id", *recipe.labels], rows)


def read_pseudo_labels(run: Path, recipe: Recipe, cases: Cases) -> Hard:
    """Return what `write_pseudo_labels` wrote."""
    table = read_labels(run / PSEUDO_LABELS, recipe.labels)
    row = {image_id: i for i, image_id in enumerate(cases.image_id)}
    hard = no_labels(recipe, cases)
    hard[[row[image_id] for image_id in table.image_id]] = table.values
    return hard


def write_rounds(run: Path, rounds: Sequence[Fitted]) -> None:
    """Write rounds.csv: what each round came to, and which one is best."""
    parts = ("cv_auc", "inner_test_auc")
    header = ["round", "n_positive", "n_negative", *(part + end for part in parts for end in ENDS), "best"]
    best = best_round(rounds)
    rows = (
        [
            each.round,
            each.n_positive,
            each.n_negative,
            *_auc_cells(each.cross_validation),
            *_auc_cells(each.inner_test),
            int(each is best),
        ]
        for each in rounds
    )
    write_table(run / ROUNDS, header, rows)


def _auc_cells(evaluation: Evaluation) -> list[str]:
    """Return AUC, low and high; of several labels, their mean AUC without an interval."""
    if len(evaluation.labels) == 1 and (auc := evaluation.labels[0].auc):
        return [f"{value:.6f}" for value in (auc.value, auc.low, auc.high)]
    macro = evaluation.auc_macro
    return ["" if macro is None else f"{macro:.6f}", "", ""]


def best_round(rounds: Sequence[Fitted]) -> Fitted:
    """Return the round with the highest AUC(CV), the first of equals."""
    return max(rounds, key=_auc)


def fell(rounds: Sequence[Fitted]) -> bool:
    """Whether the last round's AUC(CV) is below the best one: it learned its own errors."""
    return _auc(rounds[-1]) < _auc(best_round(rounds))


def _auc(fitted: Fitted) -> float:
    return fitted.cross_validation.auc_macro or 0.0
