"""Leave one source out: train on all sources but one, score that one, as a camera never seen before.

One network per left-out source and seed, trained on every image of the other sources: cross-validation would
cost four times as much and say the same.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as lit
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from fundus_core.errors import LabelsError
from fundus_core.files import whole_file
from fundus_core.reading import read_labels, read_scores
from fundus_core.tables import LabelTable, join
from fundus_core.views import views_named
from fundus_eval.evaluation import evaluate
from fundus_eval.intervals import Interval
from fundus_train import results
from fundus_train.cases import Cases, load_cases, reading
from fundus_train.determinism import deterministic
from fundus_train.guards import begun
from fundus_train.loop import Epoch, fit_fold, predict
from fundus_train.network import FundusNetwork, build_network
from fundus_train.recipe import PseudoLabels, Recipe

UNSEEN_JSON = "unseen.json"
RESERVED = {results.SPLIT, results.DROPPED, results.EPOCHS}


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

        Writes `<source>.csv` (a score table with one `fold_` column per seed), split.csv, dropped.csv,
        epochs.csv and `unseen.json`.

        Raises:
            RecipeError: the network cannot be made or trained as the recipe says.
            LabelsError: fewer than two sources, images without one, a source that has one class only, or
                images that changed since the start.
        """
        cases = self._prepare(cache)
        sources = sorted(set(cases.source[: cases.n_real]))
        found = tuple(self._leave_out(source, seeds, cases) for source in sources)
        self._write(seeds, found, cases)
        return found

    def _prepare(self, cache: Path) -> Cases:
        """Return the cases; the scores on the disk are of the images that split.csv lists."""
        self.run.mkdir(parents=True, exist_ok=True)
        with reading(self.progress) as tick:
            if not begun(self.run):  # what is wrong with a network is said before anything is decoded
                build_network(self.recipe, self.weights)
            supervised = replace(self.recipe, pseudo_labels=PseudoLabels())  # no rounds here
            cases = load_cases(supervised, self.labels, self.images, cache, tick)
        sources, part = np.unique(cases.source[: cases.n_real], return_inverse=True)
        _check_sources(sources.tolist(), cases)
        results.write_split(self.run, self.recipe, cases, part)
        results.write_dropped(self.run, cases)
        return cases

    def _leave_out(self, source: str, seeds: tuple[int, ...], cases: Cases) -> Unseen:
        held_out = np.flatnonzero(np.array(cases.source) == source)
        others = np.flatnonzero(~np.isin(cases.patient, cases.patient[held_out]))
        scores = np.stack([self._scores(source, seed, others, held_out, cases) for seed in seeds])
        rows = (
            [cases.image_id[i], *(f"{value:.6g}" for value in (scores[:, j].mean(), *scores[:, j]))]
            for j, i in enumerate(held_out)
        )
        path, folds = self.run / f"{source}.csv", [f"fold_{number}" for number in range(len(seeds))]
        results.write_table(path, ["image_id", "probability", *folds], rows)
        truth = read_labels(self.run / results.SPLIT, self.recipe.labels[:1])  # which knows the patients
        (found,) = evaluate(join(read_scores(path), truth), thresholds=None).labels
        assert found.auc  # noqa: S101  _check_sources has seen both classes
        return Unseen(source, found.n, found.n_positive, found.auc, found.fold_auc)

    def _scores(
        self, source: str, seed: int, others: NDArray[np.int64], held_out: NDArray[np.int64], cases: Cases
    ) -> NDArray[np.float32]:
        """Return the probabilities (len(held_out),) of one network, from the run folder if it is there."""
        path = self.run / f"{_network_name(source, seed)}.npy"
        if not path.exists():
            network = self._train(source, seed, others, cases)
            views = views_named(self.recipe.views)
            found = predict(network, cases, held_out, views, self.fabric.device)[:, 0]
            with whole_file(path) as partial, partial.open("wb") as file:
                np.save(file, found)
        path.with_suffix(".resume").unlink(missing_ok=True)
        scores: NDArray[np.float32] = np.load(path)
        return scores

    def _train(self, source: str, seed: int, others: NDArray[np.int64], cases: Cases) -> FundusNetwork:
        """Return the network without this source, trained on from its last epoch in the run folder."""
        torch.manual_seed(seed)
        network, name = build_network(self.recipe, self.weights), _network_name(source, seed)
        resume = self.run / f"{name}.resume"
        results.begin_epochs(self.run, [] if resume.exists() else [name])
        task = self.progress.add_task(f"without {source}, seed {seed}", total=self.recipe.training.epochs)

        def report(epoch: Epoch) -> None:
            results.append_epoch(self.run, name, epoch)
            self.progress.update(task, completed=epoch.number)

        own = 1000 * seed  # epochs count on from it
        with deterministic(self.recipe.training.deterministic):
            fit_fold(self.fabric, network, self.recipe, cases, others, others[:0], own, resume, report)
        return network

    def _write(self, seeds: tuple[int, ...], found: tuple[Unseen, ...], cases: Cases) -> None:
        networks = {_network_name(each.source, seed) for each in found for seed in seeds}
        timed = networks <= {row["fold"] for row in results.read_epochs(self.run)}  # not by earlier versions
        content: dict[str, Any] = {
            "recipe": asdict(self.recipe),
            "seeds": seeds,
            "sources": [asdict(each) for each in found],
            "n_images": sum(each.n for each in found),
            "n_dropped": len(cases.dropped),
            **(results.speed(self.run, networks) if timed else {}),
            "versions": results.made_by(),
        }
        with whole_file(self.run / UNSEEN_JSON) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n")


def _network_name(source: str, seed: int) -> str:
    return f"{source}-seed{seed}"


def _check_sources(sources: list[str], cases: Cases) -> None:
    if len(sources) < 2 or "" in sources:
        raise LabelsError(
            "Leaving a source out needs two of them, and each image's name of its own in the column 'source'."
        )
    for source in sources:  # which names files, and rows of tables
        if not re.fullmatch(r"[\w.+-][\w.+ -]*", source) or f"{source}.csv" in RESERVED:
            hint = "Rename it in the labels table, with letters, digits, and . _ + - alone."
            raise LabelsError(f"The source '{source}' cannot name files. {hint}")
        if not {0, 1} <= set(cases.targets[np.array(cases.source) == source, 0].tolist()):
            raise LabelsError(f"The source '{source}' has one class only, so its AUC is not defined.")
