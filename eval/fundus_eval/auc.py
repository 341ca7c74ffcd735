"""The area under the ROC curve, with an interval."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import UsageError


class OneClassError(UsageError):
    """An AUC was asked for where all images are positive, all negative, or none is there."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence limits."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc_delong(
    truth: NDArray[np.integer[Any]], score: NDArray[np.floating[Any]], confidence: float = 0.95
) -> Interval:
    """Return the AUC with DeLong's interval, in O(n log n) by midranks; a tie counts one half.

    The interval is DeLong's (DeLong et al., Biometrics 1988; Sun and Xu, IEEE Signal Process. Lett. 2014),
    clipped to 0-1. Where that variance is 0 (perfect separation, for one) or unknown (one image in a class)
    it is the one of `_few_pairs_interval` instead.

    Args:
        truth: (N,) 1 positive, 0 negative.
        score: (N,) higher means more likely positive.
        confidence: the interval's nominal coverage.

    Raises:
        OneClassError: all of `truth` is the same, or it is empty.
        UsageError: a score is NaN.
    """
    _check(truth, score)
    of_positive, of_negative = _placements(score[truth == 1], score[truth == 0])
    auc = float(of_positive.mean())
    tail = (1 - confidence) / 2
    n_pairs = min(len(of_positive), len(of_negative))  # disjoint pairs, so independent ones
    variance = _mean_variance(of_positive) + _mean_variance(of_negative) if n_pairs > 1 else 0.0
    if variance == 0:
        return _few_pairs_interval(auc, n_pairs, tail)
    margin = NormalDist().inv_cdf(1 - tail) * variance**0.5
    return Interval(auc, max(0.0, auc - margin), min(1.0, auc + margin))


def auc_difference(
    truth: NDArray[np.integer[Any]],
    first: NDArray[np.floating[Any]],
    second: NDArray[np.floating[Any]],
    confidence: float = 0.95,
) -> Interval:
    """Return the AUC of `second` minus that of `first` on the same images, with DeLong's paired interval.

    What the two scores have in common cancels (DeLong et al., Biometrics 1988). Where they rank all pairs
    alike the interval is [0, 0]. Images count as independent, also several of one patient.

    Args:
        truth: (N,) 1 positive, 0 negative.
        first: (N,) higher means more likely positive.
        second: (N,) likewise.
        confidence: the interval's nominal coverage.

    Raises:
        OneClassError: all of `truth` is the same, or it is empty.
        UsageError: a score is NaN.
    """
    placed = []
    for score in (first, second):
        _check(truth, score)
        placed.append(_placements(score[truth == 1], score[truth == 0]))
    (positive, negative), (of_positive, of_negative) = placed
    change = float(of_positive.mean() - positive.mean())
    few = min(len(positive), len(negative)) < 2
    variance = 0.0 if few else _mean_variance(of_positive - positive) + _mean_variance(of_negative - negative)
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * variance**0.5
    return Interval(change, max(-1.0, change - margin), min(1.0, change + margin))


def _placements(
    positive: NDArray[np.floating[Any]], negative: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of negatives below each positive (P,), and of positives above each negative (Q,)."""
    rank = _midranks(np.concatenate([positive, negative]))
    n_positive = len(positive)
    of_positive = (rank[:n_positive] - _midranks(positive)) / len(negative)
    of_negative = 1 - (rank[n_positive:] - _midranks(negative)) / n_positive
    return of_positive, of_negative


def _midranks(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return ranks from 1 (N,); tied values share the mean of their ranks."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[group], dtype=np.float64)


def _mean_variance(placements: NDArray[np.float64]) -> float:
    """Return the variance of the mean of independent placements."""
    return float(placements.var(ddof=1)) / len(placements)


def _few_pairs_interval(auc: float, n_pairs: int, tail: float) -> Interval:
    """Return what `n_pairs` disjoint pairs that all gave `auc` allow, without a variance.

    A pair's placement lies in 0-1 and its mean is the true AUC. By Markov's inequality a placement of at
    least `auc` has probability true / auc or less; that all pairs have one, (true / auc) ** n_pairs. So the
    true AUC is at least auc * tail ** (1 / n_pairs), and likewise from above. For perfect separation this is
    the exact interval of Clopper and Pearson (Biometrika 1934) for n_pairs successes.
    """
    shrink = tail ** (1 / n_pairs)
    return Interval(auc, auc * shrink, 1 - (1 - auc) * shrink)


def _check(truth: NDArray[np.integer[Any]], score: NDArray[np.floating[Any]]) -> None:
    if truth.ndim != 1 or truth.shape != score.shape:
        raise ValueError(f"expected truth and score of one shape (N,), got {truth.shape} and {score.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("truth holds something besides 0 and 1; leave images without a label out")
    if np.isnan(score).any():
        raise UsageError("A score is NaN. Give every image a score, or leave it out.")
    n, n_positive = len(truth), int((truth == 1).sum())
    if n == 0:
        raise OneClassError("No image has both a score and a label. The AUC needs positives and negatives.")
    if n_positive in (0, n):
        there, missing = ("positive", "negative") if n_positive else ("negative", "positive")
        raise OneClassError(f"All {n} images are {there}. Add {missing} images: the AUC needs both.")
