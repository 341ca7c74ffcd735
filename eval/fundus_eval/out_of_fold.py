"""What is fixed on out-of-fold scores, before anything is tested: decision thresholds and calibrators."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.calibrator import CalibrationMethod, Calibrator
from fundus_core.ensemble import CutOff
from fundus_core.errors import UsageError
from fundus_core.tables import Joined
from fundus_eval.calibration import fit_isotonic, fit_temperature
from fundus_eval.operating import sensitivity_threshold, specificity_threshold, youden_threshold

YOUDEN = "youden"
RULES = (YOUDEN, "sensitivity 0.9", "specificity 0.95")
ThresholdRule = Callable[[NDArray[np.integer[Any]], NDArray[np.floating[Any]]], float]
_TARGETED = {"sensitivity": sensitivity_threshold, "specificity": specificity_threshold}


def threshold_rule(rule: str) -> ThresholdRule:
    """Return what fixes a threshold on truth (N,) and score (N,) by a rule such as "specificity 0.95".

    Raises:
        UsageError: there is no such rule.
    """
    if rule == YOUDEN:
        return youden_threshold
    name, _, text = rule.partition(" ")
    with suppress(ValueError):
        if name in _TARGETED and 0 < float(text) < 1:
            return partial(_TARGETED[name], target=float(text))
    raise UsageError(f"There is no rule {rule!r}. Write one such as: {', '.join(RULES)}.")


def cut_offs(joined: Joined, chosen: str) -> tuple[CutOff, ...]:
    """Return what `chosen` and the other `RULES` give for each label, the chosen one first."""
    return tuple(
        CutOff(rule, tuple(threshold_rule(rule)(*known(joined, k)) for k in range(len(joined.labels))))
        for rule in dict.fromkeys((chosen, *RULES))
    )


def calibrators(joined: Joined, method: CalibrationMethod) -> tuple[Calibrator, ...]:
    """Return what turns the scores of each label into calibrated probabilities (K,)."""
    return tuple(_calibrator(method, *known(joined, label)) for label in range(len(joined.labels)))


def _calibrator(method: CalibrationMethod, truth: NDArray[np.int8], score: NDArray[np.float64]) -> Calibrator:
    if method == "temperature":
        return Calibrator(method, temperature=fit_temperature(truth, score))
    scores, probabilities = fit_isotonic(truth, score)
    least = 0.5 / len(truth)  # no image is so sure that one more could not be otherwise
    probabilities = probabilities.clip(least, 1 - least)
    return Calibrator(method, scores=tuple(scores.tolist()), probabilities=tuple(probabilities.tolist()))


def known(
    joined: Joined, label: int, chosen: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Return truth and score of the (chosen) images whose label is known."""
    rows = joined.truth[:, label] >= 0
    rows = rows if chosen is None else rows & chosen
    return joined.truth[rows, label], joined.probability[rows, label]
