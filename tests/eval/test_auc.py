import time
from math import erf

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fundus_core.errors import UsageError
from fundus_eval.auc import Interval, OneClassError, auc_delong, auc_difference

# s100b of the aSAH patients (Turck et al., Intensive Care Med. 2010), as ranks: how many with a poor and with
# a good outcome stand at each level, lowest first. pROC: AUC 0.7314, 95 % CI 0.6301-0.8326 (DeLong).
S100B_COUNTS = (
    *((1, 0), (0, 10), (3, 6), (1, 6), (2, 6), (2, 7), (1, 4), (1, 0), (2, 3), (1, 4), (0, 4), (1, 3)),
    *((0, 5), (2, 0), (0, 1), (3, 0), (0, 1), (1, 0), (1, 1), (1, 1), (0, 1), (1, 0), (0, 1), (1, 0)),
    *((0, 1), (2, 0), (0, 4), (1, 1), (1, 0), (0, 2), (12, 0)),
)

# few distinct values, so that ties are common
tables = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40)


def split(rows):
    truth, score = np.array([row[0] for row in rows], int), np.array([row[1] for row in rows], float)
    assume(0 < truth.sum() < len(truth))
    return truth, score


def brute_force(truth, score):
    """DeLong et al. 1988 from all pairs: the AUC and its variance."""
    positive, negative = score[truth == 1], score[truth == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    of_positive, of_negative = wins.mean(axis=1), wins.mean(axis=0)
    variance = of_positive.var(ddof=1) / len(positive) + of_negative.var(ddof=1) / len(negative)
    return wins.mean(), variance


def test_agrees_with_proc_on_asah():
    truth = np.concatenate([[1] * poor + [0] * good for poor, good in S100B_COUNTS]).astype(int)
    score = np.repeat(np.arange(len(S100B_COUNTS), dtype=float), np.sum(S100B_COUNTS, axis=1))
    assert (int((truth == 1).sum()), int((truth == 0).sum())) == (41, 72)
    auc = auc_delong(truth, score)
    assert (round(auc.value, 4), round(auc.low, 4), round(auc.high, 4)) == (0.7314, 0.6301, 0.8326)


@given(tables)
def test_the_value_is_that_of_sklearn(rows):
    truth, score = split(rows)
    assert auc_delong(truth, score).value == pytest.approx(roc_auc_score(truth, score), abs=1e-12)


@given(tables)
def test_the_interval_is_that_of_all_pairs(rows):
    truth, score = split(rows)
    assume(min(truth.sum(), (1 - truth).sum()) > 1)
    value, variance = brute_force(truth, score)
    assume(variance > 0)
    auc, margin = auc_delong(truth, score), 1.959963984540054 * variance**0.5
    assert auc.value == pytest.approx(value, abs=1e-12)
    assert auc.low == pytest.approx(max(0, value - margin), abs=1e-9)
    assert auc.high == pytest.approx(min(1, value + margin), abs=1e-9)


@given(tables)
def test_only_the_order_of_scores_counts(rows):
    truth, score = split(rows)
    assert auc_delong(truth, np.exp(3 * score) - 7) == auc_delong(truth, score)


@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_count(rows, random):
    mixed = list(rows)
    random.shuffle(mixed)
    one, other = auc_delong(*split(rows)), auc_delong(*split(mixed))
    assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high), abs=1e-12)


@given(tables)
def test_turning_the_scores_round_mirrors_the_interval(rows):
    truth, score = split(rows)
    auc, mirrored = auc_delong(truth, score), auc_delong(truth, -score)
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx(
        (1 - auc.value, 1 - auc.high, 1 - auc.low), abs=1e-12
    )


@given(tables)
def test_the_interval_holds_the_value_and_is_never_a_point(rows):
    auc = auc_delong(*split(rows))
    assert 0 <= auc.low <= auc.value <= auc.high <= 1
    assert auc.low < auc.high


def test_perfect_separation_is_no_certainty():
    truth, score = np.array([0] * 50 + [1] * 10), np.arange(60.0)
    perfect, wrong = auc_delong(truth, score), auc_delong(1 - truth, score)
    assert (perfect.value, perfect.low, perfect.high) == (1, pytest.approx(0.025**0.1), 1)
    assert (wrong.value, wrong.low, wrong.high) == (0, 0, pytest.approx(1 - 0.025**0.1))


def test_equal_scores_and_single_images_give_a_wide_interval():
    equal = auc_delong(np.array([0, 1] * 5), np.ones(10))
    assert equal.value == 0.5
    assert (equal.low, equal.high) == pytest.approx((0.5 * 0.025**0.2, 1 - 0.5 * 0.025**0.2))
    single = auc_delong(np.array([1, 0, 0, 0, 0]), np.array([3.5, 1, 2, 3, 4]))
    assert single.value == 0.75
    assert (single.low, single.high) == pytest.approx((0.75 * 0.025, 1 - 0.25 * 0.025))


@pytest.mark.parametrize(("n_positive", "n_negative", "shift"), [(40, 60, 1.0), (100, 100, 0.5)])
def test_95_percent_intervals_cover_in_about_95_percent(n_positive, n_negative, shift):
    rng = np.random.default_rng(20260101)
    truth = np.repeat([1, 0], [n_positive, n_negative])
    true_auc = 0.5 * (1 + erf(shift / 2))
    intervals = [auc_delong(truth, rng.standard_normal(len(truth)) + shift * truth) for _ in range(1000)]
    covered = np.mean([auc.low <= true_auc <= auc.high for auc in intervals])
    assert 0.925 < covered < 0.975


def test_perfect_separation_covers_where_delong_alone_would_not():
    rng = np.random.default_rng(7)
    truth = np.repeat([1, 0], [10, 30])
    true_auc = 0.5 * (1 + erf(3.5 / 2))
    intervals = [auc_delong(truth, rng.standard_normal(40) + 3.5 * truth) for _ in range(500)]
    perfect = [auc for auc in intervals if auc.value == 1]
    assert len(perfect) > 100
    assert all(auc.low <= true_auc <= auc.high for auc in perfect)


def test_a_wider_confidence_gives_a_wider_interval():
    truth, score = np.array([0, 1, 0, 1, 1, 0]), np.array([0.1, 0.4, 0.5, 0.7, 0.8, 0.2])
    usual, wide = auc_delong(truth, score), auc_delong(truth, score, confidence=0.99)
    assert wide.low < usual.low
    assert wide.value == usual.value


@pytest.mark.parametrize(
    ("truth", "sentence"),
    [
        ([1, 1], "All 2 images are positive. Add negative"),
        ([0], "All 1 images are negative. Add positive"),
        ([], "No image"),
    ],
)
def test_one_class_is_a_sentence(truth, sentence):
    with pytest.raises(OneClassError, match=sentence) as caught:
        auc_delong(np.array(truth, int), np.zeros(len(truth)))
    assert caught.value.exit_code == 2


def test_nan_and_misshapen_input_are_refused():
    with pytest.raises(UsageError, match="NaN"):
        auc_delong(np.array([0, 1]), np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        auc_delong(np.array([0, 1]), np.zeros(3))
    with pytest.raises(ValueError, match="besides 0 and 1"):
        auc_delong(np.array([0, 1, -1]), np.zeros(3))


def test_an_interval_reads_well():
    assert str(Interval(0.96666, 0.9412, 0.99349)) == "0.967 [0.941, 0.993]"


def test_a_million_images_take_under_two_seconds():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 1_000_000)
    score = (rng.standard_normal(1_000_000) + truth).astype(np.float32)
    start_s = time.process_time()
    auc = auc_delong(truth, score)
    assert time.process_time() - start_s < 2
    assert auc.value == pytest.approx(0.7602, abs=0.002)
    assert auc.high - auc.low < 0.003


@given(tables, st.integers(0, 2**32 - 1))
def test_a_difference_is_that_of_the_two_aucs_and_turns_with_their_order(rows, seed):
    truth, first = split(rows)
    second = np.random.default_rng(seed).permutation(first)
    change, back = auc_difference(truth, first, second), auc_difference(truth, second, first)
    assert change.value == pytest.approx(auc_delong(truth, second).value - auc_delong(truth, first).value)
    assert (back.low, back.value, back.high) == pytest.approx((-change.high, -change.value, -change.low))


def test_a_paired_interval_is_narrow_where_the_scores_agree():
    """Two nearly equal scores: each AUC is uncertain, their difference hardly."""
    rng = np.random.default_rng(0)
    truth = np.arange(200) % 2
    score = truth + rng.normal(0, 1, 200)
    same, near, worse = (
        auc_difference(truth, score, other) for other in (score, score + rng.normal(0, 0.01, 200), -score)
    )
    single = auc_delong(truth, score)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert near.high - near.low < (single.high - single.low) / 10
    assert near.low <= near.value <= near.high
    assert worse.high < -0.3
    assert worse.value == pytest.approx(1 - 2 * single.value)


def test_a_paired_interval_is_that_of_plain_resamples():
    rng = np.random.default_rng(1)
    truth = (np.arange(150) % 3 == 0).astype(int)
    first = truth + rng.normal(0, 1, 150)
    second = 0.5 * first + 0.5 * truth + rng.normal(0, 0.7, 150)
    changes = []
    for _ in range(2000):
        drawn = rng.integers(0, 150, 150)
        auc = [auc_delong(truth[drawn], each[drawn]).value for each in (first, second)]
        changes.append(auc[1] - auc[0])
    low, high = np.percentile(changes, (2.5, 97.5))
    change = auc_difference(truth, first, second)
    assert (change.low, change.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))
    assert change.high - change.low > 0.05
