"""Where and how a photograph was taken, by the words of its DICOM header."""

from dataclasses import astuple, dataclass, fields, replace
from typing import Literal

from fundus_core.pseudonyms import Pseudonyms

Laterality = Literal["", "R", "L", "B"]  # right, left, both; "" where the header does not say


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One frame of a DICOM object; "" for what the header does not say. It holds nothing of a person.

    Args:
        frame: its number, from 1.
        laterality: by ImageLaterality, else Laterality; never guessed.
        acquired: ISO 8601, such as "2026-11-25T08:30:00"; a date alone, or with the offset, as in the header.
        manufacturer: of the camera.
        model: the manufacturer's name for the camera.
        patient: a keyed pseudonym of PatientID, "" without a key.
    """

    study_uid: str
    series_uid: str
    sop_uid: str
    frame: int
    laterality: Laterality = ""
    acquired: str = ""
    manufacturer: str = ""
    model: str = ""
    patient: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """Its texts, one per column of `COLUMNS`."""
        return tuple(map(str, astuple(self)))

    def pseudonymised(self, names: Pseudonyms) -> "Acquisition":
        """Return it with pseudonyms for its UIDs, and without the time."""
        study, series, sop = map(names.of_uid, (self.study_uid, self.series_uid, self.sop_uid))
        return replace(self, study_uid=study, series_uid=series, sop_uid=sop, acquired="")


COLUMNS = tuple(field.name for field in fields(Acquisition))
