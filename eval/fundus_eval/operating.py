"""Operating points: where to cut a score, and what the cut gives."""

from dataclasses import dataclass, replace
from math import inf, nextafter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import UsageError
from fundus_eval.auc import Cluster, OneClassError, Score, Truth
from fundus_eval.intervals import (
    Interval,
    design_effect,
    logit_interval,
    normal_quantile,
    ratio_limits,
    wilson,
)
from fundus_eval.study import NetBenefit


@dataclass(frozen=True, slots=True)
class _Share:
    """How many of `n` images of one class are meant, and the class's design effect."""

    count: float
    n: float
    design_effect: float

    @property
    def rate(self) -> float:
        return self.count / self.n

    @property
    def log_variance(self) -> float:
        """The variance of the rate's logarithm."""
        return self.design_effect * (1 / self.count - 1 / self.n)

    @property
    def is_mixed(self) -> bool:
        """Whether some of the class are meant and others are not: only then has the rate a variance."""
        return 0 < self.count < self.n

    def widened(self, extra: float) -> "_Share":
        """Return the share with `extra` more independent images in it, and as many beside it."""
        count, n = self.count / self.design_effect + extra, self.n / self.design_effect + 2 * extra
        return _Share(count, n, 1.0)


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many decisions at one threshold were true and false positives, true and false negatives.

    Args:
        design_positive: by how much several images of one patient widen the variance of a share of the
            positives (`fundus_eval.intervals.design_effect`); `design_negative`: of the negatives.
    """

    tp: int
    fp: int
    tn: int
    fn: int
    design_positive: float = 1.0
    design_negative: float = 1.0

    @property
    def sensitivity(self) -> Interval | None:
        """Share of the positives that were found; None without positives."""
        return wilson(self.tp, self.tp + self.fn, design_effect=self.design_positive)

    @property
    def specificity(self) -> Interval | None:
        """Share of the negatives that were left alone; None without negatives."""
        return wilson(self.tn, self.tn + self.fp, design_effect=self.design_negative)

    @property
    def lr_positive(self) -> Interval | None:
        """By what a positive decision multiplies the odds of the disease; infinite without a false one.

        None where a class is absent, or no image was decided positive.
        """
        return _likelihood_ratio(self._positive(self.tp), self._negative(self.fp))

    @property
    def lr_negative(self) -> Interval | None:
        """By what a negative decision multiplies the odds of the disease; likewise."""
        return _likelihood_ratio(self._positive(self.fn), self._negative(self.tn))

    def ppv(self, prevalence: float) -> Interval | None:
        """Return the share of positive decisions that are right where `prevalence` (0-1) have the disease.

        None where a class is absent, or no image was decided positive.
        """
        odds = prevalence / (1 - prevalence)
        return _predictive_value(self._positive(self.tp), self._negative(self.fp), odds)

    def npv(self, prevalence: float) -> Interval | None:
        """Return the share of negative decisions that are right, likewise."""
        odds = (1 - prevalence) / prevalence
        return _predictive_value(self._negative(self.tn), self._positive(self.fn), odds)

    def with_failures(self, n_positive: int, n_negative: int) -> "Confusion":
        """Return the same with that many more images of each class, all of them decided wrongly."""
        return replace(self, fn=self.fn + n_positive, fp=self.fp + n_negative)

    def _positive(self, count: int) -> _Share:
        return _Share(count, self.tp + self.fn, self.design_positive)

    def _negative(self, count: int) -> _Share:
        return _Share(count, self.tn + self.fp, self.design_negative)


def confusion(truth: Truth, score: Score, threshold: float, cluster: Cluster | None = None) -> Confusion:
    """Count decisions (N,); a score from `threshold` upwards is positive.

    Args:
        truth: (N,) 1 positive, 0 negative.
        score: (N,) higher means more likely positive.
        threshold: of the score.
        cluster: (N,) images of one number are of one patient; None where all are independent.
    """
    positive, decided = truth == 1, score >= threshold
    classes = [
        (decided[chosen], None if cluster is None else cluster[chosen]) for chosen in (positive, ~positive)
    ]
    return Confusion(
        tp=int((positive & decided).sum()),
        fp=int((~positive & decided).sum()),
        tn=int((~positive & ~decided).sum()),
        fn=int((positive & ~decided).sum()),
        design_positive=design_effect(*classes[0]),
        design_negative=design_effect(*classes[1]),
    )


def youden_threshold(truth: Truth, score: Score) -> float:
    """Return the threshold that maximises sensitivity + specificity - 1 (Youden, Cancer 1950).

    It lies midway between two adjacent scores, so that tiny numeric noise flips no decision. Among equally
    good thresholds the lowest is taken: it misses the fewest positives. Where all scores are the same there
    is nothing to separate and that score is returned.

    Args:
        truth: (N,) 1 positive, 0 negative.
        score: (N,) finite, higher means more likely positive.

    Raises:
        OneClassError: all of `truth` is the same, or it is empty.
    """
    values, missed, spared = _cuts(truth, score)
    if len(values) == 1:
        return float(values[0])
    # sensitivity + specificity - 1 in whole numbers, so that ties are exact
    gain = spared * missed[-1] - missed * spared[-1]
    return _between(values, 1 + int(np.argmax(gain[1:-1])))


def sensitivity_threshold(truth: Truth, score: Score, target: float) -> float:
    """Return the highest threshold whose sensitivity is at least `target`, midway between two scores.

    Where only the lowest score reaches it, that score is returned: all images are then positive.

    Args:
        truth: (N,) 1 positive, 0 negative.
        score: (N,) finite, higher means more likely positive.
        target: above 0, at most 1.

    Raises:
        OneClassError: all of `truth` is the same, or it is empty.
        UsageError: `target` is no such share.
    """
    _check_target(target)
    values, missed, _ = _cuts(truth, score)
    n_positive = missed[-1]
    return _between(values, int(np.flatnonzero((n_positive - missed) / n_positive >= target)[-1]))


def specificity_threshold(truth: Truth, score: Score, target: float) -> float:
    """Return the lowest threshold whose specificity is at least `target`, midway between two scores.

    Where no score reaches it, it lies just above the highest: all images are then negative.

    Arguments and errors are those of `sensitivity_threshold`.
    """
    _check_target(target)
    values, _, spared = _cuts(truth, score)
    return _between(values, int(np.argmax(spared / spared[-1] >= target)))


def net_benefit(truth: Truth, probability: Score, thresholds: NDArray[np.float64]) -> NetBenefit:
    """Return the decision curve (Vickers and Elkin, Med. Decis. Making 2006).

    Args:
        truth: (N,) 1 positive, 0 negative.
        probability: (N,) 0-1.
        thresholds: (G,) from 0 to below 1: from which probability on somebody would treat.
    """
    n, odds = len(truth), thresholds / (1 - thresholds)
    found, wrong = (_n_from(probability[truth == value], thresholds) for value in (1, 0))
    prevalence = float((truth == 1).mean())
    curves = thresholds, (found - wrong * odds) / n, prevalence - (1 - prevalence) * odds
    return NetBenefit(*(tuple(curve.tolist()) for curve in curves))


def _n_from(values: Score, thresholds: NDArray[np.float64]) -> NDArray[np.integer[Any]]:
    """Return how many of `values` reach each threshold (G,)."""
    return len(values) - np.searchsorted(np.sort(values), thresholds, "left")


def _cuts(truth: Truth, score: Score) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Return the distinct scores (T,), and how many positives and negatives are below each (T + 1,).

    The last counts are those below a threshold above all scores: of each class as a whole.
    """
    values, level = np.unique(np.asarray(score, dtype=np.float64), return_inverse=True)
    if not (truth == 1).any() or not (truth == 0).any():
        raise OneClassError("A threshold needs images of both classes to be chosen on. Add the missing one.")
    counts = (np.bincount(level[truth == value], minlength=len(values)) for value in (1, 0))
    missed, spared = (np.append(0, np.cumsum(each)) for each in counts)
    return values, missed, spared


def _between(values: NDArray[np.float64], cut: int) -> float:
    """Return a threshold (0-T) between `values[cut - 1]` and `values[cut]`, which is positive."""
    if cut == 0:
        return float(values[0])
    if cut == len(values):
        return nextafter(float(values[-1]), inf)
    below, above = float(values[cut - 1]), float(values[cut])
    middle = below + (above - below) / 2
    return middle if middle > below else above


def _check_target(target: float) -> None:
    if not 0 < target <= 1:
        raise UsageError(f"A target of {target:g} cannot be reached. Write a share such as 0.9.")


def _likelihood_ratio(positive: _Share, negative: _Share, confidence: float = 0.95) -> Interval | None:
    """Return the ratio of two rates with its interval (Simel et al., J. Clin. Epidemiol. 1991).

    Where one is 0 or 1 the limits are those with half an image more in each cell, widened to hold the ratio.
    """
    if not positive.n or not negative.n or not positive.count + negative.count:
        return None
    value = positive.rate / negative.rate if negative.count else inf
    if not (positive.is_mixed and negative.is_mixed):
        positive, negative = positive.widened(0.5), negative.widened(0.5)
    log_variance = positive.log_variance + negative.log_variance
    low, high = ratio_limits(positive.rate / negative.rate, log_variance, confidence)
    return Interval(value, min(low, value), max(high, value))


def _predictive_value(right: _Share, wrong: _Share, odds: float, confidence: float = 0.95) -> Interval | None:
    """Return how often a decision is right, with the logit limits of Mercaldo et al. (Stat. Med. 2007).

    Where a rate is 0 or 1 the limits are their adjusted ones, widened to hold the value.

    Args:
        right: of the class that the decision is right about, how many got it.
        wrong: of the other class, how many got it.
        odds: of the first class against the other.
        confidence: the interval's nominal coverage.
    """
    if not right.n or not wrong.n or not right.count + wrong.count:
        return None
    value = right.rate * odds / (right.rate * odds + wrong.rate)
    if not (right.is_mixed and wrong.is_mixed):
        half = normal_quantile(confidence) ** 2 / 2
        right, wrong = right.widened(half), wrong.widened(half)
    centre = right.rate * odds / (right.rate * odds + wrong.rate)
    low, high = logit_interval(centre, right.log_variance + wrong.log_variance, confidence)
    return Interval(value, min(low, value), max(high, value))
