"""What the test-time views of a finished run are worth: each view predicted once, then averaged in sets."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from fundus_core.errors import BundleError
from fundus_core.reading import read_scores
from fundus_core.schema import build
from fundus_core.tables import LabelTable
from fundus_core.views import VIEWS
from fundus_eval.auc import auc_delong, delong_test
from fundus_eval.intervals import Interval
from fundus_eval.units import patients_of
from fundus_train.cases import Cases
from fundus_train.checkpoint import load_checkpoint
from fundus_train.finished import finished_cases, mismatch
from fundus_train.fit import checkpoint_path
from fundus_train.loop import predict
from fundus_train.recipe import Recipe, as_recorded
from fundus_train.results import OUT_OF_FOLD, read_run_json

SETS = {
    "none": ("identity",),
    "hflip": ("identity", "hflip"),
    "both": ("identity", "hflip", "vflip"),  # the report's
    "four": tuple(VIEWS),
}
TOLERANCE = 0.05  # of the range of the scores; other hardware rounds otherwise, another image is far off

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class ViewsResult:
    """One set of views, judged on one part of the run's images for one label.

    Args:
        part: "AUC(CV)" (out of fold) or "AUC(inner_test)" (mean of the folds).
        views: a key of `SETS`.
        auc: with DeLong's interval.
        change: of the AUC against "none", with DeLong's paired interval.
    """

    label: str
    part: str
    views: str
    n: int
    auc: Interval
    change: Interval

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the views are named one by one too."""
        return asdict(self) | {"names": SETS[self.views]}


def compare_views(run: Path, device: torch.device, progress: Progress) -> tuple[ViewsResult, ...]:
    """Return every set of `SETS` on both parts and every label of a finished run.

    Raises:
        BundleError: the run has not finished, or its cache is gone or belongs to other images.
    """
    recipe = build(Recipe, as_recorded(read_run_json(run)["recipe"]), BundleError, str(run))
    truth, part, cases = finished_cases(run, recipe)
    out_of_fold, test = _predict(run, recipe, part, cases, device, progress)
    _check(run, recipe, truth, out_of_fold)
    parts = {
        "AUC(CV)": (np.char.startswith(part, "fold_"), out_of_fold),
        "AUC(inner_test)": (part == "test", test),
    }
    return tuple(
        result
        for label in range(len(recipe.labels))
        for name, (chosen, scores) in parts.items()
        for result in _results(name, truth, label, chosen, scores)
    )


def _predict(
    run: Path, recipe: Recipe, part: NDArray[np.str_], cases: Cases, device: torch.device, progress: Progress
) -> tuple[Scores, Scores]:
    """Return the scores of each view (V, N, K): out of fold, and the mean of the folds on the inner test."""
    shape = (len(VIEWS), len(part), len(recipe.labels))
    out_of_fold, test = np.full(shape, np.nan), np.zeros(shape)
    held_out, folds = np.flatnonzero(part == "test"), range(recipe.split.folds)
    for fold in progress.track(folds, description="scoring"):
        network, _ = load_checkpoint(checkpoint_path(run, fold))
        own = np.flatnonzero(part == f"fold_{fold}")
        for number, view in enumerate(VIEWS.values()):
            out_of_fold[number, own] = predict(network, cases, own, (view,), device)
            test[number, held_out] += predict(network, cases, held_out, (view,), device) / len(folds)
    return out_of_fold, test


def _check(run: Path, recipe: Recipe, truth: LabelTable, out_of_fold: Scores) -> None:
    """Refuse scores that are not those of oof.csv: cache or weights then belong to something else."""
    before = read_scores(run / OUT_OF_FOLD)
    row_of = {image_id: row for row, image_id in enumerate(truth.image_id)}
    again = _mean(out_of_fold, recipe.views)[[row_of[image_id] for image_id in before.image_id]]
    apart = np.abs(again - before.probability).max(axis=0)
    if not (apart <= TOLERANCE * np.ptp(before.probability, axis=0)).all():
        raise BundleError(mismatch(run))


def _mean(scores: Scores, names: tuple[str, ...]) -> Scores:
    """Return the mean (N, K) of the named views of `scores` (V, N, K), in the digits of oof.csv."""
    numbers = [list(VIEWS).index(name) for name in names]
    return np.char.mod("%.6g", scores[numbers].mean(axis=0)).astype(np.float64)


def _results(
    part: str, truth: LabelTable, label: int, chosen: NDArray[np.bool_], scores: Scores
) -> Iterator[ViewsResult]:
    known = chosen & (truth.values[:, label] >= 0)
    target, cluster = truth.values[known, label], None
    if (patients := patients_of(truth)) is not None:
        cluster = patients[known]
    of_sets = np.stack([_mean(scores, names)[known, label] for names in SETS.values()])
    for name, each in zip(SETS, of_sets, strict=True):
        change = delong_test(target, of_sets[0], each, cluster=cluster).difference
        auc = auc_delong(target, each, cluster=cluster)
        yield ViewsResult(truth.labels[label], part, name, len(target), auc, change)
