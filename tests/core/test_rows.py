import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundus_core.calibrator import Calibrator
from fundus_core.quality import MEASURES, Quality
from fundus_core.rows import ScoreFormat, ScoreRow, score_writer

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


GOOD = Quality(0.75, 1890, 0.9375, 0.5, 0.875, 3.5)  # each a float32
DARK = replace(GOOD, brightness=1 / 64)


def scored(image_id, probability, folds, quality=GOOD):
    return ScoreRow(image_id, "ab" * 32, "scored", "", probability, folds, quality)


def failed(image_id, reason="truncated: The stream ends before the image does."):
    return ScoreRow(image_id, "", "failed", reason, None, None)


def write_rows(path, rows, score_format):
    with score_writer(path, score_format) as write:
        for row in rows:
            write(row)


def one_label(n_folds=2, threshold=0.5):
    return ScoreFormat(("glaucoma",), (threshold,), n_folds, DIGEST)


def test_header_of_one_label_and_of_three():
    start, end = ("image_id", "sha256", "status", "reason", "ungradable"), (*MEASURES, "bundle_digest")
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
    ("status", "reason", "probability", "folds", "quality"),
    [
        ("scored", "", None, None, GOOD),
        ("scored", "", (0.5,), None, GOOD),
        ("scored", "empty: It is.", (0.5,), ((0.5,),), GOOD),
        ("scored", "", (float("nan"),), ((0.5,),), GOOD),
        ("scored", "", (0.5,), ((1.5,),), GOOD),
        ("failed", "", None, None, None),
        ("failed", "empty: It is.", (0.5,), ((0.5,),), None),
        ("failed", "empty: It is.", None, None, GOOD),
    ],
)
def test_a_row_has_a_score_or_a_reason(status, reason, probability, folds, quality):
    with pytest.raises(ValueError, match="'a'"):
        ScoreRow("a", "", status, reason, probability, folds, quality)


def test_cells_of_a_scored_and_a_failed_row():
    assert one_label().cells(scored("a", (0.5,), ((0.25,), (0.75,)))) == (
        *("a", "ab" * 32, "scored", "", "", "0.5", "0.25", "0.75", "0.5", "1"),
        *("0.75", "1890.0", "0.9375", "0.5", "0.875", "3.5", DIGEST),
    )
    assert one_label().cells(failed("a", "empty: It is.")) == (
        *("a", "", "failed", "empty: It is.", *[""] * 6, *[""] * 6, DIGEST),
    )


def test_a_fold_that_was_not_asked_is_an_empty_cell_and_so_is_the_spread():
    row = scored("a", (0.25,), ((0.25,), (float("nan"),)))
    cells = dict(zip(one_label().header, one_label().cells(row), strict=True))
    told = [cells[name] for name in ("probability", "fold_0", "fold_1", "spread", "decision")]
    assert told == ["0.25", "0.25", "", "", "0"]


def test_an_ungradable_image_keeps_its_score():
    row = scored("a", (0.5,), ((0.25,), (0.75,)), replace(GOOD, saturation=0, sharpness=0.31))
    cells = dict(zip(one_label().header, one_label().cells(row), strict=True))
    assert (cells["status"], cells["ungradable"], cells["probability"]) == (
        *("scored", "grey 0.00; blurred 0.31", "0.5"),
    )


def test_calibrated_probabilities_stand_beside_the_plain_ones_and_change_no_decision():
    halved = Calibrator("isotonic", scores=(0.0, 1.0), probabilities=(0.0, 0.5))
    table = replace(ScoreFormat(("a", "b"), (0.5, 0.5), 1, DIGEST), calibrators=(halved, halved))
    for row in (scored("x", (0.75, 0.25), ((0.75, 0.25),)), failed("y")):
        cells = dict(zip(table.header, table.cells(row), strict=True))
        if row.probability:
            assert [cells[f"{name}:a"] for name in ("probability", "decision", "calibrated")] == [
                *("0.75", "1", "0.375"),
            ]
            assert cells["calibrated:b"] == "0.125"
        else:
            assert cells["calibrated:a"] == cells["calibrated:b"] == ""


def test_cells_refuse_another_number_of_folds_or_labels():
    with pytest.raises(ValueError, match=r"expected shape \(3, 1\), got \(2, 1\)"):
        one_label().cells(scored("a", (0.5,), ((0.5,),)))
    with pytest.raises(ValueError, match=r"expected shape \(3, 1\), got \(3, 2\)"):
        one_label().cells(scored("a", (0.5, 0.5), ((0.5, 0.5), (0.5, 0.5))))


@given(st.floats(0, 1, width=32), st.floats(0, 1))
def test_a_probability_survives_and_its_decision_can_be_made_again(probability, threshold):
    cells = one_label(1, threshold).cells(scored("a", (probability,), ((probability,),)))
    text, decision = cells[5], cells[8]
    assert np.float32(text) == np.float32(probability)
    assert "e" not in text
    assert decision == str(int(float(text) >= threshold))


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
    path = tmp_path / "scores.csv"
    path.write_text("the old one")
    with pytest.raises(KeyboardInterrupt), score_writer(path, one_label()) as write:
        write(failed("a"))
        raise KeyboardInterrupt
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_every_line_is_plain_csv(tmp_path):
    write_rows(tmp_path / "scores.csv", [failed(name) for name in NASTY_NAMES], one_label())
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == list(NASTY_NAMES)
