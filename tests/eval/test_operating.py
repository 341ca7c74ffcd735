from itertools import product
from math import inf

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binom, norm
from statsmodels.stats.proportion import proportion_confint

from fundus_core.errors import UsageError
from fundus_eval.auc import OneClassError
from fundus_eval.intervals import design_effect, wilson
from fundus_eval.operating import (
    Confusion,
    confusion,
    net_benefit,
    sensitivity_threshold,
    specificity_threshold,
    youden_threshold,
)

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


@given(st.integers(0, 50), st.integers(1, 50), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_that_of_statsmodels(successes, n, confidence):
    assume(successes <= n)
    expected = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    found = wilson(successes, n, confidence)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_a_design_effect_of_2_is_half_as_many_independent_images():
    clustered, half = wilson(60, 80, design_effect=2.0), wilson(30, 40)
    assert (clustered.low, clustered.value, clustered.high) == pytest.approx(
        (half.low, half.value, half.high)
    )


def test_images_that_repeat_each_other_count_once():
    once = np.arange(40) % 3 == 0
    twice, cluster = np.repeat(once, 2), np.repeat(np.arange(40), 2)
    assert design_effect(twice, None) == 1
    assert design_effect(twice, np.arange(80)) == pytest.approx(1, abs=0.02)
    assert design_effect(twice, cluster) == pytest.approx(2 * 40 / 39)
    assert (
        design_effect(np.ones(80, bool), cluster) == 2
    )  # all agree: nothing tells that they are independent
    assert design_effect(np.arange(80) % 2 == 0, cluster) == 1  # never below


def test_intervals_of_clustered_decisions_are_wider():
    truth, cluster = np.repeat([1, 0], 40), np.arange(80) // 2
    score = np.repeat(np.random.default_rng(0).random(40), 2)
    plain, clustered = confusion(truth, score, 0.5), confusion(truth, score, 0.5, cluster)
    assert (clustered.tp, clustered.fp) == (plain.tp, plain.fp)
    for name in ("sensitivity", "specificity", "lr_positive", "lr_negative"):
        one, other = getattr(plain, name), getattr(clustered, name)
        assert other.value == pytest.approx(one.value)
        assert other.low < one.low < one.high < other.high
    assert clustered.ppv(0.1).low < plain.ppv(0.1).low


def test_failures_count_as_wrong_decisions():
    counts = Confusion(tp=8, fp=3, tn=7, fn=2).with_failures(5, 10)
    assert (counts.sensitivity.value, counts.specificity.value) == (8 / 15, 7 / 20)


@given(tables, st.sampled_from([0.07, 0.5, 0.8, 0.9, 1.0]))
def test_the_sensitivity_threshold_is_the_highest_that_reaches_its_target(rows, target):
    truth, score = split(rows)
    chosen = sensitivity_threshold(truth, score, target)
    assert confusion(truth, score, chosen).sensitivity.value >= target
    higher = np.unique(score)[np.unique(score) > chosen]
    if len(higher) > 1:
        assert confusion(truth, score, higher[1]).sensitivity.value < target
    between_scores(score, chosen)


@given(tables, st.sampled_from([0.07, 0.5, 0.8, 0.95, 1.0]))
def test_the_specificity_threshold_is_the_lowest_that_reaches_its_target(rows, target):
    truth, score = split(rows)
    chosen = specificity_threshold(truth, score, target)
    assert confusion(truth, score, chosen).specificity.value >= target
    lower = np.unique(score)[np.unique(score) < chosen]
    if len(lower):
        assert confusion(truth, score, lower[-1]).specificity.value < target
    between_scores(score, chosen)


def between_scores(score, threshold):
    """It is midway between two scores, unless it is at an end."""
    below, above = score[score < threshold], score[score >= threshold]
    if len(below) and len(above):
        assert threshold == pytest.approx((below.max() + above.min()) / 2)


def test_targets_are_met_exactly_in_spite_of_rounding():
    truth = np.repeat([1, 0], 100)
    score = np.concatenate([np.arange(100), np.arange(100)]) / 100
    assert sensitivity_threshold(truth, score, 0.07) == pytest.approx(0.925)
    assert specificity_threshold(truth, score, 0.07) == pytest.approx(0.065)


@pytest.mark.parametrize("choose", [sensitivity_threshold, specificity_threshold])
def test_impossible_targets_and_one_class_are_sentences(choose):
    with pytest.raises(UsageError, match="target of 90"):
        choose(np.array([0, 1]), np.array([0.1, 0.2]), 90)
    with pytest.raises(OneClassError, match="both classes"):
        choose(np.array([1, 1]), np.array([0.1, 0.2]), 0.9)


def test_likelihood_ratios_are_those_of_simel():
    """Simel et al. 1991, from their formula: log LR +- 1.96 sqrt((1 - p1) / x1 + (1 - p2) / x2)."""
    counts = Confusion(tp=80, fp=20, tn=180, fn=20)
    margin = norm.ppf(0.975) * np.sqrt(0.2 / 80 + 0.9 / 20)
    assert counts.lr_positive.value == pytest.approx(8)
    assert np.log([counts.lr_positive.low, counts.lr_positive.high]) == pytest.approx(
        [np.log(8) - margin, np.log(8) + margin]
    )
    assert counts.lr_negative.value == pytest.approx(0.2 / 0.9)
    assert Confusion(tp=0, fp=2, tn=3, fn=0).lr_positive is None


def test_a_likelihood_ratio_is_infinite_without_a_wrong_decision_and_none_without_any():
    perfect = Confusion(tp=10, fp=0, tn=20, fn=0)
    margin = norm.ppf(0.975) * np.sqrt(
        1 / 10.5 - 1 / 11 + 1 / 0.5 - 1 / 21
    )  # half an image more in each cell
    assert (perfect.lr_positive.value, perfect.lr_positive.high) == (inf, inf)
    assert perfect.lr_positive.low == pytest.approx((10.5 / 11) / (0.5 / 21) * np.exp(-margin))
    assert (perfect.lr_negative.value, perfect.lr_negative.low) == (0, 0)
    assert 0 < perfect.lr_negative.high < 1
    nobody = Confusion(tp=0, fp=0, tn=20, fn=10)
    assert nobody.lr_positive is None
    assert nobody.lr_negative.value == 1


@pytest.mark.parametrize(
    ("n_positive", "n_negative", "sensitivity", "specificity"),
    [(5, 50, 0.1, 0.99), (30, 200, 0.95, 0.1), (10, 10, 0.2, 0.95), (10, 50, 0.9, 0.9)],
)
def test_ratios_and_predictive_values_cover_where_a_class_falls_on_one_side(
    n_positive, n_negative, sensitivity, specificity
):
    """The coverage is exact: every outcome is weighed by how likely it is. At 10 % that have the disease."""
    truth = {
        "lr_positive": sensitivity / (1 - specificity),
        "lr_negative": (1 - sensitivity) / specificity,
        "ppv": sensitivity * 0.1 / (sensitivity * 0.1 + (1 - specificity) * 0.9),
        "npv": specificity * 0.9 / (specificity * 0.9 + (1 - sensitivity) * 0.1),
    }
    covered, weight = dict.fromkeys(truth, 0.0), dict.fromkeys(truth, 0.0)
    for tp, tn in product(range(n_positive + 1), range(n_negative + 1)):
        chance = binom.pmf(tp, n_positive, sensitivity) * binom.pmf(tn, n_negative, specificity)
        if chance < 1e-6:
            continue
        counts = Confusion(tp=tp, fp=n_negative - tn, tn=tn, fn=n_positive - tp)
        for name, value in truth.items():
            found = getattr(counts, name)
            interval = found(0.1) if callable(found) else found
            if interval is not None:
                assert interval.low <= interval.value <= interval.high
                assert interval.low < interval.high
                covered[name] += chance * (interval.low <= value <= interval.high)
                weight[name] += chance
    assert min(covered[name] / weight[name] for name in truth) > 0.92


def test_predictive_values_are_those_of_mercaldo():
    """Mercaldo et al. 2007, equations 8-11, at a prevalence of 10 %."""
    counts = Confusion(tp=80, fp=20, tn=180, fn=20)
    ppv, npv = counts.ppv(0.1), counts.npv(0.1)
    assert ppv.value == pytest.approx(0.8 * 0.1 / (0.8 * 0.1 + 0.1 * 0.9))
    assert npv.value == pytest.approx(0.9 * 0.9 / (0.9 * 0.9 + 0.2 * 0.1))
    margin = norm.ppf(0.975) * np.sqrt(0.2 / 0.8 / 100 + 0.9 / 0.1 / 200)
    logits = [np.log(each / (1 - each)) for each in (ppv.low, ppv.value, ppv.high)]
    assert np.diff(logits) == pytest.approx([margin, margin])


def test_predictive_values_without_a_wrong_decision_are_no_certainty():
    counts = Confusion(tp=10, fp=0, tn=10, fn=0)
    assert (counts.ppv(0.02).value, counts.ppv(0.02).high) == (1, 1)
    z = norm.ppf(0.975)  # the adjusted limits: z^2 / 2 images more in each cell
    found, wrong = (10 + z**2 / 2) / (10 + z**2), (z**2 / 2) / (10 + z**2)
    spread = ((1 - found) / found + (1 - wrong) / wrong) / (10 + z**2)
    odds = found / wrong * 0.02 / 0.98 * np.exp(-z * np.sqrt(spread))
    assert counts.ppv(0.02).low == pytest.approx(odds / (1 + odds))
    assert 0.9 < counts.npv(0.02).low < 1
    nobody = Confusion(tp=0, fp=0, tn=10, fn=10)
    assert nobody.ppv(0.1) is None
    assert nobody.npv(0.1).value == pytest.approx(0.9)
    assert nobody.npv(0.1).low < 0.9 < nobody.npv(0.1).high


def test_net_benefit_weighs_false_positives_by_the_odds():
    truth, probability = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.4, 0.5, 0.1, 0.2])
    found = net_benefit(truth, probability, np.array([0.25, 0.5]))
    assert found.threshold == (0.25, 0.5)
    assert found.model == pytest.approx((2 / 5 - 1 / 5 / 3, 1 / 5 - 1 / 5))
    assert found.treat_all == pytest.approx((2 / 5 - 3 / 5 / 3, 2 / 5 - 3 / 5))
