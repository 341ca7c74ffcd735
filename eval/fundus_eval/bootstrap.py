"""Resamples of patients, and the intervals that they give (Efron and Tibshirani, 1993)."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fundus_eval.auc import Cluster, Truth
from fundus_eval.intervals import Interval

RESAMPLES = 2000
_BLOCK = 2**17  # weights at a time: the arrays that are made of them stay in a processor's cache


def resample_counts(
    truths: Sequence[Truth], clusters: Sequence[Cluster], resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[tuple[NDArray[np.float64], ...]]:
    """Yield, in blocks of B resamples, how often each image of each sample counts: (B, N) a sample.

    Whole clusters are drawn with replacement, as many as there are, and for all samples the same ones: what
    they measure can be compared and averaged. A resample in which one sample lacks a class is drawn again.

    Args:
        truths: of each sample, (N,) 1 positive, 0 negative; N may differ.
        clusters: of each sample, (N,) images of one number are of one patient, in all samples.
        resamples: how many in all blocks together.
        seed: the same one draws the same resamples.
    """
    names, flat = np.unique(np.concatenate(clusters), return_inverse=True)
    ends = np.cumsum([len(cluster) for cluster in clusters])[:-1]
    groups = np.split(flat, ends)
    rng, n_clusters = np.random.default_rng(seed), len(names)
    while resamples > 0:
        n_drawn = max(1, min(resamples, _BLOCK // max(n_clusters, len(flat))))
        counts = _draw(rng, n_drawn, n_clusters)
        weights = [np.take(counts, group, axis=1) for group in groups]
        pairs = zip(truths, weights, strict=True)
        usable = np.logical_and.reduce([_both_classes(truth, each) for truth, each in pairs])
        if usable.any():
            yield tuple(weights if usable.all() else [each[usable] for each in weights])
        resamples -= int(usable.sum())


def percentile_limits(
    value: NDArray[np.float64], draws: NDArray[np.float64], confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the percentile limits (...) of resampled values (R, ...), wide enough to hold `value` (...)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, (tail, 1 - tail), axis=0)
    return np.minimum(low, value), np.maximum(high, value)


def percentile_interval(
    value: NDArray[np.float64], draws: NDArray[np.float64], confidence: float = 0.95
) -> Interval:
    """Return the same for one value (), resampled R times (R,); a point where all resamples agree."""
    low, high = percentile_limits(value, draws, confidence)
    return Interval(float(value), float(low), float(high))


def _draw(rng: np.random.Generator, n_drawn: int, n_clusters: int) -> NDArray[np.float64]:
    """Return how often each cluster (C,) is in each resample: (n_drawn, C)."""
    drawn = rng.integers(0, n_clusters, (n_drawn, n_clusters))
    drawn += np.arange(n_drawn)[:, None] * n_clusters
    counts = np.bincount(drawn.ravel(), minlength=n_drawn * n_clusters)
    return counts.reshape(n_drawn, n_clusters).astype(np.float64)


def _both_classes(truth: Truth, weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    n_positive, n_all = weights @ truth.astype(np.float64), weights.sum(axis=1)
    return np.asarray((n_positive > 0) & (n_positive < n_all))
