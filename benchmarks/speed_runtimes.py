"""The graphs that are served, without a server, for benchmarks/speed.py: onnxruntime and OpenVINO.

The fastest arrangement of onnxruntime on tensors in memory is the limit of its precision.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from machine import CORES
from onnx import compose
from speed_ensembles import FP32, INT8, REFERENCE, TENSORS, Ensemble, Row, Rows, side_name

from fundus_core.ensemble import PIXELS, PROBABILITY, Precision
from fundus_core.preprocess import Pixels, PreprocessSpec, preprocess_encoded

Session = onnxruntime.InferenceSession

BARE = "onnxruntime"
FROM_FILES = "onnxruntime from files, no server, fp32"
OPENVINO = "OpenVINO"
BATCH = 8


def onnxruntime_rows(ensemble: Ensemble) -> Rows:
    """Return several arrangements of threads and batches, and the one that reads its files itself."""
    preprocess, single = ensemble.spec.preprocess, ensemble.folds(FP32, one_thread)
    rows: Rows = {
        (FROM_FILES, side_name(side_px)): lambda paths=paths: from_files(single, paths, preprocess)
        for side_px, paths in ensemble.photographs.items()
    }
    for precision in (FP32, INT8):
        for name, row in arrangements(ensemble, precision).items():
            rows[f"{bare_name(precision)}, {name}", TENSORS] = row
    return rows


def bare_name(precision: Precision) -> str:
    """Return how the names of all arrangements of a precision begin."""
    return f"{BARE}, {precision}"


def arrangements(ensemble: Ensemble, precision: Precision) -> dict[str, Row]:
    """Return by name how the threads and the batches may be arranged."""
    pixels = ensemble.tensors()
    single, wide = ensemble.folds(precision, one_thread), ensemble.folds(precision, all_cores)
    rows: dict[str, Row] = {
        f"{CORES} x 1 thread": lambda: bare(single, pixels, CORES, 1),
        f"{2 * CORES} x 1 thread": lambda: bare(single, pixels, 2 * CORES, 1),
        f"1 x {CORES} threads": lambda: bare(wide, pixels, 1, 1),
    }
    if len(pixels) >= CORES * BATCH:
        rows[f"{CORES} x 1 thread, batch {BATCH}"] = lambda: bare(single, pixels, CORES, BATCH)
    if ensemble.name == REFERENCE:  # four of the other would take the memory of four
        whole = [session(joined(ensemble.graphs(precision)), 1)]
        rows[f"one graph of all folds, {CORES} x 1 thread"] = lambda: bare(whole, pixels, CORES, 1)
    return rows


def joined(graphs: Sequence[Path]) -> bytes:
    """Return one graph that answers with every fold's probability; the folds share its input alone."""
    first, *others = (
        compose.add_prefix(onnx.load(path), f"fold {number}, ", rename_inputs=False)
        for number, path in enumerate(graphs)
    )
    for other in others:
        first.graph.node.extend(other.graph.node)
        first.graph.initializer.extend(other.graph.initializer)
        first.graph.output.extend(other.graph.output)
    return first.SerializeToString()


def one_thread(graph: Path) -> Session:
    """Return a session that computes in the thread that calls it."""
    return session(graph, 1)


def all_cores(graph: Path) -> Session:
    """Return a session with a thread for each core."""
    return session(graph, CORES)


def session(graph: Path | bytes, threads: int) -> Session:
    """Return a session with so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return Session(graph, options, providers=["CPUExecutionProvider"])


def bare(folds: Sequence[Session], pixels: Pixels, at_once: int, batch: int) -> float:
    """Answer decoded photographs (N, S, S, 3), `at_once` batches of a fold at a time; return images/s."""
    batches = [pixels[start : start + batch] for start in range(0, len(pixels), batch)]
    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda task: task[1].run(None, {PIXELS: task[0]}), product(batches, folds)))
    return len(pixels) / (time.perf_counter() - started)


def from_files(folds: Sequence[Session], paths: Sequence[Path], spec: PreprocessSpec) -> float:
    """Read, decode, preprocess and answer the photographs in one process; return images/s."""

    def answer(path: Path) -> None:
        pixels = preprocess_encoded(path.read_bytes(), spec)[None]
        for fold in folds:
            fold.run([PROBABILITY], {PIXELS: pixels})

    started = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(answer, paths))
    return len(paths) / (time.perf_counter() - started)


def openvino_rows(ensemble: Ensemble, skipped: list[str]) -> Rows:
    """Return OpenVINO on the same graphs and tensors; what cannot be measured here is added to `skipped`."""
    if find_spec("openvino") is None:
        skipped.append(f"{ensemble.name}, {OPENVINO}: not installed; pip install 'openvino>=2026.0'")
        return {}
    import openvino

    pixels, rows = ensemble.tensors(), Rows()
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for name, hint, precision in (("FP32", "f32", FP32), ("BF16", "bf16", FP32), ("INT8", "f32", INT8)):
        if name not in able:
            skipped.append(f"{ensemble.name}, {OPENVINO}, {name.lower()}: this CPU does not compute in it")
            continue
        queues = ensemble.folds(precision, lambda graph, hint=hint: one_at_a_time(graph, pixels.shape, hint))
        rows[f"{OPENVINO}, {name.lower()}", TENSORS] = lambda queues=queues: queued(queues, pixels)
    return rows


def one_at_a_time(graph: Path, shape: tuple[int, ...], hint: str) -> Any:
    """Return a fold that takes one photograph at a time on each core; `shape` is that of all (N, S, S, 3)."""
    import openvino

    model = openvino.Core().read_model(graph)
    model.reshape([1, *shape[1:]])
    options = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": CORES, "INFERENCE_NUM_THREADS": CORES}
    return openvino.AsyncInferQueue(openvino.compile_model(model, "CPU", options), CORES)


def queued(queues: Sequence[Any], pixels: Pixels) -> float:
    """Answer decoded photographs (N, S, S, 3), fold after fold; return images/s."""
    started = time.perf_counter()
    for queue in queues:
        for each in pixels:
            queue.start_async({PIXELS: each[None]})
        queue.wait_all()
    return len(pixels) / (time.perf_counter() - started)
