"""The area under the ROC curve, with an interval, and the difference of two."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import UsageError
from fundus_eval.intervals import Interval, logit_interval, normal_quantile, two_sided_p

Truth = NDArray[np.integer[Any]]
Score = NDArray[np.floating[Any]]
Cluster = NDArray[np.integer[Any]]

_ROUNDING = 1e-13  # of a placement: what is less is 0
_FEW_PAIRS = {
    True: "Clopper and Pearson 1934, on pairs that share no unit: the classes are perfectly separated",
    False: "Markov's inequality, on pairs that share no unit: the scores or patients tell no variance",
}


class OneClassError(UsageError):
    """An AUC was asked for where all images are positive, all negative, or none is there."""


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The AUC of one score minus that of another on the same images, and whether it may be chance.

    Args:
        difference: with its interval.
        z: the difference in standard errors; `p_value`: two-sided.
    """

    difference: Interval
    z: float
    p_value: float


def auc_delong(
    truth: Truth, score: Score, confidence: float = 0.95, cluster: Cluster | None = None
) -> Interval:
    """Return `auc_and_method` without the method."""
    return auc_and_method(truth, score, confidence, cluster)[0]


def auc_and_method(
    truth: Truth, score: Score, confidence: float = 0.95, cluster: Cluster | None = None
) -> tuple[Interval, str]:
    """Return the AUC with DeLong's interval, in O(n log n), and how that was made; a tie counts one half.

    The variance is DeLong's (DeLong et al., Biometrics 1988), with `cluster` Obuchowski's for clustered data
    (Biometrics 1997). Where its limits would leave 0-1 they are taken on the logit scale (Pepe, The
    Statistical Evaluation of Medical Tests, 2003, 5.2; Qin and Hotilovac, Stat. Methods Med. Res. 2008).
    Where the variance is 0 (perfect separation, for one) or unknown (a class in one image or one cluster)
    the interval is the one of `_few_pairs_interval` instead.

    Args:
        truth: (N,) 1 positive, 0 negative.
        score: (N,) higher means more likely positive.
        confidence: the interval's nominal coverage.
        cluster: (N,) images of one number are of one patient; None where all are independent.

    Raises:
        OneClassError: all of `truth` is the same, or it is empty.
        UsageError: a score is NaN.
    """
    placed = _placements(truth, score)
    auc = float(placed[0].mean())
    variance, n_pairs = _variance(truth, placed, auc, cluster)
    if variance is None:
        return _few_pairs_interval(auc, n_pairs, confidence), _FEW_PAIRS[auc in (0, 1)]
    method = "DeLong et al. 1988" if cluster is None else "Obuchowski 1997, clustered by patient"
    margin = normal_quantile(confidence) * variance**0.5
    if auc - margin >= 0 and auc + margin <= 1:
        return Interval(auc, auc - margin, auc + margin), method
    limits = logit_interval(auc, variance / (auc * (1 - auc)) ** 2, confidence)
    return Interval(auc, *limits), f"{method}, on the logit scale: the limits would leave 0-1"


def auc_or_none(truth: Truth, score: Score, cluster: Cluster | None = None) -> Interval | None:
    """Return `auc_delong`, or None where a class is missing."""
    try:
        return auc_delong(truth, score, cluster=cluster)
    except OneClassError:
        return None


def delong_test(
    truth: Truth, first: Score, second: Score, confidence: float = 0.95, cluster: Cluster | None = None
) -> PairedTest:
    """Test the AUC of `second` minus that of `first` on the same images, by DeLong's paired method.

    What the two scores have in common cancels (DeLong et al., Biometrics 1988; with `cluster` Obuchowski,
    Biometrics 1997). Where they rank all pairs alike the interval is [0, 0]. Where they don't and the
    variance is 0 or unknown, interval and p-value are those of `_few_pairs_interval`, z is the p-value's.

    Args:
        truth: (N,) 1 positive, 0 negative.
        first: (N,) higher means more likely positive.
        second: (N,) likewise.
        confidence: the interval's nominal coverage.
        cluster: (N,) images of one number are of one patient; None where all are independent.

    Raises:
        OneClassError: all of `truth` is the same, or it is empty.
        UsageError: a score is NaN.
    """
    before, after = _placements(truth, first), _placements(truth, second)
    placed = after[0] - before[0], after[1] - before[1]
    if not (placed[0].any() or placed[1].any()):
        return PairedTest(Interval(0.0, 0.0, 0.0), 0.0, 1.0)
    change = float(placed[0].mean())
    variance, n_pairs = _variance(truth, placed, change, cluster)
    if variance is None:
        return _few_pairs_test(change, n_pairs, confidence)
    margin, z = normal_quantile(confidence) * variance**0.5, change / variance**0.5
    difference = Interval(change, max(-1.0, change - margin), min(1.0, change + margin))
    return PairedTest(difference, z, two_sided_p(z))


def _placements(truth: Truth, score: Score) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of negatives below each positive (P,), and of positives above each negative (Q,)."""
    _check(truth, score)
    positive, negative = score[truth == 1], score[truth == 0]
    return _share_below(positive, negative), 1 - _share_below(negative, positive)


def _share_below(values: Score, others: Score) -> NDArray[np.float64]:
    """Return the share of `others` (M,) that is below each of `values` (N,); an equal one counts half."""
    order, others = np.argsort(values), np.sort(others)
    ordered = values[order]  # searched in order, so that memory is read in order
    below = np.searchsorted(others, ordered, "left") + np.searchsorted(others, ordered, "right")
    share = np.empty(len(values))
    share[order] = below / (2 * len(others))
    return share


def _variance(
    truth: Truth,
    placed: tuple[NDArray[np.float64], NDArray[np.float64]],
    mean: float,
    cluster: Cluster | None,
) -> tuple[float | None, int]:
    """Return the variance of `mean`, None where it is 0 or unknown, and how many independent pairs there are.

    Args:
        truth: (N,).
        placed: of positives (P,) and negatives (Q,); both have the mean `mean`.
        mean: of the placements.
        cluster: (N,), or None.
    """
    positive, negative = placed
    if cluster is None:
        n_pairs = min(len(positive), len(negative))
        variance = _mean_variance(positive) + _mean_variance(negative) if n_pairs > 1 else 0.0
        return variance or None, n_pairs
    _, group = np.unique(cluster, return_inverse=True)
    parts = [
        _cluster_parts(group, truth == value, each, mean) for value, each in ((1, positive), (0, negative))
    ]
    (of_positive, n_positive), (of_negative, n_negative) = parts
    n = len(of_positive)
    n_pairs = min(n_positive, n_negative, n // 2)
    if min(n_positive, n_negative) < 2:
        return None, n_pairs
    apart = _spread(n_positive) * (of_positive**2).sum() + _spread(n_negative) * (of_negative**2).sum()
    variance = float(apart + 2 * _spread(n) * (of_positive * of_negative).sum())
    return variance if variance > _ROUNDING * apart else None, n_pairs


def _cluster_parts(
    group: NDArray[np.integer[Any]], chosen: NDArray[np.bool_], placed: NDArray[np.float64], mean: float
) -> tuple[NDArray[np.float64], int]:
    """Return what each cluster (C,) adds to the mean of a class, and how many clusters hold the class."""
    own, n_clusters = group[chosen], int(group.max()) + 1
    size = np.bincount(own, minlength=n_clusters)
    residual = np.bincount(own, weights=placed, minlength=n_clusters) - size * mean
    residual[np.abs(residual) < _ROUNDING * size] = 0
    return residual / len(placed), int((size > 0).sum())


def _spread(n: int) -> float:
    return n / (n - 1)


def _mean_variance(placements: NDArray[np.float64]) -> float:
    """Return the variance of the mean of independent placements."""
    variance = float(placements.var(ddof=1))
    return variance / len(placements) if variance > _ROUNDING**2 else 0.0


def _few_pairs_interval(auc: float, n_pairs: int, confidence: float) -> Interval:
    """Return what `n_pairs` disjoint pairs that all gave `auc` allow, without a variance.

    A pair's placement lies in 0-1 and its mean is the true AUC. By Markov's inequality a placement of at
    least `auc` has probability true / auc or less; that all pairs have one, (true / auc) ** n_pairs. So the
    true AUC is at least auc * tail ** (1 / n_pairs), and likewise from above. For perfect separation this is
    the exact interval of Clopper and Pearson (Biometrika 1934) for n_pairs successes. Without a pair of
    independent images it is [0, 1].
    """
    shrink = ((1 - confidence) / 2) ** (1 / n_pairs) if n_pairs else 0.0
    return Interval(auc, auc * shrink, 1 - (1 - auc) * shrink)


def _few_pairs_test(change: float, n_pairs: int, confidence: float) -> PairedTest:
    """Return the same for a difference, as the share (1 + change) / 2 whose value by chance is 1/2."""
    share = _few_pairs_interval((1 + change) / 2, n_pairs, confidence)
    difference = Interval(change, 2 * share.low - 1, 2 * share.high - 1)
    p_value = min(1.0, 2 * (1 / (1 + abs(change))) ** n_pairs)
    z = float(np.copysign(NormalDist().inv_cdf(max(p_value, 1e-300) / 2), change))
    return PairedTest(difference, z, p_value)


def _check(truth: Truth, score: Score) -> None:
    if truth.ndim != 1 or truth.shape != score.shape:
        raise ValueError(f"expected truth and score of one shape (N,), got {truth.shape} and {score.shape}")
    n, n_positive = len(truth), int((truth == 1).sum())
    if n_positive + int((truth == 0).sum()) < n:
        raise ValueError("truth holds something besides 0 and 1; leave images without a label out")
    if np.isnan(score).any():
        raise UsageError("A score is NaN. Give every image a score, or leave it out.")
    if n == 0:
        raise OneClassError("No image has both a score and a label. The AUC needs positives and negatives.")
    if n_positive in (0, n):
        there, missing = ("positive", "negative") if n_positive else ("negative", "positive")
        raise OneClassError(f"All {n} images are {there}. Add {missing} images: the AUC needs both.")
