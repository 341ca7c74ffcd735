"""What counts as one: an image, an eye or a patient. Several images of a unit become one score.

Letters in shapes: N images, M units, R rows of the labels table, F folds.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import LabelsError, UsageError
from fundus_core.tables import EYES, Joined, LabelTable, some
from fundus_eval.study import Rule, Sample, Unit

SEVERAL = "several"  # what a column says of a unit whose images differ in it
Numbers = NDArray[np.int64]


def sample_of(joined: Joined, label: int, unit: Unit = "image", rule: Rule = "mean") -> Sample:
    """Return what a label (its number) is evaluated on, of the images whose label is known.

    A unit's score is the mean or the largest of its images', per fold too. A patient is positive where one
    eye is, also one without a score, and ungradable where every image is.

    Raises:
        UsageError: eyes or patients are asked for, and the labels do not name them.
        LabelsError: images of one eye (of one patient, where the eye is not known) have different labels.
    """
    known = np.flatnonzero(joined.truth[:, label] >= 0)
    rows, everyone = joined.row[known], patients_of(joined.table)
    patient = None if everyone is None else everyone[rows]
    folds = joined.fold_probability[known, :, label]
    images = Sample(
        image_id=tuple(joined.image_id[i] for i in known),
        truth=joined.truth[known, label],
        score=joined.probability[known, label],
        fold_score=folds[:, :0] if np.isnan(folds).any() else folds,  # what is known of some tells of none
        cluster=clusters(patient),
        ungradable=joined.ungradable[known],
        columns={name: tuple(cells[row] for row in rows) for name, cells in joined.table.columns.items()},
        n_patients=None if patient is None else len(np.unique(patient)),
    )
    if unit == "image":
        return images
    if everyone is None or patient is None:
        raise UsageError(f"To count each {unit} once, the labels need a column patient_id. Add it.")
    if unit == "eye":
        _check_eyes(joined.table, rows)
    group = _groups(joined.table, everyone, unit)
    _check_agreement(joined.table, everyone, label, np.append(rows, joined.failed_row))
    return _merged(images, patient, group[rows], group[joined.table.values[:, label] == 1], rule)


def failed_units(joined: Joined, label: int, unit: Unit = "image") -> tuple[int, int]:
    """Return how many positive and negative units have no score: every image of theirs failed."""
    truth = joined.table.values[:, label]
    failed = joined.failed_row[truth[joined.failed_row] >= 0]
    everyone = patients_of(joined.table)
    if unit == "image" or everyone is None:
        return int((truth[failed] == 1).sum()), int((truth[failed] == 0).sum())
    group = _groups(joined.table, everyone, unit)
    lost = np.setdiff1d(group[failed], group[joined.row[joined.truth[:, label] >= 0]])
    n_positive = int(np.isin(lost, group[truth == 1]).sum())
    return n_positive, len(lost) - n_positive


def patients_of(table: LabelTable) -> Numbers | None:
    """Number the patients of a labels table (R,), or None where it names none.

    An image without an id is a patient of its own.
    """
    if not table.patient_id or not any(table.patient_id):
        return None
    number: dict[str, int] = {}
    # no id of a table has a NUL in it
    names = (name or f"\0{image}" for name, image in zip(table.patient_id, table.image_id, strict=True))
    return np.array([number.setdefault(name, len(number)) for name in names], np.int64)


def clusters(patient: Numbers | None) -> Numbers | None:
    """Return the patients, or None where each has one row: then all rows are independent."""
    return None if patient is None or len(np.unique(patient)) == len(patient) else patient


def _groups(table: LabelTable, patient: Numbers, unit: Unit) -> Numbers:
    """Return the number of each row's patient, or eye (R,); eyes that are not known count as one."""
    return patient if unit == "patient" else len(EYES) * patient + _eyes(table)


def _eyes(table: LabelTable) -> Numbers:
    eyes: Sequence[str] = table.eye or ("",) * len(table.image_id)
    return np.array([EYES.index(eye) for eye in eyes], np.int64)


def _check_eyes(table: LabelTable, rows: NDArray[np.intp]) -> None:
    without = [table.image_id[row] for row in rows[_eyes(table)[rows] == 0]]
    if without:
        hint = "To count each eye once, the labels need a column eye (left, right)."
        raise UsageError(f"{hint} It is not known for {some(without)}.")


def _check_agreement(table: LabelTable, patient: Numbers, label: int, rows: NDArray[np.intp]) -> None:
    """Refuse images of one eye, or of one patient where the eye is not known, that have different labels."""
    rows = rows[table.values[rows, label] >= 0]
    group, truth = _groups(table, patient, "eye")[rows], table.values[rows, label]
    _, first, unit = np.unique(group, return_index=True, return_inverse=True)
    pairs = {int(unit[i]): (first[unit[i]], i) for i in np.flatnonzero(truth != truth[first][unit])}
    if pairs:
        named = [[f"{table.image_id[rows[i]]!r} ({truth[i]})" for i in pair] for pair in pairs.values()]
        raise LabelsError(
            f"{len(pairs)} eyes (patients, where the eye is not known) have images with different labels: "
            f"{'; '.join(map(' and '.join, named[:3]))}. Correct them, name the eyes in a column eye (left, "
            "right), or evaluate images."
        )


def _merged(images: Sample, patient: Numbers, group: Numbers, positive: Numbers, rule: Rule) -> Sample:
    """Return one row per group, in the order of their numbers; those among `positive` are positive."""
    found, first, unit, count = np.unique(group, return_index=True, return_inverse=True, return_counts=True)

    def merged(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros((len(first), *scores.shape[1:]))
        (np.add if rule == "mean" else np.maximum).at(total, unit, scores)
        return (total.T / count).T if rule == "mean" else total

    def told(cells: tuple[str, ...]) -> tuple[str, ...]:
        differs, code = np.zeros(len(first), bool), np.unique(cells, return_inverse=True)[1]
        np.logical_or.at(differs, unit, code != code[first][unit])
        return tuple(SEVERAL if other else cells[at] for other, at in zip(differs, first, strict=True))

    gradable = np.zeros(len(first), bool)
    np.logical_or.at(gradable, unit, ~images.ungradable)
    return Sample(
        image_id=tuple(images.image_id[at] for at in first),
        truth=np.isin(found, positive).astype(np.int8),
        score=merged(images.score),
        fold_score=merged(images.fold_score),
        cluster=clusters(patient[first]),
        ungradable=~gradable,
        columns={name: told(cells) for name, cells in images.columns.items()},
        n_patients=images.n_patients,
    )
