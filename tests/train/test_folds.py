import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fundus_core.errors import LabelsError
from fundus_train.folds import POOL, TEST, split_cases
from fundus_train.recipe import Split

LABELS = ("glaucoma", "amd", "cataract", "myopia")


def divide(targets: np.ndarray, patient: np.ndarray, split: Split, seed: int) -> np.ndarray:
    return split_cases(targets, patient, split, seed, LABELS[: targets.shape[1]])


def cohort(seed: int, n_patients: int, prevalence: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw targets (N, 1) and patients (N,): up to `most` cases each, nearly always of one class."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), rng.integers(1, most + 1, n_patients))
    ill = rng.random(n_patients) < prevalence
    targets = ill[patient] ^ (rng.random(len(patient)) < 0.03)
    order = rng.permutation(len(patient))
    return targets[order, None].astype(np.int8), patient[order] * 7 + 3


@settings(max_examples=30, deadline=None, phases=[Phase.reuse, Phase.generate])  # shrinking takes minutes
@given(
    st.integers(0, 10**6),
    st.integers(150, 250),
    st.floats(0.3, 0.7),
    st.integers(1, 4),
    st.sampled_from([Split(0.3, 4), Split(0.9, 2), Split(0.1, 5), Split(0.5, 3)]),
)
def test_parts_are_whole_patients_of_the_right_size_and_the_same_mixture(
    seed: int, n_patients: int, prevalence: float, most: int, split: Split
) -> None:
    targets, patient = cohort(seed, n_patients, prevalence, most)
    part = divide(targets, patient, split, seed)
    assert part.shape == patient.shape
    assert set(part) == {TEST, *range(split.folds)}
    assert all(len(set(part[patient == one])) == 1 for one in set(patient))
    assert (part == TEST).mean() == pytest.approx(split.test_size, abs=0.04)
    fold_size = (1 - split.test_size) / split.folds
    for name in set(part):
        chosen = part == name
        assert name == TEST or chosen.mean() == pytest.approx(fold_size, abs=0.04)
        assert targets[chosen].mean() == pytest.approx(targets.mean(), abs=4 / chosen.sum() + 0.03)


def test_cases_without_patients_are_split_to_the_case() -> None:
    targets = (np.arange(200) % 4 == 0).astype(np.int8)[:, None]
    part = divide(targets, np.arange(200), Split(0.3, 4), 0)
    sizes = {int(name): int((part == name).sum()) for name in np.unique(part)}
    assert sizes == {TEST: 60, 0: 35, 1: 35, 2: 35, 3: 35}
    positives = [int(targets[part == name].sum()) for name in sizes]
    assert positives[0] == 15
    assert all(number in (8, 9) for number in positives[1:])


def test_a_seed_decides_the_split() -> None:
    targets, patient = cohort(1, 80, 0.5, 2)
    first = divide(targets, patient, Split(), 3)
    assert np.array_equal(first, divide(targets, patient, Split(), 3))
    assert not np.array_equal(first, divide(targets, patient, Split(), 4))


def test_combinations_of_labels_are_spread_evenly() -> None:
    combination = np.arange(400) % 4
    targets = np.column_stack([combination // 2, combination % 2]).astype(np.int8)
    part = divide(targets, np.arange(400), Split(0.3, 4), 0)
    for name in range(4):
        counts = np.bincount(combination[part == name], minlength=4)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("targets", "patient", "sentence"),
    [
        (
            [0, 1] * 30,
            [i % 9 for i in range(60)],
            r"9 patients cannot make 10 parts, the tenths that test_size takes from\. Add patients\.$",
        ),
        ([0] * 60, range(60), r"The label 'glaucoma' has one class only in the test part \(18 cases\), so"),
        (
            [1] + [0] * 59,
            range(60),
            "one class only in .*Add cases of the rarer class, fewer folds, or another test_size",
        ),
        (
            [0, 1] * 8,
            range(16),
            r"8 cases of a label combination, at most, cannot make 10 parts, .* Add cases\.$",
        ),
    ],
    ids=["few patients", "one class", "one positive", "few cases"],
)
def test_a_split_that_cannot_be_made_says_what_to_do(
    targets: list[int], patient: range, sentence: str
) -> None:
    with pytest.raises(LabelsError, match=sentence):
        divide(np.array(targets, np.int8)[:, None], np.array(patient), Split(0.3, 4), 0)


def test_too_many_folds_are_told_from_too_few_patients() -> None:
    targets = np.array([0, 1] * 30, np.int8)[:, None]
    with pytest.raises(
        LabelsError, match=r"patients cannot make 30 folds\. Choose fewer, or add patients\.$"
    ):
        divide(targets, np.arange(60) // 2, Split(0.3, 30), 0)


def test_unlabelled_cases_are_in_no_part_and_change_no_other() -> None:
    targets, patient = cohort(2, 120, 0.5, 2)
    more = np.concatenate([np.full((30, 1), -1, np.int8), targets])
    part = divide(more, np.append(np.arange(30), patient), Split(), 3)
    assert set(part[:30]) == {POOL}
    assert np.array_equal(part[30:], divide(targets, patient, Split(), 3))


def test_a_label_that_is_not_known_is_of_neither_class() -> None:
    known = (np.arange(200) % 2).astype(np.int8)
    rare = np.where(np.arange(200) < 40, known, -1).astype(np.int8)
    part = divide(np.column_stack([known, rare]), np.arange(200), Split(0.3, 2), 0)
    for name in (TEST, 0, 1):
        assert {0, 1} <= set(rare[part == name].tolist())
    with pytest.raises(LabelsError, match="'amd' has one class only"):
        divide(np.column_stack([known, np.minimum(rare, 0)]), np.arange(200), Split(0.3, 2), 0)


def test_images_can_be_split_one_by_one_as_in_the_report() -> None:
    targets, patient = cohort(4, 60, 0.5, 4)
    split = Split(by_patient=False)
    part = divide(targets, patient, split, 0)
    assert any(len(set(part[patient == one])) > 1 for one in set(patient))
    assert np.array_equal(part, divide(targets, np.arange(len(targets)), Split(), 0))


def test_rare_combinations_of_labels_are_split_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    targets = (np.random.default_rng(0).random((300, 4)) < 0.3).astype(np.int8)
    divide(targets, np.arange(300), Split(), 0)
    assert not recwarn.list
