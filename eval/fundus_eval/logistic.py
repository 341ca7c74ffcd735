"""Logistic recalibration: how the logits of probabilities would have to be changed to fit the truth.

Letters in shapes: N units, P parameters, C clusters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundus_core.calibrator import logit, sigmoid
from fundus_eval.auc import Cluster, Truth
from fundus_eval.intervals import Interval, normal_quantile

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recalibration:
    """How logits would have to be changed (Cox, Biometrika 1958); None where no finite value fits best.

    Args:
        intercept: calibration in the large, with the slope fixed at 1; 0 is perfect.
        slope: of the fit with an intercept of its own; 1 is perfect, below it scores are too extreme.
    """

    intercept: Interval | None
    slope: Interval | None


def recalibrate(
    truth: Truth, probability: Floats, cluster: Cluster | None = None, confidence: float = 0.95
) -> Recalibration:
    """Fit truth to the logit of probabilities by logistic regression.

    Intervals are Wald's; with `cluster` from the sandwich variance of clusters (Liang and Zeger, Biometrika
    1986), times C / (C - 1) of C clusters. The slope is None with perfect separation. Both are None where a
    probability is 0 or 1: its logit is infinite, and where that is clipped would decide the slope.

    Args:
        truth: (N,) 1 positive, 0 negative, both there.
        probability: (N,) 0-1.
        cluster: (N,) units of one number are of one patient; None where all are independent.
        confidence: the intervals' nominal coverage.
    """
    if not ((probability > 0) & (probability < 1)).all():
        return Recalibration(None, None)
    logits, ones = logit(probability), np.ones((len(truth), 1))
    intercept = _fit(ones, truth, logits, cluster, confidence)
    design = np.hstack([logits[:, None], ones])
    slope = _fit(design, truth, np.zeros_like(logits), cluster, confidence)
    return Recalibration(intercept, slope)


def _fit(
    design: Floats, truth: Truth, offset: Floats, cluster: Cluster | None, confidence: float
) -> Interval | None:
    """Return the first coefficient of a logistic regression, by Newton's method with halved steps.

    None where the steps never end, as the likelihood of separated classes has no maximum (Albert and
    Anderson, Biometrika 1984), or where the columns are one.

    Args:
        design: (N, P).
        truth: (N,).
        offset: (N,) added to what the coefficients give.
        cluster: (N,), or None.
        confidence: the interval's nominal coverage.
    """
    beta = np.zeros(design.shape[1])
    for _ in range(50):
        fitted = sigmoid(offset + design @ beta)
        information = design.T @ (design * (fitted * (1 - fitted))[:, None])
        if not np.linalg.cond(information) < 1e14:
            return None
        scores = design * (truth - fitted)[:, None]
        step = np.linalg.solve(information, scores.sum(axis=0))
        if np.abs(step).max() < 1e-9:
            covariance = _covariance(scores, information, cluster)
            return None if covariance is None else _wald(beta[0], covariance[0, 0], confidence)
        beta = beta + step * _shortening(design, truth, offset, beta, step)
    return None


def _shortening(design: Floats, truth: Truth, offset: Floats, beta: Floats, step: Floats) -> float:
    """Return by what to multiply a step so that the likelihood does not fall."""
    start = _log_likelihood(offset + design @ beta, truth)
    factor = 1.0
    while _log_likelihood(offset + design @ (beta + factor * step), truth) < start - 1e-9 * abs(start):
        factor /= 2
    return factor


def _covariance(scores: Floats, information: Floats, cluster: Cluster | None) -> Floats | None:
    """Return the covariance (P, P) of the coefficients; None where there is one cluster only.

    Args:
        scores: (N, P) each unit's part of the likelihood's gradient.
        information: (P, P).
        cluster: (N,), or None.
    """
    inverse = np.linalg.inv(information)
    if cluster is None:
        return np.asarray(inverse)
    _, group = np.unique(cluster, return_inverse=True)
    sums = np.stack([np.bincount(group, weights=column) for column in scores.T], axis=1)  # (C, P)
    if len(sums) < 2:
        return None
    return np.asarray(inverse @ (sums.T @ sums) @ inverse * len(sums) / (len(sums) - 1))


def _wald(value: float, variance: float, confidence: float) -> Interval:
    margin = normal_quantile(confidence) * float(variance) ** 0.5
    return Interval(float(value), float(value) - margin, float(value) + margin)


def _log_likelihood(logits: Floats, truth: Truth) -> float:
    return float((truth * logits - np.logaddexp(0, logits)).sum())
