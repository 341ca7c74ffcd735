"""Files -> tables of labels and scores, read part by part: a row takes little more than its id and numbers.

Letters in shapes: N images, R rows of a part, F folds, K labels.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundus_core.errors import LabelsError, UsageError
from fundus_core.quality import MEASURES
from fundus_core.sheet import Sheet, read_parts
from fundus_core.tables import EYES, UNLABELLED, LabelTable, ScoreTable

NO_REASON = "unknown"  # of a file without a score whose table does not say why
_PREFIX = "probability:"
# pandas writes a 0/1 column that has gaps as 0.0 and 1.0
_LABEL_VALUES = {"": UNLABELLED, "0": 0, "1": 1, "0.0": 0, "1.0": 1}
_WRONG = -2


def read_labels(path: Path, labels: Sequence[str] = ("glaucoma",), columns: Sequence[str] = ()) -> LabelTable:
    """Read `image_id`, a column per label of 0, 1 or nothing; `patient_id`, `eye`, `source` if there.

    Args:
        path: a CSV or Parquet file.
        labels: K columns.
        columns: further ones to keep as texts, of which the table must have each.
    """
    ids, values, texts = _Ids(path, LabelsError), [], _Texts()
    for sheet in read_parts(path, LabelsError):
        values.append(np.column_stack([_label_values(sheet, label) for label in labels]))
        own = [name for name in ("patient_id", "eye", "source") if name in sheet.columns]
        texts.add(sheet, {*own, *columns})
        _check_eyes(sheet)
        ids.add(sheet)
    known = texts.joined()
    extra = {name: known[name] for name in columns}
    patient_id, eye, source = map(known.get, ("patient_id", "eye", "source"))
    return LabelTable(ids.unique(), tuple(labels), np.concatenate(values), patient_id, eye, source, extra)


def read_scores(path: Path) -> ScoreTable:
    """Read `scores.csv`, or any table that has at least `image_id` and `probability`.

    Without a `status` column, a row counts as failed where its probability is empty; without an `ungradable`
    column, every image counts as gradable.

    Raises:
        UsageError: the table cannot be read, has a probability outside 0-1, or rows of several bundles.
    """
    ids, parts, bundles = _Ids(path, UsageError), [], Counter[str]()
    for sheet in read_parts(path, UsageError):
        parts.append(_score_part(sheet))
        bundles.update(sheet.texts("bundle_digest") if "bundle_digest" in sheet.columns else ())
        ids.add(sheet)
    _check_one_bundle(path, bundles)
    labels = parts[0].labels
    numbers = np.concatenate([part.numbers for part in parts])
    return ScoreTable(
        image_id=ids.unique(),
        scored=~np.isnan(numbers[:, 0, 0]),
        probability=numbers[:, 0],
        fold_probability=numbers[:, 1:],
        ungradable=np.concatenate([part.ungradable for part in parts]),
        labels=labels or None,
        reason=tuple(code for part in parts for code in part.reason),
        quality=np.concatenate([part.quality for part in parts]),
        bundle=next(iter(bundles), None),
    )


@dataclass(frozen=True)
class _ScorePart:
    labels: tuple[str, ...]  # none: one probability without a name
    numbers: NDArray[np.float64]  # (R, 1 + F, K) probability and folds, NaN without an answer
    ungradable: NDArray[np.bool_]  # (R,)
    reason: list[str]  # (R,) codes
    quality: NDArray[np.float32]  # (R, Q)


@dataclass
class _Ids:
    """The ids of a table, and the lines that they stand in."""

    path: Path
    error: type[UsageError]
    ids: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def add(self, sheet: Sheet) -> None:
        self.ids += sheet.texts("image_id")
        self.lines += sheet.lines

    def unique(self) -> tuple[str, ...]:
        """Return the ids (N,); fail where two rows share one."""
        if len(set(self.ids)) < len(self.ids):
            self._fail()
        return tuple(self.ids)

    def _fail(self) -> None:
        first: dict[str, int] = {}
        again = [
            f"lines {first[image_id]} and {line} both have image_id {image_id!r}"
            for line, image_id in zip(self.lines, self.ids, strict=True)
            if first.setdefault(image_id, line) != line
        ]
        also = f" ({len(again)} such rows)" if len(again) > 1 else ""
        raise self.error(f"{self.path}: {', '.join(again[:3])}{also}. Keep one of them.")


@dataclass
class _Texts:
    """Columns of texts, collected over the parts of a table."""

    parts: dict[str, list[str]] = field(default_factory=dict)

    def add(self, sheet: Sheet, names: Iterable[str]) -> None:
        for name in names:
            self.parts.setdefault(name, []).extend(map(str.strip, sheet.texts(name)))

    def joined(self) -> dict[str, tuple[str, ...]]:
        return {name: tuple(cells) for name, cells in self.parts.items()}


def _label_values(sheet: Sheet, label: str) -> NDArray[np.int8]:
    """Return 1, 0 or -1 for each row (R,)."""
    values = np.array([_LABEL_VALUES.get(cell.strip(), _WRONG) for cell in sheet.texts(label)], np.int8)
    if (values == _WRONG).any():
        hint = "Write 0, 1, or nothing where it is not known."
        sheet.fail_at(np.flatnonzero(values == _WRONG).tolist(), label, hint)
    return values


def _check_eyes(sheet: Sheet) -> None:
    eyes = sheet.texts("eye") if "eye" in sheet.columns else ()
    if wrong := [row for row, eye in enumerate(eyes) if eye.strip() not in EYES]:
        sheet.fail_at(wrong, "eye", "Write left, right, or nothing where it is not known.")


def _check_one_bundle(path: Path, bundles: Counter[str]) -> None:
    if len(bundles) > 1:
        said = ", ".join(f"{digest[:12] or 'none'} ({n} rows)" for digest, n in bundles.most_common(3))
        raise UsageError(f"{path}: {len(bundles)} bundles made these scores: {said}. Score with one of them.")


def _score_part(sheet: Sheet) -> _ScorePart:
    labels = tuple(name.removeprefix(_PREFIX) for name in sheet.columns if name.startswith(_PREFIX))
    suffixes = [f":{label}" for label in labels] or [""]
    n_folds = 0
    while f"fold_{n_folds}{suffixes[0]}" in sheet.columns:
        n_folds += 1
    kinds = ["probability", *(f"fold_{fold}" for fold in range(n_folds))]
    columns = [kind + suffix for kind in kinds for suffix in suffixes]
    scored = _scored_mask(sheet, columns[0])
    numbers = np.column_stack([_probabilities(sheet, column, scored) for column in columns])
    return _ScorePart(
        labels,
        numbers.reshape(-1, len(kinds), len(suffixes)),
        np.array([cell != "" for cell in _cells(sheet, "ungradable")]),
        [_code(*row) for row in zip(scored.tolist(), _cells(sheet, "reason"), strict=True)],
        _quality(sheet),
    )


def _cells(sheet: Sheet, column: str) -> Sequence[str]:
    """Return the cells of a column (R,), each "" where there is no such column."""
    return sheet.texts(column) if column in sheet.columns else ("",) * len(sheet.rows)


def _code(scored: bool, reason: str) -> str:
    return "" if scored else reason.partition(":")[0] or NO_REASON


def _quality(sheet: Sheet) -> NDArray[np.float32]:
    """Return the measures (R, Q), NaN where they are not known."""
    return np.column_stack([_measure(sheet, name) for name in MEASURES]).astype(np.float32)


def _measure(sheet: Sheet, name: str) -> NDArray[np.float64]:
    if name not in sheet.columns:
        return np.full(len(sheet.rows), np.nan)
    known = np.array([cell != "" for cell in sheet.texts(name)])
    return _numbers(sheet, name, known, np.isfinite, "that is finite")


def _scored_mask(sheet: Sheet, column: str) -> NDArray[np.bool_]:
    """Return for each row whether it has a score (R,); `column` is a probability."""
    probabilities = sheet.texts(column)
    if "status" not in sheet.columns:
        return np.array([cell != "" for cell in probabilities])
    status = sheet.texts("status")
    if wrong := [row for row, word in enumerate(status) if word not in ("scored", "failed")]:
        sheet.fail_at(wrong, "status", "Write scored or failed.")
    return np.array([word == "scored" for word in status])


def _probabilities(sheet: Sheet, column: str, scored: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a column's probabilities (R,); where a fold's cell is empty it was not asked."""
    if not column.startswith("probability"):
        scored = scored & np.array([cell != "" for cell in sheet.texts(column)], bool)
    return _numbers(sheet, column, scored, _is_share, "of 0-1")


def _is_share(numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (numbers >= 0) & (numbers <= 1)


def _numbers(
    sheet: Sheet,
    column: str,
    wanted: NDArray[np.bool_],
    is_right: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
    kind: str,
) -> NDArray[np.float64]:
    """Return the wanted cells of a column as numbers (R,), NaN elsewhere; fail where one is not right."""
    numbers = np.full(len(sheet.rows), np.nan)
    numbers[wanted] = list(map(_number, compress(sheet.texts(column), wanted)))
    wrong = wanted & ~is_right(numbers)
    if wrong.any():
        sheet.fail_at(np.flatnonzero(wrong).tolist(), column, f"Write a number {kind}.")
    return numbers


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan
