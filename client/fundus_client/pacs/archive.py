"""What an archive is to a pull: something that lists series and hands over their objects."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Protocol

from fundus_client.pacs.spool import Stored
from fundus_core.errors import PacsError, UsageError

DEFAULT_MODALITIES = ("OP",)
_MODALITY = re.compile(r"[A-Z0-9_ ]{1,16}")  # VR CS


@dataclass(frozen=True)
class Query:
    """Series of studies of some days.

    Args:
        first: the first StudyDate.
        last: the last StudyDate.
        modalities: such as OP (ophthalmic photography) or XC (external camera).

    Raises:
        UsageError: no day lies between `first` and `last`, or a modality cannot be one.
    """

    first: date
    last: date
    modalities: tuple[str, ...] = DEFAULT_MODALITIES

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise UsageError(f"{self.first} is after {self.last}. Give the earlier date as --from.")
        for modality in self.modalities:
            if not _MODALITY.fullmatch(modality):
                raise UsageError(f"{modality!r} is no modality. Write its code, such as OP.")

    def days(self) -> Iterator[date]:
        """Yield each day."""
        for number in range((self.last - self.first).days + 1):
            yield self.first + timedelta(days=number)


@dataclass(frozen=True)
class Series:
    """One series in an archive, with the number of objects that the archive says it has."""

    study_uid: str
    series_uid: str
    n_objects: int  # 0: it does not say


class Archive(Protocol):
    """An archive that a pull asks, by DIMSE or by DICOMweb."""

    def series(self, query: Query) -> Iterator[Series]:
        """Yield the series of the query's modalities, day by day.

        Raises:
            PacsUnreachableError: the archive does not answer.
            PacsError: it refuses, or answers with an error.
        """

    def fetch(self, series: Series, on_stored: Callable[[Stored], None]) -> None:
        """Have every object of a series stored; `on_stored` is called with each that is safely on disk.

        Raises:
            PacsUnreachableError: the archive does not answer, or fell silent in the middle.
            ArchiveRefusesError: it refuses us, whatever the series.
            PacsError: it sent less than all, with the reason that it gave.
        """


class ArchiveRefusesError(PacsError):
    """It will refuse every other series too, until its administrator changes that."""
