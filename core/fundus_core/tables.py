"""The two tables that every room shares, and the one join between them.

`labels.csv` says what is true, `scores.csv` what an ensemble answered; both name an image by its `image_id`.

Letters in shapes: N images, F folds, K labels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import LabelsError, UsageError

UNLABELLED = -1
EYES = ("", "left", "right")  # "" where it is not known


@dataclass(frozen=True)
class LabelTable:
    """What is true of each image: 1 present, 0 absent, -1 not labelled."""

    image_id: tuple[str, ...]  # (N,)
    labels: tuple[str, ...]  # (K,) names, such as "glaucoma"
    values: NDArray[np.int8]  # (N, K)
    patient_id: tuple[str, ...] | None = None  # (N,)
    eye: tuple[str, ...] | None = None  # (N,) "left", "right", or "" where it is not known
    source: tuple[str, ...] | None = None  # (N,) the data set that an image is from
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)  # (N,) further ones, as texts

    def __post_init__(self) -> None:
        _check_ids(self.image_id)
        _check_shape("values", self.values, (len(self.image_id), len(self.labels)))


@dataclass(frozen=True)
class ScoreTable:
    """What an ensemble answered for each image; NaN where `scored` is False."""

    image_id: tuple[str, ...]  # (N,)
    scored: NDArray[np.bool_]  # (N,)
    probability: NDArray[np.float64]  # (N, K)
    fold_probability: NDArray[np.float64]  # (N, F, K) NaN where not asked; F is 0 where they are not known
    ungradable: NDArray[np.bool_]  # (N,) flagged as no good photograph of a fundus, scored or not
    labels: tuple[str, ...] | None = None  # (K,); None: one probability without a name
    reason: tuple[str, ...] | None = None  # (N,) codes, "" where scored
    quality: NDArray[np.float32] | None = None  # (N, Q) the measures of `Quality`, NaN where not known
    bundle: str | None = None  # the digest of the bundle that made every score

    def __post_init__(self) -> None:
        n, k = len(self.image_id), len(self.labels or ("",))
        _check_ids(self.image_id)
        _check_shape("scored", self.scored, (n,))
        _check_shape("ungradable", self.ungradable, (n,))
        _check_shape("probability", self.probability, (n, k))
        _check_shape("fold_probability", self.fold_probability, (n, *self.fold_probability.shape[1:2], k))

    def __getitem__(self, chosen: NDArray[np.bool_]) -> "ScoreTable":
        """Return the chosen (N,) rows."""
        rows = np.flatnonzero(chosen)
        return replace(
            self,
            image_id=tuple(self.image_id[row] for row in rows),
            scored=self.scored[rows],
            probability=self.probability[rows],
            fold_probability=self.fold_probability[rows],
            ungradable=self.ungradable[rows],
            reason=self.reason and tuple(self.reason[row] for row in rows),
            quality=None if self.quality is None else self.quality[rows],
        )


@dataclass(frozen=True)
class Joined:
    """The images that have both a score and a label, in the order of the scores, and what was left out."""

    image_id: tuple[str, ...]  # (N,)
    labels: tuple[str, ...]  # (K,)
    truth: NDArray[np.int8]  # (N, K), -1 where this label is not known
    probability: NDArray[np.float64]  # (N, K)
    fold_probability: NDArray[np.float64]  # (N, F, K) NaN of a fold that was not asked
    ungradable: NDArray[np.bool_]  # (N,)
    table: LabelTable  # the labels, also of images that are not among the N
    row: NDArray[np.intp]  # (N,) of the table
    failed_row: NDArray[np.intp]  # (M,) of the table, whose files have no score
    failed: dict[str, int]  # files without a score, by reason code
    n_files: int
    n_scored: int
    n_unlabelled: int  # files without a label, scored or not
    n_labels_without_image: int

    @property
    def n_failed(self) -> int:
        """Files without a score."""
        return self.n_files - self.n_scored


def join(scores: ScoreTable, labels: LabelTable) -> Joined:
    """Bring scores and labels together by `image_id`, never by position.

    Raises:
        LabelsError: they have no id in common.
        UsageError: the scores lack one of the labels.
    """
    columns = _label_columns(scores, labels)
    row_of = {image_id: row for row, image_id in enumerate(labels.image_id)}
    label_row = np.array([row_of.get(image_id, -1) for image_id in scores.image_id])  # (N,) -1: no such row
    if not (label_row >= 0).any():
        raise LabelsError(_nothing_in_common(scores.image_id, labels.image_id))
    has_label = (labels.values >= 0).any(axis=1)
    labelled = (label_row >= 0) & has_label[label_row]
    both = np.flatnonzero(scores.scored & labelled)
    kept = label_row[both]
    reasons = scores.reason or ("unknown",) * len(scores.image_id)
    return Joined(
        image_id=tuple(scores.image_id[row] for row in both),
        labels=labels.labels,
        truth=labels.values[kept],
        probability=scores.probability[both][:, columns],
        fold_probability=scores.fold_probability[both][:, :, columns],
        ungradable=scores.ungradable[both],
        table=labels,
        row=kept,
        failed_row=label_row[~scores.scored & labelled],
        failed=dict(Counter(reasons[row] for row in np.flatnonzero(~scores.scored)).most_common()),
        n_files=len(scores.image_id),
        n_scored=int(scores.scored.sum()),
        n_unlabelled=int((~labelled).sum()),
        n_labels_without_image=int(has_label.sum() - labelled.sum()),
    )


def some(ids: Sequence[str]) -> str:
    """Return how many ids there are, and up to three of them, for a sentence."""
    return f"{len(ids)} ids{' such as ' if ids else ''}{', '.join(map(repr, ids[:3]))}"


def _nothing_in_common(scores: Sequence[str], labels: Sequence[str]) -> str:
    said = f"the labels have {some(labels)}; the scores have {some(scores)}"
    return f"No image of the scores has a label: {said}. Write both relative to the same folder."


def _label_columns(scores: ScoreTable, labels: LabelTable) -> list[int]:
    """Return where each label of the labels table stands among the scores (K,)."""
    named = scores.labels or labels.labels[:1]
    missing = [label for label in labels.labels if label not in named]
    if missing:
        there = ", ".join(scores.labels or ("one probability without a name",))
        raise UsageError(f"The scores have no probability for {', '.join(missing)}; they have {there}.")
    return [named.index(label) for label in labels.labels]


def _check_ids(image_id: tuple[str, ...]) -> None:
    if len(set(image_id)) < len(image_id):
        raise ValueError("an image_id stands twice in one table")


def _check_shape(name: str, array: NDArray[Any], expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {array.shape}")
