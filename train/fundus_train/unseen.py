"""Leave one source out: train on all sources but one, score that one, as a camera never seen before.

One network per left-out source and seed, trained on every image of the other sources: cross-validation would
cost four times as much and say the same.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as lit
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from fundus_core.errors import LabelsError
from fundus_core.files import whole_file
from fundus_core.reading import read_scores
from fundus_core.tables import LabelTable, join
from fundus_core.views import views_named
from fundus_eval.evaluation import evaluate
from fundus_eval.intervals import Interval
from fundus_train.cases import Cases, load_cases
from fundus_train.determinism import deterministic
from fundus_train.loop import Epoch, fit_fold, predict
from fundus_train.network import build_network
from fundus_train.recipe import Recipe
from fundus_train.results import made_by, write_table

UNSEEN_JSON = "unseen.json"


@dataclass(frozen=True)
class Unseen:
    """How well one source was told apart, by the recipe's first label, by networks that never saw it.

    Args:
        n: images with that label.
        auc: of the mean of the seeds' probabilities.
        seed_auc: (S,) of each seed alone.
    """

    source: str
    n: int
    n_positive: int
    auc: Interval
    seed_auc: tuple[float, ...]


@dataclass(frozen=True)
class LeaveOneSourceOut:
    """One recipe, judged on each source in turn. The arguments are those of `fundus_train.fit.Experiment`."""

    recipe: Recipe
    labels: LabelTable
    images: Path
    run: Path
    weights: Path | None
    fabric: lit.Fabric
    progress: Progress

    def fit(self, seeds: tuple[int, ...], cache: Path) -> tuple[Unseen, ...]:
        """Train what the run folder doesn't hold yet; return one result per source, sorted by name.

        Writes `<source>.csv` (a score table with one `fold_` column per seed) and `unseen.json`.

        Raises:
            LabelsError: fewer than two sources, images without one, or a source that has one class only.
        """
        cases = load_cases(self.recipe, self.labels, self.images, cache, lambda done, total: None)
        sources = sorted(set(cases.source[: cases.n_real]))
        _check_sources(sources, cases)
        found = tuple(self._leave_out(source, seeds, cases) for source in sources)
        self._write(seeds, found)
        return found

    def _leave_out(self, source: str, seeds: tuple[int, ...], cases: Cases) -> Unseen:
        held_out = np.flatnonzero(np.array(cases.source) == source)
        others = np.flatnonzero(~np.isin(cases.patient, cases.patient[held_out]))
        scores = np.stack([self._scores(source, seed, others, held_out, cases) for seed in seeds])
        rows = (
            [cases.image_id[i], *(f"{value:.6g}" for value in (scores[:, j].mean(), *scores[:, j]))]
            for j, i in enumerate(held_out)
        )
        path, folds = self.run / f"{source}.csv", [f"fold_{number}" for number in range(len(seeds))]
        write_table(path, ["image_id", "probability", *folds], rows)
        ids = tuple(cases.image_id[i] for i in held_out)
        truth = LabelTable(ids, self.recipe.labels[:1], cases.targets[held_out, :1])
        (found,) = evaluate(join(read_scores(path), truth), thresholds=None).labels
        assert found.auc  # noqa: S101  _check_sources has seen both classes
        return Unseen(source, found.n, found.n_positive, found.auc, found.fold_auc)

    def _scores(
        self, source: str, seed: int, others: NDArray[np.int64], held_out: NDArray[np.int64], cases: Cases
    ) -> NDArray[np.float32]:
        """Return the probabilities (len(held_out),) of one network, from the run folder if it is there."""
        path = self.run / f"{source}-seed{seed}.npy"
        if not path.exists():
            torch.manual_seed(seed)
            network = build_network(self.recipe, self.weights)
            task = self.progress.add_task(f"without {source}, seed {seed}", total=self.recipe.training.epochs)

            def report(epoch: Epoch) -> None:
                self.progress.update(task, completed=epoch.number)

            resume, own = path.with_suffix(".resume"), 1000 * seed  # epochs count on from it
            with deterministic(self.recipe.training.deterministic):
                fit_fold(self.fabric, network, self.recipe, cases, others, held_out[:0], own, resume, report)
            views = views_named(self.recipe.views)
            found = predict(network, cases, held_out, views, self.fabric.device)[:, 0]
            with whole_file(path) as partial, partial.open("wb") as file:
                np.save(file, found)
            resume.unlink()
        scores: NDArray[np.float32] = np.load(path)
        return scores

    def _write(self, seeds: tuple[int, ...], found: tuple[Unseen, ...]) -> None:
        content: dict[str, Any] = {
            "recipe": asdict(self.recipe),
            "seeds": seeds,
            "sources": [asdict(each) for each in found],
            "versions": made_by(),
        }
        (self.run / UNSEEN_JSON).write_text(json.dumps(content, indent=2) + "\n")


def _check_sources(sources: list[str], cases: Cases) -> None:
    if len(sources) < 2 or "" in sources:
        raise LabelsError(
            "Leaving a source out needs two of them, and each image's name of its own in the column 'source'."
        )
    for source in sources:
        if not {0, 1} <= set(cases.targets[np.array(cases.source) == source, 0].tolist()):
            raise LabelsError(f"The source '{source}' has one class only, so its AUC is not defined.")
