"""The reports of a run: one structured report for each DICOM object of which a frame was scored."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import get_args

from pydicom import Dataset

from fundus_client.dicom.evidence import Kind, object_uid, write_object
from fundus_client.dicom.frames import Frame, Frames, by_object, from_head
from fundus_client.dicom.part10 import open_until
from fundus_client.dicom.pdf import encapsulated_pdf
from fundus_client.dicom.picture import secondary_capture
from fundus_client.dicom.report import structured_report
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import FundusError, ImageError, ServerReason
from fundus_core.preprocess import Pixels
from fundus_core.rows import ScoreRow

Maker = Callable[[Dataset, Sequence[ScoreRow], EnsembleSpec, datetime], Dataset]
RowOf = Callable[[str], ScoreRow | None]
_MAKERS: dict[Kind, Maker] = {"sr": structured_report, "pdf": encapsulated_pdf}
_LOG = logging.getLogger(__name__)
_DESCRIPTION = "Places that the probability depends on (RISE); vermilion speaks for it, blue against it"
_PIXELS = 0x7FE00008  # FloatPixelData, the first of those that hold a picture
_UNSETTLED = frozenset(("vanished", "unreadable", *get_args(ServerReason)))  # the next run may get an answer


def write_reports(
    source: Frames, row_of: RowOf, spec: EnsembleSpec, folder: Path, kinds: Sequence[Kind]
) -> Iterator[list[Path]]:
    """Write a report of each object of which a frame was scored; yield its files, one for each of `kinds`.

    A file is named by the UID of the report, which is the same for an object and a bundle: one that is
    there is not written again. An object that may still get answers has none yet; one without UIDs, which
    nothing can refer to, has none.

    Args:
        source: the objects; of those that are no DICOM objects there are no reports.
        row_of: gives the row of a frame by its id, None where the frame came after the scoring.
        spec: the bundle that answered.
        folder: an existing one.
        kinds: "sr" for structured reports, "pdf" for a page for people.

    Raises:
        OSError: the folder cannot be written.
    """
    for frames in by_object(source):
        rows = [row for row in (row_of(frame.image_id) for frame in frames) if row]
        is_settled = len(rows) == len(frames) and not any(map(_may_change, rows))
        if is_settled and any(row.probability for row in rows):
            try:
                yield [_written(frames[0], rows, spec, folder, kind) for kind in kinds]
            except ImageError as error:
                _LOG.warning("%s has no report. %s", frames[0].ref.image_id, error)


def write_capture(frame: Frame, picture: Pixels, spec: EnsembleSpec, path: Path) -> None:
    """Write a Secondary Capture of what the probability of a frame depends on.

    A photograph without UIDs, which nothing can refer to, has none.

    Args:
        frame: of the photograph.
        picture: (H, W, 3) uint8, RGB.
        spec: the bundle that answered.
        path: the file.

    Raises:
        OSError: the file cannot be written.
    """
    number = frame.number if frame.has_siblings else None
    try:
        header = from_head(frame.ref, _header)
        with _no_values_told():
            write_object(secondary_capture(header, picture, spec, _now(), _DESCRIPTION, number), path)
    except ImageError as error:
        _LOG.warning("%s has no capture. %s", frame.image_id, error)


def _now() -> datetime:
    return datetime.now().astimezone()


def _written(frame: Frame, rows: Sequence[ScoreRow], spec: EnsembleSpec, folder: Path, kind: Kind) -> Path:
    known = frame.acquisition
    about = (known.study_uid, known.sop_uid) if known else ("", "")
    path = folder / f"{object_uid(*about, spec.digest, kind)}.dcm"
    if not path.exists():
        header = from_head(frame.ref, _header)
        with _no_values_told():
            write_object(_MAKERS[kind](header, rows, spec, _now()), path)
    return path


@contextmanager
def _no_values_told() -> Iterator[None]:
    """Turn what pydicom says of values that it cannot copy into a sentence without them."""
    try:
        yield
    except (FundusError, OSError):
        raise
    except Exception:  # damage makes it raise many kinds
        raise ImageError("corrupt", "Its header is damaged.") from None


def _header(head: bytes) -> Dataset | None:
    """Return everything before the pixels; None where `head` ends before them."""
    opened = open_until(_PIXELS, head, ())
    return opened.dataset if opened else None


def _may_change(row: ScoreRow) -> bool:
    return row.reason.partition(":")[0] in _UNSETTLED
