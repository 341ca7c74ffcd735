"""Are new photographs like those of the training? If not, an AUC of the training may not hold for them."""

from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.ensemble import Distribution
from fundus_core.quality import MEASURES
from fundus_core.tables import ScoreTable
from fundus_eval.study import Shift

N_BINS = 10
LARGE = 0.25  # the usual rule of thumb (Siddiqi, Credit Risk Scorecards, 2006)
CHANCE = 0.01  # how often images like those of the training may exceed the limit
SCORE = "score:"
Values = NDArray[np.floating[Any]]


def distributions(scores: ScoreTable, labels: Sequence[str]) -> tuple[Distribution, ...]:
    """Return how scores and measures of quality are distributed, of those that are known for an image."""
    return tuple(_distribution(name, values) for name, values in _measured(scores, labels))


def shifts(training: Sequence[Distribution], scores: ScoreTable, labels: Sequence[str]) -> tuple[Shift, ...]:
    """Compare new images with those of the training, in each measure that is known of both."""
    new = dict(_measured(scores, labels))
    return tuple(_shift(each, new[each.measure]) for each in training if each.measure in new)


def shift_warnings(found: Sequence[Shift]) -> Iterator[str]:
    """Yield a sentence where the images are others than those of the training."""
    shifted = [
        f"{each.measure} (median {each.median:.3g}, there {each.training_median:.3g}; PSI {each.psi:.2f})"
        for each in found
        if each.shifted
    ]
    if shifted:
        yield (
            f"These photographs differ from those of the training in {', '.join(shifted)}. "
            "Figures that were measured on others may not hold here: "
            "measure on labelled photographs like these."
        )


def _measured(scores: ScoreTable, labels: Sequence[str]) -> Iterator[tuple[str, Values]]:
    """Yield the name and the known values of each measure, where there are any."""
    for column, label in enumerate(labels if scores.scored.any() else ()):
        yield SCORE + label, scores.probability[scores.scored, column]
    for column, name in enumerate(MEASURES if scores.quality is not None else ()):
        values = scores.quality[:, column]  # type: ignore[index]
        if (known := values[~np.isnan(values)]).size:
            yield name, known


def _distribution(measure: str, values: Values) -> Distribution:
    inner = np.quantile(values, np.arange(1, N_BINS) / N_BINS)
    edges = tuple(np.unique(inner).tolist())
    shares = tuple((_counts(values, edges) / len(values)).tolist())
    return Distribution(measure, len(values), float(np.median(values)), edges, shares)


def _counts(values: Values, edges: Sequence[float]) -> NDArray[np.intp]:
    """Return how many values are in each bin (B,); one on an edge is in the bin above."""
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)


def _shift(training: Distribution, values: Values) -> Shift:
    """Return the population stability index, and what chance alone may make of it.

    Without a shift it is about chi-square with B - 1 degrees of freedom times 1/n + 1/m (Yurdakul and
    Naranjo, J. Risk Model Valid. 2020). An empty bin counts as half an image.
    """
    expected = np.maximum(np.array(training.shares), 0.5 / training.n)
    observed = np.maximum(_counts(values, training.edges), 0.5) / len(values)
    psi = float(((observed - expected) * np.log(observed / expected)).sum())
    chance = _chi_square_limit(len(training.edges)) * (1 / training.n + 1 / len(values))
    return Shift(training.measure, psi, max(LARGE, chance), training.median, float(np.median(values)))


def _chi_square_limit(freedom: int) -> float:
    """Return the quantile that CHANCE exceeds (Wilson and Hilferty, PNAS 1931)."""
    if freedom == 0:
        return 0.0
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + NormalDist().inv_cdf(1 - CHANCE) * spread**0.5) ** 3)
