"""The one benchmark of speed: the client and its server against onnxruntime, PyTorch and OpenVINO.

    make benchmark [IMAGES=DIR]
    python benchmarks/speed.py [--images DIR] [--quick] [--no-resnest] [--repository DIR]

Two ensembles answer JPEG photographs of 1900 and of 3500 px (those of a folder, or phantoms): the reference
ensemble, and resnest50d at 512 px with random weights, in which nearly all time is arithmetic. In turn, in
one run:
- `fundus-client score`, from files to table, before a server of each precision: fp32 and int8;
- a PyTorch loop with a DataLoader whose processes decode in full: eager, and torch.compile;
- onnxruntime sessions in one process that reads the same files, and bare ones on tensors in memory, in
  several arrangements: the fastest one is the limit of its precision;
- OpenVINO on the same graphs and tensors: float32, bfloat16, 8 bits;
- the arithmetic limit: operations of the folds, at the speed of large products of float32 matrices;
- on a GPU, where there is one, PyTorch, onnxruntime-CUDA and TensorRT in half precision at several batch
  sizes, and products of float16 matrices.
Then preprocessing alone on one thread, latencies at shares of the throughput, and starts. Client and server
share the machine's cores. Printed: medians, least and largest, medians of each repeat's ratios, goals met and
missed; written with the machine's details to benchmarks/results/speed.json.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
from machine import CORES, command_line, write_results
from speed_client import SCORE, latencies, score_rows, start_up
from speed_ensembles import (
    FP32,
    REFERENCE,
    SIDES_PX,
    Ensemble,
    Rows,
    photographs,
    reference,
    resnest,
    side_name,
)
from speed_gpu import gpu_rows
from speed_limits import limit_rows
from speed_preprocess import preprocessing
from speed_runtimes import onnxruntime_rows, openvino_rows
from speed_table import Speeds, all_ratios, goals, show
from speed_torch import torch_rows

from fundus_client.embedded import embedded_server
from fundus_client.servers import reference_repository
from fundus_core.console import progress_bar, quiet_libraries, say
from fundus_core.errors import FundusError

VERSIONS = (
    "onnxruntime",
    "torch",
    "timm",
    "openvino",
    "tensorrt",
    "opencv-python-headless",
    "simplejpeg",
    "numpy",
)


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    reference: int  # photographs of each size
    resnest: int  # of these, the first ones
    calibration: int  # further photographs, which show 8 bits their ranges
    repeats: int
    seconds_at_rate: float  # of latencies, in each repeat


WHOLE = Effort(reference=24, resnest=CORES, calibration=8, repeats=3, seconds_at_rate=10)
QUICK = Effort(reference=8, resnest=1, calibration=1, repeats=1, seconds_at_rate=2)


def main() -> None:
    """Measure, print, write."""
    arguments, load = parse(), os.getloadavg()[0]
    begin()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, QUICK if arguments.quick else WHOLE, Path(folder))
    found["goals"] = [{"goal": text, "reached": value, "met": met} for text, value, met in goals(found)]
    show(found)
    if not arguments.quick:
        versions = {"python": platform.python_version(), **dict(installed())}
        write_results("speed", found, load_before=load, versions=versions)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("--images", type=Path, help="a folder of photographs instead of phantoms")
    parser.add_argument("--quick", action="store_true", help="a trial of which nothing is written")
    parser.add_argument("--resnest", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--repository", type=Path, default=reference_repository())
    return parser.parse_args()


def installed() -> Iterator[tuple[str, str]]:
    """Yield the versions that matter."""
    for name in VERSIONS:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def measure(arguments: argparse.Namespace, effort: Effort, folder: Path) -> dict[str, Any]:
    """Return all figures."""
    made = photographs(arguments.images, folder / "photographs", effort.reference + effort.calibration)
    timed = {side_px: paths[: effort.reference] for side_px, paths in made.items()}
    others = made[SIDES_PX[0]][effort.reference :]
    ensembles = [reference(arguments.repository, folder, timed, others)]
    if arguments.resnest:
        fewer = {side_px: paths[: effort.resnest] for side_px, paths in timed.items()}
        ensembles.append(resnest(arguments.repository, folder, fewer, others[:1]))
    parts = {each.name: apart(figures, each, timed, effort.repeats) for each in ensembles}
    own = parts[REFERENCE]["images_per_s"][f"{SCORE}, {FP32}"][side_name(SIDES_PX[0])]
    return {
        "photographs": "phantoms" if arguments.images is None else "real ones",
        "effort": asdict(effort),
        "ensembles": parts,
        **apart(waiting, ensembles[0], statistics.median(own), effort),
        "skipped": [line for part in parts.values() for line in part.pop("skipped")],
    }


def apart(function: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Call a function in a process of its own: gRPC crashed beside the runtimes of another part."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=begin) as pool:
        return pool.submit(function, *arguments).result()


def begin() -> None:
    """Prepare a process."""
    quiet_libraries()
    cv2.setNumThreads(1)  # as in the server: threads share the cores already


def figures(ensemble: Ensemble, timed: dict[int, list[Path]], repeats: int) -> dict[str, Any]:
    """Return the figures of an ensemble; the photographs `timed` are for preprocessing alone."""
    say(f"measuring {ensemble.name}")
    skipped = list[str]()
    with tempfile.TemporaryDirectory() as folder:
        speeds = throughput(ensemble, repeats, Path(folder), skipped)
    return {
        "skipped": skipped,
        "digest": ensemble.spec.digest,
        "size_px": ensemble.spec.preprocess.size_px,
        "images_per_s": speeds,
        "median_ratios": all_ratios(speeds),
        "preprocessing": preprocessing(ensemble, timed, repeats),
    }


def throughput(ensemble: Ensemble, repeats: int, folder: Path, skipped: list[str]) -> Speeds:
    """Return images/s of every row in each repeat; what cannot be measured here is added to `skipped`."""
    with ExitStack() as servers:
        addresses = {
            precision: servers.enter_context(embedded_server(repository)).grpc_address
            for precision, repository in ensemble.repositories.items()
        }
        rows = score_rows(ensemble, addresses) | torch_rows(ensemble) | onnxruntime_rows(ensemble)
        rows |= openvino_rows(ensemble, skipped) | gpu_rows(ensemble, folder, skipped) | limit_rows(ensemble)
        return in_turn(rows, repeats, ensemble.name, skipped)


def in_turn(rows: Rows, repeats: int, name: str, skipped: list[str]) -> Speeds:
    """Return images/s of each repeat; every row is tried once before that, and skipped if it cannot run."""
    speeds: Speeds = {}
    with progress_bar() as progress:
        for key, run in progress.track(rows.items(), description=f"{name}, first try"):
            try:
                run()
            except Exception as error:  # no compiler for torch.compile, or a GPU's memory is full
                skipped.append(f"{name}, {', '.join(key)}: {(str(error) or repr(error)).splitlines()[0]}")
            else:
                speeds.setdefault(key[0], {})[key[1]] = []
        for _ in progress.track(range(repeats), description=name):
            for row, each in speeds.items():
                for shown, values in each.items():
                    values.append(rows[row, shown]())
    return speeds


def waiting(ensemble: Ensemble, images_per_s: float, effort: Effort) -> dict[str, Any]:
    """Return latencies of photographs of the smaller size, and the starts."""
    repository, paths = ensemble.repositories[FP32], ensemble.photographs[SIDES_PX[0]]
    say("latencies and starts")
    starts = [start_up(repository, paths[0]) for _ in range(effort.repeats)]
    with embedded_server(repository) as server:
        asked = (server.grpc_address, paths, images_per_s, effort.repeats, effort.seconds_at_rate)
        waits = latencies(*asked)
    return {"latency_ms": waits, "start_s": {name: [each[name] for each in starts] for name in starts[0]}}


if __name__ == "__main__":
    try:
        main()
    except FundusError as error:
        sys.exit(f"Error: {error}")
