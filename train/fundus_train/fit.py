"""One experiment from start to end: cases -> split -> folds -> tables, in rounds. Again: it resumes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning as lit
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from fundus_core.provenance import sha256_of
from fundus_core.reading import read_labels, read_scores
from fundus_core.tables import LabelTable, join
from fundus_core.views import views_named
from fundus_eval.evaluation import evaluate
from fundus_train import pseudo, results
from fundus_train.cases import Cases, load_cases, reading
from fundus_train.checkpoint import CheckpointSpec, load_checkpoint, save_checkpoint
from fundus_train.determinism import deterministic
from fundus_train.folds import POOL, TEST, split_cases
from fundus_train.guards import begun
from fundus_train.loop import Epoch, check_answers, fit_fold, predict
from fundus_train.network import build_network
from fundus_train.parallel import Workers
from fundus_train.recipe import Recipe
from fundus_train.results import Fitted, Predictions
from fundus_train.rounding import round_weights

IDENTITY, CACHE = "identity.json", "cache"
Part = NDArray[np.int64]


@dataclass(frozen=True)
class Round:
    """One round of an experiment: the plain one, number 0, or one with pseudo-labels.

    Args:
        number: of the round.
        run: its own folder.
        cases: with all labels, which only the tables and evaluations may read.
        part: (N,) of each real case.
        hard: (N, K) pseudo-labels, -1 where there is none.
    """

    number: int
    run: Path
    cases: Cases
    part: Part
    hard: pseudo.Hard

    @property
    def seen(self) -> Cases:
        """The cases as training sees them: no label of the inner test but pseudo-labels."""
        return pseudo.with_pseudo_labels(pseudo.blind(self.cases, self.part), self.hard)


@dataclass(frozen=True)
class Experiment:
    """What every step of one run needs.

    Args:
        recipe: the experiment.
        labels: image ids relative to `images`, with the recipe's labels.
        images: the folder that the ids are relative to.
        run: the output folder, claimed by `identity`.
        weights: local ImageNet weights, instead of timm's download.
        fabric: launched already.
        progress: shows the reading, then one bar per fold.
        workers: train the folds in processes of their own; None: here, one after the other.
    """

    recipe: Recipe
    labels: LabelTable
    images: Path
    run: Path
    weights: Path | None
    fabric: lit.Fabric
    progress: Progress
    workers: Workers | None = None

    def fit(self) -> tuple[Fitted, ...]:
        """Train every fold that the run folder does not hold yet, score, write the tables; so for each round.

        Rounds end when there are as many as the recipe says, when AUC(CV) falls below the best one so far, or
        when the pseudo-labels are none or the same again.

        Raises:
            RecipeError: the network cannot be made or trained as the recipe says.
            LabelsError: nothing usable, a split that cannot be made, or images that changed since the start.
            FoldError: a fold failed in its own process.
        """
        cases, part = self._prepare()
        rounds: list[Fitted] = []
        hard = pseudo.no_labels(self.recipe, cases)
        while True:
            current = Round(len(rounds), round_folder(self.run, len(rounds)), cases, part, hard)
            rounds.append(self._fit_round(current))
            if self.recipe.pseudo_labels.rounds and self.fabric.is_global_zero:
                pseudo.write_rounds(self.run, rounds)
            following = self._next_labels(rounds, current)
            if following is None:
                return tuple(rounds)
            hard = following

    def fit_only(self, number: int, fold: int) -> tuple[Fitted, ...]:
        """Train one fold of one round that another process has begun; no round has finished by that."""
        cases, part = self._prepare()
        run = round_folder(self.run, number)
        hard = pseudo.no_labels(self.recipe, cases)
        if number:
            hard = pseudo.read_pseudo_labels(run, self.recipe, cases)
        with deterministic(self.recipe.training.deterministic):
            self._fit_fold(fold, Round(number, run, cases, part, hard))
        return ()

    def _prepare(self) -> tuple[Cases, Part]:
        """Return the cases, and the part of each real one (N,)."""
        recipe = self.recipe
        # the others find the cache filled
        with self.fabric.rank_zero_first(), reading(self.progress) as tick:
            if not begun(self.run):  # what is wrong with a network is said before anything is decoded
                build_network(recipe, self.weights)
            cases = load_cases(recipe, self.labels, self.images, self.run / CACHE, tick)
            targets, patient = cases.targets[: cases.n_real], cases.patient[: cases.n_real]
            part = split_cases(targets, patient, recipe.split, recipe.seed, recipe.labels)
            results.write_split(self.run, recipe, cases, part)
        return cases, part

    def _next_labels(self, rounds: Sequence[Fitted], last: Round) -> pseudo.Hard | None:
        """Return the next round's pseudo-labels; None where there is no next round."""
        if len(rounds) > self.recipe.pseudo_labels.rounds or pseudo.fell(rounds):
            return None
        run = round_folder(self.run, len(rounds))
        if (run / pseudo.PSEUDO_LABELS).exists():  # a resumed run goes on with what it has begun with
            return pseudo.read_pseudo_labels(run, self.recipe, last.cases)
        hard = pseudo.pseudo_labels(last.run, self.recipe, last.cases)
        self.fabric.barrier()
        if (hard < 0).all() or np.array_equal(hard, last.hard):
            return None
        if self.fabric.is_global_zero:
            self._begin(Round(len(rounds), run, last.cases, last.part, hard))
        self.fabric.barrier()
        return hard

    def _begin(self, current: Round) -> None:
        """Make the folder of a round with pseudo-labels, a run folder that shares the one cache."""
        current.run.mkdir(exist_ok=True)
        (current.run / IDENTITY).write_text(identity(self.recipe, self.labels, self.weights))
        if not (current.run / CACHE).is_symlink():
            (current.run / CACHE).symlink_to(Path("..") / CACHE)
        results.write_split(current.run, self.recipe, current.cases, current.part)
        pseudo.write_pseudo_labels(current.run, self.recipe, current.cases, current.hard)

    def _fit_round(self, current: Round) -> Fitted:
        self._train(current)
        finished = (current.run / results.RUN_JSON).exists()
        if not finished:
            if self.fabric.is_global_zero:
                results.write_tables(current.run, self.recipe, current.cases, self._predict(current))
            self.fabric.barrier()
        fitted = self._evaluate(current)
        if not finished and self.fabric.is_global_zero:
            results.write_run_json(current.run, self.recipe, fitted.to_json())
        self.fabric.barrier()
        return fitted

    def _train(self, current: Round) -> None:
        """Train the folds that the round's folder does not hold yet."""
        folds = range(self.recipe.split.folds)
        missing = [fold for fold in folds if not checkpoint_path(current.run, fold).exists()]
        if missing and self.fabric.is_global_zero:
            (current.run / results.RUN_JSON).unlink(missing_ok=True)
            starting = [fold for fold in missing if not resume_path(current.run, fold).exists()]
            results.begin_epochs(current.run, starting)
        for fold in set(folds) - set(missing):  # of a process that ended just before it removed it
            resume_path(current.run, fold).unlink(missing_ok=True)
        self.fabric.barrier()
        with deterministic(self.recipe.training.deterministic):
            if self.workers:
                self._train_apart(self.workers, current, missing)
            else:
                for fold in missing:
                    self._fit_fold(fold, current)

    def _train_apart(self, workers: Workers, current: Round, folds: Sequence[int]) -> None:
        bars = {fold: self._bar(current, fold) for fold in folds}

        def look() -> None:
            for row in results.read_epochs(current.run):
                if (fold := int(row["fold"])) in bars:
                    bars[fold](int(row["epoch"]), float(row["loss"]))

        workers.train(current.number, folds, look)

    def _bar(self, current: Round, fold: int) -> Callable[[int, float], None]:
        """Show a fold's progress bar; return what moves it to an epoch and its loss."""
        name = f"round {current.number}, fold {fold}" if current.number else f"fold {fold}"
        task = self.progress.add_task(name, total=self.recipe.training.epochs)

        def move(epoch: int, loss: float) -> None:
            self.progress.update(task, completed=epoch, description=f"{name}, loss {loss:.3f}")

        return move

    def _fit_fold(self, fold: int, current: Round) -> None:
        """Train one fold on its training part, validate on its own cases, and save its checkpoint."""
        path, resume, cases = checkpoint_path(current.run, fold), resume_path(current.run, fold), current.seen
        training, own = pseudo.training_part(cases, current.part, fold), np.flatnonzero(current.part == fold)
        seed = 1000 * (1000 * self.recipe.seed + fold)
        torch.manual_seed(seed)
        network = build_network(self.recipe, self.weights)
        move = self._bar(current, fold)

        def report(epoch: Epoch) -> None:
            if self.fabric.is_global_zero:
                results.append_epoch(current.run, fold, epoch)
            move(epoch.number, epoch.loss)

        fit_fold(self.fabric, network, self.recipe, cases, training, own, seed, resume, report)
        if self.fabric.is_global_zero:
            round_weights(network, torch.from_numpy(np.array(cases.pixels[:1])).to(self.fabric.device))
            check_answers(network, cases, own, self.fabric.device)  # a huge weight has no half
            save_checkpoint(path, network, CheckpointSpec(self.recipe, fold, network.normalise))
            resume.unlink()
        self.fabric.barrier()

    def _predict(self, current: Round) -> Predictions:
        """Score each fold's own validation part, and the pool with every fold."""
        cases, part = current.cases, current.part
        views, shape = views_named(self.recipe.views), (cases.n_real, len(self.recipe.labels))
        out_of_fold = np.full(shape, np.nan, np.float32)
        of_folds = np.full((self.recipe.split.folds, *shape), np.nan, np.float32)
        pool = np.flatnonzero(part < 0)
        for fold in self.progress.track(range(self.recipe.split.folds), description="scoring"):
            network, _ = load_checkpoint(checkpoint_path(current.run, fold))
            own = np.flatnonzero(part == fold)
            out_of_fold[own] = predict(network, cases, own, views, self.fabric.device)
            of_folds[fold, pool] = predict(network, cases, pool, views, self.fabric.device)
        return Predictions(part, out_of_fold, of_folds)

    def _evaluate(self, current: Round) -> Fitted:
        truth = read_labels(current.run / results.SPLIT, self.recipe.labels)
        out_of_fold, inner_test = (
            read_scores(current.run / name) for name in (results.OUT_OF_FOLD, results.INNER_TEST)
        )
        return Fitted(
            run=current.run,
            round=current.number,
            n_positive=int((current.hard == 1).sum()),
            n_negative=int((current.hard == 0).sum()),
            n_images=int((current.part != POOL).sum()),
            n_inner_test=int((current.part == TEST).sum()),
            n_unlabelled=int((current.part == POOL).sum()),
            n_by_source=results.count_by_source(current.cases, current.part),
            dropped=current.cases.dropped,
            cross_validation=evaluate(join(out_of_fold, truth), thresholds=None),
            inner_test=evaluate(join(inner_test, truth), thresholds=None),
            inner_test_by_source=results.evaluate_by_source(inner_test, truth),
        )


def identity(recipe: Recipe, labels: LabelTable, weights: Path | None) -> str:
    """Return what a run folder belongs to; a folder that says something else is left alone."""
    table = (labels.image_id, labels.values.tolist(), labels.patient_id, labels.source)
    digest = hashlib.sha256(repr(table).encode()).hexdigest()
    start = sha256_of(weights) if weights else ""  # timm's own, which the recipe names
    content = {"recipe": asdict(recipe), "labels_sha256": digest, "weights_sha256": start}
    return json.dumps(content, indent=2)


def round_folder(run: Path, number: int) -> Path:
    """Return where a run keeps a round of pseudo-labelling; the plain round 0 is the run folder itself."""
    return run / f"round_{number}" if number else run


def checkpoint_path(run: Path, fold: int) -> Path:
    """Return where a run keeps the weights of a fold."""
    return run / f"fold_{fold}.safetensors"


def resume_path(run: Path, fold: int) -> Path:
    """Return where a fold in training keeps what it goes on from."""
    return run / f"fold_{fold}.resume"
