"""Operating points: where to cut a score, and what sensitivity and specificity the cut gives."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_eval.auc import Interval, OneClassError


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many decisions at one threshold were true and false positives, true and false negatives."""

    tp: int
    fp: int
    tn: int
    fn: int

    @property
    def sensitivity(self) -> Interval | None:
        """Share of the positives that were found; None without positives."""
        return wilson(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> Interval | None:
        """Share of the negatives that were left alone; None without negatives."""
        return wilson(self.tn, self.tn + self.fp)


def confusion(
    truth: NDArray[np.integer[Any]], score: NDArray[np.floating[Any]], threshold: float
) -> Confusion:
    """Count decisions (N,); a score from `threshold` upwards is positive."""
    positive, decided = truth == 1, score >= threshold
    return Confusion(
        tp=int((positive & decided).sum()),
        fp=int((~positive & decided).sum()),
        tn=int((~positive & ~decided).sum()),
        fn=int((positive & ~decided).sum()),
    )


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval | None:
    """Return a share with its score interval (Wilson, J. Am. Stat. Assoc. 1927); None where n is 0."""
    if n == 0:
        return None
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    margin = (z2 * (share * (1 - share) + z2 / (4 * n)) / n) ** 0.5 / (1 + z2 / n)
    return Interval(share, max(0.0, min(share, centre - margin)), min(1.0, max(share, centre + margin)))


def youden_threshold(truth: NDArray[np.integer[Any]], score: NDArray[np.floating[Any]]) -> float:
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
    values, level = np.unique(np.asarray(score, dtype=np.float64), return_inverse=True)
    n_positive, n_negative = int((truth == 1).sum()), int((truth == 0).sum())
    if not n_positive or not n_negative:
        raise OneClassError("A threshold needs images of both classes to be chosen on. Add the missing one.")
    if len(values) == 1:
        return float(values[0])
    missed = np.cumsum(np.bincount(level[truth == 1], minlength=len(values)))[:-1]
    spared = np.cumsum(np.bincount(level[truth == 0], minlength=len(values)))[:-1]
    # sensitivity + specificity - 1 in whole numbers, so that ties are exact
    best = int(np.argmax(spared * n_positive - missed * n_negative))
    below, above = float(values[best]), float(values[best + 1])
    middle = below + (above - below) / 2
    return middle if middle > below else above
