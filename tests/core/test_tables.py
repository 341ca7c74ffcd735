import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.test_rows import DARK, DIGEST, GOOD, NASTY_NAMES, failed, one_label, scored, write_rows

from fundus_core.errors import LabelsError, UsageError
from fundus_core.reading import read_labels, read_scores
from fundus_core.rows import ScoreFormat
from fundus_core.sheet import read_parts
from fundus_core.tables import join


def text_file(path, text):
    path.write_text(text)
    return path


# --- labels


def test_labels_are_read_with_gaps_and_patients(tmp_path):
    path = text_file(
        tmp_path / "labels.csv", "\ufeffimage_id, patient_id,glaucoma ,amd\na.jpg,7 ,1,\n,,,\nb.jpg,8,0.0,1\n"
    )
    table = read_labels(path, ("glaucoma", "amd"))
    assert table.image_id == ("a.jpg", "b.jpg")
    assert table.values.tolist() == [[1, -1], [0, 1]]
    assert table.values.dtype == np.int8
    assert table.patient_id == ("7", "8")


def test_eye_and_source_are_read_where_they_are(tmp_path):
    text = "image_id,eye,source,glaucoma\na.jpg,left ,hygd,1\nb.jpg,,odir,0\n"
    table = read_labels(text_file(tmp_path / "labels.csv", text))
    assert table.eye == ("left", "")
    assert table.source == ("hygd", "odir")
    assert table.patient_id is None
    plain = read_labels(text_file(tmp_path / "plain.csv", "image_id,glaucoma\na.jpg,1\n"))
    assert (plain.eye, plain.source) == (None, None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image_id,eye,glaucoma\na,left,1\nb,OS,1\n", "line 3 has eye = 'OS'. Write left, right, or nothing"),
        ("image_id,Glaucom\na,1\n", "no column 'glaucoma'. Did you mean 'Glaucom'?"),
        ("id,glaucoma\na,1\n", "no column 'image_id'. Known: id, glaucoma."),
        ("image_id,glaucoma,glaucoma\na,1,0\n", "two columns 'glaucoma'"),
        ("image_id,glaucoma\na,1\nb,0\na,1\n", "lines 2 and 4 both have image_id 'a'"),
        ("image_id,glaucoma\na,1\nb,2\n", "line 3 has glaucoma = '2'"),
        ("image_id,glaucoma\na,yes\n", "line 2 has glaucoma = 'yes'"),
        ("image_id,glaucoma\na,b.jpg,1\n", "line 2 has 3 cells, but the header has 2"),
        ('image_id,glaucoma\n"a.jpg,1\nb.jpg,0\n', "is no CSV table"),
        ("image_id,glaucoma\n", "the table is empty"),
        ("image_id;glaucoma\na;1\n", "cells are separated by ';'. Save it as CSV with commas"),
        ("image_id\tglaucoma\na\t1\n", "cells are separated by '\\t'."),
        ("", "the table is empty"),
        ("PK\0\0\nxx\n", "this is no text"),
    ],
)
def test_a_bad_labels_table_is_one_sentence_that_names_the_file(tmp_path, text, sentence):
    path = text_file(tmp_path / "labels.csv", text)
    with pytest.raises(LabelsError) as caught:
        read_labels(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_labels_that_are_not_there_or_a_folder(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(LabelsError, match=r"cannot be read: .*\. Check the path\."):
            read_labels(path)


def test_an_excel_file_is_refused(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(b"PK\x03\x04\x14\x00\x06\x00\x08\x00" + bytes(range(256)) * 4)
    with pytest.raises(LabelsError, match="Save"):
        read_labels(path)


def test_no_error_shows_a_patient_id(tmp_path):
    text = "image_id,patient_id,glaucoma\na,SECRET,1\na,SECRET,0\n"
    with pytest.raises(LabelsError) as caught:
        read_labels(text_file(tmp_path / "labels.csv", text))
    assert "SECRET" not in str(caught.value)


def test_the_line_of_an_error_counts_names_with_newlines(tmp_path):
    text = 'image_id,glaucoma\n"a\nb",1\nc,7\n'
    with pytest.raises(LabelsError, match="line 4 has glaucoma"):
        read_labels(text_file(tmp_path / "labels.csv", text))


# --- writing and reading


@pytest.mark.parametrize("n_labels", [1, 3])
def test_scores_round_trip_with_nasty_names(tmp_path, n_labels):
    labels = ("glaucoma", "a,b", "黄斑変性")[:n_labels]
    rng = np.random.default_rng(0)
    numbers = rng.random((len(NASTY_NAMES), 4, n_labels)).astype(np.float32).astype(float)
    rows = [
        failed(name) if at == 2 else scored(name, tuple(row[0]), tuple(map(tuple, row[1:])))
        for at, (name, row) in enumerate(zip(NASTY_NAMES, numbers, strict=True))
    ]
    write_rows(tmp_path / "scores.csv", rows, ScoreFormat(labels, (0.5,) * n_labels, 3, DIGEST))

    table = read_scores(tmp_path / "scores.csv")
    assert table.image_id == NASTY_NAMES
    assert table.labels == (None if n_labels == 1 else labels)
    assert np.flatnonzero(~table.scored).tolist() == [2]
    numbers[2] = np.nan
    np.testing.assert_array_equal(table.probability.astype(np.float32), numbers[:, 0].astype(np.float32))
    np.testing.assert_array_equal(
        table.fold_probability.astype(np.float32), numbers[:, 1:].astype(np.float32)
    )


def test_a_fold_that_was_not_asked_is_read_as_unknown(tmp_path):
    rows = [scored("a", (0.25,), ((0.25,), (math.nan,))), scored("b", (0.5,), ((0.25,), (0.75,)))]
    write_rows(tmp_path / "scores.csv", rows, one_label())
    table = read_scores(tmp_path / "scores.csv")
    assert table.scored.all()
    np.testing.assert_array_equal(table.fold_probability[:, :, 0], [[0.25, np.nan], [0.25, 0.75]])


@settings(max_examples=60)
@given(st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=8, unique=True))
def test_any_bytes_of_a_name_survive(tmp_path_factory, names):
    ids = tuple(name.decode("utf-8", "surrogateescape") for name in names if b"\0" not in name) or ("a",)
    path = tmp_path_factory.mktemp("names") / "scores.csv"
    write_rows(path, [failed(image_id) for image_id in ids], one_label())
    assert read_scores(path).image_id == ids


def test_scores_of_another_tool_need_two_columns_only(tmp_path):
    path = text_file(tmp_path / "scores.csv", "probability,image_id,model\n0.35,a,x\n,b,x\n1,c,x\n")
    table = read_scores(path)
    assert table.image_id == ("a", "b", "c")
    assert table.scored.tolist() == [True, False, True]
    np.testing.assert_array_equal(table.probability, [[0.35], [np.nan], [1]])
    assert table.fold_probability.shape == (3, 0, 1)
    assert table.labels is None
    assert table.ungradable.tolist() == [False] * 3


def test_an_image_is_ungradable_where_something_stands_in_that_column(tmp_path):
    path = tmp_path / "scores.csv"
    half = ((0.5,), ((0.5,), (0.5,)))
    write_rows(path, [scored("a", *half), scored("b", *half, DARK), failed("c")], one_label())
    assert read_scores(path).ungradable.tolist() == [False, True, False]


def test_measures_of_quality_are_read_where_they_are(tmp_path):
    path = tmp_path / "scores.csv"
    half = ((0.5,), ((0.5,), (0.5,)))
    write_rows(path, [scored("a", *half), failed("b", "empty: It is.")], one_label())
    table = read_scores(path)
    np.testing.assert_array_equal(table.quality, [GOOD.vector, [np.nan] * 6])
    assert table.reason == ("", "empty")
    assert table.bundle == DIGEST


def test_a_long_table_is_read_in_parts_with_the_lines_of_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("fundus_core.reading.read_parts", partial(read_parts, n_rows=2))
    path = tmp_path / "scores.csv"
    path.write_text("image_id,probability\n" + "".join(f"{name},0.{name}\n" for name in range(5)) + "\n\n")
    table = read_scores(path)
    assert table.image_id == tuple("01234")
    assert table.probability[:, 0].tolist() == [0, 0.1, 0.2, 0.3, 0.4]
    text_file(path, "image_id,probability\n" + "".join(f"{name},0.5\n" for name in "abcda"))
    with pytest.raises(UsageError, match="lines 2 and 6 both have image_id 'a'"):
        read_scores(path)
    text_file(path, "image_id,probability\na,0\nb,0\nc,0\nd,2\n")
    with pytest.raises(UsageError, match="line 5 has probability = '2'"):
        read_scores(path)


def test_further_columns_of_the_labels_are_kept_where_they_are_asked_for(tmp_path):
    path = text_file(tmp_path / "labels.csv", "image_id,glaucoma,sex,age\na,1,f,61\nb,0,,\n")
    assert read_labels(path, columns=("sex", "age")).columns == {"sex": ("f", ""), "age": ("61", "")}
    assert read_labels(path).columns == {}
    with pytest.raises(LabelsError, match=r"no column 'gender'"):
        read_labels(path, columns=("gender",))


def test_folds_are_in_order_from_ten_upwards(tmp_path):
    path = tmp_path / "scores.csv"
    folds = tuple((fold / 16,) for fold in range(12))
    write_rows(path, [scored("a", (0.5,), folds)], one_label(12))
    assert read_scores(path).fold_probability[0, :, 0].tolist() == [fold / 16 for fold in range(12)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image_id,probabilty\na,1\n", "no column 'probability'. Did you mean 'probabilty'"),
        ("image_id,probability\na,high\n", "line 2 has probability = 'high'"),
        ("image_id,probability\na,nan\n", "line 2 has probability = 'nan'"),
        ("image_id,probability\na,inf\n", "line 2 has probability = 'inf'"),
        ("image_id,status,probability\na,scored,\n", "line 2 has probability = ''"),
        ("image_id,status,probability\na,done,1\n", "line 2 has status = 'done'"),
        ("image_id,probability\na,1\na,1\n", "lines 2 and 3 both have image_id 'a'. Keep one"),
        (
            "image_id,probability\na,1.5\nb,0.5\nc,-1\nd,nan\ne,2\n",
            r"line 2 has probability = '1.5', line 4 has .* '-1', line 5 .* 'nan' \(4 such rows\). Write a",
        ),
        ("image_id,probability,fold_0\na,1,7\n", "line 2 has fold_0 = '7'"),
        (
            "image_id,probability,bundle_digest\na,1,aa\nb,1,bb\nc,0,aa\n",
            r"2 bundles made these scores: aa \(2 rows\), bb \(1 rows\)",
        ),
        ("image_id,probability,brightness\na,1,high\n", "line 2 has brightness = 'high'"),
    ],
)
def test_a_bad_score_table_is_one_sentence(tmp_path, text, sentence):
    with pytest.raises(UsageError, match=sentence):
        read_scores(text_file(tmp_path / "scores.csv", text))


def test_names_from_the_disk_join_with_names_from_a_table(tmp_path: Path):
    name = b"\xe9.jpg".decode("utf-8", "surrogateescape")
    with (tmp_path / "labels.csv").open("wb") as file:
        file.write(b"image_id,glaucoma\n\xe9.jpg,1\n")
    write_rows(tmp_path / "scores.csv", [scored(name, (0.5,), ((0.5,), (0.5,)))], one_label())
    assert join(read_scores(tmp_path / "scores.csv"), read_labels(tmp_path / "labels.csv")).image_id == (
        name,
    )
