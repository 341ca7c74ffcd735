"""What counts as one: an image, an eye or a patient. Several images of a unit become one score.

Letters in shapes: N images, M units, F folds.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import LabelsError, UsageError
from fundus_core.tables import Joined
from fundus_eval.study import Rule, Sample, Unit

EYES = ("", "left", "right")
Numbers = NDArray[np.int64]


def sample_of(joined: Joined, label: int, unit: Unit = "image", rule: Rule = "mean") -> Sample:
    """Return what a label (its number) is evaluated on, of the images whose label is known.

    A unit's score is the mean or the largest of its images', per fold too. A patient is positive where one
    eye is, and ungradable where every image is; a further column says what it says of the first image.

    Raises:
        UsageError: eyes or patients are asked for, and the labels do not name them.
        LabelsError: images of one eye (of one patient, where the eye is not known) have different labels.
    """
    known = np.flatnonzero(joined.truth[:, label] >= 0)
    names = joined.patient_id
    patient = None if names is None else patient_numbers(names, joined.image_id)[known]
    images = Sample(
        image_id=_rows(joined.image_id, known),
        truth=joined.truth[known, label],
        score=joined.probability[known, label],
        fold_score=joined.fold_probability[known, :, label],
        cluster=_cluster(patient),
        ungradable=joined.ungradable[known],
        columns={name: _rows(cells, known) for name, cells in joined.columns.items()},
        n_patients=None if patient is None else len(np.unique(patient)),
    )
    if unit == "image":
        return images
    if patient is None:
        raise UsageError(f"To count each {unit} once, the labels need a column patient_id. Add it.")
    eye = _eye_of_patient(patient, _eyes(joined, known, needed=unit == "eye"))
    _check_agreement(images, eye)
    return _merged(images, patient, patient if unit == "patient" else eye, rule)


def failed_units(joined: Joined, label: int, unit: Unit = "image") -> tuple[int, int]:
    """Return how many positive and negative units have no score: every image of theirs failed."""
    truth = joined.failed_truth[:, label]
    patients, eyes = joined.failed_patient_id, joined.failed_eye
    if unit == "image" or patients is None or joined.patient_id is None:
        return int((truth == 1).sum()), int((truth == 0).sum())
    scored = set(_names(unit, joined.patient_id, joined.eye))
    positive: dict[tuple[str, str], bool] = {}
    for name, value in zip(_names(unit, patients, eyes), truth.tolist(), strict=True):
        if value >= 0 and (name not in scored or not name[0]):
            positive[name] = positive.get(name, False) or value == 1
    return sum(positive.values()), len(positive) - sum(positive.values())


def _names(unit: Unit, patients: Sequence[str], eyes: Sequence[str] | None) -> list[tuple[str, str]]:
    by_eye = eyes if unit == "eye" and eyes else ("",) * len(patients)
    return list(zip(patients, by_eye, strict=True))


def _rows(cells: Sequence[str], rows: Iterable[int]) -> tuple[str, ...]:
    return tuple(cells[row] for row in rows)


def patient_numbers(patient_id: Sequence[str], image_id: Sequence[str]) -> Numbers:
    """Number the patients of N images (N,); an image without one is a patient of its own."""
    names = [("p", name) if name else ("i", image) for name, image in zip(patient_id, image_id, strict=True)]
    number = {name: at for at, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], np.int64)


def _cluster(patient: Numbers | None) -> Numbers | None:
    """Return the patients, or None where each has one row: then all rows are independent."""
    return None if patient is None or len(np.unique(patient)) == len(patient) else patient


def _eyes(joined: Joined, known: NDArray[np.intp], *, needed: bool) -> Numbers:
    """Return 0, 1 or 2 for each image: not known, left, right."""
    eyes = _rows(joined.eye or ("",) * len(joined.image_id), known)
    without = [repr(joined.image_id[row]) for row, eye in zip(known, eyes, strict=True) if not eye]
    if needed and without:
        told = f"{len(without)} images have none, such as {', '.join(without[:3])}"
        raise UsageError(f"To count each eye once, the labels need a column eye (left, right): {told}.")
    return np.array([EYES.index(eye) for eye in eyes], np.int64)


def _eye_of_patient(patient: Numbers, eye: Numbers) -> Numbers:
    return len(EYES) * patient + eye


def _check_agreement(images: Sample, group: Numbers) -> None:
    """Refuse images of one group that have different labels."""
    _, first, unit = np.unique(group, return_index=True, return_inverse=True)
    other = images.truth != images.truth[first][unit]
    if other.any():
        pairs = {int(unit[row]): (int(first[unit[row]]), int(row)) for row in np.flatnonzero(other)}
        told = [" and ".join(_told(images, row) for row in pair) for pair in list(pairs.values())[:3]]
        raise LabelsError(
            f"{len(pairs)} eyes have images with different labels: {'; '.join(told)}. Correct them, tell the "
            "eyes of a patient apart in a column eye (left, right), or evaluate images."
        )


def _told(images: Sample, row: int) -> str:
    return f"{images.image_id[row]!r} ({images.truth[row]})"


def _merged(images: Sample, patient: Numbers, group: Numbers, rule: Rule) -> Sample:
    """Return one row per group, in the order of their numbers."""
    _, first, unit, count = np.unique(group, return_index=True, return_inverse=True, return_counts=True)

    def merged(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.zeros((len(first), *scores.shape[1:]))
        (np.add if rule == "mean" else np.maximum).at(found, unit, scores)
        return (found.T / count).T if rule == "mean" else found

    truth, gradable = np.zeros(len(first), np.int8), np.zeros(len(first), bool)
    np.maximum.at(truth, unit, images.truth)
    np.logical_or.at(gradable, unit, ~images.ungradable)
    return Sample(
        image_id=_rows(images.image_id, first),
        truth=truth,
        score=merged(images.score),
        fold_score=merged(images.fold_score),
        cluster=_cluster(patient[first]),
        ungradable=~gradable,
        columns={name: _rows(cells, first) for name, cells in images.columns.items()},
        n_patients=images.n_patients,
    )
