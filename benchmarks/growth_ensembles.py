"""Ensembles of other shapes than the reference's: the same network, with random weights."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx
import torch
from speed_ensembles import finish, random_network
from torch import Tensor, nn

from fundus_core.ensemble import (
    AVERAGE_MODEL,
    FOLD_PROBABILITY,
    MODEL_ONNX,
    PROBABILITY,
    EnsembleSpec,
    fold_model,
    read_manifest,
)
from fundus_export.graph import FoldAverage
from fundus_export.onnx import save, traced
from fundus_export.pictures import golden_pictures
from fundus_export.precision import fold_graph


class _OneFold(nn.Module):
    """PyTorch exports no `*folds` of one; no training makes one fold."""

    def forward(self, fold: Tensor) -> tuple[Tensor, Tensor]:
        mean, each = FoldAverage()(fold)
        return mean, each


def random_ensemble(reference: Path, folder: Path, n_folds: int, n_views: int) -> Path:
    """Write a repository of the first folds and views of the `reference`; return its folder."""
    whole = read_manifest(reference)
    spec = replace(whole, folds=whole.folds[:n_folds], views=whole.views[:n_views], adaptive=None)
    names = [fold_model(fold.index) for fold in spec.folds]
    for name in names:
        save(_fold(reference, spec.views), folder / name / MODEL_ONNX)
    save(_average(len(spec.labels), names), folder / AVERAGE_MODEL / MODEL_ONNX)
    finish(folder, spec)
    return folder


@cache
def _fold(reference: Path, views: tuple[str, ...]) -> onnx.ModelProto:
    spec: EnsembleSpec = replace(read_manifest(reference), views=views)
    network = random_network(spec.folds[0].architecture, spec.preprocess)
    return fold_graph(network, spec.view_table, spec.precision, golden_pictures(reference, spec).pixels)


def _average(n_labels: int, names: list[str]) -> onnx.ModelProto:
    example = [torch.rand(2, n_labels) for _ in names]
    module = FoldAverage() if len(names) > 1 else _OneFold()
    return traced(module, example, names, [PROBABILITY, FOLD_PROBABILITY])
