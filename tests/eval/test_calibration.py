import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, log_loss

from fundus_core.calibrator import logit, sigmoid
from fundus_eval.auc import OneClassError
from fundus_eval.calibration import Reliability, brier, fit_isotonic, fit_temperature
from fundus_eval.intervals import wilson
from fundus_eval.logistic import Recalibration, recalibrate

tables = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=60)


def split(rows):
    truth, score = np.array([row[0] for row in rows], int), np.array([row[1] for row in rows], float) / 12
    assume(0 < truth.sum() < len(truth))
    return truth, score


def draw(n=600, slope=0.6, intercept=0.3, seed=0):
    """Probabilities whose logits would have to be multiplied and moved by that much to be right."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal(n)
    truth = (rng.random(n) < sigmoid(slope * logits + intercept)).astype(int)
    return truth, sigmoid(logits)


def test_bins_are_those_of_sklearn():
    truth, probability = draw()
    observed, predicted = calibration_curve(truth, probability, n_bins=10, strategy="quantile")
    bins = Reliability(truth, probability).bins()
    assert [each.n for each in bins] == [60] * 10
    assert [each.predicted for each in bins] == pytest.approx(predicted)
    assert [each.observed.value for each in bins] == pytest.approx(observed)
    assert bins[0].observed == wilson(round(observed[0] * 60), 60)


@given(tables, st.randoms(use_true_random=False))
def test_equal_probabilities_are_never_parted(rows, random):
    truth, probability = split(rows)
    mixed = list(rows)
    random.shuffle(mixed)
    bins = Reliability(truth, probability).bins()
    assert sum(each.n for each in bins) == len(truth)
    assert [each.n for each in bins] == [each.n for each in Reliability(*split(mixed)).bins()]
    assert len({each.predicted for each in bins}) == len(bins) <= max(1, len(truth) // 10)


def test_clustered_bins_have_wider_intervals():
    truth, probability = (np.repeat(each, 2) for each in draw(100))
    reliability = Reliability(truth, probability)
    widths = [
        np.array([each.observed.high - each.observed.low for each in reliability.bins(cluster)])
        for cluster in (None, np.arange(200) // 2)
    ]
    assert (widths[1] > 1.1 * widths[0]).all()


def test_the_calibration_error_is_the_mean_distance_of_the_bins():
    truth, probability = draw()
    reliability = Reliability(truth, probability)
    expected = np.mean([abs(each.predicted - each.observed.value) for each in reliability.bins()])
    assert reliability.ece() == pytest.approx(expected)
    assert Reliability(np.array([0, 1] * 20), np.full(40, 0.5)).ece() == 0


def test_the_error_by_chance_is_that_of_right_probabilities():
    """Right probabilities are off by about that much, wrong ones by more; with more units it shrinks."""
    draws = [Reliability(*draw(100, slope=1, intercept=0, seed=seed)) for seed in range(60)]
    by_chance = np.mean([each.ece_by_chance(0) for each in draws])
    assert by_chance == pytest.approx(np.mean([each.ece() for each in draws]), rel=0.08)
    assert draws[0].ece_by_chance(0) == draws[0].ece_by_chance(0) != draws[0].ece_by_chance(1)
    wrong = Reliability(*draw(3000, slope=0.3))
    assert wrong.ece() > 3 * wrong.ece_by_chance(0)
    assert wrong.ece_by_chance(0) < by_chance / 3


def test_weights_count_units_several_times():
    truth, probability = draw(40)
    weights = np.random.default_rng(1).integers(0, 3, (4, 40)).astype(float)
    found, errors = brier(truth, probability, weights), Reliability(truth, probability).ece(weights)
    for row, weight in enumerate(weights):
        assert found[row] == pytest.approx(brier_score_loss(truth, probability, sample_weight=weight))
        apart = weight * (probability - truth)
        order = np.argsort(probability)
        sums = [abs(apart[part].sum()) for part in np.split(order, 4)]
        assert errors[row] == pytest.approx(sum(sums) / weight.sum())


def test_murphys_parts_add_up_to_the_brier_score_of_the_bins():
    truth, probability = draw()
    reliability, resolution, uncertainty = Reliability(truth, probability).brier_parts()
    binned = np.repeat([each.predicted for each in Reliability(truth, probability).bins()], 60)
    expected = brier_score_loss(truth[np.argsort(probability)], binned)
    assert reliability - resolution + uncertainty == pytest.approx(expected)
    assert uncertainty == pytest.approx(truth.mean() * (1 - truth.mean()))


@pytest.mark.parametrize(("n", "seed"), [(60, 0), (600, 1), (3000, 2)])
def test_slope_and_intercept_are_those_of_statsmodels(n, seed):
    truth, probability = draw(n, seed=seed)
    fit, logits = recalibrate(truth, probability), logit(probability)
    slope = sm.Logit(truth, np.stack([logits, np.ones(n)], axis=1)).fit(disp=0)
    assert fit.slope.value == pytest.approx(slope.params[0], abs=1e-6)
    assert (fit.slope.low, fit.slope.high) == pytest.approx(slope.conf_int()[0], abs=1e-5)
    large = sm.GLM(truth, np.ones(n), family=sm.families.Binomial(), offset=logits).fit()
    assert fit.intercept.value == pytest.approx(large.params[0], abs=1e-6)
    assert (fit.intercept.low, fit.intercept.high) == pytest.approx(large.conf_int()[0], abs=1e-5)


def test_clustered_intervals_are_those_of_statsmodels():
    truth, probability = draw(300)
    cluster = np.random.default_rng(0).integers(0, 80, 300)
    n_clusters = len(np.unique(cluster))
    design = np.stack([logit(probability), np.ones(300)], axis=1)
    options = {"groups": cluster, "use_correction": False}
    expected = sm.Logit(truth, design).fit(disp=0, cov_type="cluster", cov_kwds=options)
    found = recalibrate(truth, probability, cluster).slope
    margin = 1.959963984540054 * expected.bse[0] * (n_clusters / (n_clusters - 1)) ** 0.5
    assert (found.high - found.low) / 2 == pytest.approx(margin, rel=1e-6)
    assert recalibrate(truth, probability, np.zeros(300, int)).slope is None  # one patient tells no variance


def test_good_probabilities_have_slope_1_and_intercept_0():
    fit = recalibrate(*draw(3000, slope=1, intercept=0))
    assert fit.slope.low < 1 < fit.slope.high
    assert fit.intercept.low < 0 < fit.intercept.high
    assert fit.slope.high - fit.slope.low < 0.3


@pytest.mark.parametrize(
    "score",
    [
        np.array([0.1, 0.2, 0.8, 0.9]),  # perfect
        np.array([0.9, 0.8, 0.2, 0.1]),  # perfectly wrong
        np.array([0.1, 0.5, 0.5, 0.9]),  # perfect but for a tie
        np.full(4, 0.7),
    ],
)
def test_no_slope_fits_separated_or_equal_scores(score):
    assert recalibrate(np.array([0, 0, 1, 1]), score).slope is None


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_a_probability_of_0_or_1_leaves_no_slope_and_no_intercept(certain):
    truth, probability = draw(100)
    assert recalibrate(truth, probability).slope is not None
    probability[7] = certain
    assert recalibrate(truth, probability) == Recalibration(None, None)


def test_scores_of_0_and_1_have_finite_calibrators():
    truth, score = np.array([0, 1, 0, 1, 1, 0, 1, 0]), np.array([0, 0, 1, 1, 0.5, 0.4, 1, 0.0])
    assert 0.01 <= fit_temperature(truth, score) <= 100
    assert np.isfinite(fit_isotonic(truth, score)).all()


@pytest.mark.parametrize("slope", [0.3, 1.0, 3.0])
def test_the_temperature_is_that_of_the_best_likelihood(slope):
    truth, probability = draw(slope=slope, intercept=0)
    logits = logit(probability)
    best = minimize_scalar(
        lambda t: log_loss(truth, sigmoid(logits / t)), bounds=(0.05, 20), method="bounded"
    )
    assert fit_temperature(truth, probability) == pytest.approx(best.x, rel=1e-3)


def test_a_temperature_stays_in_its_range():
    truth = np.array([0, 0, 1, 1])
    assert fit_temperature(truth, np.array([0.4, 0.45, 0.55, 0.6])) == pytest.approx(0.01, rel=0.5)
    assert fit_temperature(truth, np.array([0.6, 0.55, 0.45, 0.4])) == pytest.approx(100)


@given(tables)
def test_isotonic_knots_are_those_of_sklearn(rows):
    truth, score = split(rows)
    scores, probabilities = fit_isotonic(truth, score)
    expected = IsotonicRegression(out_of_bounds="clip").fit(score, truth)
    grid = np.linspace(-0.1, 1.1, 97)
    assert np.interp(grid, scores, probabilities) == pytest.approx(expected.predict(grid), abs=1e-9)
    assert (np.diff(scores) > 0).all()
    assert (np.diff(probabilities) >= 0).all()


def test_a_calibrator_needs_both_classes():
    for fit in (fit_temperature, fit_isotonic):
        with pytest.raises(OneClassError, match="both classes"):
            fit(np.array([1, 1]), np.array([0.1, 0.2]))
