"""Files -> rows, each as soon as it is known, with a bounded number of encoded images in memory."""

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol, TypeVar

from fundus_client.pool import Pool
from fundus_client.scorer import Prediction
from fundus_client.sources import Image
from fundus_core.errors import (
    BreaksServerError,
    BundleError,
    FundusError,
    ImageError,
    ImageReason,
    ServerError,
    ServerReason,
    ServerUnreachableError,
)
from fundus_core.images import DEFAULT_LIMITS
from fundus_core.metadata import without_metadata
from fundus_core.rows import ScoreRow

READERS = 4
READ_AHEAD = 16
MAX_BYTES = 64 * 2**20
SETTLE_S = 8.0
_CHUNK = 64
T = TypeVar("T")


class Memory(Protocol):
    """What is known already, and takes what becomes known; `fundus_client.journal` keeps it on disk."""

    def knows(self, image_id: str, stamp: bytes) -> bool:
        """Whether this very file has its row already; `stamp` is that of `Image`."""

    def answer(self, sha256: str) -> ScoreRow | None:
        """Return the row of an earlier file with this content, if there was one."""

    def record(self, image_id: str, stamp: bytes, row: ScoreRow) -> None:
        """Note what became of one file."""


@dataclass(frozen=True, slots=True)
class _Listed:
    ref: Image
    n_bytes: int
    stamp: bytes  # from before the file was read


@dataclass
class Batch:
    """One run over a stream of files: every file that `memory` does not know yet gets its row there."""

    pool: Pool
    memory: Memory
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _asked: dict[str, asyncio.Task[Prediction]] = field(default_factory=dict)
    _fault: BaseException | None = None

    def __post_init__(self) -> None:
        self._budget = _Budget(self.pool.capacity + READ_AHEAD, MAX_BYTES)
        self._readers = ThreadPoolExecutor(READERS)

    async def run(self, refs: Iterable[Image]) -> None:
        """Score every file; a failure is a row with a reason. Ends early when the servers are lost.

        Cancelled, it sends nothing more, and records what is answered within `SETTLE_S`: tritonserver 2.51
        may crash when requests are cancelled.
        """
        try:
            async for listed in self._unknown(refs):
                await self._budget.take(listed.n_bytes)
                if self.pool.lost or self._fault:
                    break
                task = asyncio.create_task(self._one(listed))
                self._tasks.add(task)
                task.add_done_callback(functools.partial(self._ended, listed.n_bytes))
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            await self._settle()
        if self._fault:
            raise self._fault

    async def _unknown(self, refs: Iterable[Image]) -> AsyncIterator[_Listed]:
        """List files in a thread: a network drive or an object store may take its time."""
        refs = iter(refs)
        while chunk := await self._in_thread(_list, refs):
            for listed in chunk:
                if not self.memory.knows(listed.ref.image_id, listed.stamp):
                    yield listed

    async def _one(self, listed: _Listed) -> None:
        try:
            row = await self._row(listed.ref)
        except (ServerUnreachableError, BundleError):  # nothing is known of it, and the run ends
            return
        self.memory.record(listed.ref.image_id, listed.stamp, row)
        self._asked.pop(row.sha256, None)  # not before: else it would be asked again

    async def _row(self, ref: Image) -> ScoreRow:
        sha256 = ""
        try:
            sha256, data = await self._in_thread(_read, ref)
            if earlier := self.memory.answer(sha256):
                return replace(earlier, image_id=ref.image_id)
            found = await self._asked_once(data, sha256)
        except ImageError as error:
            return _failed(ref, sha256, error.reason, error)
        except BreaksServerError as error:
            return _failed(ref, sha256, "breaks_server", error)
        except ServerUnreachableError:
            raise
        except ServerError as error:
            return _failed(ref, sha256, "server_error", error)
        numbers = (found.probability, found.fold_probability)
        return ScoreRow(ref.image_id, sha256, "scored", "", *numbers, found.quality)

    async def _asked_once(self, data: bytes, sha256: str) -> Prediction:
        """Return the servers' answer; files with the same content that are under way share one request."""
        if sha256 not in self._asked:
            self._asked[sha256] = asyncio.create_task(self.pool.score(data, sha256))
        return await asyncio.shield(self._asked[sha256])

    async def _in_thread(self, function: Callable[..., T], argument: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, argument)

    def _ended(self, n_bytes: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._budget.give(n_bytes)
        self._fault = self._fault or (None if task.cancelled() else task.exception())

    async def _settle(self) -> None:
        if self._tasks:
            self.pool.close()
            await asyncio.wait(self._tasks, timeout=SETTLE_S)
        self._readers.shutdown(wait=False, cancel_futures=True)


class _Budget:
    """How many images, and how many bytes of them, are in memory; a larger image goes alone."""

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self.max_images, self.max_bytes = max_images, max_bytes
        self.n_images = self.n_bytes = 0
        self._given = asyncio.Event()

    async def take(self, n_bytes: int) -> None:
        while self.n_images and not self._has_room(n_bytes):
            self._given.clear()
            await self._given.wait()
        self.n_images += 1
        self.n_bytes += n_bytes

    def give(self, n_bytes: int) -> None:
        self.n_images -= 1
        self.n_bytes -= n_bytes
        self._given.set()

    def _has_room(self, n_bytes: int) -> bool:
        return self.n_images < self.max_images and self.n_bytes + n_bytes <= self.max_bytes


def _list(refs: Iterator[Image]) -> list[_Listed]:
    return [_Listed(ref, ref.size_bytes(), ref.stamp()) for ref in islice(refs, _CHUNK)]


def _read(ref: Image) -> tuple[str, bytes]:
    """Return the SHA-256 of a file, and what is sent of it: its picture without what is known of a person."""
    data = ref.read(DEFAULT_LIMITS)
    return hashlib.sha256(data).hexdigest(), without_metadata(data)


def _failed(ref: Image, sha256: str, code: ImageReason | ServerReason, error: FundusError) -> ScoreRow:
    return ScoreRow(ref.image_id, sha256, "failed", f"{code}: {error}", None, None)
