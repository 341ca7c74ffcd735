"""Whether a probability says how often, and curves that make it say so.

Letters in shapes: N units, B bins, K knots; `...` resamples.
"""

import numpy as np
from numpy.typing import NDArray

from fundus_core.calibrator import logit, sigmoid
from fundus_eval.auc import Cluster, OneClassError, Truth
from fundus_eval.intervals import design_effect, score_interval
from fundus_eval.study import ReliabilityBin

Floats = NDArray[np.float64]

N_BINS = 10
_UNITS_PER_BIN = 10
_TEMPERATURES = (0.01, 100.0)


class Reliability:
    """Units in bins of about equally many, by their probability; sorted once and weighed often.

    Equal probabilities are never parted. Few units give fewer bins, of some 10 units each.

    Args:
        truth: (N,) 1 positive, 0 negative.
        probability: (N,) 0-1.
    """

    def __init__(self, truth: Truth, probability: Floats) -> None:
        n = len(truth)
        n_bins = max(1, min(N_BINS, n // _UNITS_PER_BIN))
        self._order = np.argsort(probability, kind="stable")
        self._truth, self._probability = truth[self._order], probability[self._order]
        wanted = self._probability[np.arange(n_bins) * n // n_bins]
        self._starts = np.unique(np.searchsorted(self._probability, wanted, "left"))  # (B,)

    def bins(self, cluster: Cluster | None = None) -> tuple[ReliabilityBin, ...]:
        """Return the bins (B,), the lowest probability first; intervals are Wilson's, by `cluster` (N,)."""
        stops = [*self._starts[1:], len(self._order)]
        return tuple(self._bin(slice(*ends), cluster) for ends in zip(self._starts, stops, strict=True))

    def ece_by_chance(self, seed: int, draws: int = 100) -> float:
        """Return the mean error over simulated truths of which the probabilities are right.

        Few units in a bin are off by chance, so that the error is above 0 for the best probabilities, too
        (Bröcker and Smith, Weather Forecast. 2007). Units are drawn as independent ones.

        Args:
            seed: the same one draws the same truths.
            draws: how many times.
        """
        rng, n = np.random.default_rng(seed), len(self._order)
        errors = [
            np.add.reduceat(self._probability - (rng.random(n) < self._probability), self._starts)
            for _ in range(draws)
        ]
        return float(np.abs(errors).sum(axis=1).mean()) / n

    def ece(self, weights: Floats | None = None) -> Floats:
        """Return the expected calibration error (...): mean |predicted - observed| over units.

        Args:
            weights: (..., N) how often each unit counts; once without it.
        """
        ordered = np.ones(len(self._order)) if weights is None else np.take(weights, self._order, axis=-1)
        apart = np.add.reduceat(ordered * (self._probability - self._truth), self._starts, axis=-1)
        return np.asarray(np.abs(apart).sum(axis=-1) / ordered.sum(axis=-1))

    def brier_parts(self) -> tuple[float, float, float]:
        """Return reliability, resolution and uncertainty (Murphy, J. Appl. Meteorol. 1973)."""
        size = np.diff(np.append(self._starts, len(self._order)))
        predicted, observed = (
            np.add.reduceat(values.astype(np.float64), self._starts) / size
            for values in (self._probability, self._truth)
        )
        share, prevalence = size / size.sum(), float(self._truth.mean())
        reliability = float((share * (predicted - observed) ** 2).sum())
        resolution = float((share * (observed - prevalence) ** 2).sum())
        return reliability, resolution, prevalence * (1 - prevalence)

    def _bin(self, chosen: slice, cluster: Cluster | None) -> ReliabilityBin:
        truth, own = self._truth[chosen], None if cluster is None else cluster[self._order[chosen]]
        observed = score_interval(float(truth.mean()), len(truth) / design_effect(truth == 1, own))
        return ReliabilityBin(len(truth), float(self._probability[chosen].mean()), observed)


def brier(truth: Truth, probability: Floats, weights: Floats | None = None) -> Floats:
    """Return the mean squared error (...) of units that count `weights` (..., N) times (Brier 1950)."""
    errors = (probability - truth) ** 2
    if weights is None:
        return np.asarray(errors.mean())
    return np.asarray(weights @ errors / weights.sum(axis=-1))


def fit_temperature(truth: Truth, probability: Floats) -> float:
    """Return the temperature by which logits are divided for the best likelihood (Guo et al., ICML 2017).

    Between 0.01 and 100: perfect separation has none that is best, nor have scores that point the wrong way.

    Args:
        truth: (N,) 1 positive, 0 negative.
        probability: (N,) 0-1.

    Raises:
        OneClassError: all of `truth` is the same, or it is empty.
    """
    _check_classes(truth)
    logits, (low, high) = logit(probability), np.log(_TEMPERATURES)
    for _ in range(60):  # halves the range of log(temperature) down to rounding
        middle = (low + high) / 2
        # of the likelihood, by 1 / temperature
        slope = float(logits @ (truth - sigmoid(logits / np.exp(middle))))
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp((low + high) / 2))


def fit_isotonic(truth: Truth, score: Floats) -> tuple[Floats, Floats]:
    """Return the knots of the best rising curve: scores (K,) and probabilities (K,), linear between.

    By pooling adjacent violators (Ayer et al., Ann. Math. Stat. 1955); beyond the ends the curve is level.

    Args:
        truth: (N,) 1 positive, 0 negative.
        score: (N,) finite, higher means more likely positive.

    Raises:
        OneClassError: all of `truth` is the same, or it is empty.
    """
    _check_classes(truth)
    values, level = np.unique(score, return_inverse=True)
    sizes, sums = np.bincount(level), np.bincount(level, weights=truth)
    pooled: list[tuple[float, int, int]] = []  # sum, size, how many distinct scores
    for total, size in zip(sums.tolist(), sizes.tolist(), strict=True):
        width = 1
        while pooled and pooled[-1][0] * size >= total * pooled[-1][1]:
            before = pooled.pop()
            total, size, width = total + before[0], size + before[1], width + before[2]
        pooled.append((total, size, width))
    stops = np.cumsum([width for *_, width in pooled])
    starts = np.append(0, stops[:-1])
    share = np.array([total / size for total, size, _ in pooled])
    knots = np.stack([starts, stops - 1], axis=1).ravel()
    kept = np.append(True, knots[1:] != knots[:-1])  # a block of one score has one knot
    return values[knots[kept]].astype(np.float64), np.repeat(share, 2)[kept]


def _check_classes(truth: Truth) -> None:
    if not (truth == 1).any() or not (truth == 0).any():
        raise OneClassError("A calibrator needs units of both classes to be fitted to. Add the missing one.")
