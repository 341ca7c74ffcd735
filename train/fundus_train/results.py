"""What a run leaves behind: tables of parts, scores and epochs; `run.json`, which says how it was made."""

import csv
import json
import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import BundleError, LabelsError
from fundus_core.files import whole_file
from fundus_core.provenance import versions_of
from fundus_core.quality import MEASURES
from fundus_core.sheet import csv_line
from fundus_core.tables import LabelTable, ScoreTable, join
from fundus_eval.evaluation import Evaluation, evaluate
from fundus_train.cases import Cases
from fundus_train.folds import POOL, TEST
from fundus_train.guards import begun, leaves_out
from fundus_train.recipe import Recipe

if TYPE_CHECKING:
    from fundus_train.loop import Epoch

SPLIT, OUT_OF_FOLD, INNER_TEST, UNLABELLED, DROPPED, EPOCHS, RUN_JSON = (
    "split.csv",
    "oof.csv",
    "inner_test.csv",
    "unlabelled.csv",
    "dropped.csv",
    "epochs.csv",
    "run.json",
)
EPOCH_COLUMNS = ("fold", "epoch", "loss", "validation_auc", "learning_rate", "n_images", "seconds")


@dataclass(frozen=True)
class Fitted:
    """A finished run, or a round of one: AUC(CV) on out-of-fold scores, AUC(inner_test) on the folds' mean.

    Args:
        run: its folder.
        round: of pseudo-labelling; 0 is the plain run.
        n_positive: how many pseudo-labels are 1; `n_negative`: are 0.
        n_images: photographs with a label, by source where sources are known; `n_inner_test` of them are held
            out; `n_unlabelled` further ones have none.
        dropped: (image_id, reason) of each photograph that was left out.
        cross_validation: of the images outside the inner test.
        inner_test: of the held-out images, and by source where sources are known.
    """

    run: Path
    round: int
    n_positive: int
    n_negative: int
    n_images: int
    n_inner_test: int
    n_unlabelled: int
    n_by_source: dict[str, dict[str, int]]
    dropped: tuple[tuple[str, str], ...]
    cross_validation: Evaluation
    inner_test: Evaluation
    inner_test_by_source: dict[str, Evaluation]

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the evaluations as plain values."""
        return {
            "n_images": self.n_images,
            "n_inner_test": self.n_inner_test,
            "n_unlabelled": self.n_unlabelled,
            "n_dropped": len(self.dropped),
            "n_by_source": self.n_by_source,
            "pseudo_labels": {
                "round": self.round,
                "n_positive": self.n_positive,
                "n_negative": self.n_negative,
            },
            "cross_validation": self.cross_validation.to_json(),
            "inner_test": self.inner_test.to_json(),
            "inner_test_by_source": {
                name: each.to_json() for name, each in self.inner_test_by_source.items()
            },
        }


def count_by_source(cases: Cases, part: NDArray[np.int64]) -> dict[str, dict[str, int]]:
    """Return the counts of each source that is known, by its name."""
    source = np.array(cases.source[: cases.n_real])
    counted = {
        str(name): {
            "n_images": (source == name) & (part != POOL),
            "n_inner_test": (source == name) & (part == TEST),
        }
        for name in np.unique(source[source != ""])
    }
    return {name: {what: int(mask.sum()) for what, mask in each.items()} for name, each in counted.items()}


def evaluate_by_source(scores: ScoreTable, truth: LabelTable) -> dict[str, Evaluation]:
    """Evaluate the scored images of each source by themselves; none where the sources are not known."""
    source_of = dict(zip(truth.image_id, truth.source or (), strict=False))
    source = np.array([source_of.get(image_id, "") for image_id in scores.image_id])
    return {
        str(name): evaluate(join(scores[source == name], truth), thresholds=None)
        for name in np.unique(source[source != ""])
    }


@dataclass(frozen=True)
class Predictions:
    """Scores of the N real cases. A case has either an out-of-fold score or fold scores, by its part.

    Args:
        part: (N,) `TEST`, `POOL` or the validating fold.
        out_of_fold: (N, K), NaN for cases without a fold.
        of_folds: (F, N, K), NaN for the others.
    """

    part: NDArray[np.int64]
    out_of_fold: NDArray[np.float32]
    of_folds: NDArray[np.float32]


def write_tables(run: Path, recipe: Recipe, cases: Cases, predictions: Predictions) -> None:
    """Write dropped.csv and the score tables: oof.csv, inner_test.csv, and unlabelled.csv for the pool."""
    ids, part = cases.image_id[: cases.n_real], predictions.part
    write_dropped(run, cases)
    columns = _columns("probability", recipe)
    out_of_fold = np.column_stack([predictions.out_of_fold, cases.quality])
    write_table(run / OUT_OF_FOLD, ["image_id", *columns, *MEASURES], _rows(ids, part >= 0, out_of_fold))
    folds = [
        column for fold in range(len(predictions.of_folds)) for column in _columns(f"fold_{fold}", recipe)
    ]
    mean = predictions.of_folds.mean(axis=0, dtype=np.float64)
    scores = np.concatenate([mean[None], predictions.of_folds]).swapaxes(0, 1).reshape(len(ids), -1)
    seen = np.column_stack([scores, cases.quality])
    for name, chosen in ((INNER_TEST, part == TEST), (UNLABELLED, part == POOL)):
        if chosen.any():
            header = ["image_id", *columns, *folds, *MEASURES]
            write_table(run / name, header, _rows(ids, chosen, seen))


def write_dropped(run: Path, cases: Cases) -> None:
    """Write dropped.csv: what was left out, and why."""
    write_table(run / DROPPED, ["image_id", "reason"], cases.dropped)


def write_split(run: Path, recipe: Recipe, cases: Cases, part: NDArray[np.int64]) -> None:
    """Write split.csv, also a labels table: part, labels, source and digest of each case.

    A resumed run checks it, so that no table mixes answers on other pictures.

    Raises:
        LabelsError: the run began with other usable images.
    """
    table, path = _split_columns(recipe, cases, part), run / SPLIT
    rows = [list(map(str, row)) for row in zip(*table.values(), strict=True)]
    before = read_rows(path) if path.exists() else []
    if before != rows and before and begun(run):
        other_rows = set(map(tuple, before)) ^ set(map(tuple, rows))
        other_images = {row[0] for row in before} ^ {row[0] for row in rows}
        changed = min(other_images or {row[0] for row in other_rows})
        hint = "Restore the images folder, use the command that began it, or choose another --output."
        raise LabelsError(
            f"Images or their parts have changed since '{run}' began, such as {changed}. {hint}"
        )
    if before != rows:
        write_table(path, list(table), rows)


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a table that `write_table` wrote, without its header."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))[1:]


def _split_columns(recipe: Recipe, cases: Cases, part: NDArray[np.int64]) -> dict[str, Sequence[Any]]:
    real, names = slice(cases.n_real), {TEST: "test", POOL: "unlabelled"}
    columns: dict[str, Sequence[Any]] = {
        "image_id": cases.image_id[real],
        "part": [names.get(number, f"fold_{number}") for number in part.tolist()],
    }
    for label, values in zip(recipe.labels, cases.targets[real].T.tolist(), strict=True):
        columns[label] = ["" if value < 0 else value for value in values]
    columns["patient_id"] = cases.patient[real].tolist()  # a number, never the name of a table
    columns |= {"source": cases.source[real]} if any(cases.source[real]) else {}
    return columns | {"sha256": cases.sha256}


def _columns(name: str, recipe: Recipe) -> list[str]:
    return [name] if len(recipe.labels) == 1 else [f"{name}:{label}" for label in recipe.labels]


def _rows(ids: Sequence[str], chosen: NDArray[np.bool_], values: NDArray[Any]) -> Iterable[list[str]]:
    for i in np.flatnonzero(chosen):
        yield [ids[i], *(f"{value:.6g}" for value in values[i])]


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV table, whole or not at all."""
    with (
        whole_file(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        file.writelines(csv_line(list(map(str, row))) for row in (header, *rows))


def begin_epochs(run: Path, starting: Iterable[int | str]) -> None:
    """Make epochs.csv, or forget what it says of the folds that start from their first epoch."""
    forgotten = {str(fold) for fold in starting}
    kept = [list(row.values()) for row in read_epochs(run) if row["fold"] not in forgotten]
    write_table(run / EPOCHS, EPOCH_COLUMNS, kept)


def append_epoch(run: Path, fold: int | str, epoch: "Epoch") -> None:
    """Append one line to epochs.csv, in one piece: folds in other processes do so too.

    An epoch that is repeated after a stop keeps the line that it has.
    """
    if any((row["fold"], row["epoch"]) == (str(fold), str(epoch.number)) for row in read_epochs(run)):
        return
    auc = epoch.validation_auc
    cells = (
        fold,
        epoch.number,
        f"{epoch.loss:.6g}",
        "" if auc is None or np.isnan(auc) else f"{auc:.6g}",
        f"{epoch.learning_rate:.6g}",
        epoch.n_images,
        f"{epoch.seconds:.3f}",
    )
    with (run / EPOCHS).open("ab", buffering=0) as file:
        file.write((",".join(map(str, cells)) + "\n").encode())


def read_epochs(run: Path) -> list[dict[str, str]]:
    """Return the rows of epochs.csv; none where it isn't there yet."""
    try:
        with (run / EPOCHS).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def speed(run: Path, names: Container[str] | None = None) -> dict[str, float]:
    """Return the epochs' "seconds", summed over all folds (those of these names), and "images_per_s"."""
    rows = [row for row in read_epochs(run) if names is None or row["fold"] in names]
    seconds = sum(float(row["seconds"]) for row in rows)
    n_images = sum(int(row["n_images"]) for row in rows)
    return {"seconds": round(seconds, 3), "images_per_s": round(n_images / max(seconds, 1e-3), 2)}


def write_run_json(run: Path, recipe: Recipe, summary: dict[str, Any]) -> None:
    """Write how the run was made: the recipe, the counts and AUCs of `summary`, the speed, the versions."""
    rest = {**speed(run), "cores": os.cpu_count(), "versions": made_by()}
    content = {"recipe": asdict(recipe), **summary, **rest}
    with whole_file(run / RUN_JSON) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def made_by() -> dict[str, str]:
    """Return the versions of what decides a result of training."""
    packages = ("fundus-triton", "torch", "timm", "lightning", "numpy", "opencv-python-headless")
    return versions_of(*packages)


def read_run_json(run: Path) -> dict[str, Any]:
    """Return the content of a finished run's run.json.

    Raises:
        BundleError: the run has not finished, or is one of `fundus-train unseen`.
    """
    if leaves_out(run):
        hint = "Choose a run of `fundus-train fit`."
        raise BundleError(f"'{run}' is a run of `fundus-train unseen`, which makes no ensemble. {hint}")
    try:
        content: dict[str, Any] = json.loads((run / RUN_JSON).read_text())
        content["recipe"]  # a run.json of `fundus-client score` has none
    except (OSError, ValueError, LookupError, TypeError):
        hint = "Run the same `fundus-train fit` command again; it resumes."
        raise BundleError(f"'{run}' holds no finished training run. {hint}") from None
    return content
