"""The first bytes of a DICOM file -> its frames, and whether they are colour photographs."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import cast

from pydicom.dataset import Dataset

from fundus_client.dicom.kinds import KIND, refusal
from fundus_client.dicom.part10 import number, open_until, text, uid
from fundus_core.acquisition import Acquisition, Laterality
from fundus_core.errors import ImageError

MAX_FRAMES = 10_000

_HEADER_END = 0x00280012  # behind Columns
_WANTED = (
    *KIND,
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "ImageLaterality",
    "Laterality",
    "AcquisitionDateTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "Manufacturer",
    "ManufacturerModelName",
    "PatientID",
    "NumberOfFrames",
    "Rows",
    "Columns",
)
_TIME = re.compile(r"(\d{8})(?:(\d{4})(\d\d)?(?:\.\d{1,6})?)?([+-]\d{4})?")


@dataclass(frozen=True, slots=True)
class Header:
    """What a DICOM object says of itself.

    Args:
        frames: one for each frame of a photograph; a single one, number 1, for anything else.
        refusal: a sentence that says why it is no colour fundus photograph; "" where it may be one.
        n_bytes: of one frame as 8-bit RGB; 0 where that is not known.
    """

    frames: tuple[Acquisition, ...]
    refusal: str
    n_bytes: int


def read_header(head: bytes, of_patient: Callable[[str], str]) -> Header | None:
    """Return what the first bytes of a file say, None where they are not enough.

    Args:
        head: the first bytes; up to the size of the picture are needed.
        of_patient: gives the pseudonym of a PatientID.

    Raises:
        ImageError: `corrupt` where the header cannot be read, `too_many_pixels` for more frames than
            `MAX_FRAMES`, `too_large` for a deflated object that inflates to too much.
        MissingExtraError: pydicom is not installed.
    """
    opened = open_until(_HEADER_END, head, _WANTED)
    if opened is None:
        return None
    dataset = opened.dataset
    sentence = refusal(dataset)
    n_frames = 1 if sentence else number(dataset, "NumberOfFrames") or 1
    if n_frames > MAX_FRAMES:
        limit = f"the limit is {MAX_FRAMES:,}"
        raise ImageError("too_many_pixels", f"The header announces {n_frames:,} frames; {limit}.")
    first = _acquisition(dataset, of_patient)
    frames = (first, *(replace(first, frame=frame) for frame in range(2, n_frames + 1)))
    return Header(frames, sentence, 3 * number(dataset, "Rows") * number(dataset, "Columns"))


def _acquisition(dataset: Dataset, of_patient: Callable[[str], str]) -> Acquisition:
    return Acquisition(
        study_uid=uid(dataset, "StudyInstanceUID"),
        series_uid=uid(dataset, "SeriesInstanceUID"),
        sop_uid=uid(dataset, "SOPInstanceUID"),
        frame=1,
        laterality=_laterality(dataset),
        acquired=_acquired(dataset),
        manufacturer=_name(dataset, "Manufacturer"),
        model=_name(dataset, "ManufacturerModelName"),
        patient=of_patient(text(dataset, "PatientID")),
    )


def _name(dataset: Dataset, keyword: str) -> str:
    """Return a text of one line; "" where a wrong length made it take in the elements behind it."""
    found = text(dataset, keyword)
    return found if found.isprintable() else ""


def _laterality(dataset: Dataset) -> Laterality:
    said = text(dataset, "ImageLaterality") or text(dataset, "Laterality")
    return cast(Laterality, said) if said in ("R", "L", "B") else ""


def _acquired(dataset: Dataset) -> str:
    """Return when it was acquired; the times of content, series or study may be those of a later copy."""
    at = text(dataset, "AcquisitionDateTime")
    found = _TIME.fullmatch(at or text(dataset, "AcquisitionDate") + text(dataset, "AcquisitionTime"))
    if not found:
        return ""
    day, minutes, seconds, offset = found.groups(default="")
    try:
        if not minutes:
            return date.fromisoformat(day).isoformat()
        return datetime.fromisoformat(f"{day}T{minutes}{seconds or '00'}{offset}").isoformat()
    except ValueError:
        return ""
