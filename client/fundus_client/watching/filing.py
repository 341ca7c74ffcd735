"""Rows into their table, then files out of the inbox: each step is safe on the disk before the next begins.

Every step can be done again after an interruption: a line goes on where it was cut off, and a file that was
moved is not there to be moved once more.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count, groupby
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fundus_client.watching.inbox import Arrival, is_unchanged
from fundus_client.watching.ledger import Begun, Entry, Ledger
from fundus_client.watching.moving import make_folders, move_new
from fundus_core.files import flush as flush
from fundus_core.rows import ScoreFormat, ScoreRow
from fundus_core.sheet import csv_line


@dataclass(frozen=True)
class Places:
    """The folders of a watch."""

    inbox: Path
    done: Path
    failed: Path
    tables: Path


@dataclass(frozen=True)
class Answered:
    """A file whose row is known."""

    arrival: Arrival
    row: ScoreRow
    form: ScoreFormat


@dataclass(frozen=True)
class Outcome:
    """What became of a file; a `stuck` one stays where it is and is tried again."""

    event: Literal["scored", "failed", "skipped", "stuck"]
    name: str
    facts: dict[str, object]
    seconds: float | None = None  # since it was seen first; None: by an earlier process


@dataclass
class Filing:
    """The one writer of a watch's tables, and the one that moves its files; for one thread at a time."""

    places: Places
    ledger: Ledger
    _names: dict[str, str] = field(default_factory=dict)  # of what is begun, by id
    _seen_s: dict[str, float] = field(default_factory=dict)
    _unrecorded: list[Answered] = field(default_factory=list)
    _stuck: set[int] = field(default_factory=set)
    _outcomes: list[Outcome] = field(default_factory=list)

    def resume(self, named: Iterable[tuple[str, str]]) -> set[str]:
        """Find what an earlier process began among the (image_id, name) pairs of an inbox; return names."""
        ids = {begun.entry.facts["id"] for begun in self.ledger.begun()}
        self._names = {image_id: name for image_id, name in named if image_id in ids} if ids else {}
        return set(self._names.values())

    def file(self, answered: Iterable[Answered]) -> list[Outcome]:
        """Record rows, write them, move their files, and go on with what could not be finished before.

        Raises:
            OSError: a table cannot be written. Nothing is lost; call again without these rows.
            FundusError: the ledger cannot be written.
        """
        self._unrecorded.extend(answered)
        self._write()
        self._drop_changed()
        self._record()
        self._write()
        self._move()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _drop_changed(self) -> None:
        """Leave alone what changed since it was read: it is not what was scored."""
        there = []
        for each in self._unrecorded:
            if self._is_there(each.arrival):
                there.append(each)
            else:
                facts: dict[str, object] = {"id": each.arrival.image_id, "reason": "changed"}
                self._outcomes.append(Outcome("skipped", each.arrival.name, facts))
        self._unrecorded = there

    def _record(self) -> None:
        now, ends = datetime.now().astimezone(), dict[str, int]()
        self.ledger.record([self._planned(each, now, ends) for each in self._unrecorded])
        for arrival in (each.arrival for each in self._unrecorded):
            self._names[arrival.image_id], self._seen_s[arrival.image_id] = arrival.name, arrival.seen_s
        self._unrecorded = []

    def _is_there(self, arrival: Arrival) -> bool:
        try:
            return is_unchanged(self.places.inbox / arrival.name, arrival.n_bytes, arrival.mtime_ns)
        except OSError:
            return False

    def _planned(self, answered: Answered, now: datetime, ends: dict[str, int]) -> tuple[Entry, int]:
        """Return the entry of a row, and the number for its file's name; `ends` are those of the tables."""
        arrival, row, form = answered.arrival, answered.row, answered.form
        table = f"scores-{now.date()}-{form.bundle_digest[:8]}.csv"
        header = csv_line((*form.header, "time"))
        line = csv_line((*form.cells(row), now.isoformat(timespec="seconds")))
        line_at = ends.setdefault(table, _size(self.places.tables / table))
        ends[table] += len(_encoded(line)) + (0 if line_at else len(_encoded(header)))
        facts = _facts(row, form.labels)
        entry = Entry(facts, arrival.n_bytes, arrival.mtime_ns, table, header, line, line_at)
        return entry, _free_copy(self._folder(row.status), arrival.name)

    def _write(self) -> None:
        missing = [begun for begun in self.ledger.begun() if not begun.written]
        missing.sort(key=lambda begun: (begun.entry.table, begun.number))
        for table, of_table in groupby(missing, key=lambda begun: begun.entry.table):
            rows = list(of_table)
            _append(self.places.tables / table, [begun.entry for begun in rows])
            self.ledger.mark_written(rows)

    def _move(self) -> None:
        moved, folders = [], set[Path]()
        for begun in self.ledger.begun():
            try:
                folders |= self._move_one(begun)
                moved.append(begun)
            except OSError as error:
                self._is_stuck(begun, error)
        for folder in folders:
            flush(folder)
        self.ledger.forget(moved)
        self._outcomes += map(self._finished, moved)

    def _is_stuck(self, begun: Begun, error: OSError) -> None:
        if begun.number not in self._stuck:
            self._stuck.add(begun.number)
            facts = {"id": begun.entry.facts["id"], "reason": "not_moved", "message": error.strerror}
            self._outcomes.append(Outcome("stuck", self._name(begun), facts))

    def _move_one(self, begun: Begun) -> set[Path]:
        """Move one file; return the folders to be flushed to the disk."""
        entry, name = begun.entry, self._name(begun)
        source = self.places.inbox / name
        if not name or not is_unchanged(source, entry.n_bytes, entry.mtime_ns):
            return set()  # moved before an interruption, or another file has its name now
        folder = self._folder(entry.facts["status"])
        target = folder / _numbered(name, begun.copy)
        make_folders(folder, name)
        try:
            move_new(source, target, entry.facts["sha256"])
        except FileExistsError:
            begun = replace(begun, copy=_free_copy(folder, name))
            self.ledger.rename(begun)
            return self._move_one(begun)
        return {source.parent, *target.parents[: len(Path(name).parts)]}

    def _finished(self, begun: Begun) -> Outcome:
        image_id = begun.entry.facts["id"]
        seen_s = self._seen_s.pop(image_id, None)
        seconds = None if seen_s is None else time.monotonic() - seen_s
        self._stuck.discard(begun.number)
        facts = begun.entry.facts
        return Outcome(facts["status"], self._names.pop(image_id, ""), facts, seconds)

    def _name(self, begun: Begun) -> str:
        return self._names.get(begun.entry.facts["id"], "")

    def _folder(self, status: str) -> Path:
        return self.places.done if status == "scored" else self.places.failed


def _facts(row: ScoreRow, labels: Sequence[str]) -> dict[str, Any]:
    """Return what the log says of a file."""
    return {
        "id": row.image_id,
        "sha256": row.sha256,
        "status": row.status,
        "reason": row.reason.partition(":")[0],
        "ungradable": row.ungradable,
        "probability": {
            label: round(number, 8) for label, number in zip(labels, row.probability or (), strict=False)
        },
    }


def _numbered(name: str, copy: int) -> str:
    """Return "eye/left-1.jpg" for copy 1 of "eye/left.jpg"."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{copy}{path.suffix}")) if copy else name


def _free_copy(folder: Path, name: str) -> int:
    return next(copy for copy in count() if not os.path.lexists(folder / _numbered(name, copy)))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(path: Path, entries: Sequence[Entry]) -> None:
    """Append the lines of one table that are not there yet, and flush them to the disk."""
    header, lines = _encoded(entries[0].header), [_encoded(entry.line) for entry in entries]
    line_at = entries[0].line_at
    whole = b"".join(lines if line_at else (header, *lines))
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(line_at)
        begun = file.read()
        if size >= line_at and whole.startswith(begun):
            file.write(whole[len(begun) :])
        else:
            file.seek(0)
            file.write(_into_edited(file.read(), header, lines))
        file.flush()
        os.fsync(file.fileno())
    if line_at == 0:
        flush(path.parent)


def _into_edited(content: bytes, header: bytes, lines: Sequence[bytes]) -> bytes:
    """Return what to append to a table that somebody else has changed or taken away."""
    head = b"" if content.endswith(b"\n") else b"\n"
    return b"".join((head if content else header, *(line for line in lines if line not in content)))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
