"""One experiment from start to end: cases -> split -> folds -> tables. Run it again and it resumes."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as lit
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from fundus_core.errors import RecipeError
from fundus_core.tables import LabelTable, join, read_labels, read_scores
from fundus_core.views import views_named
from fundus_eval.evaluation import Evaluation, evaluate
from fundus_train.cases import Cases, load_cases
from fundus_train.checkpoint import CheckpointSpec, load_checkpoint, save_checkpoint
from fundus_train.folds import TEST, split_cases
from fundus_train.loop import fit_fold, predict
from fundus_train.network import build_network
from fundus_train.recipe import Recipe
from fundus_train.results import INNER_TEST, OUT_OF_FOLD, SPLIT, Predictions, write_run_json, write_tables
from fundus_train.rounding import round_weights

IDENTITY = "identity.json"
Part = NDArray[np.int64]


@dataclass(frozen=True)
class Fitted:
    """A finished run: AUC(CV) on out-of-fold scores, AUC(inner_test) on the mean of the folds."""

    n_images: int
    n_inner_test: int
    dropped: tuple[tuple[str, str], ...]
    cross_validation: Evaluation
    inner_test: Evaluation

    def to_json(self) -> dict[str, Any]:
        """Return the counts and both evaluations as plain values."""
        return {
            "n_images": self.n_images,
            "n_inner_test": self.n_inner_test,
            "n_dropped": len(self.dropped),
            "cross_validation": self.cross_validation.to_json(),
            "inner_test": self.inner_test.to_json(),
        }


@dataclass(frozen=True)
class Experiment:
    """What every step of one run needs.

    Args:
        recipe: the experiment.
        labels: image ids relative to `images`, with the recipe's labels.
        images: the folder that the ids are relative to.
        run: the output folder.
        weights: local ImageNet weights, instead of timm's download.
        fabric: launched already.
        progress: shows the reading, then one bar per fold.
    """

    recipe: Recipe
    labels: LabelTable
    images: Path
    run: Path
    weights: Path | None
    fabric: lit.Fabric
    progress: Progress

    def fit(self) -> Fitted:
        """Train every fold that the run folder does not hold yet, then score and write the tables.

        Raises:
            RecipeError: the run folder belongs to another recipe or another labels table.
            LabelsError: nothing usable, or a split that cannot be made.
        """
        self._claim()
        cases = self._load()
        real = slice(cases.n_real)
        part = split_cases(cases.targets[real], cases.patient[real], self.recipe.split, self.recipe.seed)
        for fold in range(self.recipe.split.folds):
            self._fit_fold(fold, part, cases)
        if self.fabric.is_global_zero:
            write_tables(self.run, self.recipe, cases, self._predict(part, cases))
        self.fabric.barrier()
        fitted = self._evaluate(part, cases)
        if self.fabric.is_global_zero:
            write_run_json(self.run, self.recipe, fitted.to_json())
        return fitted

    def _claim(self) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        table = (self.labels.image_id, self.labels.values.tolist(), self.labels.patient_id)
        digest = hashlib.sha256(repr(table).encode()).hexdigest()
        identity = json.dumps({"recipe": asdict(self.recipe), "labels_sha256": digest}, indent=2)
        path = self.run / IDENTITY
        if path.exists() and path.read_text() != identity:
            hint = "Choose another --output."
            raise RecipeError(f"'{self.run}' holds a run of another recipe or labels table. {hint}")
        self.fabric.barrier()
        if self.fabric.is_global_zero:
            path.write_text(identity)

    def _load(self) -> Cases:
        task = self.progress.add_task("reading", total=None)

        def tick(done: int, total: int) -> None:
            self.progress.update(task, completed=done, total=total)

        with self.fabric.rank_zero_first():  # the others find the cache filled
            cases = load_cases(self.recipe, self.labels, self.images, self.run / "cache", tick)
        self.progress.remove_task(task)
        return cases

    def _fit_fold(self, fold: int, part: Part, cases: Cases) -> None:
        """Train one fold on the other folds and on the phantoms, and save its checkpoint."""
        path = checkpoint_path(self.run, fold)
        if path.exists():
            return
        others = np.flatnonzero((part != TEST) & (part != fold))
        index = np.concatenate([others, np.arange(cases.n_real, len(cases.image_id))])
        seed = 1000 * (1000 * self.recipe.seed + fold)
        torch.manual_seed(seed)
        network = build_network(self.recipe, self.weights)
        task = self.progress.add_task(f"fold {fold}", total=self.recipe.training.epochs)

        def report(epoch: int, loss: float) -> None:
            self.progress.update(task, completed=epoch, description=f"fold {fold}, loss {loss:.3f}")

        resume = self.run / f"fold_{fold}.resume"
        fit_fold(self.fabric, network, self.recipe.training, cases, index, seed, resume, report)
        if self.fabric.is_global_zero:
            round_weights(network, torch.from_numpy(np.array(cases.pixels[:1])).to(self.fabric.device))
            save_checkpoint(path, network, CheckpointSpec(self.recipe, fold, network.normalise))
            resume.unlink()
        self.fabric.barrier()

    def _predict(self, part: Part, cases: Cases) -> Predictions:
        """Score each fold's own validation part, and the test part with every fold."""
        views, shape = views_named(self.recipe.views), (cases.n_real, len(self.recipe.labels))
        out_of_fold = np.full(shape, np.nan, np.float32)
        test = np.full((self.recipe.split.folds, *shape), np.nan, np.float32)
        held_out = np.flatnonzero(part == TEST)
        for fold in self.progress.track(range(self.recipe.split.folds), description="scoring"):
            network, _ = load_checkpoint(checkpoint_path(self.run, fold))
            own = np.flatnonzero(part == fold)
            out_of_fold[own] = predict(network, cases, own, views, self.fabric.device)
            test[fold, held_out] = predict(network, cases, held_out, views, self.fabric.device)
        return Predictions(part, out_of_fold, test)

    def _evaluate(self, part: Part, cases: Cases) -> Fitted:
        truth = read_labels(self.run / SPLIT, self.recipe.labels)
        cross_validation, inner_test = (
            evaluate(join(read_scores(self.run / name), truth), thresholds=None)
            for name in (OUT_OF_FOLD, INNER_TEST)
        )
        n_inner_test = int((part == TEST).sum())
        return Fitted(cases.n_real, n_inner_test, cases.dropped, cross_validation, inner_test)


def checkpoint_path(run: Path, fold: int) -> Path:
    """Return where a run keeps the weights of a fold."""
    return run / f"fold_{fold}.safetensors"
