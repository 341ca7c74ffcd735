"""The two tables that every room shares, and the one join between them.

`labels.csv` says what is true, `scores.csv` what an ensemble answered; both name an image by its `image_id`.

Letters in shapes: N images, F folds, K labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import LabelsError, UsageError
from fundus_core.sheet import Sheet, read_sheet

UNLABELLED = -1
EYES = ("left", "right", "")

# pandas writes a 0/1 column that has gaps as 0.0 and 1.0
_LABEL_VALUES = {"": UNLABELLED, "0": 0, "1": 1, "0.0": 0, "1.0": 1}


@dataclass(frozen=True)
class LabelTable:
    """What is true of each image: 1 present, 0 absent, -1 not labelled."""

    image_id: tuple[str, ...]  # (N,)
    labels: tuple[str, ...]  # (K,) names, such as "glaucoma"
    values: NDArray[np.int8]  # (N, K)
    patient_id: tuple[str, ...] | None = None  # (N,)
    eye: tuple[str, ...] | None = None  # (N,) "left", "right", or "" where it is not known
    source: tuple[str, ...] | None = None  # (N,) the data set that an image is from

    def __post_init__(self) -> None:
        _check_ids(self.image_id)
        _check_shape("values", self.values, (len(self.image_id), len(self.labels)))

    def values_of(self, image_ids: Sequence[str]) -> NDArray[np.int8]:
        """Return the labels of M images (M, K), -1 for those that are not in the table."""
        row_of = {image_id: row for row, image_id in enumerate(self.image_id)}
        found = np.full((len(image_ids), len(self.labels)), UNLABELLED, np.int8)
        for i, image_id in enumerate(image_ids):
            if image_id in row_of:
                found[i] = self.values[row_of[image_id]]
        return found


@dataclass(frozen=True)
class ScoreTable:
    """What an ensemble answered for each image; NaN where `scored` is False."""

    image_id: tuple[str, ...]  # (N,)
    scored: NDArray[np.bool_]  # (N,)
    probability: NDArray[np.float64]  # (N, K)
    fold_probability: NDArray[np.float64]  # (N, F, K); F is 0 where the folds are not known
    ungradable: NDArray[np.bool_]  # (N,) flagged as no good photograph of a fundus, scored or not
    labels: tuple[str, ...] | None = None  # (K,); None: one probability without a name

    def __post_init__(self) -> None:
        n, k = len(self.image_id), len(self.labels or ("",))
        _check_ids(self.image_id)
        _check_shape("scored", self.scored, (n,))
        _check_shape("ungradable", self.ungradable, (n,))
        _check_shape("probability", self.probability, (n, k))
        _check_shape("fold_probability", self.fold_probability, (n, *self.fold_probability.shape[1:2], k))


def read_labels(path: Path, labels: Sequence[str] = ("glaucoma",)) -> LabelTable:
    """Read `image_id`, a column per label of 0, 1 or nothing; `patient_id`, `eye`, `source` if there."""
    sheet = read_sheet(path, LabelsError)
    columns = [(label, sheet.index(label)) for label in labels]
    values = [
        [_label_value(sheet, line, label, row[index]) for label, index in columns]
        for line, row in zip(sheet.lines, sheet.rows, strict=True)
    ]
    patient_id, eye, source = (
        sheet.texts(column) if column in sheet.columns else None for column in ("patient_id", "eye", "source")
    )
    _check_eyes(sheet, eye or ())
    truth = np.array(values, dtype=np.int8)
    return LabelTable(sheet.image_ids(), tuple(labels), truth, patient_id, eye, source)


def read_scores(path: Path) -> ScoreTable:
    """Read `scores.csv`, or any table that has at least `image_id` and `probability`.

    Without a `status` column, a row counts as failed where its probability is empty; without an `ungradable`
    column, every image counts as gradable.
    """
    sheet = read_sheet(path, UsageError)
    prefix = "probability:"
    labels = tuple(column.removeprefix(prefix) for column in sheet.columns if column.startswith(prefix))
    suffixes = [f":{label}" for label in labels] or [""]
    n_folds = 0
    while f"fold_{n_folds}{suffixes[0]}" in sheet.columns:
        n_folds += 1
    kinds = ["probability", *(f"fold_{fold}" for fold in range(n_folds))]
    columns = [sheet.index(kind + suffix) for kind in kinds for suffix in suffixes]
    numbers = _numbers(sheet, columns, _scored_mask(sheet, columns[0])).reshape(-1, len(kinds), len(suffixes))
    return ScoreTable(
        image_id=sheet.image_ids(),
        scored=~np.isnan(numbers[:, 0, 0]),
        probability=numbers[:, 0],
        fold_probability=numbers[:, 1:],
        ungradable=_ungradable_mask(sheet),
        labels=labels or None,
    )


@dataclass(frozen=True)
class Joined:
    """The images that have both a score and a label, in the order of the scores, and what was left out."""

    image_id: tuple[str, ...]  # (N,)
    labels: tuple[str, ...]  # (K,)
    truth: NDArray[np.int8]  # (N, K), -1 where this label is not known
    probability: NDArray[np.float64]  # (N, K)
    fold_probability: NDArray[np.float64]  # (N, F, K)
    ungradable: NDArray[np.bool_]  # (N,)
    patient_id: tuple[str, ...] | None  # (N,)
    n_files: int
    n_scored: int
    n_failed: int  # files without a score
    n_unlabelled: int  # files without a label, scored or not
    n_labels_without_image: int


def join(scores: ScoreTable, labels: LabelTable) -> Joined:
    """Bring scores and labels together by `image_id`, never by position."""
    columns = _label_columns(scores, labels)
    row_of = {image_id: row for row, image_id in enumerate(labels.image_id)}
    label_row = np.array([row_of.get(image_id, -1) for image_id in scores.image_id])  # (N,) -1: no such row
    if not (label_row >= 0).any():
        raise LabelsError(
            f"No image_id of the labels is among the scores: {labels.image_id[0]!r} is in the labels, "
            f"{scores.image_id[0]!r} in the scores. Write both relative to the same folder."
        )
    has_label = (labels.values >= 0).any(axis=1)
    labelled = (label_row >= 0) & has_label[label_row]
    both = np.flatnonzero(scores.scored & labelled)
    patient_id = labels.patient_id and tuple(labels.patient_id[row] for row in label_row[both])
    return Joined(
        image_id=tuple(scores.image_id[row] for row in both),
        labels=labels.labels,
        truth=labels.values[label_row[both]],
        probability=scores.probability[both][:, columns],
        fold_probability=scores.fold_probability[both][:, :, columns],
        ungradable=scores.ungradable[both],
        patient_id=patient_id,
        n_files=len(scores.image_id),
        n_scored=int(scores.scored.sum()),
        n_failed=int((~scores.scored).sum()),
        n_unlabelled=int((~labelled).sum()),
        n_labels_without_image=int(has_label.sum() - labelled.sum()),
    )


def _label_columns(scores: ScoreTable, labels: LabelTable) -> list[int]:
    """Return where each label of the labels table stands among the scores (K,)."""
    named = scores.labels or labels.labels[:1]
    missing = [label for label in labels.labels if label not in named]
    if missing:
        there = ", ".join(scores.labels or ("one probability without a name",))
        raise UsageError(f"The scores have no probability for {', '.join(missing)}; they have {there}.")
    return [named.index(label) for label in labels.labels]


def _label_value(sheet: Sheet, line: int, label: str, cell: str) -> int:
    value = _LABEL_VALUES.get(cell.strip())
    if value is None:
        sheet.fail(f"line {line} has {label} = {cell!r}. Write 0, 1, or nothing where it is not known.")
    return value


def _check_eyes(sheet: Sheet, eyes: Sequence[str]) -> None:
    for line, eye in zip(sheet.lines, eyes, strict=False):
        if eye not in EYES:
            sheet.fail(f"line {line} has eye = {eye!r}. Write left, right, or nothing where it is not known.")


def _scored_mask(sheet: Sheet, column: int) -> list[bool]:
    """Return for each row whether it has a score (N,); `column` is a probability."""
    if "status" not in sheet.columns:
        return [row[column] != "" for row in sheet.rows]
    status = sheet.texts("status")
    for line, word in zip(sheet.lines, status, strict=True):
        if word not in ("scored", "failed"):
            sheet.fail(f"line {line} has status {word!r}. Write scored or failed.")
    return [word == "scored" for word in status]


def _ungradable_mask(sheet: Sheet) -> NDArray[np.bool_]:
    """Return for each row whether something stands in `ungradable` (N,)."""
    if "ungradable" not in sheet.columns:
        return np.zeros(len(sheet.rows), bool)
    return np.array([cell != "" for cell in sheet.texts("ungradable")])


def _numbers(sheet: Sheet, columns: list[int], scored: list[bool]) -> NDArray[np.float64]:
    """Return the cells of `columns` as numbers (N, len(columns)), NaN in a row without a score."""
    numbers = np.full((len(sheet.rows), len(columns)), np.nan)
    for row in np.flatnonzero(scored):
        numbers[row] = [_number(sheet, row, column) for column in columns]
    return numbers


def _number(sheet: Sheet, row: int, column: int) -> float:
    cell = sheet.rows[row][column]
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        sheet.fail(f"line {sheet.lines[row]} has {sheet.columns[column]} = {cell!r}. Write a finite number.")
    return number


def _check_ids(image_id: tuple[str, ...]) -> None:
    if len(set(image_id)) < len(image_id):
        raise ValueError("an image_id stands twice in one table")


def _check_shape(name: str, array: NDArray[Any], expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {array.shape}")
