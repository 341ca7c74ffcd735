"""The ROC and precision-recall curves of weighted images, and every measure that only looks at the order.

Letters in shapes: N images, T distinct scores, G points of a grid; `...` resamples, none or several axes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fundus_eval.auc import Score, Truth

Floats = NDArray[np.float64]

_ROUNDING = 1e-9  # of a count: 0.07 * 100 is a little more than 7


@dataclass(frozen=True)
class Roc:
    """How many true and false positives each threshold gives, the highest threshold first.

    Args:
        tp: (..., T + 1) starts with 0, ends with all positives.
        fp: (..., T + 1) likewise of negatives.
    """

    tp: Floats
    fp: Floats

    def auc(self) -> Floats:
        """Return the area under the curve (...), by trapezes."""
        return np.asarray(_areas(self.tp, self.fp).sum(axis=-1) / (self.tp[..., -1] * self.fp[..., -1]))

    def partial_auc(self, max_fpr: float) -> Floats:
        """Return the area (...) where 1 - specificity is at most `max_fpr`; 0 to `max_fpr`."""
        limit = max_fpr * self.fp[..., -1:]
        height = self.sensitivity_at(np.array([max_fpr])) * self.tp[..., -1:]
        end = int((self.fp <= limit).sum(axis=-1).max()) + 1  # no row's area goes on beyond it
        tp, fp = self.tp[..., :end], self.fp[..., :end]
        areas = _areas(np.where(fp > limit, height, tp), np.minimum(fp, limit))
        return np.asarray(areas.sum(axis=-1) / (self.tp[..., -1] * self.fp[..., -1]))

    def sensitivity_at(self, fpr: Floats) -> Floats:
        """Return the curve's height (..., G) at each 1 - specificity (G,), linear between its points."""
        tp, fp = _rows(self.tp), _rows(self.fp)
        wanted = fpr * fp[:, -1:] + _ROUNDING
        left = _search(fp, wanted, "right") - 1
        right = np.minimum(left + 1, fp.shape[1] - 1)
        x, y = (np.take_along_axis(each, left, axis=1) for each in (fp, tp))
        run, rise = (np.take_along_axis(each, right, axis=1) - at for each, at in ((fp, x), (tp, y)))
        share = np.divide(wanted - x, run, where=run > 0, out=np.zeros_like(x))
        return np.asarray(((y + share * rise) / tp[:, -1:]).reshape(*self.tp.shape[:-1], -1))

    def precision_at(self, recall: Floats) -> Floats:
        """Return the precision (..., G) at the highest threshold that reaches each recall (G,).

        At a recall of 0 it is that of the highest threshold that finds a positive.
        """
        tp, fp = _rows(self.tp), _rows(self.fp)
        wanted = np.maximum(recall * tp[:, -1:] - _ROUNDING, _ROUNDING)
        at = _search(tp, wanted, "left")
        found, wrong = (np.take_along_axis(each, at, axis=1) for each in (tp, fp))
        return (found / (found + wrong)).reshape(*self.tp.shape[:-1], -1)

    def average_precision(self) -> Floats:
        """Return the mean precision (...) over all positives, without interpolation."""
        tp, fp = self.tp[..., 1:], self.fp[..., 1:]
        gained, chosen = np.diff(self.tp), tp + fp
        precision = np.divide(tp, chosen, where=chosen > 0, out=np.zeros_like(tp))
        return np.asarray((gained * precision).sum(axis=-1) / self.tp[..., -1])


class Ranking:
    """Images in the order of their score, sorted once and weighed often.

    Args:
        truth: (N,) 1 positive, 0 negative.
        score: (N,) without NaN, higher means more likely positive.
    """

    def __init__(self, truth: Truth, score: Score) -> None:
        self._order = np.argsort(-score, kind="stable")
        ordered = score[self._order]
        self._positive = truth[self._order].astype(np.float64)
        self._ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # (T,) last of its score

    def roc(self, weights: Floats | None = None) -> Roc:
        """Return the curve of images that count `weights` (..., N) times; once without it."""
        ordered = np.ones(len(self._order)) if weights is None else np.take(weights, self._order, axis=-1)
        tp = self._cumulated(ordered * self._positive)
        return Roc(tp, self._cumulated(ordered) - tp)

    def _cumulated(self, weights: Floats) -> Floats:
        sums = np.zeros((*weights.shape[:-1], len(self._ends) + 1))
        if len(self._ends) == weights.shape[-1]:
            np.cumsum(weights, axis=-1, out=sums[..., 1:])
        else:
            sums[..., 1:] = np.take(np.cumsum(weights, axis=-1), self._ends, axis=-1)
        return sums


def mcclish(partial_auc: Floats, max_fpr: float) -> Floats:
    """Return partial areas so that 0.5 is chance and 1 perfect (McClish, Med. Decis. Making 1989)."""
    chance = max_fpr**2 / 2
    return np.asarray((1 + (partial_auc - chance) / (max_fpr - chance)) / 2)


def _areas(tp: Floats, fp: Floats) -> Floats:
    """Return the area under each step of the curve (..., T), in pairs of images."""
    return np.asarray(np.diff(fp) * (tp[..., 1:] + tp[..., :-1]) / 2)


def _rows(values: Floats) -> Floats:
    return values.reshape(-1, values.shape[-1])


def _search(rows: Floats, wanted: Floats, side: Literal["left", "right"]) -> NDArray[np.int64]:
    """Return where each of `wanted` (R, G) belongs in its own row of the rising `rows` (R, T)."""
    n_rows, length = rows.shape
    lift = np.arange(n_rows)[:, None] * (rows.max() + 1)  # so that one search serves all rows
    found = np.searchsorted((rows + lift).ravel(), (wanted + lift).ravel(), side)
    return np.asarray(found.reshape(wanted.shape) - np.arange(n_rows)[:, None] * length)
