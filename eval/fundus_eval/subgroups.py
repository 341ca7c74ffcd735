"""The same measures for parts of the units, by what a column of the labels table says of them."""

from collections.abc import Iterator, Sequence
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import UsageError
from fundus_eval.auc import auc_or_none
from fundus_eval.operating import confusion
from fundus_eval.study import Sample, Subgroup

_MAX_VALUES = 10  # as many numbers stand for themselves
_MAX_TEXTS = 50
NOT_STATED = "not stated"


def subgroups(sample: Sample, columns: Sequence[str], threshold: float | None) -> tuple[Subgroup, ...]:
    """Measure each value of each column; units of which a column says nothing come last, as "not stated".

    Numbers with more than ten different values are put into bands: decades of `age`, else quartiles.

    Args:
        sample: N units.
        columns: names of `sample.columns`.
        threshold: of the score, for sensitivity and specificity; None leaves them out.

    Raises:
        UsageError: a column is missing, or has too many different texts to be groups.
    """
    return tuple(group for column in columns for group in _of_column(sample, column, threshold))


def _of_column(sample: Sample, column: str, threshold: float | None) -> Iterator[Subgroup]:
    if column not in sample.columns:
        there = ", ".join(sample.columns) or "none"
        raise UsageError(f"There is no column {column} to make subgroups of. Further columns: {there}.")
    values = np.array(_banded(column, sample.columns[column]))
    for value in sorted(dict.fromkeys(values.tolist()), key=_place):
        yield _subgroup(sample, column, value, values == value, threshold)


def _subgroup(
    sample: Sample, column: str, value: str, chosen: NDArray[np.bool_], threshold: float | None
) -> Subgroup:
    truth, score = sample.truth[chosen], sample.score[chosen]
    cluster = None if sample.cluster is None else sample.cluster[chosen]
    counts = None if threshold is None else confusion(truth, score, threshold, cluster)
    return Subgroup(
        column=column,
        value=value,
        n=len(truth),
        n_positive=int((truth == 1).sum()),
        auc=auc_or_none(truth, score, cluster),
        sensitivity=counts.sensitivity if counts else None,
        specificity=counts.specificity if counts else None,
    )


def _banded(column: str, texts: Sequence[str]) -> list[str]:
    """Return the group of each unit (N,): its text, or the band that its number is in."""
    texts = [text.strip() for text in texts]
    said = dict.fromkeys(text for text in texts if text)
    numbers = {text: number for text in said if (number := _number(text)) is not None}
    if len(numbers) < len(said) or not said:
        if len(said) > _MAX_TEXTS:
            raise UsageError(_too_many(column, list(said), [text for text in said if text not in numbers]))
        return [text or NOT_STATED for text in texts]
    if len(set(numbers.values())) <= _MAX_VALUES:
        return [f"{numbers[text]:g}" if text else NOT_STATED for text in texts]
    known = np.array([numbers[text] for text in texts if text])
    bands = iter(_decades(known) if column.lower() == "age" else _quartiles(known))
    return [next(bands) if text else NOT_STATED for text in texts]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _too_many(column: str, said: Sequence[str], words: Sequence[str]) -> str:
    """Say what is wrong with a column of many texts: most are numbers, or it is of names or the like."""
    if 2 * len(words) < len(said):
        told = ", ".join(map(repr, words[:3])) + (" and others" if len(words) > 3 else "")
        return (
            f"The column {column} has numbers, but for {told}. Leave those cells empty to have it in bands."
        )
    return (
        f"The column {column} has {len(said)} different texts, too many for subgroups. "
        f"Name a column of {_MAX_TEXTS} at most."
    )


def _decades(numbers: NDArray[np.float64]) -> list[str]:
    return [f"{start}-{start + 9}" for start in (numbers // 10 * 10).astype(int).tolist()]


def _quartiles(numbers: NDArray[np.float64]) -> list[str]:
    """Return the quartile of each number (N,) by its ends; equal numbers are never parted."""
    edges = np.unique(np.quantile(numbers, (0.25, 0.5, 0.75), method="lower"))
    level = np.searchsorted(edges, numbers, "left")
    bands = {int(each): numbers[level == each] for each in np.unique(level)}
    ends = {each: dict.fromkeys((f"{own.min():g}", f"{own.max():g}")) for each, own in bands.items()}
    return [" to ".join(ends[each]) for each in level.tolist()]


def _place(value: str) -> tuple[bool, float, str]:
    """Sort numbers and bands by their (first) number, then texts, then what is not stated."""
    first = value.removeprefix("-").partition("-")[0].partition(" to ")[0]
    try:
        return False, float(f"-{first}" if value.startswith("-") else first), value
    except ValueError:
        return value == NOT_STATED, inf, value
