import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.test_join import scores_of

from fundus_core.errors import LabelsError, UsageError
from fundus_core.tables import Joined, LabelTable, ScoreTable, join
from fundus_eval.units import failed_units, sample_of

ROWS = {  # image: (probability or None, truth, patient, eye)
    "a1": (0.2, 1, "a", "left"),
    "a2": (0.6, 1, "a", "left"),
    "a3": (0.1, 0, "a", "right"),
    "b1": (0.5, 0, "b", "left"),
    "c1": (0.9, 1, "c", "left"),
    "x1": (0.3, 0, "", "left"),
    "x2": (0.7, 1, "", "left"),
    "c2": (None, 1, "c", "left"),
    "d1": (None, 1, "d", "left"),
    "d2": (None, 0, "d", "right"),
    "x3": (None, 0, "", "left"),
    "u1": (0.4, -1, "u", "left"),
}


def joined(rows=ROWS, **changed) -> Joined:
    score, truth, patient, eye = (list(column) for column in zip(*rows.values(), strict=True))
    numbers = np.array([[np.nan if value is None else value] for value in score])
    scored = ~np.isnan(numbers[:, 0])
    folds = np.stack([numbers, numbers / 2], axis=1)
    flags = np.array([image.endswith("1") for image in rows])
    scores = ScoreTable(tuple(rows), scored, numbers, folds, flags)
    table = LabelTable(
        **{
            "image_id": tuple(rows),
            "labels": ("glaucoma",),
            "values": np.array(truth, np.int8)[:, None],
            "patient_id": tuple(patient),
            "eye": tuple(eye),
            "columns": {"camera": tuple(image.upper() for image in rows)},
        }
        | changed
    )
    return join(scores, table)


def test_images_of_one_patient_are_not_independent():
    sample = sample_of(joined(), 0)
    assert sample.image_id == ("a1", "a2", "a3", "b1", "c1", "x1", "x2")
    assert sample.cluster.tolist()[:3] == [sample.cluster[0]] * 3
    assert len(set(sample.cluster.tolist())) == 5  # x1 and x2 name nobody: each is somebody else
    assert sample.columns["camera"][0] == "A1"
    nobody, each = (sample_of(joined(patient_id=ids), 0) for ids in (None, tuple(map(str, range(12)))))
    assert (nobody.cluster, nobody.n_patients) == (None, None)
    assert (each.cluster, each.n_patients) == (None, 7)
    assert sample.n_patients == sample_of(joined(), 0, "eye").n_patients == 5


def test_an_eye_has_one_score_and_its_patient_is_still_known():
    sample = sample_of(joined(), 0, "eye")
    assert sample.image_id == ("a1", "a3", "b1", "c1", "x1", "x2")
    assert sample.score.tolist() == pytest.approx([0.4, 0.1, 0.5, 0.9, 0.3, 0.7])
    assert sample.fold_score[0].tolist() == pytest.approx([0.4, 0.2])
    assert sample.truth.tolist() == [1, 0, 0, 1, 0, 1]
    assert sample.ungradable.tolist() == [False, False, True, True, True, False]
    assert sample.cluster[0] == sample.cluster[1]
    assert sample_of(joined(), 0, "eye", "max").score.tolist()[:2] == pytest.approx([0.6, 0.1])


def test_a_patient_is_positive_where_one_eye_is_and_stands_alone():
    sample = sample_of(joined(), 0, "patient")
    assert sample.truth.tolist() == [1, 0, 1, 0, 1]
    assert sample.score.tolist() == pytest.approx([0.3, 0.5, 0.9, 0.3, 0.7])
    assert sample.cluster is None
    assert sample_of(joined(), 0, "patient", "max").score.tolist()[0] == 0.6


def test_folds_that_were_not_asked_of_every_image_are_not_known() -> None:
    some = joined()
    some.fold_probability[2, 1] = np.nan
    assert sample_of(joined(), 0).fold_score.shape == (7, 2)
    assert sample_of(some, 0).fold_score.shape == (7, 0)
    assert sample_of(some, 0, "patient").fold_score.shape == (5, 0)


EYE = st.tuples(st.integers(0, 3), st.sampled_from(["left", "right"]), st.floats(0, 1))


@given(st.lists(EYE, min_size=1))
def test_no_unit_is_lost_or_counted_twice(rows):
    table = {str(i): (score, patient % 2, str(patient), eye) for i, (patient, eye, score) in enumerate(rows)}
    eyes = sample_of(joined(table, columns={}), 0, "eye", "max")
    assert len(eyes.truth) == len({row[:2] for row in rows})
    patients = sample_of(joined(table, columns={}), 0, "patient", "max")
    assert len(patients.truth) == len({row[0] for row in rows})
    assert patients.score.max() == eyes.score.max() == max(row[2] for row in rows)


def test_failed_units_are_those_without_any_score():
    assert failed_units(joined(), 0) == (2, 2)
    assert failed_units(joined(), 0, "eye") == (1, 2)  # c's eye has a score; d's left, d's right, x3
    assert failed_units(joined(), 0, "patient") == (1, 1)  # d is positive; x3
    assert failed_units(joined(patient_id=None), 0) == (2, 2)


def test_labels_that_contradict_each_other_within_an_eye_are_refused_with_examples():
    rows = {f"{p}{i}": (0.5, i, p, "left") for p in "abcd" for i in (0, 1)}
    said = r"4 eyes .* images with different .*: 'a0' \(0\) and 'a1' \(1\); 'b0' .*; 'c0' [^;]*\. Correct"
    for unit in ("eye", "patient"):
        with pytest.raises(LabelsError, match=said):
            sample_of(joined(rows, columns={}), 0, unit)
    assert len(sample_of(joined(rows, columns={}), 0).truth) == 8
    with pytest.raises(LabelsError, match="name the eyes in a column eye"):
        sample_of(joined(eye=None), 0, "patient")


def test_units_that_are_not_named_are_a_sentence():
    with pytest.raises(UsageError, match="column patient_id"):
        sample_of(joined(patient_id=None), 0, "eye")
    eyes = ("",) * 5 + ("left",) * 7
    with pytest.raises(
        UsageError, match=r"eye \(left, right\)\. It is not known for 5 ids such as 'a1', 'a2', 'a3'"
    ):
        sample_of(joined(eye=eyes), 0, "eye")
    with pytest.raises(LabelsError):  # and no name of a patient in it
        try:
            sample_of(joined(patient_id=("SECRET",) * 12, eye=None), 0, "patient")
        except LabelsError as error:
            assert "SECRET" not in str(error)
            raise


def test_an_eye_that_failed_or_has_no_image_still_makes_its_patient_positive():
    rows = {
        "a-healthy": (0.2, 0, "a", "right"),
        "a-ill": (None, 1, "a", "left"),
        "b1": (0.9, 1, "b", "left"),
        "c1": (0.1, 0, "c", "left"),
    }
    patients = sample_of(joined(rows, columns={}), 0, "patient")
    assert patients.truth.tolist() == [1, 1, 0]
    assert failed_units(joined(rows, columns={}), 0, "patient") == (0, 0)
    assert failed_units(joined(rows, columns={}), 0, "eye") == (1, 0)
    scores, table = scores_of({"a-healthy": 0.2}), joined(rows, columns={}).table
    alone = join(scores, table)
    assert sample_of(alone, 0, "patient").truth.tolist() == [1]
    assert sample_of(alone, 0, "eye").truth.tolist() == [0]


def test_a_column_that_differs_within_a_unit_says_so():
    camera = ("x", "x", "y", "z", "x", *"x" * 7)
    sample = sample_of(joined(columns={"camera": camera}), 0, "patient")
    assert sample.columns["camera"][:3] == ("several", "z", "x")


def test_a_column_of_empty_patients_names_nobody():
    assert sample_of(joined(patient_id=("",) * 12), 0).n_patients is None
    with pytest.raises(UsageError, match="column patient_id"):
        sample_of(joined(patient_id=("",) * 12), 0, "patient")
