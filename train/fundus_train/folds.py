"""The split: a stratified hold-out, and stratified folds of the rest. A patient never straddles two parts."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from fundus_core.errors import LabelsError
from fundus_train.recipe import Split

TEST = -1
POOL = -2  # no label at all: neither trained nor judged on, unless it gets pseudo-labels
TENTHS = 10


def split_cases(
    targets: NDArray[np.int8],
    patient: NDArray[np.int64],
    split: Split,
    seed: int,
    labels: Sequence[str],
) -> NDArray[np.int64]:
    """Return the part of each case (N,): `TEST`, the fold 0 to folds - 1 that validates on it, or `POOL`.

    Args:
        targets: (N, K) of 0 and 1, -1 where not known; the combination of labels is what is stratified.
        patient: (N,) numbers; one number stays in one part. Without patients each case has its own.
        split: size of the hold-out and number of folds.
        seed: of the shuffle.
        labels: (K,) their names.

    Raises:
        LabelsError: a part would hold one class only, or there are fewer patients than parts.
    """
    labelled = (targets >= 0).any(axis=1)
    part = np.full(len(targets), POOL, dtype=np.int64)
    part[labelled] = _split_labelled(targets[labelled], patient[labelled], split, seed)
    for name in (TEST, *range(split.folds)):
        where = "the test part" if name == TEST else f"fold {name}"
        _check_classes(targets[part == name], labels, where)
    return part


def _split_labelled(
    targets: NDArray[np.int8], patient: NDArray[np.int64], split: Split, seed: int
) -> NDArray[np.int64]:
    stratum = np.unique(targets, axis=0, return_inverse=True)[1].reshape(-1)
    if not split.by_patient:
        patient = np.arange(len(stratum))
    tenth = _grouped(stratum, patient, TENTHS, seed, "parts, the tenths that test_size takes from. Add")
    part = np.full(len(stratum), TEST, dtype=np.int64)
    rest = np.flatnonzero(tenth >= round(split.test_size * TENTHS))
    part[rest] = _grouped(stratum[rest], patient[rest], split.folds, seed, "folds. Choose fewer, or add")
    return part


def _grouped(
    stratum: NDArray[np.int64], patient: NDArray[np.int64], parts: int, seed: int, what: str
) -> NDArray[np.int64]:
    """Return the part of each case (N,). `what` ends a sentence on too few: the parts, and what helps."""
    n_patients = len(np.unique(patient))
    if n_patients < parts:
        raise LabelsError(f"{n_patients} patients cannot make {parts} {what} patients.")
    if (most := np.bincount(stratum).max()) < parts:
        raise LabelsError(f"{most} cases of a label combination, at most, cannot make {parts} {what} cases.")
    part = np.empty(len(stratum), dtype=np.int64)
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of a label combination that not every part can have
        warnings.simplefilter("ignore")
        for number, (_, chosen) in enumerate(splitter.split(stratum, stratum, patient)):
            part[chosen] = number
    return part


def _check_classes(targets: NDArray[np.int8], labels: Sequence[str], where: str) -> None:
    for label, of_label in zip(labels, targets.T, strict=True):
        if not {0, 1} <= set(of_label.tolist()):
            raise LabelsError(
                f"The label '{label}' has one class only in {where} ({len(targets)} cases), so its AUC is "
                "not defined. Add cases of the rarer class, fewer folds, or another test_size."
            )
