"""What the graphs of a repository answer in onnxruntime on the CPU, and what PyTorch answers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from fundus_core.ensemble import MODEL_ONNX, PIXELS, PROBABILITY, EnsembleSpec, fold_model
from fundus_core.preprocess import Pixels
from fundus_core.views import View
from fundus_eval.parity import Answers, Scores
from fundus_train.network import FundusNetwork, mean_probability

BATCH = 5


def onnx_answers(repository: Path, spec: EnsembleSpec, pixels: Pixels, batch: int = 1) -> Answers:
    """Return the answers of the exported folds to `pixels` (N, S, S, 3), `batch` at a time."""
    return _answers(
        _of_graph(repository / fold_model(fold.index) / MODEL_ONNX, pixels, batch) for fold in spec.folds
    )


def pytorch_answers(networks: Sequence[FundusNetwork], views: tuple[View, ...], pixels: Pixels) -> Answers:
    """Return the answers of the trained folds to `pixels` (N, S, S, 3)."""
    return _answers(_of_network(network, views, pixels) for network in networks)


def _answers(of_folds: Iterable[Scores]) -> Answers:
    folds = np.stack(list(of_folds), axis=1)
    return Answers(folds.mean(axis=1), folds)


def _of_graph(path: Path, pixels: Pixels, batch: int) -> Scores:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batches = (pixels[start : start + batch] for start in range(0, len(pixels), batch))
    return np.concatenate([session.run([PROBABILITY], {PIXELS: each})[0] for each in batches])


@torch.inference_mode()
def _of_network(network: FundusNetwork, views: tuple[View, ...], pixels: Pixels) -> Scores:
    batches = (torch.from_numpy(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH))
    return torch.cat([mean_probability(network, each, views) for each in batches]).numpy()
