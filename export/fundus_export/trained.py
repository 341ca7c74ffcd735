"""A finished training run as the export sees it: its folds, and the spec of their ensemble."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.calibrator import CalibrationMethod
from fundus_core.ensemble import EnsembleSpec, Fold, Precision
from fundus_core.errors import BundleError
from fundus_core.reading import read_labels, read_scores
from fundus_core.tables import Joined, join
from fundus_eval.adaptive import fit_adaptive
from fundus_eval.auc import auc_delong
from fundus_eval.out_of_fold import YOUDEN, calibrators, cut_offs, known
from fundus_eval.shift import distributions
from fundus_train.checkpoint import CheckpointSpec, load_checkpoint
from fundus_train.fit import checkpoint_path
from fundus_train.network import FundusNetwork
from fundus_train.recipe import Recipe
from fundus_train.results import INNER_TEST, OUT_OF_FOLD, SPLIT, read_run_json


@dataclass(frozen=True)
class Trained:
    """A finished run: its folds in order, and what run.json says."""

    run: Path
    networks: tuple[FundusNetwork, ...]
    checkpoints: tuple[CheckpointSpec, ...]
    summary: dict[str, Any]

    @property
    def recipe(self) -> Recipe:
        """The recipe that all folds share."""
        return self.checkpoints[0].recipe


def load_run(run: Path) -> Trained:
    """Return the folds of a finished run.

    Raises:
        BundleError: the run is not finished, or its folds do not belong together.
    """
    summary = read_run_json(run)
    n_folds = summary["recipe"]["split"]["folds"]
    folds = [load_checkpoint(checkpoint_path(run, index)) for index in range(n_folds)]
    networks, checkpoints = zip(*folds, strict=True)
    first = checkpoints[0]
    if any((each.recipe, each.normalise) != (first.recipe, first.normalise) for each in checkpoints):
        raise BundleError(f"The folds of '{run}' come from different recipes. Train them again.")
    return Trained(run, networks, checkpoints, summary)


def load_run_of(repository: Path, spec: EnsembleSpec, run: Path) -> Trained:
    """Return the folds of the finished run that a repository was exported from.

    Raises:
        BundleError: the run is not finished, or is another one.
    """
    trained = load_run(run)
    if spec.provenance.get("recipe") != trained.summary["recipe"]:
        hint = "Give the run that it was made of."
        raise BundleError(f"'{repository}' was not exported from '{run}', whose recipe is another. {hint}")
    return trained


@dataclass(frozen=True)
class Wanted:
    """What to make of a run.

    Args:
        cut_off: the rule that fixes the decision threshold, one of `fundus_eval.out_of_fold`.
        images: a folder whose answers become golden too, with `labels` if known.
        terms: a text that goes with the weights as NOTICE.md.
    """

    version: str = "1"
    precision: Precision = "fp32"
    cut_off: str = YOUDEN
    calibrator: CalibrationMethod = "temperature"
    images: Path | None = None
    labels: Path | None = None
    terms: Path | None = None


def ensemble_spec(trained: Trained, wanted: Wanted) -> EnsembleSpec:
    """Return the spec of the run's ensemble, still without its files.

    Thresholds and calibrators are fixed on the out-of-fold scores, before anything is tested. What new
    photographs are compared with are those held out: like them, they are answered by all folds together. A
    round of pseudo-labels was trained on the inner test, so of its own it has held out each fold's part.
    """
    run, recipe = trained.run, trained.recipe
    truth, out_of_fold = read_labels(run / SPLIT, recipe.labels, ("part",)), read_scores(run / OUT_OF_FOLD)
    joined = join(out_of_fold, truth)
    points = cut_offs(joined, wanted.cut_off)
    labels, part = range(len(recipe.labels)), np.array(truth.columns["part"])[joined.row]
    inner_test = None if _is_round(trained) else read_scores(run / INNER_TEST)
    folds = tuple(
        Fold(
            index=each.fold,
            architecture=recipe.network.architecture,
            oof_auc=tuple(_fold_auc(joined, part == f"fold_{each.fold}", k) for k in labels),
        )
        for each in trained.checkpoints
    )
    return EnsembleSpec(
        name=recipe.name,
        version=wanted.version,
        labels=recipe.labels,
        preprocess=recipe.preprocess,
        normalise=trained.checkpoints[0].normalise,
        views=recipe.views,
        folds=folds,
        thresholds=points[0].thresholds,
        cut_offs=points,
        calibrators=calibrators(joined, wanted.calibrator),
        training=distributions(inner_test or out_of_fold, recipe.labels),
        adaptive=fit_adaptive(join(inner_test, truth), points[0].thresholds) if inner_test else None,
        precision=wanted.precision,
        provenance=trained.summary,
    )


def _is_round(trained: Trained) -> bool:
    """Whether the run is a round with pseudo-labels."""
    return bool(trained.summary.get("pseudo_labels", {}).get("round"))


def _fold_auc(joined: Joined, chosen: NDArray[np.bool_], label: int) -> float:
    return auc_delong(*known(joined, label, chosen)).value
