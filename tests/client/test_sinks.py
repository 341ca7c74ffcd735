import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tests.conftest import files_up_to
from tests.core.test_rows import DARK, GOOD

from fundus_client import sinks
from fundus_client.sinks import check_output, table_writer
from fundus_core.errors import MissingExtraError, UsageError
from fundus_core.quality import MEASURES, Quality
from fundus_core.reading import read_scores
from fundus_core.rows import ScoreFormat, ScoreRow
from fundus_core.sheet import read_sheet

DIGEST = "d" * 64
ONE_LABEL = ScoreFormat(("glaucoma",), (0.5,), 2, DIGEST)
ODD_NAMES = [
    "comma, inside.jpg",
    "quote \" inside'.jpg",
    "new\nline.jpg",
    "carriage\rreturn.jpg",
    "眼底/緑内障.jpg",
    os.fsdecode(b"latin1-\xe9\xff.jpg"),
    r"literally \udce9.jpg",
    " leading and trailing ",
    "=1+1.jpg",
    "null",
]
PROBABILITY = st.floats(0, 1, width=32)


def scored(
    image_id: str, probability: float, folds: tuple[float, float], quality: Quality = GOOD
) -> ScoreRow:
    each = tuple((fold,) for fold in folds)
    return ScoreRow(image_id, "ab" * 32, "scored", "", (probability,), each, quality)


def failed(image_id: str) -> ScoreRow:
    return ScoreRow(image_id, "", "failed", "corrupt: The JPEG stream is cut off.", None, None)


def write(path: Path, rows: list[ScoreRow], table: ScoreFormat = ONE_LABEL) -> Path:
    with table_writer(path, table) as append:
        for row in rows:
            append(row)
    return path


def test_parquet_columns_have_types_and_nulls_where_there_is_no_score(tmp_path: Path) -> None:
    rows = [scored("a.jpg", 0.75, (0.5, 1.0), DARK), failed("b.jpg")]
    table = parquet.read_table(write(tmp_path / "scores.parquet", rows))
    assert table.column_names == list(ONE_LABEL.header)
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types.pop("bundle_digest").startswith("dictionary<values=string")
    numbers = ("probability", "fold_0", "fold_1", "spread", *MEASURES)
    assert {types.pop(name) for name in numbers} == {"float"}
    assert types.pop("decision") == "int8"
    assert set(types.values()) == {"string"}
    first, second = table.to_pylist()
    assert [first[name] for name in (*numbers, "decision")] == [0.75, 0.5, 1.0, 0.5, *DARK.vector.tolist(), 1]
    assert [second[name] for name in (*numbers, "decision")] == [None] * 11
    assert first["ungradable"] == "dark 0.02"
    assert (second["reason"], second["sha256"], second["ungradable"]) == (failed("b.jpg").reason, "", "")
    assert first["bundle_digest"] == second["bundle_digest"] == DIGEST


def test_parquet_has_a_null_for_a_fold_that_was_not_asked(tmp_path: Path) -> None:
    rows = [scored("a.jpg", 0.75, (0.75, math.nan))]
    (row,) = parquet.read_table(write(tmp_path / "scores.parquet", rows)).to_pylist()
    assert (row["fold_0"], row["fold_1"], row["spread"]) == (0.75, None, None)


@settings(max_examples=50, deadline=None)
@given(
    numbers=st.lists(st.tuples(PROBABILITY, PROBABILITY, PROBABILITY) | st.none(), min_size=1, max_size=30),
    names=st.lists(st.binary(min_size=1, max_size=8), unique=True, min_size=30, max_size=30),
)
def test_parquet_reads_as_the_csv_of_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory,
    numbers: list[tuple[float, float, float] | None],
    names: list[bytes],
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    rows = [
        scored(os.fsdecode(name), each[0], each[1:]) if each else failed(os.fsdecode(name))
        for name, each in zip(names, numbers, strict=False)
        if b"\0" not in name
    ] or [failed("a")]
    csv = read_sheet(write(folder / "scores.csv", rows), UsageError)
    columnar = read_sheet(write(folder / "scores.parquet", rows), UsageError)
    assert (columnar.columns, columnar.rows) == (csv.columns, csv.rows)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".PARQUET"])
def test_odd_names_survive(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"scores{suffix}", [failed(name) for name in ODD_NAMES])
    assert read_scores(path).image_id == tuple(ODD_NAMES)


def test_another_reader_can_read_names_that_are_no_utf_8(tmp_path: Path) -> None:
    path = write(tmp_path / "scores.parquet", [failed(name) for name in ODD_NAMES])
    names = parquet.read_table(path).column("image_id").to_pylist()
    assert names[:5] == ODD_NAMES[:5]
    assert names[5] == r"latin1-\udce9\udcff.jpg"


def test_decisions_of_several_labels_are_those_of_the_csv(tmp_path: Path) -> None:
    """0.7 as float32 lies below 0.7: whoever compares numbers of the table must reach the same decision."""
    table = ScoreFormat(("glaucoma", "amd"), (0.7, 0.1), 1, DIGEST)
    numbers = (float(np.float32(0.7)), float(np.float32(0.1)))
    row = ScoreRow("a", "", "scored", "", numbers, (numbers,))
    sheets = [
        read_sheet(write(tmp_path / f"scores{suffix}", [row], table), UsageError)
        for suffix in (".csv", ".parquet")
    ]
    assert sheets[0].rows == sheets[1].rows
    for sheet in sheets:
        for label, threshold in zip(table.labels, table.thresholds, strict=True):
            assert sheet.texts(f"decision:{label}") == ("1",)
            assert float(sheet.texts(f"probability:{label}")[0]) >= threshold
    assert read_scores(tmp_path / "scores.parquet").labels == table.labels


def test_rows_are_written_in_groups_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "ROWS_PER_GROUP", 10)
    path = tmp_path / "scores.parquet"
    with table_writer(path, ONE_LABEL) as append:
        for number in range(25):
            append(failed(f"{number:02}"))
    metadata = parquet.ParquetFile(path).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [10, 10, 5]
    assert read_scores(path).image_id == tuple(f"{number:02}" for number in range(25))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_two_runs_write_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    rows = [scored("a", 1e-7, (0.1, 0.3)), failed("b")]
    one, two = (write(tmp_path / f"{name}{suffix}", rows).read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "scores.parquet", [])
    assert parquet.read_schema(path).names == list(ONE_LABEL.header)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_interrupted_table_leaves_the_old_one_and_no_rest(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scores{suffix}"
    path.write_text("the old one")
    with pytest.raises(KeyboardInterrupt), table_writer(path, ONE_LABEL) as append:
        append(failed("a"))
        raise KeyboardInterrupt
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_full_disk_leaves_the_old_table_and_says_why(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scores{suffix}"
    path.write_text("the old one")
    with (
        files_up_to(200_000),
        pytest.raises(OSError, match="File too large") as caught,
        table_writer(path, ONE_LABEL) as append,
    ):
        for number in range(30_000):
            append(scored(f"{number}" + os.urandom(8).hex(), 0.5, (0.5, 0.5)))
    assert caught.value.strerror
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_and_its_name_are_on_the_disk(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, fsync = [], os.fsync

    def watch(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write(tmp_path / f"scores{suffix}", [failed("a")])
    assert flushed == [tmp_path / f".scores{suffix}.partial", tmp_path]


@pytest.mark.parametrize("name", ["scores", "scores.xlsx", "scores.csv.gz"])
def test_another_suffix_is_a_usage_error(name: str, tmp_path: Path) -> None:
    for attempt in (lambda path: check_output(path), lambda path: table_writer(path, ONE_LABEL)):
        with pytest.raises(UsageError, match=r"is no name of a table. Let it end in .csv or .parquet"):
            attempt(tmp_path / name)


def test_a_table_in_no_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "folder.csv", tmp_path / "missing" / "scores.csv"):
        with pytest.raises(UsageError, match="give a file name in a folder that exists"):
            check_output(path)
    check_output(tmp_path / "scores.csv")
    check_output(tmp_path / "scores.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_without_pyarrow_the_sentence_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"needs pyarrow. .*'fundus-triton\[parquet\]'"):
        check_output(tmp_path / "scores.parquet")
    check_output(tmp_path / "scores.csv")
