"""The folder of one day and one bundle: the objects that were scored, their table, and how it was made.

    2026-11-25-1a2b3c4d/
        objects/STUDY/OBJECT.dcm
        scores.csv, scores.csv.journal, manifest.json
        .open              while the process that listens may still add to it

Objects come here when they are about to be scored. One that gets no answer goes back into the spool, so that
a closed folder holds none without a row. What a killed process left open is brought to this state first.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from fundus_client.dicom.frames import Frames, by_object
from fundus_client.journal import Journal, OtherVersionError, journal_path, open_journal
from fundus_client.run import End, write_table
from fundus_client.sources.disk import DiskSource
from fundus_client.sources.ref import Ref
from fundus_core.ensemble import EnsembleSpec, read_manifest, write_manifest
from fundus_core.files import ImageRef, flush
from fundus_core.rows import ScoreRow

TABLE = "scores.csv"
OBJECTS, OPEN = "objects", ".open"
_MISSING = "server_unreachable: No server answered; it goes back into the spool."


@dataclass(frozen=True)
class Taken:
    """Objects that were moved here, as a source."""

    refs: Sequence[ImageRef]
    n_repeated: int = 0

    def __iter__(self) -> Iterator[Ref]:
        return iter(self.refs)


@dataclass(frozen=True)
class Day:
    """An open folder of a day, and its journal.

    Args:
        spool: the folder that objects come from, as STUDY/OBJECT.dcm.
        spec: the bundle that answers.
    """

    folder: Path
    spool: Path
    spec: EnsembleSpec
    journal: Journal

    def everything(self, of_patient: Callable[[str], str]) -> Frames:
        """Return all its objects."""
        return Frames(DiskSource([str(self.folder / OBJECTS)]), of_patient)

    def take(self, studies: Iterable[Path]) -> Taken:
        """Move everything in these folders of the spool here.

        Raises:
            OSError: something cannot be moved; what was moved is found at the next start.
        """
        taken = Taken([ref for study in studies for ref in self._take(study)])
        self.journal.forget(ref.image_id for ref in taken.refs)  # what an earlier object of its name had said
        return taken

    def _take(self, study: Path) -> Iterator[ImageRef]:
        folder = self.folder / OBJECTS / study.name
        folder.mkdir(exist_ok=True)
        for path in sorted(study.iterdir()):
            path.replace(folder / path.name)
            yield ImageRef(f"{study.name}/{path.name}", folder / path.name)
        flush(folder)

    def row(self, image_id: str) -> ScoreRow | None:
        """Return the row of one frame, None where it is none of this day."""
        return self.journal.row(image_id, _MISSING)

    def settle(self, source: Frames) -> Counter[str]:
        """Write the table, after the objects of `source` without an answer went back into the spool.

        Returns:
            how many frames of the others have which outcome: a reason code, or "scored".
        """
        outcomes = Counter[str]()
        for frames in by_object(source):
            rows = [self.row(frame.image_id) for frame in frames]
            reasons = [row.reason if row else _MISSING for row in rows]
            if _MISSING in reasons:
                self.journal.forget([frames[0].ref.image_id])
                _give_back(self.folder / OBJECTS / frames[0].ref.image_id, self.spool)
            else:
                outcomes.update(reason.partition(":")[0] or "scored" for reason in reasons)
        write_table(self.journal, self.folder / TABLE, End(self.spec, None))
        return outcomes


def _give_back(path: Path, spool: Path) -> None:
    folder = spool / path.parent.name
    folder.mkdir(exist_ok=True)
    with suppress(FileExistsError):  # a newer one came meanwhile
        os.link(path, folder / path.name)
        flush(folder)
    path.unlink()


@contextmanager
def open_day(
    root: Path, spool: Path, spec: EnsembleSpec, of_patient: Callable[[str], str], today: date
) -> Iterator[Day]:
    """Open the folder of a day and a bundle, settled. After an exception it stays marked as open.

    Raises:
        FundusError: another process has it open, or the disk is full.
    """
    folder = root / f"{today}-{spec.digest[:8]}"
    (folder / OBJECTS).mkdir(parents=True, exist_ok=True)
    write_manifest(spec, folder)
    (folder / OPEN).touch()
    with _opened(folder, spool, spec, of_patient) as day:
        yield day


def left_open(root: Path, spool: Path, of_patient: Callable[[str], str]) -> Iterator[Day]:
    """Yield, settled, each folder that a process left open when it ended; then it is closed.

    Of a folder that another version of this program has begun, all objects go back into the spool and are
    scored again; its table stays until the same day writes it anew.

    Raises:
        FundusError: another process has it open, or the disk is full.
    """
    for mark in root.glob(f"*/{OPEN}"):
        try:
            with _opened(mark.parent, spool, read_manifest(mark.parent), of_patient) as day:
                yield day
        except OtherVersionError:
            for path in (mark.parent / OBJECTS).glob("*/*"):
                _give_back(path, spool)
            for path in mark.parent.glob(f"{TABLE}.journal*"):  # SQLite's own files beside it too
                path.unlink()
            mark.unlink()


def prune(root: Path, before: date) -> None:
    """Remove the objects of closed folders from days before `before`; the tables stay."""
    for folder in root.iterdir():
        if folder.name[:10] < before.isoformat() and not (folder / OPEN).exists():
            shutil.rmtree(folder / OBJECTS, ignore_errors=True)


@contextmanager
def _opened(folder: Path, spool: Path, spec: EnsembleSpec, of_patient: Callable[[str], str]) -> Iterator[Day]:
    with open_journal(journal_path(folder / TABLE), fresh=False) as journal:
        journal.belongs_to(spec)
        day = Day(folder, spool, spec, journal)
        everything = day.everything(of_patient)
        journal.register(everything)
        day.settle(everything)
        yield day
    (folder / OPEN).unlink()
