"""Figures of the scores themselves and of parts of the units: calibration, histogram, subgroups, folds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fundus_eval.intervals import Interval
from fundus_eval.report.formats import count, number, shortened
from fundus_eval.report.style import BLUE, DASHED, DOTTED, INK, MUTED, RUST, WIDTH_IN, new_axes, unit_square
from fundus_eval.study import Calibration, LabelStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_IN = 0.27


def draw_calibration(label: LabelStudy) -> "Figure":
    """Draw the share of positives over the mean probability of each bin, with intervals."""
    figure, axes = new_axes(4.0, "Mean probability given", "Share that is positive")
    unit_square(axes)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=DOTTED, label="perfect")
    _draw_bins(axes, label.calibration, "o", "solid", BLUE, "as scored")
    if label.calibrated:
        _draw_bins(axes, label.calibrated, "s", DASHED, RUST, "after the calibrator")
    axes.legend(loc="upper left")
    return figure


def _draw_bins(
    axes: "Axes", calibration: Calibration, marker: str, line: object, colour: str, text: str
) -> None:
    observed = [each.observed for each in calibration.bins]
    axes.errorbar(
        [each.predicted for each in calibration.bins],
        [interval.value for interval in observed],
        yerr=[[i.value - i.low for i in observed], [i.high - i.value for i in observed]],
        fmt=marker,
        linestyle=line,
        linewidth=1.2,
        elinewidth=1,
        color=colour,
        markersize=5,
        label=f"{text}, ECE {number(calibration.ece.value)}",
    )


def draw_histogram(label: LabelStudy) -> "Figure":
    """Draw how many positive and how many negative units have which score, one above the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, 3.9), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    histogram, name = label.histogram, shortened(label.label, 24)
    _draw_class(
        above, histogram.edges, histogram.positive, RUST, "///", f"{name}: {count(sum(histogram.positive))}"
    )
    _draw_class(
        below, histogram.edges, histogram.negative, BLUE, "", f"no {name}: {count(sum(histogram.negative))}"
    )
    for axes in (above, below):
        axes.set_ylabel(f"{label.unit.capitalize()}s")
        for decision in label.decisions:
            axes.axvline(decision.threshold, color=INK, linewidth=1.2, linestyle=DASHED)
    below.set_xlabel("Score (dashed: threshold)")
    return figure


def _draw_class(
    axes: "Axes", edges: Sequence[float], counts: Sequence[int], colour: str, hatch: str, text: str
) -> None:
    from matplotlib.ticker import MaxNLocator

    look: dict[str, Any] = {"facecolor": colour, "alpha": 0.75, "edgecolor": "white", "linewidth": 0}
    axes.stairs(counts, edges, fill=True, hatch=hatch, **look)
    axes.set_title(text, loc="left", fontsize=9.5, color=colour)
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))


@dataclass(frozen=True)
class Row:
    """One line of a forest plot; a line without a note is a heading."""

    text: str
    note: str | None = None
    auc: Interval | None = None


def draw_subgroups(label: LabelStudy) -> "Figure":
    """Draw the AUC of each subgroup with its interval, below the heading of its column."""
    rows = [Row("all", _n(label.n), label.auc)]
    for column, groups in groupby(label.subgroups, key=lambda group: group.column):
        rows += [Row(column), *(Row(group.value, _n(group.n), group.auc) for group in groups)]
    return _forest(rows, label.auc.value)


def draw_folds(label: LabelStudy) -> "Figure":
    """Draw the AUC of each fold and of the ensemble with intervals."""
    folds = [Row(f"fold {index}", "", auc) for index, auc in enumerate(label.fold_auc)]
    return _forest([Row("ensemble", "", label.auc), *folds], label.auc.value)


def _n(units: int) -> str:
    return f"n {count(units)}"


def _forest(rows: Sequence[Row], reference: float) -> "Figure":
    figure, axes = new_axes(0.75 + _ROW_IN * len(rows), "AUC with 95 % interval", "")
    axes.axvline(reference, color=MUTED, linewidth=1, linestyle=DOTTED)
    axes.set_yticks(range(len(rows)), [shortened(row.text, 18) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for place, row in enumerate(rows):
        _draw_row(axes, place, row)
    lowest = min(row.auc.low for row in rows if row.auc)
    axes.set_xlim(max(0, math.floor(10 * lowest - 0.2) / 10), 1.01)
    return figure


def _draw_row(axes: "Axes", place: int, row: Row) -> None:
    if row.note is None:
        axes.get_yticklabels()[place].set_fontweight("bold")
        return
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8.5}
    if row.auc is None:
        axes.text(0.02, place, "one class only: no AUC", color=MUTED, **beside)
    else:
        error = [[row.auc.value - row.auc.low], [row.auc.high - row.auc.value]]
        axes.errorbar(row.auc.value, place, xerr=error, fmt="s", color=BLUE, markersize=5, elinewidth=1.4)
    value = f"{number(row.auc.value, 2)}  " if row.auc else ""
    axes.text(1.03, place, value + row.note, **beside)
