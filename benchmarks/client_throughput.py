"""`fundus-client score` from files to table, against bare onnxruntime sessions fed with decoded tensors.

    python benchmarks/client_throughput.py IMAGES [--count 96] [--repeats 3] [--repository DIR]

Both answer the same images with the same folds and views, alternating in one run. The bare sessions read no
file, decode nothing and write nothing: they are the practical limit. Printed: images/s of each repeat, the
medians and their ratio; written with the machine's details to benchmarks/results/.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from fundus_client.batch import Window
from fundus_client.embedded import embedded_server
from fundus_client.run import score_files
from fundus_client.scorer import connect
from fundus_client.servers import reference_repository
from fundus_core.ensemble import EnsembleSpec, fold_model, read_manifest
from fundus_core.files import find_images
from fundus_core.images import DEFAULT_LIMITS
from fundus_core.preprocess import Pixels, preprocess_encoded

RESULTS = Path(__file__).parent / "results"
CORES = len(os.sched_getaffinity(0))


def main() -> None:
    """Measure, print, write."""
    arguments = parse()
    folder: Path = arguments.repository
    spec = read_manifest(folder)
    paths = tuple(ref.path for ref in find_images([arguments.images]))[: arguments.count]
    pixels = np.stack(
        [preprocess_encoded(path.read_bytes(), spec.preprocess, DEFAULT_LIMITS) for path in paths]
    )
    with embedded_server(folder) as server:
        rows: dict[str, Callable[[], float]] = {
            "fundus-client score": lambda: asyncio.run(score(server.grpc_address, paths)),
            "onnxruntime, fold after fold, batch 8": lambda: bare(folder, spec, pixels, CORES, 1, 8),
            "onnxruntime, folds side by side, batch 8": lambda: bare(folder, spec, pixels, 1, CORES, 8),
            "onnxruntime, folds side by side, batch 1": lambda: bare(folder, spec, pixels, 1, CORES, 1),
        }
        rows["fundus-client score"]()  # warm-up
        speeds: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(arguments.repeats):
            for name, measure in rows.items():
                speeds[name].append(measure())
    report(arguments, spec, len(paths), speeds)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--repository", type=Path, default=reference_repository())
    return parser.parse_args()


async def score(address: str, paths: tuple[Path, ...]) -> float:
    """Return images/s of the client, files to table."""
    with tempfile.TemporaryDirectory() as folder:
        async with connect(address, ready_timeout_s=60, timeout_s=600) as scorer:
            summary = await score_files(scorer, paths, Path(folder) / "scores.csv", Window(), lambda: None)
    return summary.images_per_s


def bare(
    repository: Path, spec: EnsembleSpec, pixels: Pixels, threads: int, sessions: int, batch: int
) -> float:
    """Return images/s of all folds on `pixels`: `sessions` folds at a time, of `threads` threads each."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    files = [repository / fold_model(fold.index) / "1" / "model.onnx" for fold in spec.folds]
    folds = [onnxruntime.InferenceSession(str(file), options) for file in files]
    feeds = [{"pixels": pixels[start : start + batch]} for start in range(0, len(pixels), batch)]
    for fold in folds:
        fold.run(None, feeds[0])  # warm-up
    started = time.perf_counter()
    with ThreadPoolExecutor(sessions) as pool:
        for feed in feeds:
            list(pool.map(lambda fold, feed=feed: fold.run(None, feed), folds))
    return len(pixels) / (time.perf_counter() - started)


def report(
    arguments: argparse.Namespace, spec: EnsembleSpec, n_images: int, speeds: dict[str, list[float]]
) -> None:
    """Print the table and write it."""
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    limit = max(value for name, value in medians.items() if name.startswith("onnxruntime"))
    for name, values in speeds.items():
        repeats = " ".join(f"{value:.2f}" for value in values)
        print(
            f"{name:<42}{medians[name]:6.2f} images/s  {medians[name] / limit:5.2f} of the limit  ({repeats})"
        )
    content = {
        "command": f"benchmarks/client_throughput.py --count {n_images} --repeats {arguments.repeats}",
        "bundle": {"name": spec.name, "digest": spec.digest, "size_px": spec.preprocess.size_px},
        "images_per_s": speeds,
        "ratio_to_best_bare_session": medians["fundus-client score"] / limit,
        "machine": {
            "cores": CORES,
            "architecture": platform.machine(),
            "onnxruntime": onnxruntime.__version__,
        },
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "client_throughput.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
