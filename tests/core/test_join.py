from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundus_core.errors import LabelsError, UsageError
from fundus_core.tables import LabelTable, ScoreTable, join


def scores_of(probability, labels=None, ungradable=()):
    """Make a score table with one fold; None is a failed file."""
    rows = [np.nan if row is None else row for row in probability.values()]
    numbers = np.array(rows, dtype=float).reshape(len(rows), -1)
    failed = np.isnan(numbers[:, 0])
    flags = np.array([image_id in ungradable for image_id in probability])
    return ScoreTable(tuple(probability), ~failed, numbers, numbers[:, None], flags, labels)


def labels_of(values, labels=("glaucoma",), patient_id=None):
    return LabelTable(tuple(values), labels, np.array(list(values.values()), np.int8), patient_id)


def test_join_is_by_id_and_counts_what_it_leaves_out():
    probability = {"a": 0.1, "b": None, "c": 0.3, "d": 0.4, "e": None, "f": 0.6}
    scores = scores_of(probability, ungradable=("a", "f"))
    labels = labels_of(
        {"f": [1], "z": [1], "c": [0], "d": [-1], "b": [1], "y": [-1]}, patient_id=tuple("123456")
    )
    joined = join(scores, labels)
    assert joined.image_id == ("c", "f")
    assert joined.truth.tolist() == [[0], [1]]
    assert joined.probability.tolist() == [[0.3], [0.6]]
    assert joined.fold_probability.tolist() == [[[0.3]], [[0.6]]]
    assert joined.ungradable.tolist() == [False, True]
    assert joined.row.tolist() == [2, 0]
    assert joined.failed_row.tolist() == [4]
    assert (joined.n_files, joined.n_scored, joined.n_failed) == (6, 4, 2)
    assert joined.n_unlabelled == 3  # a, d, e
    assert joined.n_labels_without_image == 1  # z; y has no label


@given(st.permutations(range(8)), st.permutations(range(8)))
def test_join_does_not_depend_on_the_order_of_either_table(score_order, label_order):
    scores = scores_of({f"{at}.jpg": at / 10 for at in score_order})
    joined = join(scores, labels_of({f"{at}.jpg": [at % 2] for at in label_order}))
    assert joined.image_id == tuple(f"{at}.jpg" for at in score_order)
    assert joined.truth[:, 0].tolist() == [at % 2 for at in score_order]
    assert joined.probability[:, 0].tolist() == [at / 10 for at in score_order]


def test_join_takes_the_labels_by_name():
    scores = scores_of({"a": [0.1, 0.2, 0.3], "b": [0.4, 0.5, 0.6]}, ("glaucoma", "amd", "dr"))
    joined = join(scores, labels_of({"a": [1, -1], "b": [0, 1]}, ("dr", "glaucoma")))
    assert joined.labels == ("dr", "glaucoma")
    assert joined.probability.tolist() == [[0.3, 0.1], [0.6, 0.4]]
    assert joined.fold_probability.tolist() == [[[0.3, 0.1]], [[0.6, 0.4]]]
    assert joined.truth.tolist() == [[1, -1], [0, 1]]


def test_an_unnamed_probability_is_whatever_single_label_is_asked_for():
    assert join(scores_of({"a": 0.1}), labels_of({"a": [1]}, ("amd",))).labels == ("amd",)
    with pytest.raises(UsageError, match="no probability for amd; they have one probability without a name"):
        join(scores_of({"a": 0.1}), labels_of({"a": [1, 1]}, ("glaucoma", "amd")))


def test_a_label_without_a_score_is_named():
    scores = scores_of({"a": [0.1, 0.2]}, ("glaucoma", "amd"))
    with pytest.raises(UsageError, match="no probability for dr; they have glaucoma, amd"):
        join(scores, labels_of({"a": [1]}, ("dr",)))


def test_join_counts_the_reasons_of_failed_files_and_keeps_whose_labels_are_known():
    scores = replace(
        scores_of({"a": 0.1, "b": None, "c": 0.3, "d": None}), reason=("", "empty", "", "corrupt")
    )
    labels = labels_of({"c": [0], "b": [1], "a": [1], "d": [-1]})
    joined = join(scores, labels)
    assert (joined.image_id, joined.row.tolist()) == (("a", "c"), [2, 0])
    assert joined.failed == {"empty": 1, "corrupt": 1}
    assert joined.failed_row.tolist() == [1]
    assert joined.table is labels


def test_tables_without_a_common_id_show_one_of_each():
    with pytest.raises(
        LabelsError,
        match=r"have 1 ids such as 'images/a\.jpg'; the scores have 1 ids such as 'a\.jpg'.*same folder",
    ):
        join(scores_of({"a.jpg": 0.1}), labels_of({"images/a.jpg": [1]}))


def test_matching_files_that_all_failed_are_counted_not_refused():
    joined = join(scores_of({"a": None}), labels_of({"a": [1]}))
    assert (joined.image_id, joined.n_failed, joined.n_unlabelled) == ((), 1, 0)


def test_a_table_refuses_a_repeated_id_and_a_wrong_shape():
    with pytest.raises(ValueError, match="twice"):
        LabelTable(("a", "a"), ("glaucoma",), np.zeros((2, 1), np.int8))
    with pytest.raises(ValueError, match=r"values: expected shape \(1, 1\), got \(1,\)"):
        LabelTable(("a",), ("glaucoma",), np.zeros(1, np.int8))
