"""Figures of how well scores rank and decide: ROC, precision-recall, decision curve."""

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from fundus_eval.report.formats import MINUS, estimate, number
from fundus_eval.report.style import (
    BLUE,
    BLUE_SHADE,
    DASHED,
    DOTTED,
    GREEN,
    GREEN_SHADE,
    INK,
    MUTED,
    RUST,
    new_axes,
    unit_square,
)
from fundus_eval.study import Curve, Decision, LabelStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^v"


def draw_roc(label: LabelStudy) -> "Figure":
    """Draw the ROC curve with its band, the partial area and the cut-offs with their intervals."""
    figure, axes = new_axes(4.0, f"1 {MINUS} specificity", "Sensitivity")
    unit_square(axes)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=DOTTED, label="chance")
    _shade_partial_area(axes, label)
    _draw_band(axes, label.roc, f"AUC {estimate(label.auc)}")
    for marker, decision in zip(cycle(_MARKERS), label.decisions, strict=False):
        _draw_decision(axes, decision, marker)
    axes.legend(loc="lower right")
    return figure


def _shade_partial_area(axes: "Axes", label: LabelStudy) -> None:
    last = 1 - label.partial_auc.least_specificity
    x = np.unique([*(value for value in label.roc.x if value < last), last])
    y = np.interp(x, label.roc.x, label.roc.y)
    text = f"specificity ≥ {label.partial_auc.least_specificity:g}"
    axes.fill_between(x, y, facecolor=GREEN_SHADE, hatch="////", edgecolor=GREEN, linewidth=0, label=text)


def _draw_band(axes: "Axes", curve: Curve, text: str) -> None:
    axes.fill_between(
        curve.x, curve.low, curve.high, color=BLUE_SHADE, alpha=0.8, linewidth=0, label="95 % band"
    )
    axes.plot(curve.x, curve.y, color=BLUE, label=text)


def _draw_decision(axes: "Axes", decision: Decision, marker: str) -> None:
    found, left_alone = decision.sensitivity, decision.specificity
    if found is None or left_alone is None:
        return
    axes.errorbar(
        1 - left_alone.value,
        found.value,
        xerr=[[left_alone.high - left_alone.value], [left_alone.value - left_alone.low]],
        yerr=[[found.value - found.low], [found.high - found.value]],
        fmt=marker,
        color=RUST,
        markeredgecolor="white",
        markersize=8,
        elinewidth=1.4,
        zorder=5,
        label=f"threshold {number(decision.threshold)}",
    )


def draw_precision_recall(label: LabelStudy) -> "Figure":
    """Draw precision over recall with its band, the share of positives, and the cut-offs."""
    figure, axes = new_axes(4.0, "Recall (sensitivity)", "Precision (PPV)")
    unit_square(axes)
    prevalence = label.n_positive / label.n
    text = f"chance: {number(prevalence)} are positive"
    axes.axhline(prevalence, color=MUTED, linewidth=1, linestyle=DOTTED, label=text)
    _draw_band(axes, label.precision_recall, f"average precision {number(label.average_precision.value)}")
    for marker, decision in zip(cycle(_MARKERS), label.decisions, strict=False):
        called = decision.tp + decision.fp
        if decision.sensitivity and called:
            point = (decision.sensitivity.value, decision.tp / called)
            look: dict[str, Any] = {
                "color": RUST,
                "markeredgecolor": "white",
                "markersize": 8,
                "linestyle": "none",
            }
            axes.plot(
                *point, marker=marker, label=f"threshold {number(decision.threshold)}", zorder=5, **look
            )
    axes.legend(loc="lower left")
    return figure


def draw_decision_curve(label: LabelStudy) -> "Figure":
    """Draw the net benefit of deciding by the score, of treating all, and of treating none."""
    benefit = label.net_benefit
    figure, axes = new_axes(3.6, "Threshold probability", f"Net benefit per {label.unit}")
    axes.plot(benefit.threshold, benefit.model, color=BLUE, label="by the score")
    axes.plot(benefit.threshold, benefit.treat_all, color=RUST, linestyle=DASHED, label="all positive")
    axes.axhline(0, color=INK, linewidth=1.2, linestyle=DOTTED, label="none positive")
    top = max([*benefit.model, *benefit.treat_all, 0.01])
    axes.set(xlim=(0, 1), ylim=(-0.15 * top, 1.08 * top))
    axes.legend(loc="upper right")
    return figure
