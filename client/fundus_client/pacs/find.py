"""C-FIND: which series of a day an archive has. No query asks for anything of a person."""

import logging
from collections.abc import Iterator
from datetime import date

from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association

from fundus_client.pacs.archive import Query, Series
from fundus_client.pacs.peer import Caller, Peer, association, code_of
from fundus_client.pacs.spool import is_uid
from fundus_core.errors import PacsError, PacsUnreachableError

_LOG = logging.getLogger(__name__)
_STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"
_PENDING = (0xFF00, 0xFF01)


def find_series(peer: Peer, caller: Caller, query: Query) -> Iterator[Series]:
    """Yield the series of the query's modalities, one association a day; memory holds one day.

    `ModalitiesInStudy` narrows the search where the archive knows it; each series is looked at anyhow.

    Raises:
        PacsUnreachableError: the archive does not answer, or falls silent.
        PacsError: it refuses, or answers with an error.
    """
    for day in query.days():
        with association(peer, caller, [build_context(_STUDY_ROOT)]) as opened:
            found = list(_of_day(opened, peer, day, query.modalities))
        yield from found


def _of_day(opened: Association, peer: Peer, day: date, modalities: tuple[str, ...]) -> Iterator[Series]:
    studies = {
        _text(study, "StudyInstanceUID"): None
        for modality in modalities
        for study in _find(opened, peer, "STUDY", StudyDate=f"{day:%Y%m%d}", ModalitiesInStudy=modality)
    }
    for study_uid in studies:
        for series in _find(opened, peer, "SERIES", StudyInstanceUID=study_uid):
            series_uid = _text(series, "SeriesInstanceUID")
            if not (is_uid(study_uid) and is_uid(series_uid)):
                _LOG.warning("%s has a series without a proper UID; it is left out.", peer)
            elif _text(series, "Modality") in modalities:
                yield Series(study_uid, series_uid, _count(opened, peer, study_uid, series))


def _count(opened: Association, peer: Peer, study_uid: str, series: Dataset) -> int:
    """Return how many objects a series has; not every archive says so of the series."""
    count = _text(series, "NumberOfSeriesRelatedInstances")
    if count.isdecimal():
        return int(count)
    uids = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": _text(series, "SeriesInstanceUID")}
    return len(_find(opened, peer, "IMAGE", **uids))


_KEYS = {
    "STUDY": ("StudyInstanceUID",),
    "SERIES": ("SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"),
    "IMAGE": ("SOPInstanceUID",),
}


def _find(opened: Association, peer: Peer, level: str, **matching: str) -> list[Dataset]:
    """Return all matches: an association holds one operation at a time."""
    keys = Dataset()
    keys.QueryRetrieveLevel = level
    for keyword in _KEYS[level]:
        setattr(keys, keyword, None)
    for keyword, value in matching.items():
        setattr(keys, keyword, value)
    try:
        return list(_matches(opened.send_c_find(keys, _STUDY_ROOT), peer))
    except RuntimeError:  # the association is over
        raise PacsUnreachableError(f"{peer} ended the association. Start again.") from None


def _matches(answers: Iterator[tuple[Dataset, Dataset | None]], peer: Peer) -> Iterator[Dataset]:
    for answer, found in answers:
        code = code_of(answer, peer)
        if code in _PENDING and found is not None:
            yield found
        elif code:
            raise PacsError(f"{peer} answers the search with an error (0x{code:04X}). Ask its administrator.")


def _text(found: Dataset, keyword: str) -> str:
    return str(found.get(keyword) or "")
