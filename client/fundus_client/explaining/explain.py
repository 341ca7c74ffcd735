"""One photograph -> one map: masked copies of it are scored by running servers, a bounded number at once."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from fundus_client.batch import SETTLE_S
from fundus_client.explaining.area import Cover, Subject, area_of
from fundus_client.explaining.masks import (
    MAP_CELLS,
    Answers,
    Covers,
    Heat,
    heat_map,
    random_covers,
    stability,
)
from fundus_client.pool import Pool
from fundus_core.errors import FundusError
from fundus_core.images import DEFAULT_LIMITS, decode_reduced
from fundus_core.metadata import without_metadata
from fundus_core.preprocess import Pixels

IN_FLIGHT = 8  # masked copies in memory and at the servers
TOLERANCE = 0.02  # how far the answer to the picture as it is sent may be from that to the file
LEAST_USED = 0.5  # of the masks
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]

Tick = Callable[[], object]  # is called for each masked copy that is answered


class UnexplainedError(FundusError):
    """A photograph that has a score and gets no map; `code` says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Explanation:
    """What the probability of one photograph depends on.

    Args:
        subject: the photograph, and the area of it that reaches the networks.
        probability: of the file.
        difference: what the picture as it is sent scores above the file.
        heat: (G, G) over the area, in units of the probability; NaN where nothing reaches the networks.
        stability: correlation (-1 to 1) that a map from as many other masks would have with it.
        n_used: masks whose answers count.
        n_moved: masks left out, because with them another area would have been looked at.
    """

    subject: Subject
    probability: float
    difference: float
    heat: Heat
    stability: float
    n_used: int
    n_moved: int


@dataclass(frozen=True)
class Explainer:
    """Asks the servers of `pool` about one label, with `n_masks` masked copies of each photograph."""

    pool: Pool
    label: int
    n_masks: int

    async def explain(self, data: bytes, tick: Tick) -> Explanation:
        """Return the map of one encoded file.

        Raises:
            ImageError: it cannot be scored.
            UnexplainedError: the answers would not be about this photograph.
            ServerError: as `Pool.score`.
        """
        data = await asyncio.to_thread(without_metadata, data)
        probability = await self._ask(data)
        subject = await asyncio.to_thread(self._open, data)
        difference = await self._ask(await asyncio.to_thread(_encode, subject.pixels)) - probability
        if abs(difference) > TOLERANCE:
            hint = "Check the server with `fundus-client verify`."
            raise UnexplainedError("other_score", f"Sent again, it scores {difference:+.3f} more. {hint}")
        covers = random_covers(self.n_masks)
        answers = await self._ask_all(subject, covers, tick)
        return Explanation(subject, probability, difference, *_mapped(subject, answers, covers))

    def _open(self, data: bytes) -> Subject:
        # As the server does: sent again, it is the same picture.
        pixels, _ = decode_reduced(data, DEFAULT_LIMITS, self.pool.spec.preprocess.least_px)
        return Subject.of(pixels, self.pool.spec.preprocess)

    async def _ask_all(self, subject: Subject, covers: Covers, tick: Tick) -> Answers:
        """Return the answers (N,), NaN where another area would be looked at.

        Ended early, it waits for what is in flight: tritonserver 2.51 may crash when requests are cancelled.
        """
        answers, left = np.full(len(covers), np.nan), iter(enumerate(covers))

        async def work() -> None:
            for number, cover in left:
                if picture := await asyncio.to_thread(self._masked, subject, cover):
                    answers[number] = await self._ask(picture)
                tick()

        workers = [asyncio.create_task(work()) for _ in range(IN_FLIGHT)]
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            deque(left, maxlen=0)
            await asyncio.wait(workers, timeout=SETTLE_S)
        await asyncio.gather(*workers)
        return answers

    def _masked(self, subject: Subject, cover: Cover) -> bytes | None:
        """Return the masked photograph as PNG, None where another area would be looked at."""
        picture = subject.hidden(cover)
        near = subject.area.is_near(area_of(picture, self.pool.spec.preprocess))
        return _encode(picture) if near else None

    async def _ask(self, data: bytes) -> float:
        answer = await self.pool.score(data, hashlib.sha256(data).hexdigest())
        return answer.probability[self.label]


def _mapped(subject: Subject, answers: Answers, covers: Covers) -> tuple[Heat, float, int, int]:
    """Return the map, its stability, and how many masks count and how many do not (NaN)."""
    used, seen = ~np.isnan(answers), subject.area.seen(MAP_CELLS)
    n_used, n_moved = int(used.sum()), int((~used).sum())
    if n_used < LEAST_USED * len(used):
        said = f"{n_moved} of {len(used)} masks send the search for the optic disc elsewhere."
        raise UnexplainedError("disc_unsure", f"{said} A map would be of several places.")
    heat = np.where(seen, heat_map(answers[used], covers[used]), np.nan)
    return heat, stability(answers[used], covers[used], seen), n_used, n_moved


def _encode(pixels: Pixels) -> bytes:
    """Return PNG: a loss, or another number of pixels, would move the score as much as a mask does."""
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), _PNG)[1].tobytes()
