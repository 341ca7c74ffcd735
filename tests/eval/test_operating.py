import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fundus_eval.auc import OneClassError
from fundus_eval.operating import Confusion, confusion, wilson, youden_threshold

tables = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=40)


def split(rows):
    truth, score = np.array([row[0] for row in rows], int), np.array([row[1] for row in rows], float) / 8
    assume(0 < truth.sum() < len(truth))
    return truth, score


def youden(truth, score, threshold):
    counts = confusion(truth, score, threshold)
    return counts.sensitivity.value + counts.specificity.value - 1


def test_confusion_counts_the_threshold_itself_as_positive():
    truth, score = np.array([1, 1, 0, 0, 1]), np.array([0.9, 0.5, 0.5, 0.1, 0.2])
    assert confusion(truth, score, 0.5) == Confusion(tp=2, fp=1, tn=1, fn=1)


def test_sensitivity_and_specificity_need_their_class():
    counts = confusion(np.array([1, 1]), np.array([0.9, 0.1]), 0.5)
    assert counts.sensitivity is not None
    assert counts.sensitivity.value == 0.5
    assert counts.specificity is None


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 1998, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_wilson_agrees_with_newcombe_1998(successes, n, low, high):
    interval = wilson(successes, n)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    assert interval.value == successes / n


@given(st.integers(0, 50), st.integers(1, 50))
def test_wilson_holds_the_share(successes, n):
    assume(successes <= n)
    interval = wilson(successes, n)
    assert interval is not None
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_wilson_of_nothing_is_nothing():
    assert wilson(0, 0) is None


@given(tables)
def test_no_threshold_between_scores_beats_youden(rows):
    truth, score = split(rows)
    values = np.unique(score)
    assume(len(values) > 1)
    chosen = youden_threshold(truth, score)
    candidates = (values[1:] + values[:-1]) / 2
    results = [youden(truth, score, candidate) for candidate in candidates]
    assert youden(truth, score, chosen) == pytest.approx(max(results), abs=1e-12)
    equally_good = [c for c, r in zip(candidates, results, strict=True) if abs(r - max(results)) < 1e-9]
    assert chosen == min(equally_good)


@given(tables, st.integers(0, 1000))
def test_tiny_noise_flips_no_decision(rows, seed):
    truth, score = split(rows)
    assume(len(np.unique(score)) > 1)
    threshold = youden_threshold(truth, score)
    noise = np.random.default_rng(seed).uniform(-1e-4, 1e-4, len(score))
    np.testing.assert_array_equal(score >= threshold, score + noise >= threshold)


def test_neighbouring_floats_are_still_told_apart():
    below = 0.5
    above = float(np.nextafter(below, 1))
    assert youden_threshold(np.array([0, 1]), np.array([below, above])) == above


def test_equal_scores_give_that_score():
    assert youden_threshold(np.array([0, 1, 1]), np.full(3, 0.25)) == 0.25


@pytest.mark.parametrize("truth", [[], [1, 1], [0]])
def test_one_class_has_no_threshold(truth):
    with pytest.raises(OneClassError, match="both classes"):
        youden_threshold(np.array(truth, int), np.zeros(len(truth)))
