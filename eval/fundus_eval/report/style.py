"""How the figures look, and how they become bytes."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from fundus_core.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 4.1  # on a phone the figure then is as wide as the screen, and its text is still read
INK, MUTED, GRID = "#1f2933", "#52606d", "#e4e7eb"
# from Okabe and Ito's colours, darker where white needs it; never the only difference between two things
BLUE, RUST, GREEN = "#0072b2", "#b34700", "#00785a"
BLUE_SHADE, GREEN_SHADE = "#cfe4f2", "#d3ebe3"
DASHED, DOTTED = (0, (5, 2.5)), (0, (1, 2))

_SYSTEM_FONTS = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
_SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same layout on every computer
    "font.size": 9.5,
    "grid.color": GRID,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "lines.linewidth": 1.8,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # texts stay texts, in the reader's own font
    "svg.hashsalt": "fundus-eval",
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a column's name is a dollar
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Give figures that are made and drawn inside this project's look.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context, rcdefaults
    except ImportError:
        raise MissingExtraError("report", "matplotlib") from None
    with rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        rcdefaults()  # not those of the user's matplotlibrc
        with rc_context(_SETTINGS):
            yield


def picture_bytes(draw: "Callable[[], Figure]", kind: Literal["svg", "png"]) -> bytes:
    """Draw a figure and return it as a file; the same figure gives the same bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    buffer = io.BytesIO()
    with figure_style():
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        draw().savefig(buffer, format=kind, metadata=metadata)
    if kind == "png":
        return buffer.getvalue()
    return buffer.getvalue().replace(b"'DejaVu Sans', sans-serif", _SYSTEM_FONTS.encode())


def new_axes(height_in: float, x_label: str, y_label: str) -> "tuple[Figure, Axes]":
    """Return an empty figure of `WIDTH_IN` with one labelled pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure, axes


def unit_square(axes: "Axes") -> None:
    """Let both axes run from 0 to 1, with room for markers that lie on the edge."""
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
