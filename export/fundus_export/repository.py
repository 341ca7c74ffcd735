"""A training run -> a Triton model repository, the one artefact that is served, compared and shipped."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fundus_core.ensemble import (
    AVERAGE_MODEL,
    ENSEMBLE_MODEL,
    FOLD_PROBABILITY,
    PIXELS,
    PREPROCESS_MODEL,
    PROBABILITY,
    EnsembleSpec,
    Fold,
    fold_model,
    write_manifest,
)
from fundus_core.errors import BundleError, LabelsError, UsageError
from fundus_core.preprocess import Pixels
from fundus_core.sheet import read_sheet
from fundus_core.tables import Joined, join, read_labels, read_scores
from fundus_core.views import views_named
from fundus_eval.auc import auc_delong
from fundus_eval.operating import youden_threshold
from fundus_export.configs import render_configs
from fundus_export.graph import FoldAverage, FoldWithViews
from fundus_export.onnx import Parity, check_parity, export_graph
from fundus_train.checkpoint import CheckpointSpec, load_checkpoint
from fundus_train.fit import checkpoint_path
from fundus_train.network import FundusNetwork
from fundus_train.results import OUT_OF_FOLD, SPLIT, read_run_json

PARITY_IMAGES = 32
MODEL_PY = {
    "PreprocessModel": "Answers `image` with `pixels`; the code is shared with training.",
    "OnnxModel": "Runs model.onnx in a server that has no onnxruntime backend (configs/embedded.pbtxt).",
}


def export_repository(
    run: Path, out: Path, version: str, report: Callable[[int, Parity], None]
) -> EnsembleSpec:
    """Write the model repository of the finished `run` to `out`, whole or not at all.

    Thresholds are Youden's on the out-of-fold scores: fixed before anything is tested.

    Raises:
        BundleError: the run is not finished, or its folds do not belong together.
        UsageError: `out` is there already.
        ParityError: a graph answers differently from PyTorch.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"'{out}' is not empty. Choose a new folder, or delete it first.")
    summary = read_run_json(run)
    folds = _load_folds(run, summary["recipe"]["split"]["folds"])
    pixels = _parity_pixels(run)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for network, checkpoint in folds:
        report(checkpoint.fold, _export_fold(network, checkpoint, pixels, partial))
    spec = _spec(run, partial, version, [checkpoint for _, checkpoint in folds], summary)
    _write_plain_models(partial, spec)
    write_manifest(spec, partial)
    for path, text in render_configs(spec):
        _write(partial / path, text)
    partial.replace(out)
    return spec


def _load_folds(run: Path, n_folds: int) -> list[tuple[FundusNetwork, CheckpointSpec]]:
    folds = [load_checkpoint(checkpoint_path(run, index)) for index in range(n_folds)]
    first = folds[0][1]
    if any((each.recipe, each.normalise) != (first.recipe, first.normalise) for _, each in folds):
        raise BundleError(f"The folds of '{run}' come from different recipes. Train them again.")
    return folds


def _export_fold(network: FundusNetwork, checkpoint: CheckpointSpec, pixels: Pixels, out: Path) -> Parity:
    module = FoldWithViews(network, views_named(checkpoint.recipe.views))
    path = _model_path(out, fold_model(checkpoint.fold))
    export_graph(module, [torch.from_numpy(pixels[:2])], [PIXELS], [PROBABILITY], path)
    return check_parity(module, path, pixels)


def _model_path(out: Path, model: str) -> Path:
    path = out / model / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    return path


def _parity_pixels(run: Path) -> Pixels:
    """Return real preprocessed images of the run's cache, evenly spread (N, S, S, 3)."""
    try:
        stored = np.load(run / "cache" / "pixels.npy", mmap_mode="r")
    except OSError:
        hint = "Run the same `fundus-train fit` command again; it fills the cache."
        raise BundleError(f"'{run}' has no cache of preprocessed images to compare on. {hint}") from None
    return np.array(stored[np.linspace(0, len(stored) - 1, min(PARITY_IMAGES, len(stored)), dtype=int)])


def _spec(
    run: Path, out: Path, version: str, checkpoints: list[CheckpointSpec], summary: dict[str, Any]
) -> EnsembleSpec:
    recipe, normalise = checkpoints[0].recipe, checkpoints[0].normalise
    joined = join(read_scores(run / OUT_OF_FOLD), read_labels(run / SPLIT, recipe.labels))
    labels = range(len(recipe.labels))
    thresholds = tuple(youden_threshold(*_known(joined, k)) for k in labels)
    part = _parts(run, joined)
    folds = tuple(
        Fold(
            index=each.fold,
            architecture=recipe.network.architecture,
            weights_sha256=_sha256(out / fold_model(each.fold) / "1" / "model.onnx"),
            oof_auc=tuple(_fold_auc(joined, part == f"fold_{each.fold}", k) for k in labels),
        )
        for each in checkpoints
    )
    return EnsembleSpec(
        name=recipe.name,
        version=version,
        labels=recipe.labels,
        preprocess=recipe.preprocess,
        normalise=normalise,
        views=recipe.views,
        folds=folds,
        thresholds=thresholds,
        provenance={"threshold_rule": "Youden's J on out-of-fold scores", **summary},
    )


def _parts(run: Path, joined: Joined) -> NDArray[np.str_]:
    split = read_sheet(run / SPLIT, LabelsError)
    part_of = dict(zip(split.texts("image_id"), split.texts("part"), strict=True))
    return np.array([part_of[image_id] for image_id in joined.image_id])


def _fold_auc(joined: Joined, chosen: NDArray[np.bool_], label: int) -> float:
    return auc_delong(*_known(joined, label, chosen)).value


def _known(
    joined: Joined, label: int, chosen: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Return truth and score of the (chosen) images whose label is known."""
    known = joined.truth[:, label] >= 0
    rows = known if chosen is None else known & chosen
    return joined.truth[rows, label], joined.probability[rows, label]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_plain_models(out: Path, spec: EnsembleSpec) -> None:
    """Write what needs no weights: the average's graph, each model.py, the ensemble's empty version."""
    folds = [fold_model(fold.index) for fold in spec.folds]
    example = [torch.rand(2, len(spec.labels)) for _ in folds]
    path = _model_path(out, AVERAGE_MODEL)
    export_graph(FoldAverage(), example, folds, [PROBABILITY, FOLD_PROBABILITY], path)
    for model in (*folds, AVERAGE_MODEL):
        _write_model_py(out, model, "OnnxModel")
    _write_model_py(out, PREPROCESS_MODEL, "PreprocessModel")
    _write(out / ENSEMBLE_MODEL / "1" / ".gitkeep", "")


def _write_model_py(out: Path, model: str, class_name: str) -> None:
    imported = f"from fundus_core.backend import {class_name} as TritonPythonModel\n"
    _write(out / model / "1" / "model.py", f'"""{MODEL_PY[class_name]}"""\n\n{imported}')


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
