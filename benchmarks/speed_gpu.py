"""What a GPU adds to benchmarks/speed.py: PyTorch in half precision and onnxruntime-CUDA, on tensors."""

import time
from collections.abc import Callable, Sequence

import onnxruntime
import torch
from speed_ensembles import FP32, TENSORS, Ensemble, Rows
from speed_runtimes import Session
from speed_torch import COMPILED, EAGER, Network, networks
from torch import Tensor

from fundus_core.ensemble import PIXELS, PROBABILITY
from fundus_core.preprocess import Pixels

BATCHES = (1, 8, 64)
N_BATCHES = 8  # in each repeat
CUDA = "CUDAExecutionProvider"

Answer = Callable[[Pixels], None]  # (B, S, S, 3), until the answers are in the host's memory


def gpu_rows(ensemble: Ensemble, skipped: list[str]) -> Rows:
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
    if CUDA in onnxruntime.get_available_providers():
        folds = ensemble.folds(FP32, lambda graph: Session(str(graph), providers=[CUDA]))
        answers["onnxruntime-CUDA, fp32"] = lambda pixels: in_sessions(folds, pixels)
    else:
        skipped.append(f"{ensemble.name}, onnxruntime-CUDA: not installed; pip install onnxruntime-gpu")
    pixels = ensemble.tensors()
    return {
        (f"{name}, batch {batch}", TENSORS): lambda answer=answer, batch=batch: repeated(
            answer, pixels, batch
        )
        for name, answer in answers.items()
        for batch in BATCHES
    }


@torch.inference_mode()
def on_gpu(folds: Sequence[Network], pixels: Pixels) -> None:
    """Answer a batch from the host's memory, fold after fold."""
    moved: Tensor = torch.from_numpy(pixels).cuda()
    torch.stack([fold(moved) for fold in folds]).mean(0).cpu()


def in_sessions(folds: Sequence[Session], pixels: Pixels) -> None:
    """Answer a batch, fold after fold."""
    for fold in folds:
        fold.run([PROBABILITY], {PIXELS: pixels})


def repeated(answer: Answer, pixels: Pixels, batch: int) -> float:
    """Answer batches of a size, made of the photographs over and over; return images/s."""
    tensors = pixels.repeat(-(-batch // len(pixels)), axis=0)[:batch]
    started = time.perf_counter()
    for _ in range(N_BATCHES):
        answer(tensors)
    return N_BATCHES * batch / (time.perf_counter() - started)
