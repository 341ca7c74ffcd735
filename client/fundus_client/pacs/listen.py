"""Receive -> study complete -> score -> report -> send, for as long as the process runs.

The SCP has threads of its own, and so has the sender; studies are scored here, one round after the other.
Everything that is to be remembered lies in folders:

    spool/STUDY/OBJECT.dcm     received and acknowledged, not scored
    days/DAY-BUNDLE/           objects that were scored, and their table: `fundus_client.pacs.day`
    reports/DAY-BUNDLE/        reports, and beside these folders what the archive has got of them
"""

import asyncio
import queue
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from threading import Event, Thread

from fundus_client.dicom.evidence import Kind
from fundus_client.dicom.frames import Frames
from fundus_client.dicom.reporting import write_reports
from fundus_client.member import Endpoint, Patience
from fundus_client.pacs.day import OBJECTS, Day, left_open, open_day, prune
from fundus_client.pacs.outbox import LONGEST_PAUSE_S, Outbox
from fundus_client.pacs.studies import Studies
from fundus_client.pool import Pool, open_pool
from fundus_client.run import Job, score_missing, sigterm_cancels
from fundus_client.watching.events import EventLog
from fundus_core.errors import FundusError, PacsError, ServerError

POLL_S = 1.0
REOPEN_S = 5.0
_SETTLE_S = 10.0
_MOST_STUDIES = 100  # of one round, so that the first reports of a busy night do not wait for the last


@dataclass(frozen=True)
class Rooms:
    """The folders below the one that a listener has for itself."""

    root: Path

    @property
    def spool(self) -> Path:
        """What was received."""
        return self.root / "spool"

    @property
    def days(self) -> Path:
        """What was scored."""
        return self.root / "days"

    @property
    def reports(self) -> Path:
        """What goes back."""
        return self.root / "reports"

    def objects(self) -> list[Path]:
        """Return where objects lie that were scored, the latest first."""
        return sorted(self.days.glob(f"*/{OBJECTS}"), reverse=True)

    def make(self) -> None:
        """Make them."""
        for folder in (self.spool, self.days, self.reports):
            folder.mkdir(exist_ok=True)


@dataclass
class Scoring:
    """What happens to complete studies; `written` is told of each report.

    Args:
        kinds: of reports, see `write_reports`.
        keep_days: how long objects are kept; reports and tables stay.
    """

    rooms: Rooms
    studies: Studies
    of_patient: Callable[[str], str]
    kinds: Sequence[Kind]
    keep_days: int
    log: EventLog
    written: Callable[[Path], object]
    _trouble: str = ""

    def run(self, endpoints: Sequence[Endpoint], patience: Patience, model: str) -> None:
        """Score until SIGTERM or Ctrl-C; servers that are away, and a full disk, are waited for, for ever."""
        while True:
            try:
                self._settle()
                asyncio.run(self._serve(endpoints, patience, model))
            except FundusError as error:
                self._wait("server_unreachable" if isinstance(error, ServerError) else "fault", str(error))
            except OSError as error:
                self._wait("disk", error.strerror or "The disk does not answer.")
            else:
                continue
            time.sleep(REOPEN_S)

    def _settle(self) -> None:
        """Finish what an earlier process, or a fault, left in the middle."""
        for day in left_open(self.rooms.days, self.rooms.spool, self.of_patient):
            self._report(day, day.everything(self.of_patient))
        prune(self.rooms.days, date.today() - timedelta(self.keep_days))
        self.studies.tidy()

    async def _serve(self, endpoints: Sequence[Endpoint], patience: Patience, model: str) -> None:
        """Score until the day ends or the servers are lost."""
        with sigterm_cancels():
            async with open_pool(endpoints, patience, model) as pool:
                self._trouble = ""
                self.log.tell("server_back", bundle=pool.spec.title)
                today, (days, spool) = date.today(), (self.rooms.days, self.rooms.spool)
                with open_day(days, spool, pool.spec, self.of_patient, today) as day:
                    await self._score(pool, day, today)
        if isinstance(pool.lost, ServerError):
            raise pool.lost

    async def _score(self, pool: Pool, day: Day, today: date) -> None:
        while not pool.lost and date.today() == today:
            complete = self.studies.complete()[:_MOST_STUDIES]
            if complete:
                await self._round(pool, day, complete)
            else:
                await asyncio.sleep(POLL_S)

    async def _round(self, pool: Pool, day: Day, complete: Sequence[Path]) -> None:
        taken = Frames(day.take(complete), self.of_patient)
        day.journal.register(taken)
        await score_missing(pool, Job(taken, day.journal, lambda spec: None, lambda row: None))
        outcomes = day.settle(taken)
        n_reports = self._report(day, taken)
        self.log.tell("scored", studies=len(complete), frames=dict(outcomes), reports=n_reports)

    def _report(self, day: Day, source: Frames) -> int:
        folder = self.rooms.reports / day.folder.name
        folder.mkdir(exist_ok=True)
        n_objects = 0
        for paths in write_reports(source, day.row, day.spec, folder, self.kinds):
            n_objects += 1
            for path in paths:
                self.written(path)
        return n_objects

    def _wait(self, reason: str, message: str) -> None:
        """Tell what holds the scoring up, once."""
        if message != self._trouble:
            self.log.tell("waiting", reason=reason, message=message)
        self._trouble = message


@dataclass
class Sending:
    """Reports on their way to an archive, in a thread of its own, for days if it must be."""

    outbox: Outbox
    log: EventLog
    fault: Exception | None = None  # that ended it
    _ended: Event = field(default_factory=Event)
    _written: "queue.SimpleQueue[Path]" = field(default_factory=queue.SimpleQueue)
    _trouble: str = ""

    def add(self, path: Path) -> None:
        """Send this report soon; from any thread."""
        self._written.put(path)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send while the block runs; a fault ends the process as SIGTERM does."""
        thread = Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(_SETTLE_S)

    def _run(self) -> None:
        try:
            self._send_until_ended()
        except Exception as error:  # or else nobody would know that nothing is sent any more
            self.fault = error
            signal.raise_signal(signal.SIGTERM)

    def _send_until_ended(self) -> None:
        self.outbox.scan()
        is_waiting = True
        while not self._ended.wait(POLL_S):
            is_waiting |= self._take()
            if is_waiting and time.monotonic() >= self.outbox.next_at:
                is_waiting = self._send()

    def _take(self) -> bool:
        n_taken = self._written.qsize()
        for _ in range(n_taken):
            self.outbox.add(self._written.get())
        return n_taken > 0

    def _send(self) -> bool:
        """Send once; whether anything still waits."""
        before = self.outbox.tally()
        try:
            self.outbox.send(time.monotonic())
            trouble = str(self.outbox.trouble or "")
        except PacsError as error:  # it will have nothing from us, until its administrator mends that
            self.outbox.next_at, trouble = time.monotonic() + LONGEST_PAUSE_S, str(error)
        after = self.outbox.tally()
        if after != before:
            self.log.tell("sent", sent=after.sent - before.sent, refused=dict(after.refused - before.refused))
        if trouble and trouble != self._trouble:
            self.log.tell("waiting", reason="archive_unreachable", message=trouble)
        self._trouble = trouble
        return bool(after.waiting)
