"""Fewer folds for the same decision: they are asked in order, until the rest can hardly change it.

Letters in shapes: N images, F folds, J of them asked, K labels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.calibrator import logit
from fundus_core.errors import BundleError

Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Adaptive:
    """When a bundle's folds may stop, and what that gave on photographs that did not fix it.

    Args:
        margin: how far, in logits of one fold, the mean must be from each threshold (`is_decided`).
        n: photographs that were judged, of `n_patients`.
        folds_per_image: how many folds were asked on average.
        changed: share of the patients with a decision that all folds together change, of any label and
            image; `changed_high`: its upper 95 % limit.
        auc_difference: (K, 3) the AUC minus that of all folds, with its paired 95 % limits; nothing for a
            label of which all photographs are of one class.
    """

    margin: float
    n: int
    n_patients: int
    folds_per_image: float
    changed: float
    changed_high: float
    auc_difference: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Stopping:
    """What a server needs to stop: the margin, the thresholds (K,), and how many folds there are."""

    margin: float
    thresholds: tuple[float, ...]
    n_folds: int

    def __post_init__(self) -> None:
        if not self.margin > 0 or not self.n_folds > 1:
            raise BundleError(f"To stop early takes folds and a margin: got {self.n_folds}, {self.margin:g}.")

    def is_decided(self, asked: Numbers) -> NDArray[np.bool_]:
        """Return for each image whether the folds that were not asked can hardly change a decision (N,).

        The mean of J of F folds misses the mean of all by sqrt((F - J) / (J (F - 1))) times the standard
        deviation of a fold: drawn without replacement (Cochran, Sampling Techniques, 1977, 2.2). The margin
        stands for a few of these deviations. With several labels all must be decided.

        Args:
            asked: (N, J, K) probabilities of the first J folds.
        """
        n_asked, n_folds = asked.shape[1], self.n_folds
        if n_asked == n_folds:
            return np.ones(len(asked), bool)
        miss = ((n_folds - n_asked) / (n_asked * (n_folds - 1))) ** 0.5
        distance = np.abs(logit(asked.mean(axis=1)) - logit(np.array(self.thresholds)))  # (N, K)
        return np.asarray((distance > self.margin * miss).all(axis=1))

    def n_asked(self, folds: Numbers) -> NDArray[np.intp]:
        """Return how many folds (N,) would have been asked, from the answers of all (N, F, K)."""
        decided = [self.is_decided(folds[:, :n]) for n in range(1, self.n_folds + 1)]
        return np.asarray(np.argmax(decided, axis=0) + 1)
