import numpy as np
import pytest
from tests.eval.test_auc import clustered

from fundus_eval.auc import auc_delong
from fundus_eval.bootstrap import percentile_interval, percentile_limits, resample_counts
from fundus_eval.ranking import Ranking


def drawn(truth, cluster, resamples=200, seed=0):
    return np.concatenate([block for (block,) in resample_counts([truth], [cluster], resamples, seed)])


def test_whole_patients_are_drawn_as_many_as_there_are():
    truth, cluster = np.arange(12) % 2, np.array([7, 7, 7, 3, 3, 3, 3, 9, 9, 1, 1, 1])
    counts = drawn(truth, cluster)
    assert counts.shape == (200, 12)
    of_patient = np.stack([counts[:, cluster == name][:, 0] for name in (1, 3, 7, 9)], axis=1)
    assert (of_patient.sum(axis=1) == 4).all()
    for name in (1, 3, 7, 9):
        own = counts[:, cluster == name]
        assert (own == own[:, :1]).all()
    assert of_patient.mean(axis=0) == pytest.approx(1, abs=0.2)


def test_a_seed_draws_the_same_and_another_one_others():
    truth = np.arange(40) % 2
    np.testing.assert_array_equal(drawn(truth, np.arange(40)), drawn(truth, np.arange(40)))
    assert (drawn(truth, np.arange(40)) != drawn(truth, np.arange(40), seed=1)).any()


def test_no_resample_lacks_a_class():
    truth = np.array([1] + [0] * 9)  # a third of all draws has no positive
    counts = drawn(truth, np.arange(10), resamples=500)
    assert len(counts) == 500
    assert (counts[:, 0] > 0).all()


def test_many_images_come_in_several_blocks():
    truth = np.arange(50_000) % 2
    blocks = [len(block) for (block,) in resample_counts([truth], [np.arange(50_000)], 7, 0)]
    assert sum(blocks) == 7
    assert len(blocks) > 1


def test_samples_share_their_resamples():
    """A patient of both samples counts alike in both, whatever its row is."""
    cluster, other = np.array([0, 1, 2, 3, 4, 5]), np.array([5, 3, 1])
    for one, two in resample_counts([np.arange(6) % 2, np.array([0, 1, 1])], [cluster, other], 100, 0):
        np.testing.assert_array_equal(one[:, other], two)
        assert ((two[:, 0] > 0) & (two[:, 1:].sum(axis=1) > 0)).all()


def test_clustered_resamples_give_the_interval_of_obuchowski():
    truth, score, cluster = clustered(np.random.default_rng(3), n_clusters=150)
    ranking, expected = Ranking(truth, score), auc_delong(truth, score, cluster=cluster)
    found = percentile_interval(ranking.roc().auc(), ranking.roc(drawn(truth, cluster, 2000)).auc())
    assert found.value == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.012)


def test_limits_are_percentiles_that_hold_the_value():
    draws = np.stack([np.arange(1001.0), np.arange(1001.0) + 2000], axis=1)
    low, high = percentile_limits(np.array([500.0, 10.0]), draws)
    assert low == pytest.approx([25, 10])
    assert high == pytest.approx([975, 2975])
