"""The client and its embedded Triton server, against onnxruntime and PyTorch without a server.

    python benchmarks/serving.py [--repository DIR] [--images DIR] [--count 48] [--repeats 3]

All rows answer the same photographs (phantoms of many sizes, or those of a folder) with the same folds and
views, in turn, in one run:
- `fundus-client score`, from files to table, and the client's Scorer, from images in memory to answers;
- bare onnxruntime sessions on tensors that were decoded and preprocessed before: the limit, in the fastest of
  several arrangements; and the same sessions in one process that also reads and preprocesses the files;
- PyTorch as one writes it, with a DataLoader that decodes and preprocesses in processes: eager and
  torch.compile, on a GPU too where there is one (fp16; onnxruntime-CUDA and TensorRT aren't measured here).
Then latencies, one image a request, at shares of the throughput: images come at random (Poisson) whether or
not the earlier ones are answered, and each one's time counts from its coming. And the start of a server:
until it is ready, and until the first answer. Client and server share the machine's cores. Printed: medians,
least and largest, medians of each repeat's ratios; written with the machine's details to benchmarks/results/.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import timm
import torch
from machine import command_line, median_ratio, write_results
from numpy.random import default_rng
from rich.console import Console
from rich.table import Table
from serving_peers import BARE, EAGER, FROM_FILES, Row, onnx_rows, torch_rows

from fundus_client.embedded import embedded_server
from fundus_client.run import run_json_path
from fundus_client.scorer import Scorer, connect
from fundus_client.servers import reference_repository
from fundus_core.console import progress_bar, say
from fundus_core.ensemble import EnsembleSpec
from fundus_core.files import find_images
from fundus_core.phantoms import write_samples
from fundus_core.repository import check_repository

SCORE, SCORER = "fundus-client score", "Scorer, images in memory"
SHARES = (0.25, 0.5, 0.8)  # of the throughput, at which latencies are taken
SECONDS_AT_RATE = 10  # in each repeat
PERCENTILES = (50, 95, 99)
RANGE = "least - largest"
GOALS = {"limit": 0.95, "eager": 4.0}  # the least that `fundus-client score` should reach of each
IN_FLIGHT = 64  # requests of the Scorer
WAIT_S = 120

Speeds = dict[str, list[float]]  # images/s of each repeat


def main() -> None:
    """Measure, print, write."""
    arguments, load = parse(), os.getloadavg()[0]
    spec = check_repository(arguments.repository)
    cv2.setNumThreads(1)  # as in the server: threads share the cores already
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(arguments, Path(folder) / "phantoms")
        peers, skipped = torch_rows(spec, paths)  # first: its processes fork, and gRPC must not run by then
        peers |= onnx_rows(arguments.repository, spec, paths)
        starts = [start_up(arguments.repository, paths[0]) for _ in range(arguments.repeats)]
        with embedded_server(arguments.repository) as server:
            speeds = in_turn(own_rows(server.grpc_address, paths) | peers, arguments.repeats)
            rates = [share * statistics.median(speeds[SCORE]) for share in SHARES]
            waits = latencies(server.grpc_address, paths, rates, arguments.repeats)
    starting = {name: [start[name] for start in starts] for name in starts[0]}
    found = {"images_per_s": speeds, "latency_ms": waits, "start_up_s": starting, "skipped": skipped}
    show(found)
    write(arguments, spec, load, found)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("--repository", type=Path, default=reference_repository())
    parser.add_argument("--images", type=Path, help="a folder of photographs instead of phantoms")
    parser.add_argument("--count", type=int, default=48, help="how many photographs")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def photographs(arguments: argparse.Namespace, folder: Path) -> list[Path]:
    """Return the files that all rows answer; without a folder of them, phantoms are drawn."""
    if arguments.images is None:
        say(f"drawing {arguments.count} phantoms")
        list(write_samples(folder, arguments.count))
    return [ref.path for ref in find_images([arguments.images or folder])][: arguments.count]


def in_turn(rows: Mapping[str, Row], repeats: int) -> Speeds:
    """Return images/s of each repeat; every row is tried once before that."""
    speeds: Speeds = {name: [] for name in rows}
    with progress_bar() as progress:
        for _ in progress.track(range(repeats + 1), description="throughput"):
            for name, row in rows.items():
                speeds[name].append(row())
    return {name: values[1:] for name, values in speeds.items()}


def own_rows(address: str, paths: Sequence[Path]) -> dict[str, Row]:
    """Return the rows of the client."""
    images = [path.read_bytes() for path in paths]
    return {
        SCORE: lambda: command(address, paths),
        SCORER: lambda: asyncio.run(scorer_alone(address, images)),
    }


def command(address: str, paths: Sequence[Path]) -> float:
    """Return images/s of the command, as its run.json tells; the start of its process isn't in it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "scores.csv"
        program = Path(sys.executable).with_name("fundus-client")
        line = [program, "score", *paths, "--url", address, "--output", output]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        return float(json.loads(run_json_path(output).read_text())["images_per_s"])


async def scorer_alone(address: str, images: Sequence[bytes]) -> float:
    """Return images/s of requests in a window: nothing is read, nothing written."""
    window = asyncio.Semaphore(IN_FLIGHT)

    async def one(scorer: Scorer, number: int) -> None:
        async with window:
            await scorer.score(images[number], str(number))

    async with connect(address, ready_timeout_s=WAIT_S, timeout_s=WAIT_S) as scorer:
        started = time.perf_counter()
        await asyncio.gather(*(one(scorer, number) for number in range(len(images))))
        return len(images) / (time.perf_counter() - started)


def latencies(
    address: str, paths: Sequence[Path], rates: Sequence[float], repeats: int
) -> dict[str, dict[str, Any]]:
    """Return what images wait at each rate, in ms: percentiles over all repeats, and those of each."""
    images = [path.read_bytes() for path in paths]
    waits: dict[float, list[list[float]]] = {rate: [] for rate in rates}
    with progress_bar() as progress:
        for seed in progress.track(range(repeats), description="latency"):
            for rate in rates:
                waits[rate].append(asyncio.run(at_rate(address, images, rate, seed)))
    return {
        f"{share:.0%}": {
            "rate": rate,
            "n": sum(map(len, waits[rate])),
            "all": percentiles([wait for each in waits[rate] for wait in each]),
            "repeats": [percentiles(each) for each in waits[rate]],
        }
        for share, rate in zip(SHARES, rates, strict=True)
    }


async def at_rate(address: str, images: Sequence[bytes], rate: float, seed: int) -> list[float]:
    """Return the ms from each image's coming to its answer; `rate` images come in a second, on average."""
    coming = np.cumsum(default_rng(seed).exponential(1 / rate, max(1, round(rate * SECONDS_AT_RATE))))

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
    """Start a server; return the seconds until it is ready, and until it has answered an image."""

    async def first_answer(address: str) -> None:
        async with connect(address, ready_timeout_s=WAIT_S, timeout_s=WAIT_S) as scorer:
            await scorer.score(path.read_bytes(), "first")

    started = time.perf_counter()
    with embedded_server(repository) as server:
        ready = time.perf_counter() - started
        asyncio.run(first_answer(server.grpc_address))
        return {"ready": ready, "first answer": time.perf_counter() - started}


def compared(speeds: Speeds) -> dict[str, str]:
    """Return the rows that the others are divided by; the limit is the fastest arrangement."""
    arrangements = [name for name in speeds if name.startswith(BARE)]
    limit = max(arrangements, key=lambda name: statistics.median(speeds[name]))
    return {"limit": limit, "no server": FROM_FILES, "eager": EAGER}


def ratios(speeds: Speeds) -> dict[str, dict[str, float]]:
    """Return what each row reaches of the compared ones."""
    bases = compared(speeds)
    return {
        name: {base: median_ratio(values, speeds[row]) for base, row in bases.items()}
        for name, values in speeds.items()
    }


def show(found: Mapping[str, Any]) -> None:
    """Print all tables, what was skipped and what became of the goals."""
    speeds, reached = found["images_per_s"], ratios(found["images_per_s"])
    lines = [
        (name, *middle(values), *(f"{ratio:.2f}" for ratio in reached[name].values()))
        for name, values in speeds.items()
    ]
    tabulate(("", "images/s", RANGE, *(f"of {base}" for base in compared(speeds))), lines)
    lines = [
        (f"{share} of throughput", f"{each['rate']:.1f}", *map(str, each["all"].values()), str(each["n"]))
        for share, each in found["latency_ms"].items()
    ]
    tabulate(("latency, ms, at", "images/s", *(f"p{each}" for each in PERCENTILES), "n"), lines)
    lines = [(name, *middle(values)) for name, values in found["start_up_s"].items()]
    tabulate(("start of a server", "s", RANGE), lines)
    print(f"limit: {compared(speeds)['limit']}", *(f"skipped: {line}" for line in found["skipped"]), sep="\n")
    for base, goal in GOALS.items():
        ratio = reached[SCORE][base]
        print(f"goal: {goal:g} of {base}; reached: {ratio:.2f}, {'met' if ratio >= goal else 'missed'}")


def middle(values: Sequence[float]) -> tuple[str, str]:
    """Return the median, and the least and the largest."""
    return f"{statistics.median(values):.2f}", f"{min(values):.2f} - {max(values):.2f}"


def tabulate(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a table: drawn on a terminal, plain columns elsewhere."""
    console = Console(highlight=False)
    if console.is_terminal:
        table = Table(header[0], *header[1:])
        for line in lines:
            table.add_row(*line)
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    for line in (header, *lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def write(arguments: argparse.Namespace, spec: EnsembleSpec, load: float, found: Mapping[str, Any]) -> None:
    """Write all figures, and on what they were taken."""
    speeds = found["images_per_s"]
    content = {
        "command": f"benchmarks/serving.py --count {arguments.count} --repeats {arguments.repeats}",
        "photographs": "phantoms" if arguments.images is None else arguments.images.name,
        "bundle": {"name": spec.name, "digest": spec.digest, "size_px": spec.preprocess.size_px},
        **found,
        "compared": compared(speeds),
        "median_ratios": ratios(speeds),
    }
    write_results(
        "serving",
        content,
        load_before=load,
        onnxruntime=onnxruntime.__version__,
        torch=torch.__version__,
        timm=timm.__version__,
        opencv=cv2.__version__,
    )


if __name__ == "__main__":
    main()
