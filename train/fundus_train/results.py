"""What a run leaves behind: tables of parts and scores, and `run.json`, which says how it was made."""

import csv
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import BundleError
from fundus_train.cases import Cases
from fundus_train.folds import TEST
from fundus_train.recipe import Recipe

SPLIT, OUT_OF_FOLD, INNER_TEST, DROPPED, RUN_JSON = (
    "split.csv",
    "oof.csv",
    "inner_test.csv",
    "dropped.csv",
    "run.json",
)


@dataclass(frozen=True)
class Predictions:
    """Scores of the N real cases. A case has either an out-of-fold score or fold scores, by its part.

    Args:
        part: (N,) `TEST` or the validating fold.
        out_of_fold: (N, K), NaN for test cases.
        test: (F, N, K), NaN for the others.
    """

    part: NDArray[np.int64]
    out_of_fold: NDArray[np.float32]
    test: NDArray[np.float32]


def write_tables(run: Path, recipe: Recipe, cases: Cases, predictions: Predictions) -> None:
    """Write split.csv (also a labels table), oof.csv and inner_test.csv (score tables), dropped.csv."""
    ids = cases.image_id[: cases.n_real]
    parts = ["test" if part == TEST else f"fold_{part}" for part in predictions.part]
    labels = cases.targets[: cases.n_real].tolist()
    split = ([i, part, *values] for i, part, values in zip(ids, parts, labels, strict=True))
    _write(run / SPLIT, ["image_id", "part", *recipe.labels], split)
    _write(run / DROPPED, ["image_id", "reason"], cases.dropped)
    held_out = predictions.part == TEST
    columns = _columns("probability", recipe)
    out_of_fold = _rows(ids, ~held_out, predictions.out_of_fold)
    _write(run / OUT_OF_FOLD, ["image_id", *columns], out_of_fold)
    folds = [column for fold in range(len(predictions.test)) for column in _columns(f"fold_{fold}", recipe)]
    mean = predictions.test.mean(axis=0, dtype=np.float64)
    tested = _rows(ids, held_out, np.concatenate([mean[None], predictions.test]).swapaxes(0, 1))
    _write(run / INNER_TEST, ["image_id", *columns, *folds], tested)


def _columns(name: str, recipe: Recipe) -> list[str]:
    return [name] if len(recipe.labels) == 1 else [f"{name}:{label}" for label in recipe.labels]


def _rows(ids: Sequence[str], chosen: NDArray[np.bool_], values: NDArray[Any]) -> Iterable[list[str]]:
    for i in np.flatnonzero(chosen):
        yield [ids[i], *(f"{value:.6g}" for value in values[i].reshape(-1))]


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    partial.replace(path)


def write_run_json(run: Path, recipe: Recipe, summary: dict[str, Any]) -> None:
    """Write how the run was made: the recipe, the counts and AUCs of `summary`, the versions."""
    names = ("fundus-triton", "torch", "timm", "lightning", "numpy", "opencv-python-headless")
    made_by = {name: version(name) for name in names} | {"python": platform.python_version()}
    content = {"recipe": asdict(recipe), **summary, "cores": os.cpu_count(), "versions": made_by}
    (run / RUN_JSON).write_text(json.dumps(content, indent=2) + "\n")


def read_run_json(run: Path) -> dict[str, Any]:
    """Return the content of a finished run's run.json.

    Raises:
        BundleError: the run has not finished.
    """
    try:
        content: dict[str, Any] = json.loads((run / RUN_JSON).read_text())
    except (OSError, ValueError):
        hint = "Run the same `fundus-train fit` command again; it resumes."
        raise BundleError(f"'{run}' holds no finished training run. {hint}") from None
    return content
