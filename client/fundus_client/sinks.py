"""Where the rows of a run go: a table as CSV or Parquet, by its suffix, complete or not there at all."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fundus_core.errors import MissingExtraError, UsageError
from fundus_core.files import whole_file
from fundus_core.quality import MEASURES
from fundus_core.rows import ScoreFormat, ScoreRow, score_writer
from fundus_core.sheet import escaped

ROWS_PER_GROUP = 10_000
Write = Callable[[ScoreRow], None]


def check_output(path: Path) -> None:
    """Find out before a long run whether its table can be written.

    Raises:
        UsageError: its folder does not exist, or its suffix is of no table.
        MissingExtraError: it is to be Parquet, and pyarrow is not installed.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"'{path}' cannot be written: give a file name in a folder that exists.")
    if _suffix(path) == ".parquet":
        _pyarrow()


def table_writer(path: Path, table: ScoreFormat) -> AbstractContextManager[Write]:
    """Give a function that appends one row to `path`, in bounded memory.

    Parquet has the columns of the CSV: texts, float32 numbers and an int8 decision, null where there is no
    score, in groups of `ROWS_PER_GROUP` rows.

    Raises:
        UsageError: the suffix is neither .csv nor .parquet.
        MissingExtraError: pyarrow is not installed.
    """
    return (_parquet_writer if _suffix(path) == ".parquet" else score_writer)(path, table)


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise UsageError(f"'{path}' is no name of a table. Let it end in .csv or .parquet.")
    return suffix


@contextmanager
def _parquet_writer(path: Path, table: ScoreFormat) -> Iterator[Write]:
    arrow = _pyarrow()
    schema = arrow.schema([(name, _type(arrow, name)) for name in table.header])
    rows: list[tuple[str, ...]] = []
    with (
        whole_file(path) as unfinished,
        unfinished.open("wb") as file,
        arrow.parquet.ParquetWriter(file, schema) as writer,
    ):

        def write(row: ScoreRow) -> None:
            rows.append(table.cells(row))
            if len(rows) == ROWS_PER_GROUP:
                write_group()

        def write_group() -> None:
            columns = map(partial(_column, arrow), schema.types, zip(*rows, strict=True))
            writer.write_table(arrow.Table.from_arrays(list(columns), schema=schema))
            rows.clear()

        yield write
        if rows:
            write_group()


def _type(arrow: Any, column: str) -> Any:
    kind = column.partition(":")[0]
    if kind == "bundle_digest":
        return arrow.dictionary(arrow.int8(), arrow.string())
    if kind == "decision":
        return arrow.int8()
    is_number = kind in ("probability", "spread", "calibrated", *MEASURES) or kind.startswith("fold_")
    return arrow.float32() if is_number else arrow.string()


def _column(arrow: Any, kind: Any, cells: tuple[str, ...]) -> Any:
    if arrow.types.is_floating(kind) or arrow.types.is_integer(kind):
        return arrow.array([float(cell) if cell else None for cell in cells], arrow.float32()).cast(kind)
    return arrow.array(map(escaped, cells), kind)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("parquet", "pyarrow") from None
    return pyarrow
