r"""CSV and Parquet files, part by part, with errors that name the file, the line and the next step.

Text is UTF-8; bytes of a file name that are no UTF-8 survive as surrogates (surrogateescape, PEP 383).
Parquet has no place for those, and other readers would refuse the whole table: there they are `\udcXX`.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fundus_core.errors import MissingExtraError, UsageError
from fundus_core.schema import nearest

_SEPARATOR = re.compile("[;\t|]")
_BREAK = re.compile("\r\n|\r|\n")
PART_ROWS = 4096  # small parts stay in a processor's cache
_UNWRITABLE = re.compile(r"[\ud800-\udfff]|\\(?=u(?:d[89a-f][0-9a-f]{2}|005c))")
_WRITTEN = re.compile(r"\\u(d[89a-f][0-9a-f]{2}|005c)")


@dataclass(frozen=True)
class Sheet:
    """A table, or a part of one: R rows of texts below a header. A problem in it raises `error`."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[list[str], ...]  # (R,)
    lines: tuple[int, ...]  # (R,) where each row ends, counted from 1; of Parquet, the row
    error: type[UsageError]

    def __post_init__(self) -> None:
        if any("\0" in column for column in self.columns):
            self.fail("this is no text. Save the table as CSV (UTF-8).")
        if len(self.columns) == 1 and (found := _SEPARATOR.search(self.columns[0])):
            self.fail(f"cells are separated by {found[0]!r}. Save it as CSV with commas (UTF-8).")
        if not self.rows:
            self.fail("the table is empty. It needs a header line and one line per image.")
        if {*map(len, self.rows)} != {len(self.columns)}:
            at, row = next((i, row) for i, row in enumerate(self.rows) if len(row) != len(self.columns))
            cells = f"{len(row)} cells, but the header has {len(self.columns)}"
            self.fail(f"line {self.lines[at]} has {cells}. Put quotes around a name that has a comma.")

    def fail(self, problem: str) -> NoReturn:
        """Raise `error` about this file."""
        raise self.error(f"{self.path}: {problem}")

    def fail_at(self, rows: Iterable[int], column: str, hint: str) -> NoReturn:
        """Raise `error` about the cells of `column` in these rows: the first three, and how many."""
        index, rows = self.index(column), list(rows)
        cells = [f"line {self.lines[row]} has {column} = {self.rows[row][index]!r}" for row in rows[:3]]
        also = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        self.fail(f"{', '.join(cells)}{also}. {hint}")

    def index(self, column: str) -> int:
        """Return where `column` stands; fail where it is missing or stands twice."""
        if self.columns.count(column) > 1:
            self.fail(f"there are two columns {column!r}. Keep one.")
        if column not in self.columns:
            self.fail(f"there is no column {column!r}.{nearest(column, self.columns)}")
        return self.columns.index(column)

    def texts(self, column: str) -> tuple[str, ...]:
        """Return the cells of one column (R,)."""
        index = self.index(column)
        return tuple(map(itemgetter(index), self.rows))


def read_sheet(path: Path, error: type[UsageError]) -> Sheet:
    """Read a whole CSV file, or a Parquet file by its suffix, with the texts that it would have as CSV.

    Raises:
        UsageError: `error`, for anything wrong with it, now or later.
        MissingExtraError: a Parquet file, and pyarrow is not installed.
    """
    (sheet,) = read_parts(path, error, None)
    return sheet


def read_parts(path: Path, error: type[UsageError], n_rows: int | None = PART_ROWS) -> Iterator[Sheet]:
    """Yield a table in parts of `n_rows` rows, at least one part; else as `read_sheet`."""
    is_parquet = path.suffix.lower() == ".parquet"
    return (_parquet_parts if is_parquet else _csv_parts)(path, error, n_rows)


def _csv_parts(path: Path, error: type[UsageError], n_rows: int | None) -> Iterator[Sheet]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            # strict: a quote that is never closed would otherwise swallow the rest of the file
            reader = csv.reader(file, strict=True)
            columns, is_first = tuple(map(str.strip, next(reader, ()))), True
            n_before = reader.line_num
            while (rows := list(islice(reader, n_rows))) or is_first:
                filled, lines = _filled(rows, n_before, reader.line_num)
                if filled or is_first:
                    yield Sheet(path, columns, filled, lines, error)
                n_before, is_first = reader.line_num, False
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}. Check the path.") from problem
    except csv.Error as problem:
        raise error(f"{path} is no CSV table: {problem}. Save it as CSV (UTF-8).") from problem


def _filled(rows: list[list[str]], before: int, after: int) -> tuple[tuple[list[str], ...], tuple[int, ...]]:
    """Return the rows that say anything, and the lines where they end, of those `before` to `after`."""
    if after - before == len(rows):
        ends: Iterable[int] = range(before + 1, after + 1)
    else:  # some cells have line breaks
        spans = (1 + sum(len(_BREAK.findall(cell)) for cell in row) for row in rows)
        ends = islice(accumulate(spans, initial=before), 1, None)
    if all(map(any, rows)):
        return tuple(rows), tuple(ends)
    filled = [(row, end) for row, end in zip(rows, ends, strict=True) if any(row)]
    return tuple(row for row, _ in filled), tuple(end for _, end in filled)


def _parquet_parts(path: Path, error: type[UsageError], n_rows: int | None) -> Iterator[Sheet]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtraError("parquet", "pyarrow") from None
    try:
        with path.open("rb") as file:
            table, n_before = ParquetFile(file), 0
            whole = n_rows is None or not table.metadata.num_rows
            for batch in [table.read()] if whole else table.iter_batches(n_rows):
                columns = [[_text(value) for value in _values(column)] for column in batch.columns]
                rows = tuple(map(list, zip(*columns, strict=True)))
                lines = tuple(range(n_before + 1, n_before + len(rows) + 1))
                yield Sheet(path, tuple(batch.schema.names), rows, lines, error)
                n_before += len(rows)
    except (OSError, ArrowException) as problem:
        why = getattr(problem, "strerror", None) or "it is no Parquet table, or a part of one"
        raise error(f"{path} cannot be read: {why}. Check the path.") from problem


def _values(column: Any) -> list[Any]:
    """Return the values of a column of pyarrow, float32 as such."""
    values = column.to_pylist()
    if column.type == "float":
        return [None if value is None else np.float32(value) for value in values]
    return list(values)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, np.float32):
        return float32_text(value)
    return str(int(value)) if isinstance(value, bool) else unescaped(str(value))


def float32_text(number: float | np.float32) -> str:
    """Write the shortest decimal that reads back as the same float32."""
    return np.format_float_positional(np.float32(number), trim="0")


def escaped(text: str) -> str:
    r"""Return `text` as UTF-8 can hold it: a byte of a file name that is no UTF-8 becomes `\udcXX`."""
    return _UNWRITABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def unescaped(text: str) -> str:
    """Return the text that `escaped` was given."""
    return _WRITTEN.sub(lambda found: chr(int(found[1], 16)), text)


def csv_line(cells: Sequence[str]) -> str:
    r"""Return one line of CSV, ending in "\n"."""
    buffer = io.StringIO()
    # until Python 3.13, csv quotes a carriage return only if the line ends contain one
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"
