"""What a GPU adds to benchmarks/speed.py, in half precision: PyTorch, onnxruntime, TensorRT, the peak."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnxruntime
import torch
from speed_ensembles import TENSORS, Ensemble, Rows, random_network
from speed_limits import flop_of
from speed_runtimes import Session
from speed_torch import COMPILED, EAGER, Network, networks
from torch import Tensor

from fundus_core.ensemble import PIXELS, PROBABILITY
from fundus_core.preprocess import Pixels
from fundus_export.onnx import save
from fundus_export.precision import fold_graph

BATCHES = (1, 8, 64)
N_BATCHES = 8  # in each repeat
PROVIDERS = {  # of onnxruntime; each falls back on the next one for what it cannot compute
    "onnxruntime-CUDA": ["CUDAExecutionProvider"],
    "TensorRT by onnxruntime": ["TensorrtExecutionProvider", "CUDAExecutionProvider"],
}
GPU_PEAK = "arithmetic limit, fp16, GPU"
SIDE = 8192  # of the matrices whose product shows the peak

Answer = Callable[[Pixels], None]  # (B, S, S, 3), until the answers are in the host's memory


def gpu_rows(ensemble: Ensemble, folder: Path, skipped: list[str]) -> Rows:
    """Return the rows by batch size; what cannot be measured here is added to `skipped`."""
    if not torch.cuda.is_available():
        skipped.append(f"{ensemble.name}, GPU: there is none")
        return {}
    halves = networks(ensemble, lambda fold: fold.half().cuda())
    compiled = networks(ensemble, lambda fold: torch.compile(fold.half().cuda()))
    answers: dict[str, Answer] = {
        f"{EAGER}, fp16, GPU": lambda pixels: on_gpu(halves, pixels),
        f"{COMPILED}, fp16, GPU": lambda pixels: on_gpu(compiled, pixels),
    }
    graph = half_graph(ensemble, folder)
    for name, session in sessions(graph, ensemble.name, skipped):
        answers[f"{name}, fp16"] = lambda pixels, session=session: in_session(session, pixels, ensemble)
    flop, pixels = flop_of(graph) * len(ensemble.spec.folds), ensemble.tensors()
    rows: Rows = {(GPU_PEAK, TENSORS): lambda: half_flop_per_s() / flop}
    return rows | {
        (f"{name}, batch {batch}", TENSORS): lambda answer=answer, batch=batch: repeated(
            answer, pixels, batch
        )
        for name, answer in answers.items()
        for batch in BATCHES
    }


def half_graph(ensemble: Ensemble, folder: Path) -> Path:
    """Write a fold's graph in half precision, with random weights: time does not depend on them."""
    spec, path = ensemble.spec, folder / f"{ensemble.name}-fp16.onnx"
    network = random_network(spec.folds[0].architecture, spec.preprocess)
    save(fold_graph(network, spec.view_table, "fp16", ensemble.tensors()), path)
    return path


def sessions(graph: Path, ensemble: str, skipped: list[str]) -> Iterator[tuple[str, Session]]:
    """Yield each way of onnxruntime that works here: without its libraries it would compute on the CPU."""
    for name, providers in PROVIDERS.items():
        known = providers[0] in onnxruntime.get_available_providers()
        session = Session(str(graph), providers=providers) if known else None
        if session and providers[0] in session.get_providers():
            yield name, session
        else:
            skipped.append(f"{ensemble}, {name}: {providers[0]} does not work; see onnxruntime-gpu")


def half_flop_per_s() -> float:
    """Return the operations/s of the fastest of some products of float16 matrices on the GPU."""
    left, right = torch.randn((2, SIDE, SIDE), device="cuda", dtype=torch.float16)
    seconds = []
    for _ in range(N_BATCHES):
        torch.cuda.synchronize()
        started = time.perf_counter()
        left @ right
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(seconds)


@torch.inference_mode()
def on_gpu(folds: Sequence[Network], pixels: Pixels) -> None:
    """Answer a batch from the host's memory, fold after fold."""
    moved: Tensor = torch.from_numpy(pixels).cuda()
    torch.stack([fold(moved) for fold in folds]).mean(0).cpu()


def in_session(fold: Session, pixels: Pixels, ensemble: Ensemble) -> None:
    """Answer a batch, once for each fold."""
    for _ in ensemble.spec.folds:
        fold.run([PROBABILITY], {PIXELS: pixels})


def repeated(answer: Answer, pixels: Pixels, batch: int) -> float:
    """Answer batches of a size, made of the photographs over and over; return images/s."""
    tensors = pixels.repeat(-(-batch // len(pixels)), axis=0)[:batch]
    started = time.perf_counter()
    for _ in range(N_BATCHES):
        answer(tensors)
    return N_BATCHES * batch / (time.perf_counter() - started)
