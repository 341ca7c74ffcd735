"""Parquet as a sheet of texts; tests/core/test_tables.py and test_rows.py read CSV through it."""

import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from fundus_core.errors import LabelsError, MissingExtraError
from fundus_core.reading import read_labels, read_scores
from fundus_core.sheet import escaped, read_sheet, unescaped


def written(folder: Path, **columns: object) -> Path:
    parquet.write_table(pyarrow.table(columns), folder / "table.parquet")
    return folder / "table.parquet"


@given(
    st.text(st.characters(codec=None), max_size=8)
    | st.from_regex(r"(\\|\\u|dce9|005c|\\udce9){,6}", fullmatch=True)
)
def test_every_text_has_one_that_utf_8_can_hold(text: str) -> None:
    escaped(text).encode()
    assert unescaped(escaped(text)) == text


def test_only_what_utf_8_cannot_hold_looks_different() -> None:
    assert escaped("眼底 \\a\\u.jpg\n") == "眼底 \\a\\u.jpg\n"
    assert escaped(b"\xe9.jpg".decode(errors="surrogateescape")) == "\\udce9.jpg"


def test_values_of_another_tool_become_the_texts_of_a_csv(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        image_id=pyarrow.array(["a", "b"]).dictionary_encode(),
        probability=pyarrow.array([0.1, None], pyarrow.float32()),
        double=[0.1, 1e-7],
        glaucoma=[True, None],
        gap=pyarrow.array([1.0, None]),
        number=[7, -1],
    )
    sheet = read_sheet(path, LabelsError)
    assert sheet.rows == (["a", "0.1", "0.1", "1", "1.0", "7"], ["b", "", "1e-07", "", "", "-1"])
    assert sheet.lines == (1, 2)
    np.testing.assert_array_equal(read_scores(path).probability, [[0.1], [np.nan]])
    assert read_labels(path).values.tolist() == [[1], [-1]]
    assert read_labels(path, ("gap",)).values.tolist() == [[1], [-1]]


def test_a_label_outside_0_and_1_names_its_row(tmp_path: Path) -> None:
    path = written(tmp_path, image_id=["a", "b"], glaucoma=[1, 2])
    with pytest.raises(LabelsError, match=r"line 2 has glaucoma = '2'"):
        read_labels(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "No such file"),
        (b"image_id,glaucoma\na,1\n", "no Parquet table"),
        (b"PAR1", "no Parquet table"),
    ],
)
def test_a_file_that_is_no_parquet_is_a_sentence(
    content: bytes | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "labels.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelsError, match=rf"labels.parquet cannot be read: .*{sentence}.*Check the path"):
        read_labels(path)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.999])
def test_a_parquet_that_is_cut_off_or_damaged_is_a_sentence(place: float, tmp_path: Path) -> None:
    path = written(tmp_path, image_id=[f"{number}.jpg" for number in range(500)], glaucoma=[0, 1] * 250)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * place)])
    with pytest.raises(LabelsError, match="no Parquet table, or a part of one"):
        read_labels(path)


def test_an_empty_parquet_is_a_sentence(tmp_path: Path) -> None:
    path = written(
        tmp_path, image_id=pyarrow.array([], pyarrow.string()), glaucoma=pyarrow.array([], pyarrow.int8())
    )
    with pytest.raises(LabelsError, match="the table is empty"):
        read_labels(path)


def test_without_pyarrow_the_sentence_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"needs pyarrow. .*'fundus-triton\[parquet\]'"):
        read_labels(tmp_path / "labels.parquet")
