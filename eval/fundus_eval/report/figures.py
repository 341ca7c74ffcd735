"""Every figure of a report: drawn, described in words, written as SVG and PNG."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fundus_core.errors import UsageError
from fundus_eval.report import alternatives
from fundus_eval.report.charts import draw_calibration, draw_folds, draw_histogram, draw_subgroups
from fundus_eval.report.curves import draw_decision_curve, draw_precision_recall, draw_roc
from fundus_eval.report.flowchart import draw_flow
from fundus_eval.report.formats import printable
from fundus_eval.report.style import picture_bytes
from fundus_eval.study import LabelStudy, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure that can be drawn.

    Args:
        file_name: without suffix; unlike that of any other figure of the study.
        alternative: what it shows, with its numbers, for those who don't see it.
    """

    file_name: str
    alternative: str
    draw: "Callable[[], Figure]"

    def svg(self) -> bytes:
        """Return the figure as an SVG file."""
        return picture_bytes(self.draw, "svg")

    def png(self) -> bytes:
        """Return the figure as a PNG file."""
        return picture_bytes(self.draw, "png")


_OF_LABEL: "dict[str, tuple[Callable[[LabelStudy], Figure], Callable[[LabelStudy], str]]]" = {
    "roc": (draw_roc, alternatives.roc),
    "precision-recall": (draw_precision_recall, alternatives.precision_recall),
    "calibration": (draw_calibration, alternatives.calibration),
    "histogram": (draw_histogram, alternatives.histogram),
    "decision-curve": (draw_decision_curve, alternatives.decision_curve),
    "subgroups": (draw_subgroups, alternatives.subgroups),
    "folds": (draw_folds, alternatives.folds),
}


def label_pictures(label: LabelStudy, place: int) -> dict[str, Picture]:
    """Return the figures of the label at `place` (from 1) by kind; without subgroups or folds, not those."""
    empty = {"subgroups": not label.subgroups, "folds": not label.fold_auc}
    slug = re.sub(r"[^A-Za-z0-9]+", "-", label.label).strip("-")[:40] or "label"
    return {
        kind: Picture(f"{kind}-{place}-{slug}", printable(describe(label)), partial(draw, label))
        for kind, (draw, describe) in _OF_LABEL.items()
        if not empty.get(kind)
    }


def flow_picture(study: Study) -> Picture:
    """Return the diagram of the first label's images."""
    label = study.labels[0]
    text = printable(alternatives.flow(study.flow, label))
    return Picture("flow", text, partial(draw_flow, study.flow, label))


def write_figures(study: Study, folder: Path) -> tuple[Path, ...]:
    """Write each figure of the report as SVG and as PNG into `folder`, which is made, and return the files.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: the folder cannot be written.
    """
    pictures = [flow_picture(study)]
    for place, label in enumerate(study.labels, 1):
        pictures += label_pictures(label, place).values()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tuple(path for picture in pictures for path in _write(picture, folder))
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}. Choose another folder.") from None


def _write(picture: Picture, folder: Path) -> Iterator[Path]:
    for suffix, content in ((".svg", picture.svg()), (".png", picture.png())):
        path = folder / (picture.file_name + suffix)
        path.write_bytes(content)
        yield path
