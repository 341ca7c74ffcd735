"""How few folds are enough: the margin of `fundus_core.adaptive`, fixed on photographs that no fold has seen.

Letters in shapes: N images, F folds, K labels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundus_core.adaptive import Adaptive, Stopping
from fundus_core.tables import Joined
from fundus_eval.auc import OneClassError, delong_test
from fundus_eval.intervals import score_interval
from fundus_eval.units import patients_of

CHANGED_LIMIT = 0.02  # of the patients, at the upper 95 % limit
MARGINS = tuple(step / 10 for step in range(60, 0, -1))  # from the most careful one
N_PARTS = 5


@dataclass(frozen=True)
class _Answers:
    """What all folds answered to each image, and whose it is."""

    folds: NDArray[np.float64]  # (N, F, K)
    thresholds: tuple[float, ...]  # (K,)
    patient: NDArray[np.int64]  # (N,) 0 to P - 1

    def of(self, chosen: NDArray[np.bool_]) -> "_Answers":
        patient = np.unique(self.patient[chosen], return_inverse=True)[1]
        return _Answers(self.folds[chosen], self.thresholds, patient)

    @property
    def n_patients(self) -> int:
        return int(self.patient.max()) + 1

    def n_asked(self, margin: float) -> NDArray[np.intp]:
        return Stopping(margin, self.thresholds, self.folds.shape[1]).n_asked(self.folds)

    def scores(self, n_asked: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the mean of the first `n_asked` (N,) folds (N, K)."""
        sums = self.folds.cumsum(axis=1)[np.arange(len(n_asked)), n_asked - 1]
        return np.asarray(sums / n_asked[:, None])

    def n_changed(self, n_asked: NDArray[np.intp]) -> int:
        """Return how many patients have a decision that differs from that of all folds."""
        decided, final = (scores >= self.thresholds for scores in (self.scores(n_asked), self.full))
        return len(np.unique(self.patient[(decided != final).any(axis=1)]))

    @property
    def full(self) -> NDArray[np.float64]:
        return self.scores(np.full(len(self.folds), self.folds.shape[1]))


def fit_adaptive(joined: Joined, thresholds: tuple[float, ...]) -> Adaptive | None:
    """Return the smallest margin that changes the decisions of few patients, and what it gives.

    The margins are tried from the most careful one downwards, and the first whose upper limit passes
    `CHANGED_LIMIT` ends the search. So the limit holds for the margin that is chosen, not only for one that
    was fixed beforehand (fixed sequence testing: Angelopoulos et al., Learn then Test, 2021). What it gives
    is told by parts of the patients, each judged with the margin that the other parts chose.

    Args:
        joined: scores of all folds, on photographs that none of them was trained on.
        thresholds: (K,) of the mean.

    Returns:
        None where there is one fold, or too few patients to show that even the most careful margin keeps the
        limit (or too few in the other parts).
    """
    patients = patients_of(joined.table)
    patient = np.arange(len(joined.image_id)) if patients is None else patients[joined.row]
    every = _Answers(joined.fold_probability, thresholds, patient).of(np.full(len(patient), True))
    if every.folds.shape[1] < 2 or (margin := _chosen(every)) is None:
        return None
    if (n_asked := _asked_of_parts(every)) is None:
        return None
    n_changed, n_patients = every.n_changed(n_asked), every.n_patients
    return Adaptive(
        margin=margin,
        n=len(patient),
        n_patients=n_patients,
        folds_per_image=float(n_asked.mean()),
        changed=n_changed / n_patients,
        changed_high=_limit(n_changed, n_patients),
        auc_difference=tuple(_auc_difference(joined, every, n_asked, k) for k in range(len(thresholds))),
    )


def _chosen(answers: _Answers) -> float | None:
    margin = None
    for tried in MARGINS:
        if _limit(answers.n_changed(answers.n_asked(tried)), answers.n_patients) > CHANGED_LIMIT:
            break
        margin = tried
    return margin


def _limit(n_changed: int, n_patients: int) -> float:
    return score_interval(n_changed / n_patients, n_patients).high


def _asked_of_parts(answers: _Answers) -> NDArray[np.intp] | None:
    """Return how many folds each image (N,) is asked, with the margin that other patients chose."""
    part = np.random.default_rng(0).permutation(answers.n_patients)[answers.patient] % N_PARTS
    n_asked = np.zeros(len(part), np.intp)
    for own in range(N_PARTS):
        margin = _chosen(answers.of(part != own))
        if margin is None:
            return None
        n_asked[part == own] = answers.of(part == own).n_asked(margin)
    return n_asked


def _auc_difference(
    joined: Joined, answers: _Answers, n_asked: NDArray[np.intp], label: int
) -> tuple[float, ...]:
    """Return the AUC minus that of all folds with its limits; nothing where a class is missing."""
    known = joined.truth[:, label] >= 0
    full, fewer = (each[known, label] for each in (answers.full, answers.scores(n_asked)))
    try:
        test = delong_test(joined.truth[known, label], full, fewer, cluster=answers.patient[known])
    except OneClassError:
        return ()
    return test.difference.value, test.difference.low, test.difference.high
