"""Score what arrives in an inbox, for as long as the process runs: look -> score -> write the row -> move.

Three tasks share the work. One looks at the inbox, one sends what is ready to the servers, one writes rows
and moves files. A file is taken from when it is sent until it is moved; one that the servers could not answer
is given back: it stays in the inbox, and is found again.
"""

import asyncio
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from fundus_client.batch import Batch
from fundus_client.member import Endpoint, Patience
from fundus_client.pool import Pool, open_pool
from fundus_client.watching.events import EventLog
from fundus_client.watching.filing import Answered, Filing, Outcome
from fundus_client.watching.inbox import Arrival, Inbox, Scan, is_unchanged
from fundus_client.watching.metrics import Metrics
from fundus_core.errors import FundusError
from fundus_core.files import read_encoded
from fundus_core.images import ImageLimits
from fundus_core.rows import ScoreFormat, ScoreRow

MOST_UNFILED = 1000  # answered files that are not moved yet; more are not taken
RETRY_S = 5.0  # what could not be written or moved
REOPEN_S = 2.0
_FOLLOW_S, _IDLE_S = 1.0, 0.1
_LOOKING_SHARE = 0.2  # of the time, where one look takes long


@dataclass
class _Taken:
    """A file that is being scored, as `Batch` reads it."""

    arrival: Arrival
    path: Path
    read_s: float | None = None

    @property
    def image_id(self) -> str:
        return self.arrival.image_id

    def size_bytes(self) -> int:
        return self.arrival.n_bytes

    def stamp(self) -> bytes:
        with suppress(OSError):
            if is_unchanged(self.path, self.arrival.n_bytes, self.arrival.mtime_ns):
                return b"as it was found"
        return b""

    def read(self, limits: ImageLimits) -> bytes:
        data = read_encoded(self.path, limits)
        self.read_s = time.monotonic()
        return data


@dataclass
class Watch:
    """One inbox, one ledger, and the servers of one `run`."""

    inbox: Inbox
    filing: Filing
    log: EventLog
    metrics: Metrics
    poll_s: float
    _ready: deque[Arrival] = field(default_factory=deque)
    _names: set[str] = field(default_factory=set)  # of the files that are taken
    _scoring: dict[str, _Taken] = field(default_factory=dict)  # those of them that have no row yet, by id
    _answered: list[Answered] = field(default_factory=list)
    _to_file: asyncio.Event = field(default_factory=asyncio.Event)
    _is_resumed: bool = False
    _is_ending: bool = False
    _is_feeding: bool = False
    _is_up: bool = False
    _waiting: dict[str, str] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)

    async def run(self, endpoints: Sequence[Endpoint], patience: Patience, model: str) -> None:
        """Watch until SIGTERM or SIGINT; what is in flight then is answered, written and moved.

        Raises:
            FundusError: the ledger cannot be written.
        """
        asked = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, asked.set)
        self.log.tell("started", version=version("fundus-triton"))
        filing, asking = asyncio.create_task(self._file()), asyncio.create_task(asked.wait())
        sources = [
            asyncio.create_task(each) for each in (self._look(), self._score(endpoints, patience, model))
        ]
        await asyncio.wait([asking, filing, *sources], return_when=asyncio.FIRST_COMPLETED)
        for task in (asking, *sources):
            task.cancel()
        await asyncio.wait(sources)
        self._is_ending = True
        self._to_file.set()
        await asyncio.wait([filing])
        self.log.tell("stopped", **self._counts)
        for task in (filing, *sources):
            if not task.cancelled():
                task.result()

    async def _look(self) -> None:
        """Look at the inbox again and again."""
        while True:
            started_s = time.monotonic()
            try:
                if not self._is_resumed:
                    self._names |= await asyncio.to_thread(self._resume)
                    self._is_resumed = True
                self._found(await asyncio.to_thread(self.inbox.scan, self._names))
            except OSError as error:
                self._wait("inbox_unreadable", error.strerror or str(error))
            await asyncio.sleep(max(self.poll_s, (time.monotonic() - started_s) / _LOOKING_SHARE))

    def _resume(self) -> set[str]:
        return self.filing.resume((self.inbox.id_of(name), name) for name in self.inbox.names())

    def _found(self, scan: Scan) -> None:
        self._ready = deque(scan.ready)
        self.metrics.found(scan.n_images)
        self._wait("inbox_unreadable", "")
        self._wait("unlisted", f"{scan.n_unlisted} folders or files" if scan.n_unlisted else "")
        self._wait("other_names", f"{scan.n_others} files" if scan.n_others else "")

    async def _score(self, endpoints: Sequence[Endpoint], patience: Patience, model: str) -> None:
        """Send what is ready to the servers; where they are lost, connect again, for ever."""
        self._server_is(False, message="No server has answered yet.")
        while True:
            trouble: Exception | None
            try:
                async with open_pool(endpoints, patience, model) as pool:
                    following = asyncio.create_task(self._follow(pool))
                    try:
                        await self._score_with(pool)
                    finally:
                        following.cancel()
                    trouble = pool.lost
            except FundusError as error:
                trouble = error
            self._server_is(False, message=str(trouble))
            await asyncio.sleep(REOPEN_S)

    async def _score_with(self, pool: Pool) -> None:
        """Score until the servers are lost. A file without an answer is given back then.

        What is ready goes to one batch until nothing is; the next file begins another, so that none waits
        for the last answer of those before it.
        """
        spec = pool.spec
        form = ScoreFormat(spec.labels, spec.thresholds, len(spec.folds), spec.digest)
        self._is_feeding = False
        try:
            async with asyncio.TaskGroup() as batches:
                while not pool.lost:
                    if self._ready and not self._is_full and not self._is_feeding:
                        self._is_feeding = True
                        batches.create_task(Batch(pool, _Memory(self, form)).run(self._take()))
                    await asyncio.sleep(_IDLE_S)
        finally:
            for image_id in list(self._scoring):
                self.give_back(image_id)

    def _take(self) -> Iterator[_Taken]:
        """Yield what is ready, oldest first; `Batch` asks in a thread of its own."""
        with suppress(IndexError):
            while not self._is_full:
                arrival = self._ready.popleft()
                if arrival.name not in self._names:
                    taken = _Taken(arrival, self.inbox.folder / arrival.name)
                    self._names.add(arrival.name)
                    self._scoring[arrival.image_id] = taken
                    yield taken
        self._is_feeding = False

    @property
    def _is_full(self) -> bool:
        return len(self._names) - len(self._scoring) >= MOST_UNFILED

    def give_back(self, image_id: str) -> None:
        """Let a file be found again that has no row."""
        self._names.discard(self._scoring.pop(image_id).arrival.name)

    def answered(self, row: ScoreRow, form: ScoreFormat) -> None:
        """Take a row, to be written soon."""
        taken = self._scoring.pop(row.image_id)
        if taken.read_s is not None:
            self.metrics.answered(time.monotonic() - taken.read_s)
        self._answered.append(Answered(taken.arrival, row, form))
        self._to_file.set()

    async def _follow(self, pool: Pool) -> None:
        """Tell when the last server goes and when one comes back."""
        bundle = {"bundle": f"{pool.spec.name} {pool.spec.version}", "bundle_digest": pool.spec.digest}
        while True:
            troubles = dict.fromkeys(str(server.trouble) for server in pool.servers)
            is_up = any(server.scorer for server in pool.servers)
            self._server_is(is_up, **(bundle if is_up else {"message": " ".join(troubles)}))
            await asyncio.sleep(_FOLLOW_S)

    async def _file(self) -> None:
        """Write and move what is answered, soon; what could not be written or moved, again later."""
        while not self._is_ending or self._answered:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._to_file.wait(), RETRY_S)
            self._to_file.clear()
            if self._is_resumed:
                await self._file_once()

    async def _file_once(self) -> None:
        answered, self._answered = self._answered, []
        try:
            outcomes = await asyncio.to_thread(self.filing.file, answered)
        except OSError as error:
            self._wait("not_written", error.strerror or str(error))
            return
        self._wait("not_written", "")
        for outcome in outcomes:
            self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        if outcome.event == "stuck":
            self.log.tell("waiting", **outcome.facts)
            return
        self._names.discard(outcome.name)
        self._counts[outcome.event] += 1
        seconds = None if outcome.seconds is None else round(outcome.seconds, 3)
        self.log.tell(outcome.event, **outcome.facts, seconds=seconds)
        if outcome.event != "skipped":
            self.metrics.filed(outcome.event, str(outcome.facts["reason"]), outcome.seconds)

    def _wait(self, reason: str, message: str) -> None:
        """Tell what holds the watch up, once; `message` is "" where it does no more."""
        if message != self._waiting.get(reason, ""):
            self._waiting[reason] = message
            if message:
                self.log.tell("waiting", reason=reason, message=message)

    def _server_is(self, up: bool, **facts: str) -> None:
        """Tell when the servers come and go, and each new reason why they stay away."""
        if up != self._is_up:
            self._is_up = up
            self.metrics.server(up)
            self.log.tell("server_back" if up else "server_lost", **facts)
            self._waiting["server_unreachable"] = facts.get("message", "")
        self._wait("server_unreachable", facts.get("message", ""))


@dataclass(frozen=True)
class _Memory:
    """What `Batch` is told of each file, and tells of it."""

    watch: Watch
    form: ScoreFormat

    def knows(self, image_id: str, stamp: bytes) -> bool:
        if not stamp:  # changed or gone since it was found
            self.watch.give_back(image_id)
        return not stamp

    def answer(self, sha256: str) -> ScoreRow | None:
        return None

    def record(self, image_id: str, stamp: bytes, row: ScoreRow) -> None:
        self.watch.answered(row, self.form)
