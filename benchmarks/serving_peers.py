"""What benchmarks/serving.py compares with: the same folds and views without a server.

A row is a function that answers all photographs once and returns images/s.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from machine import CORES
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.utils.data import DataLoader, Dataset

from fundus_core.console import say
from fundus_core.ensemble import MODEL_ONNX, PIXELS, PROBABILITY, EnsembleSpec, fold_model
from fundus_core.preprocess import PreprocessSpec, preprocess_encoded
from fundus_export.graph import FoldWithViews
from fundus_train.network import build_network
from fundus_train.recipe import Network, Recipe

Row = Callable[[], float]
Session = onnxruntime.InferenceSession

BARE = "onnxruntime on tensors"  # how the names of the limit's rows begin
FROM_FILES = "onnxruntime from files, no server"
EAGER, COMPILED = "PyTorch eager", "torch.compile"
BATCH = 8
NO_GPU = "GPU rows: there is no GPU"
UNTRIED = "onnxruntime-CUDA and TensorRT: not part of this script"


def onnx_rows(repository: Path, spec: EnsembleSpec, paths: Sequence[Path]) -> dict[str, Row]:
    """Return several arrangements of threads: the fastest one is the limit of this machine."""
    pixels = np.stack([preprocess_encoded(path.read_bytes(), spec.preprocess) for path in paths])
    single, wide = sessions(repository, spec, 1), sessions(repository, spec, CORES)
    return {
        f"{BARE}, {CORES} x 1 thread, batch 1": lambda: bare(single, pixels, CORES, 1),
        f"{BARE}, {CORES} x 1 thread, batch {BATCH}": lambda: bare(single, pixels, CORES, BATCH),
        f"{BARE}, {2 * CORES} x 1 thread, batch 1": lambda: bare(single, pixels, 2 * CORES, 1),
        f"{BARE}, 1 x {CORES} threads, batch {BATCH}": lambda: bare(wide, pixels, 1, BATCH),
        FROM_FILES: lambda: from_files(single, paths, spec.preprocess),
    }


def sessions(repository: Path, spec: EnsembleSpec, threads: int) -> list[Session]:
    """Return a session of each fold; whoever calls one with a single thread computes itself."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    files = [repository / fold_model(fold.index) / MODEL_ONNX for fold in spec.folds]
    return [Session(str(file), options, providers=["CPUExecutionProvider"]) for file in files]


def bare(folds: Sequence[Session], pixels: np.ndarray, at_once: int, batch: int) -> float:
    """Answer decoded photographs (N, S, S, 3), `at_once` batches of a fold at a time."""
    batches = [pixels[start : start + batch] for start in range(0, len(pixels), batch)]
    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda task: task[1].run([PROBABILITY], {PIXELS: task[0]}), product(batches, folds)))
    return len(pixels) / (time.perf_counter() - started)


def from_files(folds: Sequence[Session], paths: Sequence[Path], spec: PreprocessSpec) -> float:
    """Read, decode, preprocess and answer the photographs in one process.

    That is all a server can reach: the other rows get their tensors for nothing.
    """

    def answer(path: Path) -> None:
        pixels = preprocess_encoded(path.read_bytes(), spec)[None]
        for fold in folds:
            fold.run([PROBABILITY], {PIXELS: pixels})

    started = time.perf_counter()
    with ThreadPoolExecutor(2 * CORES) as pool:
        list(pool.map(answer, paths))
    return len(paths) / (time.perf_counter() - started)


def torch_rows(spec: EnsembleSpec, paths: Sequence[Path]) -> tuple[dict[str, Row], list[str]]:
    """Return the loops that one writes with PyTorch, warm, and which others were skipped, and why.

    Weights are random: the time does not depend on them.
    """
    photographs = DataLoader(
        Photographs(paths, spec.preprocess),
        BATCH,
        num_workers=CORES,
        persistent_workers=True,
        worker_init_fn=lambda worker: cv2.setNumThreads(1),
    )
    rows, skipped = dict[str, Row](), [UNTRIED if torch.cuda.is_available() else NO_GPU]
    for name, networks in kinds(spec).items():
        say(f"warming up {name}")
        try:
            loop(networks, photographs)
        except TorchDynamoException as error:  # no compiler, or no headers
            skipped.append(f"{name}: {str(error).splitlines()[0]}")
        else:
            rows[name] = lambda networks=networks: loop(networks, photographs)
    return rows, skipped


def kinds(spec: EnsembleSpec) -> dict[str, list[nn.Module]]:
    """Return the folds as each row computes them."""
    found = dict[str, list[nn.Module]]()
    found[EAGER] = networks = [network(spec, fold.architecture) for fold in spec.folds]
    found[COMPILED] = [torch.compile(network) for network in networks]
    if torch.cuda.is_available():
        halves = [network(spec, fold.architecture).half().cuda() for fold in spec.folds]
        found[f"{EAGER}, fp16, GPU"] = halves
        found[f"{COMPILED}, fp16, GPU"] = [torch.compile(half) for half in halves]
    return found


def network(spec: EnsembleSpec, architecture: str) -> nn.Module:
    """Return a fold (N, S, S, 3) uint8 -> (N, 1) with its views, as it is exported."""
    recipe = Recipe("benchmark", Network(architecture, pretrained=False), preprocess=spec.preprocess)
    fold = FoldWithViews(build_network(recipe), spec.view_table)
    return fold.eval().to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Photographs(Dataset[Tensor]):
    """Files that a DataLoader's processes decode and preprocess (S, S, 3)."""

    paths: Sequence[Path]
    spec: PreprocessSpec

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> Tensor:
        return torch.from_numpy(preprocess_encoded(self.paths[item].read_bytes(), self.spec))


@torch.inference_mode()
def loop(networks: Sequence[nn.Module], photographs: Iterable[Tensor]) -> float:
    """Answer the photographs batch by batch, fold after fold."""
    device = next(networks[0].parameters()).device
    started, answers = time.perf_counter(), list[float]()
    for pixels in photographs:
        each = torch.stack([network(pixels.to(device)) for network in networks])
        answers += each.mean(0).tolist()
    return len(answers) / (time.perf_counter() - started)
