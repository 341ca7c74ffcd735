from dataclasses import replace

import numpy as np
import pytest

from fundus_core.adaptive import Stopping
from fundus_core.tables import LabelTable, ScoreTable, join
from fundus_eval.adaptive import CHANGED_LIMIT, N_PARTS, fit_adaptive
from fundus_eval.intervals import wilson

N, THRESHOLDS = 600, (0.4,)


def made(n=N, n_folds=4, own=0.3, patients=None, seed=0):
    """Join folds that agree but for noise of `own` logits with labels that they tell apart."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    common = 2 * truth - 1 + rng.normal(0, 1.5, n)
    logits = common[:, None] + rng.normal(0, own, (n, n_folds))
    folds = 1 / (1 + np.exp(-logits))[:, :, None]
    ids = tuple(map(str, range(n)))
    right = np.full(n, True)
    scores = ScoreTable(ids, right, folds.mean(axis=1), folds, ~right)
    labels = LabelTable(ids, ("glaucoma",), truth[:, None].astype(np.int8), patients)
    return join(scores, labels)


def test_folds_that_nearly_agree_are_asked_seldom_and_their_decisions_stay():
    fitted = fit_adaptive(made(), THRESHOLDS)
    assert fitted
    assert 1 < fitted.folds_per_image < 2
    assert fitted.changed <= CHANGED_LIMIT
    assert fitted.changed_high == wilson(round(fitted.changed * N), N).high
    assert (fitted.n, fitted.n_patients) == (N, N)
    ((value, low, high),) = fitted.auc_difference
    assert -0.02 < low < value < high < 0.02


def test_the_less_folds_agree_the_wider_is_the_margin():
    margins = [fit_adaptive(made(own=own, n=2000), THRESHOLDS).margin for own in (0.2, 0.6, 1.2)]
    assert margins == sorted(set(margins))


@pytest.mark.parametrize("seed", range(3))
def test_the_limit_holds_on_photographs_that_come_later(seed):
    fitted = fit_adaptive(made(own=0.8, seed=seed), THRESHOLDS)
    later = made(own=0.8, n=20_000, seed=100 + seed).fold_probability
    n_asked = Stopping(fitted.margin, THRESHOLDS, 4).n_asked(later)
    given = later.cumsum(axis=1)[np.arange(len(later)), n_asked - 1] / n_asked[:, None]
    assert ((given >= THRESHOLDS) != (later.mean(axis=1) >= THRESHOLDS)).mean() < CHANGED_LIMIT


def test_images_of_one_patient_count_once():
    """1200 images, but of 120 patients: these can't show that the limit holds."""
    several = tuple(str(number % 120) for number in range(1200))
    assert fit_adaptive(made(n=1200, own=0.01), THRESHOLDS)
    assert fit_adaptive(made(n=1200, own=0.01, patients=several), THRESHOLDS) is None


def test_a_patient_is_judged_by_a_margin_that_others_chose():
    """Six first folds are wrong by just less than a logit: one too many for a margin below 1.0 of everybody.

    Where three of them are in one part the others choose a smaller margin, and those three are told.
    """
    wrong_by = 0.95
    changed = []
    for start in range(0, 30, 6):
        joined = made(own=0.01)
        first = 1 / (1 + np.exp(wrong_by - np.log(THRESHOLDS[0] / (1 - THRESHOLDS[0]))))
        joined.fold_probability[start : start + 6, :, 0] = (first, 0.9, 0.9, 0.9)
        fitted = fit_adaptive(joined, THRESHOLDS)
        assert fitted.margin == 1.0
        changed.append(fitted.changed)
    assert 0 in changed
    assert max(changed) >= 3 / N


def test_a_margin_below_one_that_failed_is_not_tried():
    """Ten second folds are so wrong that two folds decide wrongly, where one or all would be right."""
    joined = made(own=0.01)
    joined.fold_probability[:10, :, 0] = (0.449, 0.001, 0.9, 0.9)
    n_asked = [
        Stopping(margin, THRESHOLDS, 4).n_asked(joined.fold_probability[:1]) for margin in (0.1, 1.4, 1.5)
    ]
    assert np.ravel(n_asked).tolist() == [1, 2, 4]
    assert fit_adaptive(joined, THRESHOLDS).margin == 1.5


def test_fewer_folds_rank_worse():
    ((_, _, high),) = fit_adaptive(made(own=0.8, n=2000), THRESHOLDS).auc_difference
    assert high < 0


@pytest.mark.parametrize("n", [1, N_PARTS, 150])
def test_too_few_photographs_show_nothing(n):
    assert fit_adaptive(made(n=n, own=0.01), THRESHOLDS) is None


def test_one_fold_has_nothing_to_leave_out():
    assert fit_adaptive(made(n_folds=1), THRESHOLDS) is None


def test_a_label_of_one_class_has_no_difference_of_the_auc():
    joined = made()
    fitted = fit_adaptive(replace(joined, truth=np.ones_like(joined.truth)), THRESHOLDS)
    assert fitted
    assert fitted.auc_difference == ((),)
