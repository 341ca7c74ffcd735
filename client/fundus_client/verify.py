"""Replay golden images through a running server: does it answer as was answered at export?"""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fundus_client.pool import Pool
from fundus_client.scorer import Prediction
from fundus_core.errors import BundleError
from fundus_core.tables import LabelTable
from fundus_eval.golden import held_to, read_golden
from fundus_eval.parity import Answers, Parity, compare

COPIES = 2  # of each image at once, so that batches hold identical rows
IN_FLIGHT = 32


async def replay(
    pool: Pool, repository: Path, own: Path | None, labels: LabelTable | None
) -> list[tuple[str, Parity]]:
    """Return the parity of a server with the golden answers of `repository`, beside who gave these.

    Every image is sent alone first, then all of them at once, each twice: so its answer in batches of any
    size, beside itself and beside others, is compared with its answer alone.

    Args:
        pool: the server, or several of one bundle.
        repository: a copy of the bundle that it serves.
        own: a folder with the images that were given at export.
        labels: of these.

    Raises:
        BundleError: the server serves another bundle, or the repository has no golden answers.
    """
    golden = read_golden(repository, pool.spec, own, labels)
    alone = [await _answer(pool, path) for path in golden.paths]
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def beside_others(path: Path) -> Prediction:
        async with slots:
            return await _answer(pool, path)

    together = await asyncio.gather(*(beside_others(path) for path in golden.paths for _ in range(COPIES)))
    repeats = [_answers(together[copy::COPIES]) for copy in range(COPIES)]
    return [
        (who, compare(pool.spec, golden.answers[who], _answers(alone), golden.truth, repeats, limit))
        for who, limit in held_to(pool.spec.precision).items()
    ]


def check_same_bundle(served: str, golden: str, repository: Path) -> None:
    """Refuse golden answers of another bundle than the one that is served.

    Raises:
        BundleError: the digests differ.
    """
    if served != golden:
        hint = "Give --repository, a copy of the bundle that the server serves."
        raise BundleError(
            f"The server serves the bundle {served[:12]}, '{repository}' is {golden[:12]}. {hint}"
        )


async def _answer(pool: Pool, path: Path) -> Prediction:
    data = path.read_bytes()
    return await pool.score(data, hashlib.sha256(data).hexdigest())


def _answers(predictions: Sequence[Prediction]) -> Answers:
    probability = np.array([each.probability for each in predictions])
    return Answers(probability, np.array([each.fold_probability for each in predictions]))
