import time
from math import erf

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from fundus_core.errors import UsageError
from fundus_eval.auc import OneClassError, PairedTest, auc_and_method, auc_delong, auc_or_none, delong_test
from fundus_eval.intervals import Interval

# The aSAH patients (Turck et al., Intensive Care Med. 2010): for each outcome (1 poor) and WFNS grade the
# ranks of their s100b.
ASAH = {
    (1, 1): "5 6",
    (1, 2): "5 5 7 7 8 8 9 12 21 25 31 42",
    (1, 3): "11",
    (1, 4): "11 14 19 22 23 37 44 49",
    (1, 5): "1 10 18 26 27 29 33 33 38 40 41 43 44 45 46 47 48 50",
    (0, 1): "2 2 2 2 3 3 4 4 5 5 5 5 6 6 6 6 7 7 7 7 8 8 8 8 9 9 11 11 12 12 12 13 14 16 17 37 39",
    (0, 2): "2 5 6 6 7 7 8 8 8 9 9 11 12 13 13 13 14 15 17 32",
    (0, 3): "3 5 27",
    (0, 4): "14 15 24 26 28 30 34 36",
    (0, 5): "20 35 36 39",
}

# few distinct values, so that ties are common
tables = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40)


def split(rows):
    truth, score = np.array([row[0] for row in rows], int), np.array([row[1] for row in rows], float)
    assume(0 < truth.sum() < len(truth))
    return truth, score


def asah():
    """The outcome, WFNS and s100b of 113 patients."""
    rows = [(*key, int(rank)) for key, ranks in ASAH.items() for rank in ranks.split()]
    outcome, wfns, s100b = np.array(rows).T
    return outcome, wfns.astype(float), s100b.astype(float)


def obuchowski(truth, score, cluster):
    """The variance of Obuchowski 1997, from all pairs and cluster by cluster."""
    positive, negative = truth == 1, truth == 0
    wins = (score[positive, None] > score[negative]) + 0.5 * (score[positive, None] == score[negative])
    auc, m, n = wins.mean(), positive.sum(), negative.sum()
    rows = []
    for name in np.unique(cluster):
        own, other = cluster[positive] == name, cluster[negative] == name
        rows.append(
            (
                (wins.mean(axis=1)[own] - auc).sum(),
                (wins.mean(axis=0)[other] - auc).sum(),
                own.any(),
                other.any(),
            )
        )
    of_positive, of_negative, has_positive, has_negative = np.array(rows, float).T
    k, with_positive, with_negative = len(rows), has_positive.sum(), has_negative.sum()
    return (
        with_positive / (with_positive - 1) * (of_positive**2).sum() / m**2
        + with_negative / (with_negative - 1) * (of_negative**2).sum() / n**2
        + 2 * k / (k - 1) * (of_positive * of_negative).sum() / (m * n)
    )


def clustered(rng, n_clusters=60, size=3, shift=1.0):
    """Patients with `size` images each that are much alike; some patients have both classes."""
    cluster = np.repeat(np.arange(n_clusters), size)
    patient = (rng.standard_normal(n_clusters) > 0)[cluster]
    truth = np.where(rng.random(len(cluster)) < 0.1, ~patient, patient).astype(int)
    score = rng.standard_normal(n_clusters)[cluster] + 0.5 * rng.standard_normal(len(cluster)) + shift * truth
    return truth, score, cluster


def brute_force(truth, score):
    """DeLong et al. 1988 from all pairs: the AUC and its variance."""
    positive, negative = score[truth == 1], score[truth == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    of_positive, of_negative = wins.mean(axis=1), wins.mean(axis=0)
    variance = of_positive.var(ddof=1) / len(positive) + of_negative.var(ddof=1) / len(negative)
    return wins.mean(), variance


def test_agrees_with_proc_on_asah():
    outcome, _, s100b = asah()
    assert (int((outcome == 1).sum()), int((outcome == 0).sum())) == (41, 72)
    auc = auc_delong(outcome, s100b)
    assert (round(auc.value, 4), round(auc.low, 4), round(auc.high, 4)) == (0.7314, 0.6301, 0.8326)


def test_the_paired_test_agrees_with_proc_on_asah():
    """pROC, tests/testthat/test-roc.test.R: roc.test(wfns, s100b); its interval is of wfns minus s100b."""
    outcome, wfns, s100b = asah()
    found = delong_test(outcome, s100b, wfns)
    assert found.z == pytest.approx(2.20898359144091, abs=1e-10)
    assert found.p_value == pytest.approx(0.0271757822291882, abs=1e-10)
    assert found.difference.low == pytest.approx(0.0104061769564846, abs=1e-10)
    assert found.difference.high == pytest.approx(0.174214419249478, abs=1e-10)


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
    if value - margin >= 0 and value + margin <= 1:
        expected = value - margin, value + margin
    else:  # the same on the scale of logits
        centre, margin = np.log(value / (1 - value)), margin / (value * (1 - value))
        expected = expit(centre - margin), expit(centre + margin)
    assert (auc.low, auc.high) == pytest.approx(expected, abs=1e-9)


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
    test, back = delong_test(truth, first, second), delong_test(truth, second, first)
    change, turned = test.difference, back.difference
    assert change.value == pytest.approx(auc_delong(truth, second).value - auc_delong(truth, first).value)
    assert (turned.low, turned.value, turned.high) == pytest.approx(
        (-change.high, -change.value, -change.low)
    )
    assert (back.z, back.p_value) == pytest.approx((-test.z, test.p_value))


@given(tables, st.integers(0, 2**32 - 1))
def test_the_p_value_is_below_5_percent_where_the_interval_leaves_0_out(rows, seed):
    truth, first = split(rows)
    test = delong_test(truth, first, np.random.default_rng(seed).permutation(first))
    assume(abs(test.p_value - 0.05) > 1e-9)
    assert (test.p_value < 0.05) == (test.difference.low > 0 or test.difference.high < 0)


def test_a_paired_interval_is_narrow_where_the_scores_agree():
    """Two nearly equal scores: each AUC is uncertain, their difference hardly."""
    rng = np.random.default_rng(0)
    truth = np.arange(200) % 2
    score = truth + rng.normal(0, 1, 200)
    same, near, worse = (
        delong_test(truth, score, other) for other in (score, score + rng.normal(0, 0.01, 200), -score)
    )
    single = auc_delong(truth, score)
    assert same == PairedTest(Interval(0, 0, 0), 0, 1)
    assert near.difference.high - near.difference.low < (single.high - single.low) / 10
    assert near.difference.low <= near.difference.value <= near.difference.high
    assert worse.difference.high < -0.3
    assert worse.p_value < 1e-6
    assert worse.difference.value == pytest.approx(1 - 2 * single.value)


def test_one_image_of_a_class_proves_no_difference():
    truth = np.array([1, 0, 0, 0, 0])
    first, second = np.array([0, 1, 2, 3, 4.0]), np.array([5, 1, 2, 3, 4.0])
    test = delong_test(truth, first, second)
    assert (test.difference.value, test.p_value) == (1, 1)
    assert test.difference.low < -0.9


def test_a_constant_difference_is_as_sure_as_its_pairs():
    """All tied before, all separated after: no variance, and still no proof with few images."""
    tests = [
        delong_test(np.repeat([0, 1], n), np.zeros(2 * n), np.repeat([0.0, 1.0], n)) for n in (2, 10, 2000)
    ]
    assert [test.difference.value for test in tests] == [0.5, 0.5, 0.5]
    assert tests[0].difference.low < 0 < tests[1].difference.low
    assert tests[0].p_value > 0.05 > tests[1].p_value
    assert np.isfinite(tests[2].z)


@pytest.mark.parametrize("cluster", [None, np.arange(6)])
def test_rounding_is_no_variance(cluster):
    """One place up for each positive: the same third for all, but not in the last digit."""
    truth, first = np.array([1, 0, 1, 0, 1, 0]), np.arange(6.0)
    second = first + 1.5 * truth
    test = delong_test(truth, first, second, cluster=cluster)
    assert test.difference.value == pytest.approx(1 / 3)
    assert test.p_value == pytest.approx(2 * 0.75**3)


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
    change = delong_test(truth, first, second).difference
    assert (change.low, change.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))
    assert change.high - change.low > 0.05


@pytest.mark.parametrize("seed", range(5))
def test_clustered_variance_is_obuchowskis(seed):
    truth, score, cluster = clustered(np.random.default_rng(seed))
    auc = auc_delong(truth, score, cluster=cluster)
    margin = 1.959963984540054 * obuchowski(truth, score, cluster) ** 0.5
    assert (auc.low, auc.high) == pytest.approx((auc.value - margin, auc.value + margin), abs=1e-9)
    test = delong_test(
        truth, np.zeros(len(truth)), score, cluster=cluster
    )  # to chance, which has no variance
    assert test.z == pytest.approx((auc.value - 0.5) / (margin / 1.959963984540054))


@given(tables, st.integers(0, 2**32 - 1))
def test_clusters_of_one_image_change_nothing(rows, seed):
    truth, score = split(rows)
    assume(len(truth) >= 2 * min(truth.sum(), (1 - truth).sum()))
    other, alone = np.random.default_rng(seed).permutation(score), np.arange(len(truth)) * 7
    assert str(auc_delong(truth, score, cluster=alone)) == str(auc_delong(truth, score))
    one, two = delong_test(truth, score, other, cluster=alone), delong_test(truth, score, other)
    assert (one.z, one.p_value) == pytest.approx((two.z, two.p_value), abs=1e-9)


def test_clustered_intervals_cover_where_plain_ones_do_not():
    true_auc = 0.5 * (1 + erf(1 / (2 * 1.25**0.5)))
    covered = {True: 0, False: 0}
    for seed in range(400):
        truth, score, cluster = clustered(np.random.default_rng(seed))
        for known in covered:
            auc = auc_delong(truth, score, cluster=cluster if known else None)
            covered[known] += auc.low <= true_auc <= auc.high
    assert covered[True] > 0.91 * 400
    assert covered[False] < 0.85 * 400


@pytest.mark.parametrize("n_patients", [1, 2, 3])
def test_few_patients_never_give_a_point(n_patients):
    truth, score = np.arange(12) % 2, np.arange(12) % 2 + 0.0
    cluster = np.arange(12) // 2 % n_patients
    auc = auc_delong(truth, score, cluster=cluster)
    assert (auc.value, auc.high) == (1, 1)
    assert auc.low < 0.1


def test_the_method_is_the_one_that_made_the_interval():
    truth = np.array([0, 1] * 30)
    near, far = np.arange(60) % 7 + truth, np.arange(60) + 55 * truth
    assert auc_and_method(truth, near)[1] == "DeLong et al. 1988"
    assert auc_and_method(truth, near, cluster=np.arange(60) // 3)[1].startswith("Obuchowski 1997")
    assert "logit" in auc_and_method(truth, far)[1]
    assert "perfectly separated" in auc_and_method(truth, truth)[1]
    for score, cluster in (
        (np.ones(60), None),
        (np.ones(60), truth),
        (near, truth),
    ):  # tied, and two patients
        auc, method = auc_and_method(truth, score, cluster=cluster)
        assert auc == auc_delong(truth, score, cluster=cluster)
        assert method.startswith("Markov's inequality")


def test_auc_or_none_is_none_only_without_a_class():
    assert auc_or_none(np.array([1, 1]), np.array([0.1, 0.2])) is None
    assert auc_or_none(np.array([0, 1]), np.array([0.1, 0.2])) == auc_delong(np.array([0, 1]), np.arange(2.0))
    with pytest.raises(UsageError, match="NaN"):
        auc_or_none(np.array([0, 1]), np.array([0.1, np.nan]))
