"""Files -> rows, in order, with a bounded window of encoded images in flight. Every file gives one row."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field

from fundus_client.scorer import Scorer
from fundus_core.errors import ImageError, ServerError, ServerUnreachableError
from fundus_core.files import ImageRef, read_encoded
from fundus_core.images import DEFAULT_LIMITS
from fundus_core.tables import ScoreRow

SETTLE_S = 8.0


@dataclass(frozen=True, slots=True)
class Window:
    """How many images, and how many bytes of them, may be in flight at once."""

    max_images: int = 64
    max_bytes: int = 256 * 2**20


@dataclass
class Batch:
    """One run over a stream of files. `server_lost` tells that the server went away on the way."""

    scorer: Scorer
    window: Window = field(default_factory=Window)
    server_lost: bool = False

    async def rows(self, refs: Iterable[ImageRef]) -> AsyncGenerator[ScoreRow, None]:
        """Yield one row per file, in the order of `refs`; a failure is a row with a reason."""
        in_flight: deque[tuple[asyncio.Task[ScoreRow], int]] = deque()
        n_bytes = 0
        try:
            for ref in refs:
                size = _size(ref)
                while in_flight and not self._has_room(len(in_flight), n_bytes + size):
                    yield await asyncio.shield(in_flight[0][0])
                    n_bytes -= in_flight.popleft()[1]
                in_flight.append((asyncio.create_task(self._row(ref)), size))
                n_bytes += size
            while in_flight:
                yield await asyncio.shield(in_flight[0][0])
                in_flight.popleft()
        finally:
            await _settle([task for task, _ in in_flight])

    def _has_room(self, n_images: int, n_bytes: int) -> bool:
        return n_images < self.window.max_images and n_bytes <= self.window.max_bytes

    async def _row(self, ref: ImageRef) -> ScoreRow:
        if self.server_lost:
            return _failed(ref, "", "server_unreachable", "Not sent: the server was gone by then.")
        sha256 = ""
        try:
            data = await asyncio.to_thread(read_encoded, ref.path, DEFAULT_LIMITS)
            sha256 = hashlib.sha256(data).hexdigest()
            answer = await self.scorer.score(data, sha256)
        except ImageError as error:
            return _failed(ref, sha256, error.reason, str(error))
        except ServerUnreachableError as error:
            self.server_lost = True
            return _failed(ref, sha256, "server_unreachable", str(error))
        except ServerError as error:
            return _failed(ref, sha256, "server_error", str(error))
        return ScoreRow(ref.image_id, sha256, "scored", "", answer.probability, answer.fold_probability)


async def _settle(tasks: list[asyncio.Task[ScoreRow]]) -> None:
    """Wait for the answers in flight: tritonserver 2.51 may crash when requests are cancelled."""
    if tasks:
        await asyncio.wait(tasks, timeout=SETTLE_S)


def _size(ref: ImageRef) -> int:
    try:
        return ref.path.stat().st_size
    except OSError:  # its row will say so
        return 0


def _failed(ref: ImageRef, sha256: str, code: str, sentence: str) -> ScoreRow:
    return ScoreRow(ref.image_id, sha256, "failed", f"{code}: {sentence}", None, None)
