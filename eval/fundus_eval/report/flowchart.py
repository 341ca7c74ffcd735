"""The flow of images from found to evaluated, as a diagram (STARD 2015, item 19)."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

from fundus_eval.report.formats import count, shortened
from fundus_eval.report.style import INK, MUTED, WIDTH_IN
from fundus_eval.study import Flow, LabelStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAIN_IN, _SIDE_IN, _LINE_IN, _PAD_IN, _GAP_IN = 1.9, 1.85, 0.165, 0.09, 0.28
_MOST_CHARACTERS = 25


@dataclass(frozen=True)
class Step:
    """One box of the middle line, and what leaves the line below it."""

    stays: tuple[str, ...]
    leaves: tuple[str, ...] = ()


def flow_steps(flow: Flow, label: LabelStudy) -> tuple[Step, ...]:
    """Return the boxes of the diagram with their numbers."""
    failed = sum(flow.failed.values())
    reasons = sorted(flow.failed.items(), key=lambda item: (-item[1], item[0]))
    no_score = tuple(f"· {shortened(reason.replace('_', ' '), 40)}: {count(n)}" for reason, n in reasons)
    flagged = (f"of these ungradable: {count(flow.n_ungradable)}",) if flow.n_ungradable else ()
    steps = [
        Step((f"Files found: {count(flow.n_files)}",), (f"No score: {count(failed)}", *no_score)),
        Step((f"Scored: {count(flow.n_scored)}",), (f"Label not known: {count(flow.n_unlabelled)}",)),
        Step((f"Images evaluated: {count(flow.n_evaluated)}", *flagged)),
    ]
    if label.unit != "image":
        steps.append(Step((f"{label.unit.capitalize()}s evaluated: {count(flow.n_units)}",)))
    name = shortened(label.label, 40)
    positive, negative = count(label.n_positive), count(label.n - label.n_positive)
    return (*steps, Step((f"{name}: {positive}", f"no {name}: {negative}")))


def draw_flow(flow: Flow, label: LabelStudy) -> "Figure":
    """Draw the boxes from top to bottom, with those that leave at the right."""
    from matplotlib.figure import Figure

    steps = flow_steps(flow, label)
    height_in = sum(_height(step.stays) + _between(step) for step in steps) - _between(steps[-1]) + 0.1
    figure = Figure(figsize=(WIDTH_IN, height_in))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH_IN), ylim=(height_in, 0))
    axes.axis("off")
    top = 0.05
    for step in steps:
        top = _draw_step(axes, step, top, last=step is steps[-1])
    return figure


def _lines(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in wrap(text, _MOST_CHARACTERS, subsequent_indent="  ")]


def _height(texts: Sequence[str]) -> float:
    return len(_lines(texts)) * _LINE_IN + 2 * _PAD_IN


def _between(step: Step) -> float:
    """Return the inches below a step's box, where what leaves has its own."""
    return _height(step.leaves) + _GAP_IN if step.leaves else _GAP_IN


def _draw_step(axes: "Axes", step: Step, top: float, last: bool) -> float:
    """Draw a step from `top` (inches) and return where the next one begins."""
    bottom = _draw_box(axes, step.stays, 0.04, top, _MAIN_IN, "#f5f7fa")
    below = bottom + _between(step)
    middle, arrow = 0.04 + _MAIN_IN / 2, {"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0}
    if not last:
        axes.annotate("", (middle, below), (middle, bottom), arrowprops=arrow)
    if step.leaves:
        side_top = bottom + _GAP_IN / 2
        left = WIDTH_IN - 0.04 - _SIDE_IN
        side_bottom = _draw_box(axes, step.leaves, left, side_top, _SIDE_IN, "white")
        at = (side_top + side_bottom) / 2
        axes.annotate("", (left, at), (middle, at), arrowprops=arrow)
    return below


def _draw_box(
    axes: "Axes", texts: Sequence[str], left: float, top: float, width: float, colour: str
) -> float:
    from matplotlib.patches import Rectangle

    height = _height(texts)
    axes.add_patch(Rectangle((left, top), width, height, facecolor=colour, edgecolor=MUTED, linewidth=1))
    for place, line in enumerate(_lines(texts)):
        axes.text(left + 0.1, top + _PAD_IN + (place + 0.5) * _LINE_IN, line, va="center", fontsize=8.5)
    return top + height
