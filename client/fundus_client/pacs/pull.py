"""A pull: the series of some days from an archive into a folder, politely; an interrupted one goes on."""

import logging
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from fundus_client.database import change, open_database, sqlite_explained
from fundus_client.pacs.archive import Archive, ArchiveRefusesError, Query, Series
from fundus_client.pacs.spool import GIB, Stored
from fundus_core.errors import FundusError, PacsError, PacsUnreachableError, UsageError

_LOG = logging.getLogger(__name__)
LEDGER = ".pull.ledger"
_RETRIES_S = (1.0, 5.0, 20.0)  # an archive that restarts is back by then
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pulled (
    study_uid TEXT, series_uid TEXT, n_objects INTEGER, PRIMARY KEY (study_uid, series_uid)
) WITHOUT ROWID;
"""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Hours:
    """The hours of the day, by the local clock, in which an archive may be asked: from `start` to `end`."""

    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> "Hours":
        """Read "20-06".

        Raises:
            UsageError: it is written otherwise, or holds no hour.
        """
        found = re.fullmatch(r"([0-9]{1,2})-([0-9]{1,2})", text)
        start, end = map(int, found.groups()) if found else (0, 0)
        if start > 23 or end > 24 or start == end:
            raise UsageError(f"{text!r} is no window of hours. Write it as 20-06.")
        return cls(start, end)

    def wait_s(self, now: datetime) -> float:
        """Return the seconds until the window opens, 0 inside of it."""
        if (now.hour - self.start) % 24 < ((self.end - self.start) % 24 or 24):  # 0-24 is the whole day
            return 0.0
        opens = now.replace(hour=self.start, minute=0, second=0, microsecond=0)
        return (opens - now if opens > now else opens + timedelta(days=1) - now).total_seconds()


@dataclass
class Manners:
    """What an archive, and our own disk, are spared.

    Args:
        rate: objects a second at most, over a whole series; 0: as fast as it goes.
        hours: when it may be asked; None: always.
        min_free_bytes: what must stay free on the disk.
    """

    rate: float = 0.0
    hours: Hours | None = None
    min_free_bytes: int = GIB
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = datetime.now
    _next_s: float = 0.0

    def before(self, folder: Path) -> None:
        """Wait until the next request is polite.

        Raises:
            FundusError: the disk of `folder` is almost full.
        """
        free = shutil.disk_usage(folder).free
        if free < self.min_free_bytes:
            hint = "Free some, then run the command again: it goes on where it was."
            raise FundusError(f"Only {free / GIB:.1f} GiB are free for '{folder}'. {hint}")
        self.sleep(max(0.0, self._next_s - time.monotonic()))
        while self.hours and (wait_s := self.hours.wait_s(self.now())):
            _LOG.warning("Waiting for %02d:00, as --hours says.", self.hours.start)
            self.sleep(wait_s)

    def after(self, n_objects: int, started_s: float) -> None:
        """Take note of what a request cost, which began at `started_s` of the monotonic clock."""
        self._next_s = started_s + n_objects / self.rate if self.rate else 0.0


@dataclass
class Pulled:
    """What came of a pull."""

    n_objects: int = 0
    n_series: int = 0
    n_known: int = 0  # series that an earlier pull has finished
    studies: set[str] = field(default_factory=set)
    failed: dict[Series, str] = field(default_factory=dict)  # why, of series that did not come whole

    def __str__(self) -> str:
        known = f"; {self.n_known} series were here" if self.n_known else ""
        came = f"pulled {self.n_objects} objects of {self.n_series} series of {len(self.studies)} studies"
        return f"{came}{known}; failed {len(self.failed)} series"


@dataclass
class Pull:
    """One pull into one folder."""

    archive: Archive
    folder: Path
    manners: Manners
    on_stored: Callable[[Stored], None]
    uid_of: Callable[[str], str]  # what the ledger knows a UID by
    _ledger: sqlite3.Connection = field(repr=False)
    _reached: bool = False

    def run(self, query: Query) -> Pulled:
        """Pull day by day. A series that came short is tried once more at the end.

        Raises:
            PacsUnreachableError: the archive was away for half a minute.
            PacsError: it refuses us.
            FundusError: the disk is almost full.
        """
        done = Pulled()
        for day in query.days():
            for series in self._patiently(partial(self._listed, replace(query, first=day, last=day))):
                self._take(series, done)
        for series in list(done.failed):
            self._take(series, done)
        return done

    def _listed(self, query: Query) -> list[Series]:
        return list(self.archive.series(query))

    def _take(self, series: Series, done: Pulled) -> None:
        if self._knows(series):
            done.n_known += 1
            return
        done.failed.pop(series, None)
        stored: set[str] = set()
        started_s = time.monotonic()
        try:
            self._patiently(partial(self.archive.fetch, series, partial(self._note, stored)))
        except (PacsUnreachableError, ArchiveRefusesError):
            raise
        except PacsError as error:
            done.failed[series] = str(error)
        else:
            self._remember(series)
            done.n_series += 1
            done.studies.add(series.study_uid)
        finally:
            done.n_objects += len(stored)
            self.manners.after(len(stored), started_s)

    def _note(self, stored: set[str], each: Stored) -> None:
        if each.sop_uid not in stored:
            stored.add(each.sop_uid)
            self.on_stored(each)

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        """Wait for an archive that is away for a moment; one that never was there is not waited for."""
        for wait_s in _RETRIES_S if self._reached else ():
            try:
                return self._politely(ask)
            except PacsUnreachableError as error:
                _LOG.warning("%s Trying again in %g s.", error, wait_s)
                self.manners.sleep(wait_s)
        answer = self._politely(ask)
        self._reached = True
        return answer

    def _politely(self, ask: Callable[[], _T]) -> _T:
        self.manners.before(self.folder)
        return ask()

    def _knows(self, series: Series) -> bool:
        with sqlite_explained(self.folder / LEDGER):
            found = self._ledger.execute(
                "SELECT 1 FROM pulled WHERE (study_uid, series_uid, n_objects) = (?, ?, ?)", self._key(series)
            ).fetchone()
        return bool(found and series.n_objects)

    def _remember(self, series: Series) -> None:
        statement = "INSERT OR REPLACE INTO pulled VALUES (?, ?, ?)"
        change(self.folder / LEDGER, self._ledger, statement, [self._key(series)])

    def _key(self, series: Series) -> tuple[str, str, int]:
        return self.uid_of(series.study_uid), self.uid_of(series.series_uid), series.n_objects


@contextmanager
def open_pull(
    archive: Archive,
    folder: Path,
    manners: Manners,
    on_stored: Callable[[Stored], None],
    uid_of: Callable[[str], str] = str,
) -> Iterator[Pull]:
    """Open the ledger of finished series in `folder`, which exists; `on_stored` is called with each object.

    Beside de-identified copies the ledger must not know UIDs: `uid_of` gives their pseudonyms.

    Raises:
        FundusError: the ledger is damaged, or the disk is full.
    """
    with open_database(folder / LEDGER, _SCHEMA) as ledger:
        yield Pull(archive, folder, manners, on_stored, uid_of, ledger)
