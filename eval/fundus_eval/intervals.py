"""An estimate with its confidence limits, and the interval of a share."""

from dataclasses import dataclass
from math import exp, log
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence limits."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def normal_quantile(confidence: float) -> float:
    """Return how many standard errors a two-sided interval reaches to each side."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def two_sided_p(z: float) -> float:
    """Return how often chance alone makes an estimate that many standard errors, or more, from 0."""
    return 2 * NormalDist().cdf(-abs(z))


def wilson(successes: int, n: int, confidence: float = 0.95, design_effect: float = 1.0) -> Interval | None:
    """Return a share with its score interval; None where n is 0.

    Clustered units count as n / design_effect independent ones (Rao and Scott, Biometrics 1992; Korn and
    Graubard, Surv. Methodol. 1998).
    """
    return score_interval(successes / n, n / design_effect, confidence) if n else None


def score_interval(share: float, n: float, confidence: float = 0.95) -> Interval:
    """Return a share of n independent units with its score interval (Wilson, J. Am. Stat. Assoc. 1927)."""
    z2 = normal_quantile(confidence) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    margin = (z2 * (share * (1 - share) + z2 / (4 * n)) / n) ** 0.5 / (1 + z2 / n)
    return Interval(share, max(0.0, min(share, centre - margin)), min(1.0, max(share, centre + margin)))


def logit_interval(share: float, variance: float, confidence: float) -> tuple[float, float]:
    """Return the limits of a share (0-1, neither of both) that are symmetric on the logit scale.

    Args:
        share: the estimate.
        variance: of its logit.
        confidence: the interval's nominal coverage.
    """
    margin = normal_quantile(confidence) * variance**0.5
    odds = share / (1 - share)
    # capped: an odds ratio beyond e^300 is 0 or 1 in any case
    low, high = odds * exp(-min(margin, 300.0)), odds * exp(min(margin, 300.0))
    return low / (1 + low), high / (1 + high)


def ratio_limits(ratio: float, log_variance: float, confidence: float) -> tuple[float, float]:
    """Return the limits of a ratio above 0 that are symmetric on the log scale."""
    margin = normal_quantile(confidence) * log_variance**0.5
    return exp(log(ratio) - margin), exp(log(ratio) + margin)


def design_effect(values: NDArray[Any], cluster: NDArray[np.integer[Any]] | None) -> float:
    """Return by how much clustering widens the variance of a mean or share (Rao and Scott, Biometrics 1992).

    The variance is that of a ratio of cluster totals. Never below 1: fewer than chance alone would have to
    agree within clusters. Where all are equal, or there is one cluster, nothing tells how much units of one
    cluster are alike; they then count as one.

    Args:
        values: (N,) of which the mean is taken; True is 1.
        cluster: (N,) units of one number belong together; None where all units are independent.
    """
    if cluster is None or not len(values):
        return 1.0
    _, group = np.unique(cluster, return_inverse=True)
    size, n, variance = np.bincount(group), len(values), float(values.var())
    if variance == 0 or len(size) == 1:
        return float((size**2).sum()) / n
    residual = np.bincount(group, weights=values - values.mean())
    clustered = len(size) / (len(size) - 1) * float((residual**2).sum()) / n**2
    return max(1.0, clustered * n / variance)
