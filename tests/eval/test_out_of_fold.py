import numpy as np
import pytest
from sklearn.metrics import log_loss

from fundus_core.errors import UsageError
from fundus_core.tables import LabelTable, ScoreTable, join
from fundus_eval.out_of_fold import RULES, calibrators, cut_offs, threshold_rule

RNG = np.random.default_rng(3)
TRUTH = (RNG.random((400, 2)) < 0.3).astype(np.int8)
SCORE = 1 / (1 + np.exp(-(3 * RNG.normal(size=(400, 2)) + 5 * TRUTH - 3)))


def joined():
    ids, every = tuple(map(str, range(400))), np.ones(400, bool)
    labels = ("glaucoma", "amd")
    scores = ScoreTable(ids, every, SCORE, SCORE[:, None], ~every, labels)
    truth = TRUTH.copy()
    truth[:50, 1] = -1
    return join(scores, LabelTable(ids, labels, truth))


def test_the_chosen_rule_comes_first_and_each_rule_once():
    assert [each.rule for each in cut_offs(joined(), "youden")] == list(RULES)
    own = cut_offs(joined(), "sensitivity 0.97")
    assert [each.rule for each in own] == ["sensitivity 0.97", *RULES]
    assert all(len(each.thresholds) == 2 for each in own)


def test_targets_are_reached_on_the_scores_that_they_were_fixed_on():
    found = {each.rule: each.thresholds[0] for each in cut_offs(joined(), "youden")}
    positive = TRUTH[:, 0] == 1
    assert (SCORE[positive, 0] >= found["sensitivity 0.9"]).mean() >= 0.9
    assert (SCORE[~positive, 0] < found["specificity 0.95"]).mean() >= 0.95
    assert found["sensitivity 0.9"] < found["specificity 0.95"]


@pytest.mark.parametrize("rule", ["", "yuden", "specificity", "specificity 95", "sensitivity 0", "auc 0.9"])
def test_an_unknown_rule_is_a_sentence(rule):
    with pytest.raises(UsageError, match=r"There is no rule .*youden, sensitivity 0\.9, specificity 0\.95"):
        threshold_rule(rule)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_calibrator_brings_scores_nearer_to_how_often_and_keeps_their_order(method):
    for label, fitted in enumerate(calibrators(joined(), method)):
        rows = joined().truth[:, label] >= 0
        score, truth = SCORE[rows, label], TRUTH[rows, label]
        better = fitted.of(score)
        assert log_loss(truth, better) < log_loss(truth, score)
        assert (np.diff(better[np.argsort(score)]) >= 0).all()
        assert fitted(float(score[0])) == better[0]
