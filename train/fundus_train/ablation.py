"""What the test-time views of a finished run are worth: each view predicted once, then averaged in sets."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from rich.progress import Progress

from fundus_core.errors import BundleError, LabelsError
from fundus_core.schema import build
from fundus_core.sheet import read_sheet
from fundus_core.tables import LabelTable, read_labels, read_scores
from fundus_core.views import VIEWS
from fundus_eval.auc import Interval, auc_delong
from fundus_train.cases import Cases, Outcome
from fundus_train.checkpoint import load_checkpoint
from fundus_train.fit import CACHE, checkpoint_path
from fundus_train.loop import predict
from fundus_train.recipe import Recipe
from fundus_train.results import OUT_OF_FOLD, SPLIT, read_run_json

SETS = {
    "none": ("identity",),
    "hflip": ("identity", "hflip"),
    "both": ("identity", "hflip", "vflip"),  # the report's
    "four": tuple(VIEWS),
}
RESAMPLES, CHUNK, SEED = 2000, 250, 0
TOLERANCE = 0.05  # of the range of the scores; other hardware rounds otherwise, another image is far off

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class ViewsResult:
    """One set of views, judged on one part of the run's images for one label.

    Args:
        part: "AUC(CV)" (out of fold) or "AUC(inner_test)" (mean of the folds).
        views: a key of `SETS`.
        auc: with DeLong's interval.
        change: of the AUC against "none", with the interval of `paired_changes`.
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
    recipe = build(Recipe, read_run_json(run)["recipe"], BundleError, str(run))
    truth, part, cases = _cases(run, recipe)
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


def _cases(run: Path, recipe: Recipe) -> tuple[LabelTable, NDArray[np.str_], Cases]:
    """Return the labels, the part and the preprocessed picture of each photograph of the run."""
    truth = read_labels(run / SPLIT, recipe.labels)
    part = np.array(read_sheet(run / SPLIT, LabelsError).texts("part"))
    try:
        outcomes = json.loads((run / CACHE / "index.json").read_text())["outcomes"]
        pixels = np.load(run / CACHE / "pixels.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError):
        hint = "Run the same `fundus-train fit` command again; it fills the cache."
        raise BundleError(f"'{run}' has no cache of preprocessed images. {hint}") from None
    rows, n = _rows(outcomes), len(truth.image_id)
    if len(rows) != n:
        raise BundleError(_mismatch(run))
    alone, nowhere = np.arange(n), ("",) * n  # neither patients nor sources matter here
    return truth, part, Cases(truth.image_id, pixels, rows, truth.values, alone, nowhere, n, ())


def _rows(outcomes: Sequence[Outcome]) -> NDArray[np.int64]:
    """Return the rows of the cache that hold a picture for the first time: those that split.csv lists."""
    first: dict[str, int] = {}
    for row, outcome in enumerate(outcomes):
        if "sha256" in outcome:
            first.setdefault(outcome["sha256"], row)
    return np.array(list(first.values()), np.int64)


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
        raise BundleError(_mismatch(run))


def _mismatch(run: Path) -> str:
    return (
        f"The cache of '{run}' cannot be matched with its split.csv and oof.csv: there are images without a "
        "label, or files were changed later. Train again with a labels table of labelled images only."
    )


def _mean(scores: Scores, names: tuple[str, ...]) -> Scores:
    """Return the mean (N, K) of the named views of `scores` (V, N, K), in the digits of oof.csv."""
    numbers = [list(VIEWS).index(name) for name in names]
    return np.char.mod("%.6g", scores[numbers].mean(axis=0)).astype(np.float64)


def _results(
    part: str, truth: LabelTable, label: int, chosen: NDArray[np.bool_], scores: Scores
) -> Iterator[ViewsResult]:
    known = chosen & (truth.values[:, label] >= 0)
    target = truth.values[known, label]
    of_sets = np.stack([_mean(scores, names)[known, label] for names in SETS.values()])
    changes = paired_changes(target, of_sets)
    for name, each, change in zip(SETS, of_sets, changes, strict=True):
        yield ViewsResult(truth.labels[label], part, name, len(target), auc_delong(target, each), change)


def paired_changes(truth: NDArray[np.int8], scores: Scores) -> tuple[Interval, ...]:
    """Return the change of each AUC against the first, with its 95 % percentile interval (Efron 1979).

    Every resample draws the same images for all scores, so that what they have in common cancels. Images are
    drawn one by one: several of one patient count as independent, so the interval is somewhat too narrow.

    Args:
        truth: (N,) 1 positive, 0 negative.
        scores: (S, N).
    """
    rng, n = default_rng(SEED), len(truth)
    drawn = [
        _weighted_aucs(truth, scores, rng.multinomial(n, np.full(n, 1 / n), size=CHUNK))
        for _ in range(RESAMPLES // CHUNK)
    ]
    aucs = np.concatenate(drawn, axis=1)
    low, high = np.nanpercentile(aucs - aucs[:1], (2.5, 97.5), axis=1)
    observed = _weighted_aucs(truth, scores, np.ones((1, n), np.int64))[:, 0]
    return tuple(
        Interval(float(each - observed[0]), float(low[i]), float(high[i])) for i, each in enumerate(observed)
    )


def _weighted_aucs(truth: NDArray[np.int8], scores: Scores, count: NDArray[np.int64]) -> Scores:
    """Return the AUCs (S, B) of B resamples that hold image i `count[b, i]` times; NaN for one class only."""
    return np.stack([_weighted_auc(truth, each, count) for each in scores])


def _weighted_auc(truth: NDArray[np.int8], score: Scores, count: NDArray[np.int64]) -> Scores:
    order = np.argsort(score)
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))  # of each different score
    positive, negative = (
        np.add.reduceat(count[:, order] * (truth[order] == value), starts, axis=1) for value in (1, 0)
    )
    below = negative.cumsum(axis=1) - negative
    with np.errstate(invalid="ignore"):
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        return np.asarray((positive * (below + negative / 2)).sum(axis=1) / pairs, np.float64)
