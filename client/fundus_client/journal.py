"""What a run already knows, on disk: an SQLite file beside the table, so that nothing is scored twice.

    found    every input of the run that goes on now, with what its DICOM header says; the table gets exactly
             these rows
    files    what became of each input: the content it had, or why it could not be read
    answers  what the ensemble answered to each content

A journal belongs to one bundle. What was recorded more than a second ago survives `kill -9` and the loss of
power: the write-ahead log is flushed to the disk with every commit. Only one run at a time opens it.
"""

import asyncio
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Never

import numpy as np

from fundus_client.database import open_database, sqlite_explained
from fundus_client.sources import Ref
from fundus_core.acquisition import Acquisition
from fundus_core.ensemble import EnsembleSpec
from fundus_core.errors import BundleError, UsageError
from fundus_core.quality import Quality
from fundus_core.rows import ScoreRow

COMMIT_S = 1.0
_CHUNK = 1000
_VERSION = 3
_FORGET = "DROP TABLE IF EXISTS files; DROP TABLE IF EXISTS answers; DROP TABLE IF EXISTS bundle; VACUUM;"
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS bundle (digest TEXT PRIMARY KEY, title TEXT);
CREATE TABLE IF NOT EXISTS files (
    image_id BLOB PRIMARY KEY, stamp BLOB, sha256 TEXT, reason TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (
    sha256 TEXT PRIMARY KEY, reason TEXT, quality BLOB, probability BLOB
) WITHOUT ROWID;
DROP TABLE IF EXISTS found;
CREATE TABLE found (image_id BLOB PRIMARY KEY, acquisition TEXT) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_ROWS = """
SELECT found.image_id, sha256, coalesce(files.reason, answers.reason) AS reason,
    quality, probability, acquisition
FROM found LEFT JOIN files USING (image_id) LEFT JOIN answers USING (sha256)
"""


class OtherVersionError(UsageError):
    """A journal that another version of this program has begun."""


@dataclass(frozen=True)
class Found:
    """What walking the inputs found: `n_known` of the `n_files` have their row from an earlier run."""

    n_files: int
    n_known: int


@dataclass
class Journal:
    """The journal of one table, open for one run."""

    path: Path
    _database: sqlite3.Connection = field(repr=False)
    _n_labels: int = 1
    _files: list[tuple[bytes, bytes, str | None, str | None]] = field(default_factory=list)
    _answers: dict[str, ScoreRow] = field(default_factory=dict)

    def register(self, refs: Iterable[Ref]) -> Found:
        """Note every input of this run; an id that comes twice is one input."""
        refs, n_known = iter(refs), 0
        with self._explained():
            self._database.execute("BEGIN")
            while chunk := list(islice(refs, _CHUNK)):
                inputs = [(os.fsencode(ref.image_id), _text(ref.acquisition)) for ref in chunk]
                stamps = [(os.fsencode(ref.image_id), ref.stamp()) for ref in chunk]
                self._database.executemany("INSERT OR REPLACE INTO found VALUES (?, ?)", inputs)
                # what is said of another content must not stand in the row of this one
                self._database.executemany("DELETE FROM files WHERE image_id = ? AND stamp <> ?", stamps)
                n_known += sum(self.knows(os.fsdecode(each), stamp) for each, stamp in stamps)
            self._database.execute("COMMIT")
            return Found(self._count("found"), n_known)

    def belongs_to(self, spec: EnsembleSpec, *, adaptive: bool = False) -> None:
        """Take the bundle that answers from now on; an empty journal belongs to none yet.

        Raises:
            BundleError: it holds the answers of another bundle.
            UsageError: it holds answers of all folds, and now fewer are asked (`adaptive`), or the other way.
        """
        digest = f"{spec.digest} adaptive" if adaptive else spec.digest
        with self._explained():
            earlier = self._database.execute("SELECT digest, title FROM bundle").fetchone()
            if earlier and earlier[0] != digest and self._count("answers"):
                self._refuse(earlier[0], earlier[1], spec)
            self._n_labels = len(spec.labels)
            self._database.execute("DELETE FROM bundle")
            self._database.execute("INSERT INTO bundle VALUES (?, ?)", (digest, spec.title))

    def forget(self, file_ids: Iterable[str]) -> None:
        """Take these files, and their frames, back from the inputs of this run."""
        ids = map(os.fsencode, file_ids)
        ranges = [(each, each + b"/", each + b"0") for each in ids]  # "0" is what sorts behind "/"
        with self._explained():
            query = "DELETE FROM found WHERE image_id = ? OR image_id > ? AND image_id < ?"
            self._database.executemany(query, ranges)

    def forget_failures(self) -> None:
        """Let every file without a score be tried again."""
        with self._explained():
            self._database.execute("DELETE FROM answers WHERE reason <> ''")

    def knows(self, image_id: str, stamp: bytes) -> bool:
        """Whether this very file was answered already; `stamp` is that of `Ref`.

        One that could not be read is not known: the drive, or the right to read it, may have come back.
        """
        query = "SELECT 1 FROM files JOIN answers USING (sha256) WHERE image_id = ? AND stamp = ?"
        found = self._database.execute(query, (os.fsencode(image_id), stamp))
        return bool(stamp) and found.fetchone() is not None

    def answer(self, sha256: str) -> ScoreRow | None:
        """Return the row of an earlier file with this content, if there was one."""
        if sha256 in self._answers:
            return self._answers[sha256]
        query = "SELECT x'', sha256, reason, quality, probability, NULL FROM answers WHERE sha256 = ?"
        found = self._database.execute(query, (sha256,)).fetchone()
        return self._row("", *found) if found else None

    def record(self, image_id: str, stamp: bytes, row: ScoreRow) -> None:
        """Note what became of one file; `commit` makes it last."""
        own_reason = None if row.sha256 else row.reason
        self._files.append((os.fsencode(image_id), stamp, row.sha256 or None, own_reason))
        if row.sha256:
            self._answers[row.sha256] = row

    def commit(self) -> None:
        """Write what was recorded since the last time, and flush it to the disk.

        Raises:
            FundusError: the disk is full or fails; what was committed before is kept.
        """
        answers = [
            (sha256, row.reason, _measured(row), _packed(row)) for sha256, row in self._answers.items()
        ]
        with self._explained():
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", answers)
            self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", self._files)
            self._database.execute("COMMIT")
        self._answers.clear()
        self._files.clear()

    def has_any(self, image_ids: Iterable[str]) -> bool:
        """Whether one of these ids is an input of this run."""
        query = "SELECT 1 FROM found WHERE image_id = ?"
        return any(self._database.execute(query, (os.fsencode(each),)).fetchone() for each in image_ids)

    def first_id(self) -> str:
        """Return the first input's id."""
        return os.fsdecode(self._database.execute("SELECT min(image_id) FROM found").fetchone()[0])

    async def commit_regularly(self) -> None:
        """Commit every `COMMIT_S` seconds, for ever."""
        while True:
            await asyncio.sleep(COMMIT_S)
            self.commit()

    def rows(self, missing: str) -> Iterator[ScoreRow]:
        """Yield the row of every input in the order of their ids; `missing` stands for those not known."""
        for found in self._database.execute(f"{_ROWS} ORDER BY found.image_id"):
            yield self._row(missing, *found)

    def row(self, image_id: str, missing: str) -> ScoreRow | None:
        """Return the row of one input; None where it is none of this run."""
        query = f"{_ROWS} WHERE found.image_id = ?"
        found = self._database.execute(query, (os.fsencode(image_id),)).fetchone()
        return self._row(missing, *found) if found else None

    @property
    def n_missing(self) -> int:
        """How many inputs have no row yet."""
        query = f"SELECT count(*) FROM ({_ROWS}) WHERE reason IS NULL"  # noqa: S608
        return int(self._database.execute(query).fetchone()[0])

    @property
    def has_acquisitions(self) -> bool:
        """Whether any input is a frame of a DICOM object."""
        query = "SELECT 1 FROM found WHERE acquisition IS NOT NULL LIMIT 1"
        return self._database.execute(query).fetchone() is not None

    def _row(
        self,
        missing: str,
        image_id: bytes,
        sha256: str | None,
        reason: str | None,
        measured: bytes | None,
        packed: bytes | None,
        acquisition: str | None,
    ) -> ScoreRow:
        name = os.fsdecode(image_id)
        known = Acquisition(*json.loads(acquisition)) if acquisition else None
        if reason != "":
            said = missing if reason is None else reason
            return ScoreRow(name, sha256 or "", "failed", said, None, None, acquisition=known)
        mean, *folds = np.frombuffer(packed or b"", "<f4").reshape(-1, self._n_labels).tolist()
        numbers = (tuple(mean), tuple(map(tuple, folds)))
        quality = Quality.from_vector(np.frombuffer(measured, "<f4")) if measured else None
        return ScoreRow(name, sha256 or "", "scored", "", *numbers, quality, known)

    def _refuse(self, digest: str, title: str, spec: EnsembleSpec) -> Never:
        ways_out = "choose another --output, or start over with --fresh."
        if digest.partition(" ")[0] != spec.digest:
            holds = f"holds answers of {title}, and now {spec.title} is served"
            raise BundleError(f"'{self.path}' {holds}. Serve it again, {ways_out}")
        was, option = ("adaptive", "with") if " " in digest else ("full", "without")
        raise UsageError(f"'{self.path}' holds {was} answers. Go on {option} --adaptive, {ways_out}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        with sqlite_explained(self.path):
            yield

    def _count(self, table: str) -> int:
        return int(self._database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


def journal_path(output: Path) -> Path:
    """Return where the journal of the table `output` lies."""
    return output.with_name(f"{output.name}.journal")


@contextmanager
def open_journal(path: Path, *, fresh: bool) -> Iterator[Journal]:
    """Open the journal at `path`, or begin one; `fresh` forgets what an earlier run left there.

    Raises:
        FundusError: another run has it open, another version began it, it is damaged, or the disk is full.
    """
    with open_database(path, _FORGET if fresh else "") as database:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if not fresh and version not in (0, _VERSION):
            hint = "Start over with --fresh."
            raise OtherVersionError(f"Another version of fundus-client began '{path}'. {hint}")
        with sqlite_explained(path):
            database.executescript(_SCHEMA)
        yield Journal(path, database)


def _text(acquisition: Acquisition | None) -> str | None:
    return json.dumps(astuple(acquisition)) if acquisition else None


def _measured(row: ScoreRow) -> bytes | None:
    return row.quality.vector.astype("<f4").tobytes() if row.quality else None


def _packed(row: ScoreRow) -> bytes | None:
    if row.probability is None or row.fold_probability is None:
        return None
    return np.array([row.probability, *row.fold_probability], "<f4").tobytes()
