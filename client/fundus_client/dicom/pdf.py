"""A page for people about a photograph, in the photograph's study. It names nobody: the archive does."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from io import BytesIO
from xml.sax.saxutils import escape

from pydicom import Dataset

from fundus_client.dicom.answers import Answer, answers, threshold_rule
from fundus_client.dicom.codes import plain
from fundus_client.dicom.evidence import MAKER, Reference, derived
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import MissingExtraError
from fundus_core.rows import ScoreRow

try:
    from reportlab.lib import colors
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle
except ImportError:
    raise MissingExtraError("dicom", "reportlab") from None

WARNING = "For research. Not a medical device: no score may decide about a patient."
_TITLE = "Scores of a fundus photograph"
_EYES = {"R": "right", "L": "left", "B": "both"}
_STYLES = getSampleStyleSheet()
_GRID = TableStyle(
    [
        ("GRID", (0, 0), (-1, -1), 0.25, colors.grey),
        ("BACKGROUND", (0, 0), (-1, 0), colors.whitesmoke),
        ("FONTSIZE", (0, 0), (-1, -1), 8),
    ]
)
_HEAD = ("frame", "eye", "label", "probability", "threshold", "decision", "folds differ by", "calibrated")


def encapsulated_pdf(
    source: Dataset, rows: Sequence[ScoreRow], spec: EnsembleSpec, when: datetime
) -> Dataset:
    """Return the page in an Encapsulated PDF (PS3.3 A.45.1), a dataset ready for `write_object`.

    Arguments and errors are those of `structured_report`.
    """
    document = derived(source, "pdf", spec, when)
    document.ConversionType, document.BurnedInAnnotation = "WSD", "NO"
    document.AcquisitionDateTime, document.DocumentTitle = "", _TITLE
    document.ConceptNameCodeSequence = []
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    about = Reference.to(source)
    document.SourceInstanceSequence = [about.item()]
    document.EncapsulatedDocument = _page(about, rows, spec, when)
    document.EncapsulatedDocumentLength = len(document.EncapsulatedDocument)
    return document


def _page(about: Reference, rows: Sequence[ScoreRow], spec: EnsembleSpec, when: datetime) -> bytes:
    """Return the PDF, the same bytes for the same arguments."""
    file = BytesIO()
    layout = SimpleDocTemplate(file, pagesize=A4, title=_TITLE, author=MAKER, invariant=1)
    layout.build([*_head(about, rows, when), _table(rows, spec), *_remarks(rows), *_foot(spec)])
    return file.getvalue()


def _head(about: Reference, rows: Sequence[ScoreRow], when: datetime) -> Iterator[Flowable]:
    yield _line(_TITLE, "Title")
    yield _line(WARNING, "Heading4")
    yield _line(f"Study {about.study_uid}")
    yield _line(f"Image {about.sop_uid}")
    if (taken := rows[0].acquisition) and taken.acquired:
        yield _line(f"Taken {taken.acquired}")
    yield _line(f"Scored {when:%Y-%m-%d %H:%M:%S}")
    yield Spacer(1, 12)


def _table(rows: Sequence[ScoreRow], spec: EnsembleSpec) -> Table:
    lines = [line for row in rows for line in _lines(row, spec)]
    return Table([_HEAD, *lines], style=_GRID, repeatRows=1, hAlign="LEFT")


def _lines(row: ScoreRow, spec: EnsembleSpec) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the table about one frame."""
    taken = row.acquisition
    frame, eye = str(taken.frame if taken else 1), _EYES.get(taken.laterality if taken else "", "unknown")
    for answer in answers(row, spec):
        yield (frame, eye, *_cells(answer))
    if not row.probability:
        yield (frame, eye, "", "no score")


def _cells(answer: Answer) -> tuple[str, ...]:
    decision = "at or above" if answer.is_positive else "below"
    calibrated = "" if answer.calibrated is None else f"{answer.calibrated:.6f}"
    numbers = f"{answer.probability:.6f}", f"{answer.threshold:.6f}"
    return (plain(answer.label, 32), *numbers, decision, f"{answer.spread:.6f}", calibrated)


def _remarks(rows: Sequence[ScoreRow]) -> Iterator[Flowable]:
    """Say which frames have no score or are ungradable, and why."""
    yield Spacer(1, 12)
    for row in rows:
        frame = row.acquisition.frame if row.acquisition else 1
        if row.reason:
            yield _line(f"Frame {frame} has no score: {row.reason}")
        elif row.quality:
            yield _line(
                f"Frame {frame} is {f'ungradable: {row.ungradable}' if row.ungradable else 'gradable'}."
            )


def _foot(spec: EnsembleSpec) -> Iterator[Flowable]:
    yield Spacer(1, 12)
    yield _line(f"Bundle {spec.name} {spec.version}: {len(spec.folds)} folds, views {', '.join(spec.views)}")
    yield _line(f"Threshold by {threshold_rule(spec) or 'an unknown rule'}, on scores of the training")
    yield _line(f"Digest {spec.digest}")


def _line(text: str, style: str = "BodyText") -> Paragraph:
    return Paragraph(escape(plain(text, 1024)), _STYLES[style])
