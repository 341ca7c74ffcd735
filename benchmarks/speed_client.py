"""What benchmarks/speed.py measures of the client: images/s, what images wait, and starts."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng
from speed_ensembles import Ensemble, Rows, side_name

from fundus_client.embedded import embedded_server
from fundus_client.scorer import Scorer, connect
from fundus_core.ensemble import Precision
from fundus_core.errors import FundusError
from fundus_core.files import run_json_path

SCORE = "fundus-client score"
SHARES = (0.25, 0.5, 0.8)  # of the throughput, at which latencies are taken
PERCENTILES = (50, 95, 99)
WAIT_S = 120
SERVER_READY, FIRST_SCORE = "server ready", "start to first score"


def score_rows(ensemble: Ensemble, addresses: Mapping[Precision, str]) -> Rows:
    """Return the rows of the client before a server of each precision."""
    return {
        (f"{SCORE}, {precision}", side_name(side_px)): lambda address=address, paths=paths: speed(
            address, paths
        )
        for precision, address in addresses.items()
        for side_px, paths in ensemble.photographs.items()
    }


def speed(address: str, paths: Sequence[Path]) -> float:
    """Return images/s of the command, as its run.json tells; the start of its process isn't in it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "scores.csv"
        score(output, paths, "--url", address)
        return float(json.loads(run_json_path(output).read_text())["images_per_s"])


def score(output: Path, paths: Sequence[Path], *options: object) -> None:
    """Run the command."""
    program = Path(sys.executable).with_name("fundus-client")
    line = [str(each) for each in (program, "score", *paths, "--output", output, *options)]
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    if done.returncode:
        raise FundusError(f"`fundus-client score` did not score every photograph: {done.stdout}{done.stderr}")


def latencies(
    address: str, paths: Sequence[Path], images_per_s: float, repeats: int, seconds: float
) -> list[dict[str, Any]]:
    """Return what images wait at shares of a throughput, in ms: percentiles over all repeats, and of each."""
    images, found = [path.read_bytes() for path in paths], list[dict[str, Any]]()
    for share in SHARES:
        rate = share * images_per_s
        waits = [asyncio.run(at_rate(address, images, rate, seconds, seed)) for seed in range(repeats)]
        found.append(
            {
                "share": share,
                "rate": rate,
                "n": sum(map(len, waits)),
                "all": percentiles([wait for each in waits for wait in each]),
                "repeats": [percentiles(each) for each in waits],
            }
        )
    return found


async def at_rate(
    address: str, images: Sequence[bytes], rate: float, seconds: float, seed: int
) -> list[float]:
    """Return the ms from each image's coming to its answer; `rate` images come in a second, on average.

    They come at random (Poisson), whether or not the earlier ones are answered.
    """
    coming = np.cumsum(default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds))))

    async def one(scorer: Scorer, number: int, at: float) -> float:
        await asyncio.sleep(at - time.perf_counter())
        await scorer.score(images[number % len(images)], str(number))
        return 1000 * (time.perf_counter() - at)

    async with connect(address, ready_timeout_s=WAIT_S, timeout_s=WAIT_S) as scorer:
        started = time.perf_counter()
        return await asyncio.gather(*(one(scorer, i, started + at) for i, at in enumerate(coming)))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99."""
    found = np.percentile(values, PERCENTILES)
    return {f"p{percent}": round(float(value), 1) for percent, value in zip(PERCENTILES, found, strict=True)}


def start_up(repository: Path, path: Path) -> dict[str, float]:
    """Return the seconds of a server until it is ready, and of the whole command on one photograph.

    The command starts a server of its own, scores, writes its table and ends the server.
    """
    started = time.perf_counter()
    with embedded_server(repository):
        ready_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        score(Path(folder) / "scores.csv", [path], "--repository", repository)
        return {SERVER_READY: ready_s, FIRST_SCORE: time.perf_counter() - started}
