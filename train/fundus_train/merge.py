"""Several data sets -> one table without copies; each image that is left out has a reason.

Letters in shapes: N images, K labels.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import LabelsError, UsageError
from fundus_core.schema import nearest
from fundus_core.tables import UNLABELLED
from fundus_train.duplicates import Prints, Tick, find_copies, join_groups, take_prints
from fundus_train.sources import read_source
from fundus_train.sources.photograph import Photograph


@dataclass(frozen=True)
class Origin:
    """One data set to read: its kind, its place, and the name it goes by in the table."""

    kind: str
    path: Path
    name: str


@dataclass(frozen=True)
class Row:
    """One image of the merged table: kept where `reason` is "", else left out."""

    image_id: str  # relative to the common parent of all sources, posix
    path: Path
    origin: str  # the name of its data set
    source: str  # the same, or "<origin>-<source>" where the data set names sources of its own
    values: tuple[int, ...]  # (K,) 0, 1, or -1 where it is not known
    patient_id: str  # "<origin>/<its own id>", or ""
    eye: str
    reason: str  # "" or "code: sentence"


def name_origins(arguments: Sequence[str]) -> tuple[Origin, ...]:
    """Read KIND:PATH arguments; a source goes by its folder's name, a second one of a name gets a number.

    Raises:
        UsageError: no kind, or a folder inside another one.
    """
    origins: list[Origin] = []
    for argument in arguments:
        kind, colon, text = argument.partition(":")
        if not (kind and colon and text):
            raise UsageError(f"'{argument}' is no source. Write KIND:PATH, such as csv:photos.")
        path = Path(os.path.abspath(text))
        name = folder = _folder(path).name
        taken = {origin.name for origin in origins}
        for number in range(2, len(origins) + 2):
            name = f"{folder}-{number}" if name in taken else name
        origins.append(Origin(kind, path, name))
    for one in origins:
        for other in origins:
            if one is not other and _folder(one.path).is_relative_to(_folder(other.path)):
                raise UsageError(f"The source {one.path} is inside {other.path}. Name each folder once.")
    return tuple(origins)


def common_parent(origins: Sequence[Origin]) -> Path:
    """Return the folder that every image_id of the merged table is relative to."""
    return Path(os.path.commonpath([_folder(origin.path) for origin in origins]))


def _folder(path: Path) -> Path:
    return path.parent if path.is_file() else path


def read_rows(origins: Sequence[Origin], labels: Sequence[str]) -> list[Row]:
    """Read every source; a label that a source does not know is -1 there.

    Raises:
        UsageError: a source that cannot be read, a label that no source knows, or no usable image.
    """
    base = common_parent(origins)
    rows: list[Row] = []
    known: set[str] = set()
    for origin in origins:
        photographs = read_source(origin.kind, origin.path, labels)
        known.update(label for photograph in photographs for label in photograph.labels)
        rows += (_row(photograph, origin, base, labels) for photograph in photographs)
    check_usable(rows)
    for label in labels:
        if label not in known:
            raise LabelsError(f"No source has the label '{label}'.{nearest(label, sorted(known))}")
    return rows


def check_usable(rows: Sequence[Row]) -> None:
    """Raise `LabelsError` where not one image can be used."""
    if all(row.reason for row in rows):
        raise LabelsError(f"None of {len(rows)} images can be used; the first: {rows[0].reason}")


def _row(photograph: Photograph, origin: Origin, base: Path, labels: Sequence[str]) -> Row:
    path = photograph.path
    values = tuple(photograph.labels.get(label, UNLABELLED) for label in labels)
    patient_id = f"{origin.name}/{photograph.patient_id}" if photograph.patient_id else ""
    reason = photograph.reason
    if not reason and max(values) == UNLABELLED:
        reason = "unlabelled: none of the chosen labels is known."
    image_id = path.absolute().relative_to(base).as_posix()
    source = f"{origin.name}-{photograph.source}" if photograph.source else origin.name
    return Row(image_id, path, origin.name, source, values, patient_id, photograph.eye, reason)


def without_copies(
    rows: Sequence[Row], tests: Sequence[Path], labels: Sequence[str], scratch: Path, tick: Tick
) -> tuple[list[Row], list[str]]:
    """Return the rows with a reason on what must go, and one patient_id for patients who share a copy.

    Of copies, the largest image stays, with what is known of any; where their labels disagree, none stays.
    A copy of an image in `tests` goes, and so do the other images of its patient. Also returned: a sentence
    for each of `tests` that cannot be read, so that nothing was compared with it.

    Raises:
        OSError: `scratch` is full.
    """
    usable = [i for i, row in enumerate(rows) if not row.reason]
    prints = take_prints([*(rows[i].path for i in usable), *tests], scratch, tick)
    rows = list(rows)
    for at, i in enumerate(usable):
        rows[i] = replace(rows[i], reason=prints.failed[at])
    pairs = list(find_copies(prints))
    picture = join_groups(np.arange(len(prints.failed)), pairs)
    chosen = [rows[i] for i in usable]
    patient = join_groups(_patients(chosen, len(tests)), pairs)
    judged = _name_patients(_judge(chosen, picture, prints, labels), patient)
    for i, row in zip(usable, _apart_from_tests(judged, picture, patient), strict=True):
        rows[i] = row
    tested = zip(tests, prints.failed[len(usable) :], strict=True)
    return rows, [f"{path}: {reason}" for path, reason in tested if reason]


def _patients(rows: Sequence[Row], n_tests: int) -> NDArray[np.int64]:
    """Number the patients of rows and test images; without an id, an image is its own patient."""
    names = [row.patient_id or f"\n{i}" for i, row in enumerate(rows)]
    names += [f"\n\n{i}" for i in range(n_tests)]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _judge(
    rows: Sequence[Row], picture: NDArray[np.int64], prints: Prints, labels: Sequence[str]
) -> list[Row]:
    """Return the rows with a reason on each copy but the best, and what is known of all on the best."""
    judged = list(rows)
    for members in _groups(picture[: len(rows)]):
        if len(members) < 2:
            continue
        values = np.array([rows[i].values for i in members])  # (copies, K)
        conflict = (values == 1).any(axis=0) & (values == 0).any(axis=0)
        best = max(members, key=lambda i: (prints.n_pixels[i], -i))
        eye = rows[best].eye or next((rows[i].eye for i in members if rows[i].eye), "")
        for i in members:
            if conflict.any():
                disagree = ", ".join(label for label, at in zip(labels, conflict, strict=True) if at)
                other = rows[members[0] if i != members[0] else members[1]].image_id
                reason = f"conflicting_labels: it is one picture with {other}, but {disagree} differs."
            elif i != best:
                same = "bytes" if prints.sha256[i] == prints.sha256[best] else "picture"
                reason = f"copy: the same {same} as {rows[best].image_id}."
            else:
                reason = ""
            judged[i] = replace(rows[i], values=tuple(values.max(axis=0).tolist()), eye=eye, reason=reason)
    return judged


def _groups(number: NDArray[np.int64]) -> Iterator[list[int]]:
    """Yield the rows of each number, in order."""
    order = np.argsort(number, kind="stable")
    starts = np.flatnonzero(np.diff(number[order])) + 1
    yield from (part.tolist() for part in np.split(order, starts) if len(part))


def _name_patients(rows: Sequence[Row], patient: NDArray[np.int64]) -> list[Row]:
    """Return the rows with the first known patient_id of each joined patient."""
    named = list(rows)
    for members in _groups(patient[: len(rows)]):
        name = next((rows[i].patient_id for i in members if rows[i].patient_id), "")
        for i in members:
            named[i] = replace(rows[i], patient_id=name)
    return named


def _apart_from_tests(
    rows: Sequence[Row], picture: NDArray[np.int64], patient: NDArray[np.int64]
) -> Iterator[Row]:
    test_pictures, test_patients = set(picture[len(rows) :].tolist()), set(patient[len(rows) :].tolist())
    for i, row in enumerate(rows):
        if picture[i] in test_pictures:
            yield replace(row, reason="in_test: a copy of an image of the test set.")
        elif patient[i] in test_patients and not row.reason:
            yield replace(row, reason="patient_in_test: another image of this patient is in the test set.")
        else:
            yield row


def undersample(
    rows: Sequence[Row], wanted: Mapping[str, tuple[int, int]], label: str, seed: int
) -> list[Row]:
    """Return the rows with a reason on those that a random choice left out.

    Args:
        rows: the merged table.
        wanted: name of a data set -> (with, without) `label`, at most; the first of the labels is meant.
        label: its name, for the reason.
        seed: of the choice.
    """
    rows, rng = list(rows), np.random.default_rng(seed)
    for origin, counts in wanted.items():
        for value, count in zip((1, 0), counts, strict=True):
            there = [i for i, row in enumerate(rows) if _is(row, origin, value)]
            for i in rng.permutation(there)[count:].astype(np.int64).tolist():
                reason = f"undersampled: {count} of {len(there)} images with {label} = {value} were drawn."
                rows[i] = replace(rows[i], reason=reason)
    return rows


def _is(row: Row, origin: str, value: int) -> bool:
    return row.origin == origin and not row.reason and row.values[0] == value
