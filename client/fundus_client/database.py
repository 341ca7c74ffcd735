"""Small SQLite files of what must not be forgotten: one process has one open, each commit is on the disk."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fundus_core.errors import FundusError, UsageError

_LASTING = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"


@contextmanager
def open_database(path: Path, script: str) -> Iterator[sqlite3.Connection]:
    """Open the file at `path`, or begin one, and run a script; for any thread, one at a time.

    Raises:
        FundusError: another process has it open, it is damaged, or the disk is full.
    """
    with sqlite_explained(path):
        database = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
    try:
        with sqlite_explained(path):
            database.executescript(_LASTING + script)
        yield database
    finally:
        database.close()


def change(
    path: Path, database: sqlite3.Connection, statement: str, rows: Sequence[tuple[object, ...]]
) -> None:
    """Run a statement with each of `rows`, all of them or none; they are on the disk when this returns.

    Raises:
        FundusError: the file at `path`, which `database` has open, cannot be written.
    """
    if rows:
        with sqlite_explained(path), database:
            database.execute("BEGIN")
            database.executemany(statement, rows)


@contextmanager
def sqlite_explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says of the file at `path` into a `FundusError` with the next step."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _explanation(path, error) from None


def _explanation(path: Path, error: sqlite3.DatabaseError) -> FundusError:
    if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UsageError(f"Another run has '{path}' open. Wait for its end, or use another folder or name.")
    if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return FundusError(f"'{path}' is no journal, or damaged. Remove it and run again.")
    hint = "Mend that and run the command again: what was committed is kept."
    return FundusError(f"'{path}' cannot be written: {error}. {hint}")
