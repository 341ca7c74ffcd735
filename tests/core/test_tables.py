import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fundus_core.errors import LabelsError, UsageError
from fundus_core.tables import (
    ScoreFormat,
    ScoreRow,
    join,
    read_labels,
    read_scores,
    score_writer,
)

DIGEST = "d" * 64
NASTY_NAMES = (
    "plain.jpg",
    "comma, inside.jpg",
    'quote " inside.jpg',
    "new\nline.jpg",
    "carriage\rreturn.jpg",
    "dos\r\nline.jpg",
    "眼底/緑内障.jpg",
    b"latin1-\xe9\xff.jpg".decode("utf-8", "surrogateescape"),
    " leading and trailing ",
    "=1+1.jpg",
    "\ufeffbom.jpg",
)


def scored(image_id, probability, folds):
    return ScoreRow(image_id, "ab" * 32, "scored", "", probability, folds)


def failed(image_id, reason="truncated: The stream ends before the image does."):
    return ScoreRow(image_id, "", "failed", reason, None, None)


def write_rows(path, rows, score_format):
    with score_writer(path, score_format) as write:
        for row in rows:
            write(row)


def one_label(n_folds=2, threshold=0.5):
    return ScoreFormat(("glaucoma",), (threshold,), n_folds, DIGEST)


def text_file(path, text):
    path.write_text(text)
    return path


# --- labels


def test_labels_are_read_with_gaps_and_patients(tmp_path):
    path = text_file(
        tmp_path / "labels.csv", "\ufeffimage_id,patient_id,glaucoma,amd\na.jpg,7,1,\nb.jpg,8,0.0,1\n"
    )
    table = read_labels(path, ("glaucoma", "amd"))
    assert table.image_id == ("a.jpg", "b.jpg")
    assert table.values.tolist() == [[1, -1], [0, 1]]
    assert table.values.dtype == np.int8
    assert table.patient_id == ("7", "8")


def test_eye_and_source_are_read_where_they_are(tmp_path):
    text = "image_id,eye,source,glaucoma\na.jpg,left,hygd,1\nb.jpg,,odir,0\n"
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


# --- rows and their columns


def test_header_of_one_label_and_of_three():
    start, end = ("image_id", "sha256", "status", "reason"), ("bundle_digest",)
    assert one_label().header == (
        *start,
        *("probability", "fold_0", "fold_1", "spread", "decision"),
        *end,
    )
    three = ScoreFormat(("glaucoma", "amd", "dr"), (0.5, 0.5, 0.5), 1, DIGEST)
    assert three.header == (
        *start,
        *("probability:glaucoma", "fold_0:glaucoma", "spread:glaucoma", "decision:glaucoma"),
        *("probability:amd", "fold_0:amd", "spread:amd", "decision:amd"),
        *("probability:dr", "fold_0:dr", "spread:dr", "decision:dr"),
        *end,
    )


def test_spread_is_the_distance_of_the_outermost_folds():
    row = scored("a", (0.5, 0.25), ((0.25, 0.0), (0.75, 0.5), (0.5, 0.25)))
    assert row.spread == (0.5, 0.5)
    assert failed("a").spread is None


@pytest.mark.parametrize(
    ("status", "reason", "probability", "folds"),
    [
        ("scored", "", None, None),
        ("scored", "", (0.5,), None),
        ("scored", "empty: It is.", (0.5,), ((0.5,),)),
        ("scored", "", (float("nan"),), ((0.5,),)),
        ("scored", "", (0.5,), ((1.5,),)),
        ("failed", "", None, None),
        ("failed", "empty: It is.", (0.5,), ((0.5,),)),
    ],
)
def test_a_row_has_a_score_or_a_reason(status, reason, probability, folds):
    with pytest.raises(ValueError, match="'a'"):
        ScoreRow("a", "", status, reason, probability, folds)


def test_cells_of_a_scored_and_a_failed_row():
    assert one_label().cells(scored("a", (0.5,), ((0.25,), (0.75,)))) == (
        *("a", "ab" * 32, "scored", "", "0.5", "0.25", "0.75", "0.5", "1", DIGEST),
    )
    assert one_label().cells(failed("a", "empty: It is.")) == (
        *("a", "", "failed", "empty: It is.", "", "", "", "", "", DIGEST),
    )


def test_cells_refuse_another_number_of_folds_or_labels():
    with pytest.raises(ValueError, match=r"expected shape \(3, 1\), got \(2, 1\)"):
        one_label().cells(scored("a", (0.5,), ((0.5,),)))
    with pytest.raises(ValueError, match=r"expected shape \(3, 1\), got \(3, 2\)"):
        one_label().cells(scored("a", (0.5, 0.5), ((0.5, 0.5), (0.5, 0.5))))


@given(st.floats(0, 1, width=32), st.floats(0, 1))
def test_a_probability_survives_and_its_decision_can_be_made_again(probability, threshold):
    cells = one_label(1, threshold).cells(scored("a", (probability,), ((probability,),)))
    text, decision = cells[4], cells[7]
    assert np.float32(text) == np.float32(probability)
    assert "e" not in text
    assert decision == str(int(float(text) >= threshold))


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


@settings(max_examples=60)
@given(st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=8, unique=True))
def test_any_bytes_of_a_name_survive(tmp_path_factory, names):
    ids = tuple(name.decode("utf-8", "surrogateescape") for name in names if b"\0" not in name) or ("a",)
    path = tmp_path_factory.mktemp("names") / "scores.csv"
    write_rows(path, [failed(image_id) for image_id in ids], one_label())
    assert read_scores(path).image_id == ids


def test_two_runs_write_the_same_bytes_and_lines_end_plainly(tmp_path):
    rows = [scored("a", (1e-7,), ((0.1,), (0.3,))), failed("b")]
    for name in ("one.csv", "two.csv"):
        write_rows(tmp_path / name, rows, one_label())
    content = (tmp_path / "one.csv").read_bytes()
    assert content == (tmp_path / "two.csv").read_bytes()
    assert b"\r" not in content
    assert content.endswith(b"\n")
    assert b",0.0000001,0.1,0.3," in content


def test_an_interrupted_table_leaves_the_old_one_and_no_rest(tmp_path):
    path = text_file(tmp_path / "scores.csv", "the old one")
    with pytest.raises(KeyboardInterrupt), score_writer(path, one_label()) as write:
        write(failed("a"))
        raise KeyboardInterrupt
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_scores_of_another_tool_need_two_columns_only(tmp_path):
    path = text_file(tmp_path / "scores.csv", "probability,image_id,model\n-3.5,a,x\n,b,x\n7,c,x\n")
    table = read_scores(path)
    assert table.image_id == ("a", "b", "c")
    assert table.scored.tolist() == [True, False, True]
    np.testing.assert_array_equal(table.probability, [[-3.5], [np.nan], [7]])
    assert table.fold_probability.shape == (3, 0, 1)
    assert table.labels is None


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
        ("image_id,status,probability\na,done,1\n", "line 2 has status 'done'"),
        ("image_id,probability\na,1\na,1\n", "lines 2 and 3 both have image_id 'a'"),
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


def test_every_line_is_plain_csv(tmp_path):
    write_rows(tmp_path / "scores.csv", [failed(name) for name in NASTY_NAMES], one_label())
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == list(NASTY_NAMES)
