r"""CSV and Parquet files in memory, with errors that name the file, the line and the next step.

Text is UTF-8; bytes of a file name that are no UTF-8 survive as surrogates (surrogateescape, PEP 383).
Parquet has no place for those, and other readers would refuse the whole table: there they are `\udcXX`.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fundus_core.errors import MissingExtraError, UsageError
from fundus_core.schema import nearest

_UNWRITABLE = re.compile(r"[\ud800-\udfff]|\\(?=u(?:d[89a-f][0-9a-f]{2}|005c))")
_WRITTEN = re.compile(r"\\u(d[89a-f][0-9a-f]{2}|005c)")


@dataclass(frozen=True)
class Sheet:
    """A table in memory: R rows of texts below a header. A problem in it raises `error`."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[list[str], ...]  # (R,)
    lines: tuple[int, ...]  # (R,) where each row ends, counted from 1; of Parquet, the row
    error: type[UsageError]

    def __post_init__(self) -> None:
        if any("\0" in column for column in self.columns):
            self.fail("this is no text. Save the table as CSV (UTF-8).")
        if not self.rows:
            self.fail("the table is empty. It needs a header line and one line per image.")
        for line, row in zip(self.lines, self.rows, strict=True):
            if len(row) != len(self.columns):
                cells = f"{len(row)} cells, but the header has {len(self.columns)}"
                self.fail(f"line {line} has {cells}. Put quotes around a name that has a comma.")

    def fail(self, problem: str) -> NoReturn:
        """Raise `error` about this file."""
        raise self.error(f"{self.path}: {problem}")

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
        return tuple(row[index] for row in self.rows)

    def image_ids(self) -> tuple[str, ...]:
        """Return the cells of `image_id` (R,); fail where two rows share one."""
        ids = self.texts("image_id")
        first_line: dict[str, int] = {}
        for line, image_id in zip(self.lines, ids, strict=True):
            first = first_line.setdefault(image_id, line)
            if first != line:
                self.fail(f"lines {first} and {line} both have image_id {image_id!r}. Keep one of them.")
        return ids


def read_sheet(path: Path, error: type[UsageError]) -> Sheet:
    """Read a CSV file, or a Parquet file by its suffix, with the texts that the same table has as CSV.

    Raises:
        UsageError: `error`, for anything wrong with it, now or later.
        MissingExtraError: a Parquet file, and pyarrow is not installed.
    """
    return _parquet_sheet(path, error) if path.suffix.lower() == ".parquet" else _csv_sheet(path, error)


def _csv_sheet(path: Path, error: type[UsageError]) -> Sheet:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            # strict: a quote that is never closed would otherwise swallow the rest of the file
            reader = csv.reader(file, strict=True)
            columns = tuple(next(reader, ()))
            numbered = [(reader.line_num, row) for row in reader if row]
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}. Check the path.") from problem
    except csv.Error as problem:
        raise error(f"{path} is no CSV table: {problem}. Save it as CSV (UTF-8).") from problem
    return Sheet(path, columns, tuple(row for _, row in numbered), tuple(line for line, _ in numbered), error)


def _parquet_sheet(path: Path, error: type[UsageError]) -> Sheet:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtraError("parquet", "pyarrow") from None
    try:
        with path.open("rb") as file:
            table = ParquetFile(file).read()
    except (OSError, ArrowException) as problem:
        why = getattr(problem, "strerror", None) or "it is no Parquet table, or a part of one"
        raise error(f"{path} cannot be read: {why}. Check the path.") from problem
    columns = [[_text(value) for value in _values(column)] for column in table.columns]
    rows = tuple(map(list, zip(*columns, strict=True)))
    return Sheet(path, tuple(table.column_names), rows, tuple(range(1, len(rows) + 1)), error)


def _values(column: Any) -> list[Any]:
    """Return the values of a pyarrow.ChunkedArray, float32 as such."""
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
