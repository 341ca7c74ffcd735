"""What an archive has got of a folder and what is still to be sent, remembered in a small SQLite file.

    found    ->  waiting  ->  sent  ->  committed (where storage commitment was asked for)
                          ->  refused, until `forget_refusals`

What is remembered survives `kill -9` and the loss of power. It holds UIDs, no name of a person or a file.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from random import uniform

from fundus_client.database import change, open_database, sqlite_explained
from fundus_client.pacs.commitment import Outcome
from fundus_client.pacs.send import Answer, Outgoing, Sender, read_outgoing
from fundus_client.sources.wanted import MAGIC_END, is_dicom
from fundus_core.errors import PacsUnreachableError
from fundus_core.files import walk_images

LEDGER = ".sent.ledger"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 900.0
_OF_A_REQUEST = 1000  # for storage commitment
_MANY_LATER = 3  # objects in a row that an archive puts off: it is busy, not one of them odd

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS objects (
    archive TEXT, sop_uid TEXT, outcome TEXT, reason TEXT, attempts INTEGER, at TEXT, committed_at TEXT,
    PRIMARY KEY (archive, sop_uid)
) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
"""
_RECORD = """
INSERT INTO objects VALUES (?, ?, ?, ?, 1, ?, NULL) ON CONFLICT DO UPDATE SET
outcome = excluded.outcome, reason = excluded.reason, attempts = attempts + 1, at = excluded.at
"""
_COMMITTED = "UPDATE objects SET committed_at = ? WHERE archive = ? AND sop_uid = ?"


@dataclass(frozen=True, slots=True)
class Known:
    """The last answer to one object, and how many there were."""

    answer: Answer
    attempts: int
    committed: bool


@dataclass
class SentLedger:
    """What archives answered, by the archive's name and the object's UID."""

    path: Path
    _database: sqlite3.Connection = field(repr=False)

    def known(self, archive: str) -> dict[str, Known]:
        """Return the last answers of an archive by SOP Instance UID."""
        query = "SELECT sop_uid, outcome, reason, attempts, committed_at FROM objects WHERE archive = ?"
        with sqlite_explained(self.path):
            rows = self._database.execute(query, (archive,)).fetchall()
        return {
            uid: Known(Answer(outcome, why), count, at is not None) for uid, outcome, why, count, at in rows
        }

    def record(self, archive: str, sop_uid: str, answer: Answer) -> None:
        """Remember an answer."""
        self._change(_RECORD, [(archive, sop_uid, answer.outcome, answer.reason, _now())])

    def record_committed(self, archive: str, sop_uids: Iterable[str]) -> None:
        """Remember that the archive has taken these into its safe keeping."""
        self._change(_COMMITTED, [(_now(), archive, uid) for uid in sop_uids])

    def forget_refusals(self, archive: str) -> None:
        """Let what was refused be sent once more: the archive may have been mended."""
        self._change("DELETE FROM objects WHERE archive = ? AND outcome = 'refused'", [(archive,)])

    def _change(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        change(self.path, self._database, statement, rows)


@contextmanager
def open_sent_ledger(path: Path) -> Iterator[SentLedger]:
    """Open the ledger at `path`, or begin one. It may be used from any thread, one at a time.

    Raises:
        FundusError: another run has it open, it is damaged, or the disk is full.
    """
    with open_database(path, _SCHEMA) as database:
        yield SentLedger(path, database)


@dataclass(frozen=True)
class Tally:
    """How far everything of a folder is."""

    sent: int
    committed: int
    refused: Counter[str]  # reason -> objects
    waiting: Counter[str]
    notes: Counter[str]  # of sent objects

    @property
    def total(self) -> int:
        """How many objects there are."""
        return self.sent + self.refused.total() + self.waiting.total()


@dataclass
class Outbox:
    """The objects below `folder` on their way to one archive; used from one thread at a time.

    A loop around `send` tries for as long as it runs, and goes on where it was after a restart.

    Args:
        folder: what `scan` looks below.
        ledger: may be shared by several outboxes of one thread.
        sender: the way to the archive.
        on_answer: hears of each answer when it is remembered.
    """

    folder: Path
    ledger: SentLedger
    sender: Sender
    on_answer: Callable[[Outgoing, Answer], None] = lambda *_: None
    trouble: PacsUnreachableError | None = None  # that ended the last `send`
    next_at: float = 0.0  # by the clock that `send` is given: don't call it before that
    _objects: dict[str, Outgoing] = field(default_factory=dict)
    _unreadable: set[Path] = field(default_factory=set)
    _failures: int = 0  # in a row

    def scan(self) -> None:
        """Take every DICOM object below the folder, by content; hidden files and indexes are passed over."""
        for ref in walk_images([self.folder.absolute()], self.folder.absolute(), _is_wanted):
            if is_dicom(ref.head(MAGIC_END)):
                self.add(ref.path)

    def add(self, path: Path) -> None:
        """Take one object that is whole on the disk."""
        if outgoing := read_outgoing(path):
            self._objects[outgoing.sop_uid] = outgoing
        else:
            self._unreadable.add(path)

    def pending(self) -> list[Outgoing]:
        """Return what is still to be sent, what was tried least often first."""
        known = self.ledger.known(self.sender.name)
        attempts = {uid: each.attempts for uid, each in known.items()}
        done = {uid for uid, each in known.items() if each.answer.outcome != "later"}
        waiting = (each for uid, each in self._objects.items() if uid not in done)
        return sorted(waiting, key=lambda each: attempts.get(each.sop_uid, 0))

    def send(self, now_s: float) -> None:
        """Send everything pending once, and remember each answer; then wait until `next_at`.

        Args:
            now_s: of the clock that `next_at` is read by.

        Raises:
            PacsError: the archive will have nothing from us.
        """
        in_a_row, asked_pause_s, self.trouble, began_s = 0, 0.0, None, time.monotonic()
        try:
            for each, answer in self.sender.send(self.pending()):
                self.ledger.record(self.sender.name, each.sop_uid, answer)
                self.on_answer(each, answer)
                in_a_row = in_a_row + 1 if answer.outcome == "later" else 0
                asked_pause_s = max(asked_pause_s, answer.pause_s)
                if in_a_row == _MANY_LATER:
                    break
        except PacsUnreachableError as error:
            self.trouble = error
        self._failures = self._failures + 1 if in_a_row or self.trouble else 0
        took_s = time.monotonic() - began_s
        self.next_at = now_s + took_s + max(asked_pause_s, _pause_s(self._failures))

    def tally(self) -> Tally:
        """Count what became of everything that was taken."""
        known = self.ledger.known(self.sender.name)
        answers = [
            known[uid].answer if uid in known else Answer("later", "not sent yet") for uid in self._objects
        ]
        refused = Counter(each.reason for each in answers if each.outcome == "refused")
        if self._unreadable:
            refused["no readable file meta information"] = len(self._unreadable)
        return Tally(
            sum(each.outcome == "sent" for each in answers),
            sum(uid in known and known[uid].committed for uid in self._objects),
            refused,
            Counter(each.reason for each in answers if each.outcome == "later"),
            Counter(each.reason for each in answers if each.outcome == "sent" and each.reason),
        )

    def commit(self, ask: Callable[[Sequence[Outgoing]], Outcome]) -> None:
        """Have the archive take over what it has got; what it turns out to lack waits again.

        Args:
            ask: for storage commitment of some objects.
        """
        known = self.ledger.known(self.sender.name)
        sent = [uid for uid, each in known.items() if each.answer.outcome == "sent" and not each.committed]
        waiting = iter([self._objects[uid] for uid in sent if uid in self._objects])
        while some := list(islice(waiting, _OF_A_REQUEST)):
            outcome = ask(some)
            self.ledger.record_committed(self.sender.name, outcome.committed)
            for uid, code in outcome.failed.items():
                self.ledger.record(self.sender.name, uid, Answer("later", f"not committed: 0x{code:04X}"))


def _is_wanted(name: str, is_folder: bool) -> bool:
    return not name.rpartition("/")[2].startswith((".", "DICOMDIR"))


def _pause_s(failures: int) -> float:
    """Return a random pause below a limit that doubles with each failure: "full jitter"."""
    limit_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(failures - 1, 20)) if failures else 0.0
    return uniform(0, limit_s)  # noqa: S311  no secret


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
