"""PyTorch as its users write it, for benchmarks/speed.py: a DataLoader that decodes, then fold after fold."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from machine import CORES
from speed_ensembles import FP32, Ensemble, Rows, random_network, side_name
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fundus_core.preprocess import PreprocessSpec, preprocess
from fundus_export.graph import FoldWithViews

EAGER, COMPILED = "PyTorch eager", "torch.compile"
BATCH = 8
Network = Callable[[Tensor], Tensor]

torch._dynamo.config.recompile_limit = 64  # the folds share their code: beyond a few it would run eagerly


def torch_rows(ensemble: Ensemble) -> Rows:
    """Return the loops. Weights are random: time does not depend on them."""
    kinds = {EAGER: networks(ensemble, lambda fold: fold), COMPILED: networks(ensemble, torch.compile)}
    loaders = {side_px: batches(paths, ensemble) for side_px, paths in ensemble.photographs.items()}
    return {
        (name, side_name(side_px)): lambda folds=folds, loader=loader: loop(folds, loader)
        for name, folds in kinds.items()
        for side_px, loader in loaders.items()
    }


def networks(ensemble: Ensemble, finish: Callable[[nn.Module], Network]) -> list[Network]:
    """Return each fold (N, S, S, 3) uint8 -> (N, 1) with its views, as it is exported, and finished."""
    spec = ensemble.spec

    def network(path: Path) -> Network:
        fold = FoldWithViews(random_network(spec.folds[0].architecture, spec.preprocess), spec.view_table)
        return finish(fold.eval().to(memory_format=torch.channels_last))

    return ensemble.folds(FP32, network)


def batches(paths: Sequence[Path], ensemble: Ensemble) -> DataLoader[Tensor]:
    """Return the batches (N, S, S, 3) of photographs, decoded and preprocessed in processes."""
    return DataLoader(
        Photographs(paths, ensemble.spec.preprocess),
        BATCH,
        num_workers=CORES,
        persistent_workers=True,
        multiprocessing_context="forkserver",  # gRPC and its threads may run here already
        worker_init_fn=one_thread_each,
    )


def one_thread_each(worker: int) -> None:
    """Leave the other cores to the other workers."""
    cv2.setNumThreads(1)


@dataclass(frozen=True)
class Photographs(Dataset[Tensor]):
    """Files that are decoded in full and preprocessed (S, S, 3)."""

    paths: Sequence[Path]
    spec: PreprocessSpec

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> Tensor:
        pixels = np.asarray(cv2.imread(str(self.paths[item]), cv2.IMREAD_COLOR_RGB), np.uint8)
        return torch.from_numpy(preprocess(pixels, self.spec))


@torch.inference_mode()
def loop(folds: Sequence[Network], photographs: Iterable[Tensor]) -> float:
    """Answer batches of photographs (N, S, S, 3), fold after fold; return images/s."""
    started, answers = time.perf_counter(), list[float]()
    for pixels in photographs:
        answers += torch.stack([fold(pixels) for fold in folds]).mean(0).flatten().tolist()
    return len(answers) / (time.perf_counter() - started)
