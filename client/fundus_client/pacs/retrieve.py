"""C-MOVE: an archive sends a series to a listener of ours, which runs meanwhile."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.association import Association

from fundus_client.pacs.archive import ArchiveRefusesError, Query, Series
from fundus_client.pacs.find import find_series
from fundus_client.pacs.peer import Caller, Peer, association, code_of
from fundus_client.pacs.receive import Listening, receiving
from fundus_client.pacs.spool import Change, Stored
from fundus_core.errors import PacsError, PacsUnreachableError

_STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
_DESTINATION_UNKNOWN = 0xA801


@dataclass
class DimseArchive:
    """An archive by C-FIND and C-MOVE, see `open_dimse`."""

    peer: Peer
    caller: Caller
    _stack: ExitStack
    _opened: Association | None = None
    _wanted: str = ""  # the series that is fetched
    _arrived: set[str] = field(default_factory=set)  # its objects, by SOP instance UID
    _on_stored: Callable[[Stored], None] = lambda stored: None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def series(self, query: Query) -> Iterator[Series]:
        """Yield the series of the query's modalities, day by day, see `archive.Archive`."""
        return find_series(self.peer, self.caller, query)

    def fetch(self, series: Series, on_stored: Callable[[Stored], None]) -> None:
        """Have every object of a series sent to us, see `archive.Archive`."""
        self._wanted, self._arrived, self._on_stored = series.series_uid, set(), on_stored
        code, n_failed = self._move(series)
        if code == _DESTINATION_UNKNOWN:
            hint = "Have its administrator add this AE title with our host and port."
            raise ArchiveRefusesError(f"{self.peer} does not know {self.caller.ae_title}. {hint}")
        n_arrived = len(self._arrived)
        if code or n_failed or n_arrived < series.n_objects:
            answer = f"the archive answered 0x{code:04X}, with {n_failed} failures"
            raise PacsError(f"{n_arrived} of {series.n_objects} objects came; {answer}.")

    def arrive(self, stored: Stored) -> None:
        """Take note of an object; one of another series was sent by somebody else, and stays."""
        with self._lock:  # an archive may send over several associations
            if stored.series_uid == self._wanted and stored.sop_uid not in self._arrived:
                self._arrived.add(stored.sop_uid)
                self._on_stored(stored)

    def _move(self, series: Series) -> tuple[int, int]:
        """Return the last status, and how many sub-operations failed."""
        keys = Dataset()
        keys.QueryRetrieveLevel = "SERIES"
        keys.StudyInstanceUID, keys.SeriesInstanceUID = series.study_uid, series.series_uid
        code = n_failed = 0
        try:
            for answer, _ in self._association().send_c_move(keys, self.caller.ae_title, _STUDY_ROOT_MOVE):
                code = code_of(answer, self.peer)
                n_failed = int(answer.get("NumberOfFailedSuboperations") or 0)
        except RuntimeError:  # the association is over
            raise PacsUnreachableError(f"{self.peer} ended the association. Start again.") from None
        return code, n_failed

    def _association(self) -> Association:
        """Return the one of the last series, if it is still there: a new one takes longer than an object."""
        if self._opened is None or not self._opened.is_established:
            contexts = [build_context(_STUDY_ROOT_MOVE)]
            self._stack.close()
            self._opened = self._stack.enter_context(association(self.peer, self.caller, contexts))
        return self._opened


@contextmanager
def open_dimse(
    folder: Path, peer: Peer, caller: Caller, settings: Listening, change: Change | None = None
) -> Iterator[DimseArchive]:
    """Listen for what an archive sends, and give the archive; its objects lie as `receiving` puts them.

    Raises:
        UsageError: another command of this computer stores into `folder`.
        PortTakenError: another program listens at our port.
    """
    with ExitStack() as stack:
        archive = DimseArchive(peer, caller, stack)
        with receiving(folder, settings, archive.arrive, change):
            yield archive
