"""The folder that received objects are put into: STUDY/OBJECT.dcm, whole and on the disk, or not at all."""

import fcntl
import filecmp
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import dcmread

from fundus_core.errors import FundusError, PacsError, UsageError
from fundus_core.files import flush

Change = Callable[[bytes], bytes]
GIB = 2**30
_INCOMING = ".incoming"  # what is not whole yet; emptied at the next start
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_TAGS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

# Status codes of PS3.4 B.2.3.
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True)
class Stored:
    """One object that is safely on disk, by the UIDs that it came with.

    `is_new`: these bytes were not here before.
    """

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    n_bytes: int
    is_new: bool


class SpoolError(PacsError):
    """An object that is not taken; `status` is what its sender is answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Spool:
    """An open spool; objects may be put from several threads.

    An object that comes again is the same file again. Where its bytes differ the newest ones stay, because
    they are what was acknowledged last.
    """

    folder: Path
    min_free_bytes: int
    change: Change | None = None

    def put(self, encoded: bytes) -> Stored:
        """Store one object, a whole file of DICOM (PS3.10); it is on the disk when this returns.

        Raises:
            SpoolError: it has no proper UIDs, contradicts its own file header, cannot be changed as it should
                be, or the disk is full.
        """
        uids = _uids(encoded)
        kept = self._changed(encoded)
        study_uid, _, sop_uid = _uids(kept) if self.change else uids
        path = self.folder / study_uid / f"{sop_uid}.dcm"
        try:
            is_new = self._write(path, kept)
        except OSError as error:
            raise SpoolError(OUT_OF_RESOURCES, f"The disk answered: {error.strerror}.") from None
        return Stored(path, *uids, len(kept), is_new)

    def _changed(self, encoded: bytes) -> bytes:
        try:
            return self.change(encoded) if self.change else encoded
        except FundusError as error:
            raise SpoolError(CANNOT_UNDERSTAND, str(error)) from None

    def _write(self, path: Path, encoded: bytes) -> bool:
        """Return whether the bytes were not there before."""
        if shutil.disk_usage(self.folder).free - len(encoded) < self.min_free_bytes:
            left = f"Less than {self.min_free_bytes / GIB:.3g} GiB would be left on the disk."
            raise SpoolError(OUT_OF_RESOURCES, f"{left} Free some.")
        partial = self.folder / _INCOMING / uuid.uuid4().hex
        try:
            partial.write_bytes(encoded)
            flush(partial)
            try:
                return self._place(partial, path)
            except FileNotFoundError:  # somebody took the whole study away in between
                return self._place(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _place(self, partial: Path, path: Path) -> bool:
        with suppress(FileExistsError):
            path.parent.mkdir()
            flush(self.folder)
        is_new = not (path.exists() and filecmp.cmp(partial, path, shallow=False))
        partial.replace(path)
        flush(path.parent)
        return is_new


@contextmanager
def open_spool(folder: Path, min_free_bytes: int = GIB, change: Change | None = None) -> Iterator[Spool]:
    """Open the spool in `folder`, which is made if missing; what a killed one left half is removed.

    Args:
        folder: nobody else stores into it.
        min_free_bytes: of the disk, that objects must leave.
        change: what is stored in place of an object, such as a copy of it; a `FundusError` refuses it.

    Raises:
        UsageError: another command of this computer stores into it.
    """
    incoming = folder / _INCOMING
    incoming.mkdir(parents=True, exist_ok=True)
    flush(folder.parent)
    descriptor = os.open(incoming, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        for left in incoming.iterdir():
            left.unlink()
        yield Spool(folder, min_free_bytes, change)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"Another command stores into '{folder}'. End it first.") from None
    except OSError:  # a network drive that knows no such locks
        pass


def _uids(encoded: bytes) -> tuple[str, str, str]:
    """Return the UIDs of an object's study, its series and itself; no message holds anything of it."""
    try:
        header = dcmread(BytesIO(encoded), stop_before_pixels=True, specific_tags=list(_TAGS))
        found = [str(header.get(keyword, "")) for keyword in _TAGS]
        announced = [header.file_meta.MediaStorageSOPClassUID, header.file_meta.MediaStorageSOPInstanceUID]
    except Exception:  # damage makes pydicom raise many kinds
        raise SpoolError(CANNOT_UNDERSTAND, "An object could not be read.") from None
    if not all(map(is_uid, found)):
        raise SpoolError(CANNOT_UNDERSTAND, "An object has a UID that is none.")
    sop_class, sop_uid, study_uid, series_uid = found
    if announced != [sop_class, sop_uid]:
        raise SpoolError(DOES_NOT_MATCH_CLASS, "An object is not what it was announced as.")
    return study_uid, series_uid, sop_uid


def is_uid(text: str) -> bool:
    """Whether a text is a UID by its form, so that it may become a file's name."""
    return len(text) <= 64 and bool(_UID.fullmatch(text))
