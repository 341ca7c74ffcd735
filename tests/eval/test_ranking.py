import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from fundus_eval.ranking import Ranking, mcclish

# few distinct scores, so that ties are common; a weight of 0 leaves an image out
tables = st.lists(st.tuples(st.booleans(), st.integers(-3, 3), st.integers(0, 3)), min_size=2, max_size=40)


def split(rows):
    truth, score, weight = np.array([[float(cell) for cell in row] for row in rows]).T
    assume(0 < weight @ truth < weight.sum())
    return truth.astype(int), score, weight


@given(tables)
def test_weighted_areas_are_those_of_sklearn(rows):
    truth, score, weight = split(rows)
    roc = Ranking(truth, score).roc(weight)
    assert roc.auc() == pytest.approx(roc_auc_score(truth, score, sample_weight=weight), abs=1e-12)
    assert roc.average_precision() == pytest.approx(
        average_precision_score(truth, score, sample_weight=weight), abs=1e-12
    )


@given(tables, st.sampled_from([0.05, 0.1, 0.5, 0.9]))
def test_partial_areas_are_those_of_sklearn(rows, max_fpr):
    truth, score, weight = split(rows)
    found = mcclish(Ranking(truth, score).roc(weight).partial_auc(max_fpr), max_fpr)
    expected = roc_auc_score(truth, score, sample_weight=weight, max_fpr=max_fpr)
    assert found == pytest.approx(expected, abs=1e-7)


def test_a_whole_partial_area_is_the_area_and_mcclish_maps_chance_and_perfection():
    truth, score = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.4, 0.5, 0.5, 0.2])
    roc = Ranking(truth, score).roc()
    assert roc.partial_auc(1.0) == pytest.approx(roc.auc())
    assert mcclish(np.array([0.1**2 / 2, 0.1]), 0.1) == pytest.approx([0.5, 1.0])


@given(tables)
def test_the_curve_is_that_of_sklearn(rows):
    truth, score, weight = split(rows)
    grid = np.linspace(0, 1, 21)
    fpr, tpr, _ = roc_curve(truth, score, sample_weight=weight, drop_intermediate=False)
    found = Ranking(truth, score).roc(weight).sensitivity_at(grid)
    for x, y in zip(grid, found, strict=True):
        left = np.flatnonzero(fpr <= x + 1e-9)[-1]  # the top, where the curve goes straight up
        expected = tpr[left] if fpr[left] >= x - 1e-9 else np.interp(x, fpr[left:], tpr[left:])
        assert y == pytest.approx(expected, abs=1e-6)


@given(tables)
def test_precision_at_a_recall_is_that_of_the_highest_threshold_which_reaches_it(rows):
    truth, score, weight = split(rows)
    precision, recall, _ = precision_recall_curve(truth, score, sample_weight=weight)
    grid = np.linspace(0.1, 1, 10)
    expected = [precision[np.flatnonzero(recall >= each - 1e-9)[-1]] for each in grid]
    assert Ranking(truth, score).roc(weight).precision_at(grid) == pytest.approx(expected)


def test_precision_at_no_recall_is_that_of_the_first_positive():
    truth, score = np.array([0, 0, 1, 1]), np.array([0.9, 0.8, 0.7, 0.1])
    assert Ranking(truth, score).roc().precision_at(np.array([0.0])) == pytest.approx([1 / 3])


def test_many_resamples_at_once_are_each_resample_alone():
    rng = np.random.default_rng(0)
    truth, score = np.arange(30) % 2, rng.integers(0, 6, 30) / 6
    weights, grid = rng.integers(1, 4, (5, 30)).astype(float), np.linspace(0, 1, 11)
    ranking = Ranking(truth, score)
    together = ranking.roc(weights)
    for row, weight in enumerate(weights):
        alone = ranking.roc(weight)
        assert together.auc()[row] == alone.auc()
        assert together.partial_auc(0.3)[row] == alone.partial_auc(0.3)
        assert together.average_precision()[row] == alone.average_precision()
        np.testing.assert_array_equal(together.sensitivity_at(grid)[row], alone.sensitivity_at(grid))
        np.testing.assert_array_equal(together.precision_at(grid)[row], alone.precision_at(grid))
