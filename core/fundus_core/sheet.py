"""CSV files in memory, with errors that name the file, the line and the next step.

Text is UTF-8; bytes of a file name that are no UTF-8 survive as surrogates (surrogateescape, PEP 383).
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from fundus_core.errors import UsageError
from fundus_core.schema import nearest


@dataclass(frozen=True)
class Sheet:
    """A CSV file in memory: R rows below a header. A problem in it raises `error`."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[list[str], ...]  # (R,)
    lines: tuple[int, ...]  # (R,) where each row ends, counted from 1
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
    """Read a CSV file; `error` is raised for anything wrong with it, now or later."""
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


def csv_line(cells: Sequence[str]) -> str:
    r"""Return one line of CSV, ending in "\n"."""
    buffer = io.StringIO()
    # until Python 3.13, csv quotes a carriage return only if the line ends contain one
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"
