"""What a watch has begun and not finished, on disk: a small SQLite file that is empty most of the time.

    recorded  ->  the row stands in its table  ->  the file lies in DONE or FAILED  ->  forgotten

What is recorded survives `kill -9` and the loss of power. It holds no name of a file, only ids.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fundus_client.database import change, open_database, sqlite_explained
from fundus_core.errors import UsageError

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS owner (inbox TEXT);
CREATE TABLE IF NOT EXISTS begun (number INTEGER PRIMARY KEY, entry TEXT, copy INTEGER, written INTEGER);
PRAGMA user_version = 1;
COMMIT;
"""


@dataclass(frozen=True)
class Entry:
    """One file whose answer is known; its row or its move may still be missing."""

    facts: dict[str, Any]  # what the log says of it: id, status, sha256 ...
    n_bytes: int
    mtime_ns: int
    table: str  # the table's file name
    header: str  # the table's first line
    line: str
    line_at: int  # the byte where the line begins if nobody else writes to the table


@dataclass(frozen=True)
class Begun:
    """An entry, and how far it is."""

    number: int
    entry: Entry
    copy: int  # the number that is added to the file's name; 0: none
    written: bool  # the row, into its table


@dataclass
class Ledger:
    """The entries of one watch, in the order in which they were recorded."""

    path: Path
    _database: sqlite3.Connection = field(repr=False)

    def begun(self) -> list[Begun]:
        """Return everything that is not finished."""
        with sqlite_explained(self.path):
            found = self._database.execute("SELECT * FROM begun ORDER BY number").fetchall()
        return [
            Begun(number, Entry(**json.loads(entry)), copy, bool(written))
            for number, entry, copy, written in found
        ]

    def record(self, entries: Iterable[tuple[Entry, int]]) -> None:
        """Take new entries, each with the number that is added to its file's name."""
        rows = [(json.dumps(asdict(entry)), copy) for entry, copy in entries]
        self._change("INSERT INTO begun VALUES (NULL, ?, ?, 0)", rows)

    def mark_written(self, begun: Iterable[Begun]) -> None:
        """Note that these rows stand in their table."""
        self._change("UPDATE begun SET written = 1 WHERE number = ?", [(each.number,) for each in begun])

    def rename(self, begun: Begun) -> None:
        """Note that a file's name gets another number."""
        self._change("UPDATE begun SET copy = ? WHERE number = ?", [(begun.copy, begun.number)])

    def forget(self, begun: Iterable[Begun]) -> None:
        """Drop what is finished."""
        self._change("DELETE FROM begun WHERE number = ?", [(each.number,) for each in begun])

    def belongs_to(self, inbox: str) -> None:
        """Take the inbox that everything recorded is of.

        Raises:
            UsageError: it holds entries of another one.
        """
        with sqlite_explained(self.path):
            owner = self._database.execute("SELECT inbox FROM owner").fetchone()
        if owner and owner[0] != inbox and self.begun():
            hint = "Start it once more as before, so that it can finish, or choose another --output."
            raise UsageError(f"'{self.path}' holds unfinished files of another inbox or key. {hint}")
        self._change("DELETE FROM owner", [()])
        self._change("INSERT INTO owner VALUES (?)", [(inbox,)])

    def _change(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        change(self.path, self._database, statement, rows)


@contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """Open the ledger at `path`, or begin one. It may be used from any thread, one at a time.

    Raises:
        FundusError: another watch has it open, it is damaged, or the disk is full.
    """
    with open_database(path, _SCHEMA) as database:
        yield Ledger(path, database)
