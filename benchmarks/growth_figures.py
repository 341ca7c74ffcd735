"""The figures of benchmarks/growth.py: images/s as a ratio to one of the points."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fundus_eval.report.style import BLUE, DASHED, MUTED, RUST, new_axes, picture_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parents[1] / "docs" / "figures"
HEIGHT_IN = 2.9
LOOKS = ((BLUE, "o"), (RUST, "s"))  # of the lines

Speeds = dict[str, dict[str, list[float]]]  # by line and place on it: images/s of each repeat


@dataclass(frozen=True)
class Ratio:
    """Images/s at one place of a line, divided by those at the base in the same repeat."""

    place: int
    median: float
    least: float
    largest: float


@dataclass(frozen=True)
class Growth:
    """How one part is drawn: what is 1, in words and where it lies, and what the axes get in the end."""

    x_label: str
    base_words: str
    base: str  # a place
    finish: "Callable[[Axes, list[int]], None]"
    base_line: str | None = None  # None: every line has its own


def draw(name: str, speeds: Speeds) -> None:
    """Write docs/figures/growth-NAME.svg."""
    FOLDER.mkdir(exist_ok=True)
    picture = picture_bytes(partial(_figure, FIGURES[name], speeds), "svg")
    (FOLDER / f"growth-{name}.svg").write_bytes(picture)


def lines(name: str, speeds: Speeds) -> Iterator[str]:
    """Yield the points of a part as text."""
    yield f"{name}: images/s, divided by those {FIGURES[name].base_words}"
    for line, ratios in _ratios(FIGURES[name], speeds).items():
        for ratio in ratios:
            spread = f"{ratio.least:.3g} - {ratio.largest:.3g}"
            yield f"  {line:<20}{ratio.place:>8}  {ratio.median:.3g}  ({spread})"


def _ratios(growth: Growth, speeds: Speeds) -> dict[str, list[Ratio]]:
    bases = {line: speeds[growth.base_line or line][growth.base] for line in speeds}
    return {
        line: [_ratio(place, values, bases[line]) for place, values in places.items()]
        for line, places in speeds.items()
    }


def _ratio(place: str, values: list[float], bases: list[float]) -> Ratio:
    each = [value / base for value, base in zip(values, bases, strict=True)]
    return Ratio(int(place), statistics.median(each), min(each), max(each))


def _figure(growth: Growth, speeds: Speeds) -> "Figure":
    figure, axes = new_axes(HEIGHT_IN, growth.x_label, f"images/s, relative to those\n{growth.base_words}")
    places = set[int]()
    for (line, ratios), (colour, marker) in zip(_ratios(growth, speeds).items(), LOOKS, strict=False):
        x, y = [each.place for each in ratios], [each.median for each in ratios]
        spread = [[e.median - e.least for e in ratios], [e.largest - e.median for e in ratios]]
        axes.errorbar(x, y, spread, color=colour, marker=marker, markersize=4, capsize=3, label=line)
        places |= set(x)
    growth.finish(axes, sorted(places))
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend()
    return figure


def _logarithmic(axes: "Axes", places: list[int]) -> None:
    axes.set(xscale="log", yscale="log")
    for axis, style in ((axes.xaxis, "{x:,.0f}"), (axes.yaxis, "{x:g}")):
        axis.set_major_formatter(style)


def _from_zero(axes: "Axes", places: list[int]) -> None:
    axes.set_ylim(0)
    axes.set_xticks(places, [f"{place:,}" for place in places])


def _with_ideal(axes: "Axes", places: list[int]) -> None:
    """Show what as many times the cores would give at best."""
    axes.plot(places, places, color=MUTED, linestyle=DASHED, zorder=0, label="n cores, n times as fast")
    _from_zero(axes, places)


def _apart(axes: "Axes", places: list[int]) -> None:
    axes.lines[0].set_linestyle("none")
    axes.set_xlim(places[0] - 0.5, places[-1] + 0.5)
    _from_zero(axes, places)


FIGURES = {
    "images": Growth("images (logarithmic)", "of a run with 1,000 images", "1000", _logarithmic),
    "size": Growth("side of the photographs, px", "of photographs of 1,000 px", "1000", _from_zero),
    "ensemble": Growth("folds", "with 4 folds and 4 views", "4", _from_zero, base_line="4 views"),
    "cores": Growth("cores that client and server share", "with one core", "1", _with_ideal),
    "servers": Growth("servers that share the machine's cores", "with one server", "1", _apart),
}
