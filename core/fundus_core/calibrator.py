"""From a score to a calibrated probability: among the images that get 0.3, 3 of 10 should be positive."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import BundleError

CalibrationMethod = Literal["temperature", "isotonic"]
CLOSEST = 1e-7  # to 0 and 1, so that a logit stays finite


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A monotone map, fitted on out-of-fold scores: it turns no pair of scores round; isotonic makes ties.

    Args:
        method: temperature: sigmoid(logit(score) / temperature) (Guo et al., ICML 2017); isotonic: straight
            lines between knots (Zadrozny and Elkan, KDD 2002), constant outside.
        temperature: above 0; of the first method.
        scores: of the knots, increasing; of the second method.
        probabilities: of the knots, never decreasing.
    """

    method: CalibrationMethod
    temperature: float = 1.0
    scores: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        knots, apart = self.probabilities, np.diff(self.scores)
        monotone = len(self.scores) == len(knots) > 0 and (apart > 0).all() and (np.diff(knots) >= 0).all()
        if self.method == "isotonic" and not (monotone and knots[0] >= 0 and knots[-1] <= 1):
            raise BundleError("An isotonic calibrator needs increasing scores and probabilities of 0-1.")
        if not 0 < self.temperature < math.inf:
            raise BundleError(f"A calibrator's temperature is above 0, got {self.temperature}.")

    def __call__(self, score: float) -> float:
        """Return the calibrated probability of one score (0-1)."""
        return float(self.of(np.array([score]))[0])

    def of(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the calibrated probabilities of scores (N,)."""
        if self.method == "isotonic":
            return np.asarray(np.interp(scores, self.scores, self.probabilities), np.float64)
        return sigmoid(logit(scores) / self.temperature)


def logit(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of scores (N,), finite at 0 and 1 too."""
    kept = np.clip(scores, CLOSEST, 1 - CLOSEST)
    return np.asarray(np.log(kept / (1 - kept)), np.float64)


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability (N,) of logits (N,), without overflow."""
    return np.asarray((1 + np.tanh(logits / 2)) / 2)
