"""What lies in an inbox, found by polling: inotify is not told what others write to a network drive.

A file is ready when its size and time of change stayed the same for `settle_s`, or as soon as it was renamed
into place. Which names are not finished yet: those that begin with a dot or end in one of `UNFINISHED`.
"""

import errno
import fcntl
import heapq
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fundus_core.errors import UsageError
from fundus_core.files import by_suffix

UNFINISHED = (".part", ".tmp", ".filepart")
OLDEST = 4096  # files that are looked at more closely; all others are only counted
Kind = Literal["image", "unfinished", "other", "unlisted"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One image file as it was found; times of the monotonic clock."""

    image_id: str  # its name, or a pseudonym of that
    name: str  # relative posix path
    n_bytes: int
    mtime_ns: int
    seen_s: float
    ready_s: float


@dataclass(frozen=True)
class Scan:
    """One look at an inbox: `ready` are the oldest of the files that may be taken, oldest first."""

    ready: tuple[Arrival, ...]
    n_images: int
    n_others: int  # files whose names are no image's
    n_unlisted: int  # folders and files that the file system did not let us look at


@dataclass
class Inbox:
    """A folder that image files arrive in; memory does not grow with their number."""

    folder: Path
    settle_s: float
    id_of: Callable[[str], str] = str
    _seen: dict[str, Arrival] = field(default_factory=dict)
    _unfinished: set[int] = field(default_factory=set)  # their inodes, at the last scan

    def scan(self, taken: Container[str]) -> Scan:
        """Look at everything once; names that are `taken` are counted and not looked at again.

        Raises:
            OSError: the folder cannot be listed.
        """
        counts, renamed = Counter[Kind](), self._unfinished
        self._unfinished = set()

        def free() -> Iterator[tuple[int, str, os.stat_result]]:
            for name, kind, status in self._walk(counts):
                if kind == "unfinished" and len(self._unfinished) < OLDEST:
                    self._unfinished.add(status.st_ino)
                elif kind == "image" and name not in taken:
                    yield status.st_mtime_ns, name, status

        oldest = heapq.nsmallest(OLDEST, free())
        now_s = time.monotonic()
        arrivals = [self._arrival(name, status, renamed, now_s) for _, name, status in oldest]
        self._seen = {arrival.name: arrival for arrival in arrivals}
        ready = tuple(arrival for arrival in arrivals if arrival.ready_s <= now_s)
        return Scan(ready, counts["image"], counts["other"], counts["unlisted"])

    def names(self) -> Iterator[str]:
        """Yield the name of every image file.

        Raises:
            OSError: the folder cannot be listed.
        """
        return (name for name, kind, _ in self._walk(Counter()) if kind == "image")

    def _arrival(self, name: str, status: os.stat_result, renamed: set[int], now_s: float) -> Arrival:
        facts = (status.st_size, status.st_mtime_ns)
        known = self._seen.get(name)
        if known and (known.n_bytes, known.mtime_ns) == facts:
            return known
        # A rename changes ctime alone; while a file grows, maybe in the inode of another, both are equal.
        in_place = status.st_ino in renamed and status.st_ctime_ns > status.st_mtime_ns
        return Arrival(self.id_of(name), name, *facts, now_s, now_s if in_place else now_s + self.settle_s)

    def _walk(self, counts: Counter[Kind]) -> Iterator[tuple[str, Kind, os.stat_result]]:
        """Yield name, kind and status of every regular file; links, pipes and devices are left alone."""
        folders = [""]
        while folders:
            folder = folders.pop()
            for entry, status in self._entries(folder, counts):
                if stat.S_ISREG(status.st_mode):
                    counts[kind := _kind(entry.name)] += 1
                    yield f"{folder}{entry.name}", kind, status
                elif stat.S_ISDIR(status.st_mode) and not _is_unfinished(entry.name):
                    folders.append(f"{folder}{entry.name}/")

    def _entries(
        self, folder: str, counts: Counter[Kind]
    ) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        try:
            with os.scandir(self.folder / folder) as entries:
                for entry in entries:
                    try:
                        yield entry, entry.stat(follow_symlinks=False)
                    except OSError as error:
                        counts["unlisted"] += error.errno != errno.ENOENT
        except OSError as error:
            if not folder:
                raise
            counts["unlisted"] += error.errno != errno.ENOENT


def is_unchanged(path: Path, n_bytes: int, mtime_ns: int) -> bool:
    """Whether a file is still there as it was found.

    Raises:
        OSError: that cannot be told now.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == (n_bytes, mtime_ns)


@contextmanager
def only_watch(folder: Path) -> Iterator[None]:
    """Let no second watch of this computer take files from `folder` while the block runs.

    Raises:
        UsageError: there is one already.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(f"Another watch takes files from '{folder}'. End it first.") from None
    except OSError:  # a network drive that knows no such locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _kind(name: str) -> Kind:
    if _is_unfinished(name):
        return "unfinished"
    return "image" if by_suffix(name, False) else "other"


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(UNFINISHED)
